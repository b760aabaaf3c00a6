"""Artifacts that bring native kernels, as machine code: which of them run, where, and what runs in their place."""

from __future__ import annotations

import logging
import os
import shutil
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import burnish
from burnish.codegen.native.products import fused_linear
from burnish.ir.errors import ArtifactError, NativeBuildError, UsageError
from burnish.ir.panels import RowOrder
from burnish.runtime.artifact import Artifact
from burnish.runtime.hashing import digest
from burnish.runtime.native import build, carried, library
from burnish.runtime.native.build import compiler, name_of
from burnish.runtime.native.levels import LEVELS
from burnish.runtime.native.library import best_level, levels
from tests.codegen.native.emulation import MISSING, instructions, machine_with
from tests.codegen.native.test_products import packed
from tests.own_modules.causal import NanoGPT
from tests.runtime.test_artifact import change_manifest

LEVEL, THERE = "x86-64-v3", "aarch64-dotprod"
CROSS = compiler(THERE)
pytestmark = [
    pytest.mark.skipif(LEVEL not in levels() or compiler() is None, reason="no x86-64-v3, or no C++ compiler"),
    pytest.mark.skipif(CROSS is None, reason="no C++ compiler for aarch64"),
    pytest.mark.slow("a compiler builds two libraries"),
]
ELF_FOR_AARCH64 = 183
PROMPT = [5, 6, 7]


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The cache of who built it."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def cache(ours: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody else's libraries are here."""
    monkeypatch.setenv("BURNISH_CACHE", str(ours))
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setattr(build, "BROUGHT", ours / "none")


@pytest.fixture(scope="module")
def saved(ours: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An artifact that brings kernels for this machine and another."""
    path = tmp_path_factory.mktemp("carried") / "nano.burnish"
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("BURNISH_CACHE", str(ours))
        patched.delenv("CXX", raising=False)
        patched.setattr(build, "BROUGHT", ours / "none")
        torch.manual_seed(0)
        with burnish.compile(NanoGPT().eval(), max_length=64, target=f"cpu:{LEVEL},cpu:{THERE}") as found:
            assert found.executor.launcher._library.level == LEVEL  # type: ignore[attr-defined]
            unseen = [check.fed for check in found.trace.checks if not check.by]
            assert f"the kernels for {THERE} that the artifact brings" in unseen
            assert f"the kernels for {LEVEL} that the artifact brings" not in unseen
            found.save(path)
    return path


def changed(path: Path, name: str, data: bytes | None, new: str | None = None) -> Path:
    """The artifact with another file under that name, or none, or under a new name; its manifest says so."""
    (path / name).unlink()
    if data is not None:
        (path / (new or name)).write_bytes(data)

    def change(manifest: dict[str, Any]) -> None:
        del manifest["files"][name]
        if data is not None:
            manifest["files"][new or name] = {"bytes": len(data), "sha256": [digest(data)]}

    change_manifest(path, change)
    return path


@pytest.fixture
def foreign(saved: Path, tmp_path: Path) -> Path:
    """The artifact as somebody else may have built it: with as good a library, of other bytes."""
    path = Path(shutil.copytree(saved, tmp_path / "foreign.burnish"))
    name = f"native/{name_of(LEVEL)}"
    return changed(path, name, (path / name).read_bytes() + b"\0")


@pytest.fixture
def own(monkeypatch: pytest.MonkeyPatch) -> str:
    """Kernels of this installation, which are there: for its best instruction set."""
    monkeypatch.setattr(carried, "own_library", lambda: library.opened(best_level(), build.build(LEVEL)))
    return best_level()


def answer(path: Path, **options: Any) -> tuple[list[int], Any]:
    with burnish.load(path, **options) as model:
        return model.generate(PROMPT, max_new_tokens=5, do_sample=False).tokens[0], model.executor.launcher._library  # type: ignore[attr-defined]


def test_libraries_are_files_of_the_artifact(saved: Path) -> None:
    names = {name for name in Artifact.open(saved).manifest.files if name.startswith("native/")}
    assert names == {f"native/{name_of(LEVEL)}", f"native/{name_of(THERE)}"}
    there = saved / "native" / name_of(THERE)
    magic, machine = struct.unpack("<4s14xH", there.read_bytes()[:20])
    assert (magic, machine) == (b"\x7fELF", ELF_FOR_AARCH64)


@pytest.mark.skipif(bool(MISSING), reason=f"there is no {', '.join(MISSING)}")
def test_the_library_for_another_processor_runs_there(saved: Path, tmp_path: Path) -> None:
    there = saved / "native" / name_of(THERE)
    assert any("sdot" in found for found in instructions(there).values())
    torch.manual_seed(0)
    weight, floats = packed("q4", 40, 3, RowOrder())
    x = torch.randn(5, floats.shape[1])
    here = fused_linear(x, weight)
    with machine_with(there, "cortex-a76", tmp_path).runs():
        found = fused_linear(x, weight)
    torch.testing.assert_close(found, here, rtol=0, atol=1e-2 * float(here.abs().max()))


def test_where_it_was_built_it_runs(saved: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "burnish"):
        _, found = answer(saved)
    assert found.level == LEVEL
    assert [each.getMessage() for each in caplog.records if each.name.endswith("carried")] == [
        f"native kernels for {LEVEL} are those that {saved} brings"
    ]


def test_of_somebody_elses_ours_run(
    saved: Path, foreign: Path, own: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected, _ = answer(saved)
    opened = []
    monkeypatch.setattr(carried, "opened", lambda *given: opened.append(given))
    found, ran = answer(foreign)
    assert (found, ran.level, opened) == (expected, own, [])
    assert f"this installation's native kernels for {own} run {foreign}, and not what it brings: " in caplog.text
    assert f'{LEVEL}, built by somebody else (trust="native" runs it)' in caplog.text


_WITHOUT = """
import sys
from pathlib import Path
from burnish.runtime.native import build
build.BROUGHT = Path("/nowhere")
from burnish.cli import main
main()
"""


def alone(folder: Path, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """The command where there are no kernels, and whose compiler makes none."""
    nothing = {**os.environ, "BURNISH_CACHE": str(folder / "empty"), "CXX": "/bin/false", **environment}
    command = [sys.executable, "-c", _WITHOUT, *words]
    return subprocess.run(command, capture_output=True, text=True, env=nothing, check=False)


def test_trusted_ones_need_no_compiler_and_others_say_what_works(saved: Path, foreign: Path, tmp_path: Path) -> None:
    expected, _ = answer(saved)
    running = ("run", str(foreign), "5 6 7", "-n", "5", "--temperature", "0")
    trusted = alone(tmp_path, *running, "--trust", "native")
    assert trusted.returncode == 0, trusted.stderr
    assert [int(word) for word in trusted.stdout.split()] == expected
    whys = {"/bin/false": "compiler failed: /bin/false", "": "none that is called g++", "none": "no program"}
    for named, why in whys.items():
        refused = alone(tmp_path, *running, CXX=named, **({} if named else {"PATH": ""}))
        assert refused.returncode == 1
        said = " ".join(refused.stderr.split())
        assert f"It brings {LEVEL}, built by somebody else" in said
        assert "What works: a C++ compiler here (on Debian: apt install g++); a library that" in said
        assert f"--level {best_level()} --output DIR` builds elsewhere, put into {tmp_path}/empty/native" in said
        assert "; --trust native, where you trust who made the artifact." in said
        assert why in said


def test_a_changed_library_is_refused_whoever_is_trusted(foreign: Path) -> None:
    file = foreign / "native" / name_of(LEVEL)
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    with pytest.raises(ArtifactError, match=rf"native/{LEVEL}-\w+\.so was changed since the artifact was written"):
        burnish.load(foreign, trust="native")


def test_what_this_processor_lacks_is_said(
    saved: Path, own: str, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = Path(shutil.copytree(saved, tmp_path / "other.burnish"))
    changed(path, f"native/{name_of(LEVEL)}", None)
    assert answer(path, trust="native")[1].level == own
    assert f"and not what it brings: {THERE}, and this machine is x86_64" in caplog.text

    def none() -> None:
        raise NativeBuildError("there is no compiler")

    monkeypatch.setattr(carried, "own_library", none)
    with pytest.raises(NativeBuildError, match=f"It brings {THERE}, and this machine is x86_64; .*no compiler") as said:
        burnish.load(path, trust="native")
    assert "trust=" not in str(said.value)


def test_the_best_that_the_processor_has_is_chosen(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of several: here of libraries that are none, and never opened."""
    artifact = Artifact.open(saved)
    files = artifact.manifest.files
    files.update({f"native/{name_of(level)}": files["step.json"] for level in LEVELS})
    opened: list[str] = []
    monkeypatch.setattr(carried, "opened", lambda level, _: opened.append(level))
    monkeypatch.setattr(carried, "_same", lambda *_: True)
    monkeypatch.setattr(carried, "held", lambda _: [saved / "manifest.json"])
    for here in (["x86-64-v4", "x86-64-v3", "x86-64"], ["x86-64-v3", "x86-64"], ["aarch64"]):
        monkeypatch.setattr(carried, "levels", lambda here=here: here)
        carried.library_for(artifact, trusted=False)
        assert opened.pop() == here[0]


@pytest.mark.parametrize("kind", ["other sources", "no library"])
def test_what_cannot_run_is_left(kind: str, foreign: Path, own: str, caplog: pytest.LogCaptureFixture) -> None:
    name = f"native/{name_of(LEVEL)}"
    if kind == "no library":
        changed(foreign, name, b"text")
    else:
        changed(foreign, name, (foreign / name).read_bytes(), f"native/{LEVEL}-0123456789abcdef.so")
    assert answer(foreign, trust="native")[1].level == own
    said = {
        "other sources": f"{LEVEL}, of other sources (burnish 0",
        "no library": f"{LEVEL}, which cannot be loaded (",
    }
    assert said[kind] in caplog.text


def test_an_artifact_for_elsewhere_can_be_saved_where_nothing_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none() -> None:
        raise NativeBuildError("there is no compiler")

    monkeypatch.setattr("burnish.targets.native.own_library", none)
    with burnish.compile(NanoGPT().eval(), max_length=16, target=f"cpu:{THERE}") as found:
        found.save(tmp_path / "there.burnish")
        with pytest.raises(UsageError, match=f"was compiled for {THERE}, and here there is no compiler"):
            found.generate(PROMPT, max_new_tokens=1)
    assert (tmp_path / "there.burnish" / "native" / name_of(THERE)).exists()


def test_a_compiler_that_is_missing_is_told_before_the_model_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BURNISH_CACHE", str(tmp_path))
    monkeypatch.setenv("PATH", "")
    said = (
        r"for aarch64 are built by .* called aarch64-linux-gnu-g\+\+: install one .*apt install g\+\+-aarch64-linux-gnu"
    )
    with pytest.raises(NativeBuildError, match=said):
        burnish.compile("nowhere", target="cpu:aarch64")
    code = "import sys; from burnish.cli import main\ntry: main()\nfinally: print('torch' in sys.modules)"
    command = [
        sys.executable,
        "-c",
        code,
        "compile",
        str(tmp_path),
        "-o",
        str(tmp_path / "a"),
        "--target",
        "cpu:aarch64",
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "False\n")
    assert "g++-aarch64-linux-gnu" in done.stderr


def test_trust_is_in_machine_code_of_native_kernels(saved: Path) -> None:
    with pytest.raises(UsageError, match=r'trust is "native", .* not True'):
        burnish.load(saved, trust=True)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match=r"trust= is for native kernels, and .* runs by reference: leave it out"):
        burnish.load(saved, backend="reference", trust="native")
