"""A wheel that brings native kernels, on a machine that has no compiler."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import burnish
from burnish.runtime.native.build import build_ahead, compiler
from burnish.runtime.native.library import best_level
from tests.own_modules.causal import NanoGPT

TREE = Path(__file__).parents[3]


@pytest.mark.skipif(compiler() is None, reason="no C++ compiler")
@pytest.mark.slow(reason="builds the kernels and a wheel")
def test_a_wheel_brings_its_kernels(tmp_path: Path) -> None:
    source, unpacked, artifact = tmp_path / "source", tmp_path / "unpacked", tmp_path / "small.burnish"
    shutil.copytree(TREE / "burnish", source / "burnish", ignore=shutil.ignore_patterns("lib", "__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(TREE / name, source)
    built = build_ahead(best_level(), source / "burnish" / "runtime" / "native" / "lib")
    making = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*making, "--wheel-dir", str(tmp_path), str(source)], check=True, cwd=tmp_path)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as packed:
        packed.extractall(unpacked)
    with burnish.compile(NanoGPT().eval(), max_length=16, backend="native") as model:
        model.save(artifact)
        expected = model.generate([5, 6, 7], max_new_tokens=3, do_sample=False).tokens[0]
    without = {**os.environ, "PATH": "", "PYTHONPATH": str(unpacked), "BURNISH_CACHE": str(tmp_path / "empty")}
    without.pop("CXX", None)
    told = "import burnish.runtime.native as it; print(it.__file__)"
    where = subprocess.run([sys.executable, "-c", told], capture_output=True, text=True, cwd=tmp_path, env=without)
    assert Path(where.stdout.strip()).is_relative_to(unpacked)
    running = [sys.executable, "-m", "burnish.cli", "run", str(artifact), "5 6 7", "-n", "3", "--temperature", "0"]
    done = subprocess.run(running, capture_output=True, text=True, cwd=tmp_path, env=without, check=False)
    assert done.returncode == 0, done.stderr
    assert [int(word) for word in done.stdout.split()] == expected
    (unpacked / "burnish" / "runtime" / "native" / "lib" / built.name).unlink()
    refused = subprocess.run(running, capture_output=True, text=True, cwd=tmp_path, env=without, check=False)
    assert "install one" in refused.stderr
