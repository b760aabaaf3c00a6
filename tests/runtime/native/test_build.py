"""Libraries that were built ahead: which are found, and which are not."""

from __future__ import annotations

import platform
import runpy
from collections.abc import Callable
from pathlib import Path

import pytest

from burnish.ir.errors import NativeBuildError
from burnish.runtime.native import build, library
from burnish.runtime.native.levels import levels_here

Compiler = Callable[[str], Path]
HERE = levels_here()[-1]


@pytest.fixture
def compiler(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Compiler:
    """Makes CXX name one for an architecture; it writes no library, but a word. The cache is empty, and so is `lib`."""
    monkeypatch.setenv("BURNISH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(build, "BROUGHT", tmp_path / "lib")

    def named(architecture: str) -> Path:
        found = tmp_path / f"{architecture}-c++"
        found.write_text(
            f'#!/bin/sh\ncase "$1" in -dumpmachine) echo {architecture}-linux-gnu;; --version) echo one;;\n'
            '*) for last; do :; done; echo built >"$last";; esac\n'
        )
        found.chmod(0o755)
        monkeypatch.setenv("CXX", str(found))
        return found

    return named


def test_one_that_came_with_the_package_needs_no_compiler(compiler: Compiler, monkeypatch: pytest.MonkeyPatch) -> None:
    compiler(platform.machine())
    ahead = build.build_ahead(HERE, build.BROUGHT)
    monkeypatch.delenv("CXX")
    monkeypatch.setenv("PATH", "")
    assert build.build(HERE) == ahead
    with pytest.raises(NativeBuildError, match="install one"):
        build.build("x86-64-v3")


def test_one_in_the_cache_needs_no_compiler(compiler: Compiler, monkeypatch: pytest.MonkeyPatch) -> None:
    compiler(platform.machine())
    ahead = build.build_ahead(HERE, build.cache_folder() / "native")
    monkeypatch.delenv("CXX")
    monkeypatch.setenv("PATH", "")
    assert build.build(HERE) == ahead


@pytest.mark.parametrize("other", ["flags", "sources"])
def test_another_one_is_not_taken(
    other: str, compiler: Compiler, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    compiler(platform.machine())
    build.build_ahead(HERE, build.BROUGHT)
    if other == "flags":
        monkeypatch.setattr(build, "_FLAGS", (*build._FLAGS, "-O3"))
    if other == "sources":
        (tmp_path / "cpp").mkdir()
        monkeypatch.setattr(build, "SOURCES", tmp_path / "cpp")
        build._hash.cache_clear()  # of one process's sources
    monkeypatch.delenv("CXX")
    monkeypatch.setenv("PATH", "")
    try:
        with pytest.raises(NativeBuildError, match="install one"):
            build.build(HERE)
    finally:
        build._hash.cache_clear()


def test_who_names_a_compiler_gets_its_library(compiler: Compiler) -> None:
    compiler(platform.machine())
    assert build.build(HERE) != build.build_ahead(HERE, build.cache_folder() / "native")


def test_what_cannot_be_loaded_says_so(compiler: Compiler) -> None:
    compiler(platform.machine())
    with pytest.raises(NativeBuildError, match="cannot be loaded"):
        library.library.__wrapped__(HERE)


def test_a_compiler_for_another_architecture_is_not_asked(compiler: Compiler, monkeypatch: pytest.MonkeyPatch) -> None:
    cross = compiler("aarch64")
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    monkeypatch.setenv("PATH", "")
    assert build.compiler("aarch64-dotprod") == str(cross)
    with pytest.raises(NativeBuildError, match=r"none that is called g\+\+ .*apt install g\+\+\), or compile with"):
        build.build("x86-64-v3")
    compiler("x86_64")
    said = (
        r"for aarch64 are .*called aarch64-linux-gnu-g\+\+: install .*g\+\+-aarch64-linux-gnu\), or leave aarch64 out"
    )
    with pytest.raises(NativeBuildError, match=said):
        build.check_buildable(["x86-64-v3", "aarch64"])
    build.BROUGHT.mkdir()
    (build.BROUGHT / build.name_of("aarch64")).touch()
    build.check_buildable(["x86-64-v3", "aarch64"])


def command(monkeypatch: pytest.MonkeyPatch, *words: object) -> None:
    monkeypatch.setattr("sys.argv", ["native", *map(str, words)])
    runpy.run_module("burnish.runtime.native", run_name="__main__")


def test_the_command_builds_for_another_machine(
    compiler: Compiler, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    compiler("aarch64")
    command(monkeypatch, "--level", "aarch64-dotprod", "--output", tmp_path)
    ahead = Path(capsys.readouterr().out.strip())
    assert ahead.parent == tmp_path
    monkeypatch.delenv("CXX")
    monkeypatch.setattr(build, "BROUGHT", tmp_path)
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    assert build.build("aarch64-dotprod") == ahead


def test_the_command_fails_where_it_builds_nothing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CXX", str(tmp_path / "none"))
    with pytest.raises(SystemExit, match="1"):
        command(monkeypatch, "--level", "aarch64-dotprod", "--output", tmp_path)
    assert "which is no program" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="2"):
        command(monkeypatch, "--level", "aarch64-dotprod")
    assert not list(tmp_path.iterdir())
