"""Which instruction sets a machine has kernels for."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from burnish.ir.errors import NativeBuildError, UsageError
from burnish.runtime.native import levels as names
from burnish.runtime.native import library
from burnish.runtime.native.levels import BY_TILES, LEVELS

SDOT = set(LEVELS["aarch64-dotprod"].needs)
WITH_TILES = {*LEVELS[BY_TILES].needs, *LEVELS["x86-64-v3"].needs}


def machine(
    monkeypatch: pytest.MonkeyPatch, features: set[str], may_use_tiles: bool, architecture: str = "x86_64"
) -> None:
    monkeypatch.setattr(library.platform, "system", lambda: "Linux")
    monkeypatch.setattr(names.platform, "machine", lambda: architecture)
    monkeypatch.setattr(library, "features", lambda: frozenset(features))
    monkeypatch.setattr(library, "_may_use_tiles", lambda: may_use_tiles)


def test_the_best_is_first(monkeypatch: pytest.MonkeyPatch) -> None:
    machine(monkeypatch, WITH_TILES, may_use_tiles=True)
    assert library.levels() == ["x86-64-v4-amx", "x86-64-v4", "x86-64-v3", "x86-64"]


def test_tiles_that_the_system_does_not_give_are_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    machine(monkeypatch, WITH_TILES, may_use_tiles=False)
    assert library.levels() == ["x86-64-v4", "x86-64-v3", "x86-64"]
    with pytest.raises(UsageError, match=r"no x86-64-v4-amx here, the system refuses .* can be for x86-64-v4, "):
        library.library.__wrapped__("x86-64-v4-amx")


def test_what_a_processor_lacks_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    machine(monkeypatch, WITH_TILES - {"avx512_vnni", "amx_int8"}, may_use_tiles=True)
    with pytest.raises(UsageError, match="no x86-64-v4 here, this processor lacks avx512_vnni: native kernels can be "):
        library.library.__wrapped__("x86-64-v4")
    with pytest.raises(UsageError, match="no aarch64 here, this machine is x86_64"):
        library.library.__wrapped__("aarch64")


def test_who_has_no_tiles_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    machine(monkeypatch, set(), may_use_tiles=True)
    monkeypatch.setattr(library, "_may_use_tiles", lambda: pytest.fail("asked"))
    assert library.levels() == ["x86-64"]


def test_an_architecture_has_none_of_another(monkeypatch: pytest.MonkeyPatch) -> None:
    machine(monkeypatch, SDOT | WITH_TILES, may_use_tiles=False, architecture="aarch64")
    assert library.levels() == ["aarch64-dotprod", "aarch64"]
    machine(monkeypatch, SDOT, may_use_tiles=False)
    assert library.levels() == ["x86-64"]
    machine(monkeypatch, SDOT, may_use_tiles=False, architecture="riscv64")
    assert library.levels() == ["portable"]


def test_the_first_processors_of_aarch64(monkeypatch: pytest.MonkeyPatch) -> None:
    machine(monkeypatch, SDOT - {"asimddp"}, may_use_tiles=False, architecture="aarch64")
    assert library.levels() == ["aarch64"]


def test_another_system_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(library.platform, "system", lambda: "Darwin")
    with pytest.raises(UsageError, match="native kernels run on Linux, and this is Darwin"):
        library.own_library()


def test_without_a_compiler_the_next_best_that_is_there_runs(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    machine(monkeypatch, WITH_TILES, may_use_tiles=True)
    there = {"x86-64-v3": Path("v3.so"), "x86-64": Path("v1.so")}

    def made(level: str) -> str:
        if level not in there:
            raise NativeBuildError("there is no compiler")
        return level

    monkeypatch.setattr(library, "library", made)
    monkeypatch.setattr(library, "found", there.get)
    with caplog.at_level(logging.WARNING):
        assert library.own_library() == "x86-64-v3"
    assert "native kernels for x86-64-v3 run, and not for x86-64-v4-amx: there is no compiler" in caplog.text
    there.clear()
    with pytest.raises(NativeBuildError, match="no compiler"):
        library.own_library()
