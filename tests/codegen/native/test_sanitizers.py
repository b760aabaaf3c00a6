"""Kernels under what finds reads and writes outside of memory, undefined behaviour, and races between threads."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from burnish.runtime.native.build import LEVELS, SOURCES, compiler

HERE = Path(__file__).parent
ROOT = HERE.parents[2]

pytestmark = pytest.mark.skipif(
    platform.machine() != "x86_64" or "g++" not in (compiler() or ""), reason="the sanitizers of g++ on x86-64"
)


@pytest.fixture(scope="module", autouse=True)
def level() -> None:
    """These build what they need: in place of the folder's instruction sets."""


def library_of(name: str) -> str:
    found = subprocess.run([str(compiler()), f"-print-file-name={name}"], capture_output=True, text=True, check=True)
    return found.stdout.strip()


@pytest.mark.slow("the library is built twice with checks, which takes a minute each, and all tests of the folder run")
@pytest.mark.timeout(1200)
def test_all_kernels_stay_in_memory() -> None:
    environment = {
        **os.environ,
        # Ahead of Python, which is built without; the other has what PyTorch throws exceptions with.
        "LD_PRELOAD": f"{library_of('libasan.so')} {library_of('libstdc++.so')}",
        "ASAN_OPTIONS": "detect_leaks=0",  # Python's own, at its end
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
    }
    # -s: a report goes to where the process writes, and it ends.
    options = ["-s", "-q", "-p", "no:cacheprovider", "-p", "tests.codegen.native.sanitized", "--timeout", "1000"]
    command = [sys.executable, "-m", "pytest", *options, str(HERE), f"--ignore={__file__}"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, (done.stdout + done.stderr)[:4000]


@pytest.mark.slow("thousands of steps under ThreadSanitizer, which is five times as slow")
def test_a_team_of_threads_has_no_races(tmp_path: Path) -> None:
    program = tmp_path / "team"
    flags = ["-std=c++17", "-O1", "-g1", "-pthread", "-Wno-psabi", "-fsanitize=thread", *LEVELS["x86-64-v3"]]
    built = subprocess.run(
        [str(compiler()), *flags, "-I", str(SOURCES), str(HERE / "team.cpp"), "-o", str(program)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert built.returncode == 0, built.stderr[:4000]
    done = subprocess.run([str(program), "3000"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, (done.stdout + done.stderr)[:4000]
    assert done.stdout.startswith("3000 steps on 3 threads")
