"""All tests of this folder under what finds reads outside of memory, and undefined behaviour: `make sanitize`."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from burnish.runtime.native.build import compiler

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


@pytest.mark.timeout(3000)
def test_all_kernels_stay_in_memory() -> None:
    # Built ahead: under the sanitizer the compiler itself would take minutes.
    usual = {**os.environ, "PYTHONPATH": str(ROOT)}
    levels = "import tests.codegen.native.sanitized\nfrom burnish.runtime.native import build, levels\n"
    building = f"{levels}for level in levels.LEVELS: build.build(level)"
    subprocess.run([sys.executable, "-c", building], cwd=ROOT, env=usual, check=True)
    environment = {
        **usual,
        # Ahead of Python, which is built without; the other has what PyTorch throws exceptions with.
        "LD_PRELOAD": f"{library_of('libasan.so')} {library_of('libstdc++.so')}",
        "ASAN_OPTIONS": "detect_leaks=0",  # Python's own, at its end
        "OMP_NUM_THREADS": "1",
    }
    # -s: a report goes to where the process writes, and it ends.
    options = ["-s", "-q", "-p", "no:cacheprovider", "-p", "tests.codegen.native.sanitized", "--timeout", "3000"]
    others = [f"--ignore={HERE / name}" for name in ("test_aarch64.py", "test_sanitizers.py")]  # build what they run
    command = [sys.executable, "-m", "pytest", *options, str(HERE), *others]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, (done.stdout + done.stderr)[:4000]
