"""A team of threads under what finds races between them."""

from __future__ import annotations

import platform
import subprocess
from pathlib import Path

import pytest

from burnish.runtime.native.build import SOURCES, compiler
from burnish.runtime.native.levels import LEVELS

HERE = Path(__file__).parent
ROOT = HERE.parents[2]

pytestmark = pytest.mark.skipif(
    platform.machine() != "x86_64" or "g++" not in (compiler() or ""), reason="the sanitizers of g++ on x86-64"
)


@pytest.fixture(scope="module", autouse=True)
def level() -> None:
    """These build what they need: in place of the folder's instruction sets."""


@pytest.mark.slow("thousands of steps under ThreadSanitizer, which is five times as slow")
def test_a_team_of_threads_has_no_races(tmp_path: Path) -> None:
    program = tmp_path / "team"
    flags = ["-std=c++17", "-O1", "-g1", "-pthread", "-Wno-psabi", "-fsanitize=thread", *LEVELS["x86-64-v3"].flags]
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
