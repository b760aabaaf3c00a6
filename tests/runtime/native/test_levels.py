"""Which instruction sets a machine has kernels for."""

from __future__ import annotations

import pytest

from burnish.ir.errors import UsageError
from burnish.runtime.native import library
from burnish.runtime.native.build import LEVELS

SDOT = library._NEEDED["aarch64-dotprod"]
WITH_TILES = library._NEEDED["x86-64-v4-amx"] | library._NEEDED["x86-64-v3"]


def machine(
    monkeypatch: pytest.MonkeyPatch, features: set[str], may_use_tiles: bool, architecture: str = "x86_64"
) -> None:
    monkeypatch.setattr(library.platform, "system", lambda: "Linux")
    monkeypatch.setattr(library.platform, "machine", lambda: architecture)
    monkeypatch.setattr(library, "features", lambda: frozenset(features))
    monkeypatch.setattr(library, "_may_use_tiles", lambda: may_use_tiles)


def test_the_best_is_first(monkeypatch: pytest.MonkeyPatch) -> None:
    machine(monkeypatch, WITH_TILES, may_use_tiles=True)
    assert library.levels() == [level for level in LEVELS if level != "aarch64-dotprod"]


def test_tiles_that_the_system_does_not_give_are_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    machine(monkeypatch, WITH_TILES, may_use_tiles=False)
    assert library.levels() == ["x86-64-v4", "x86-64-v3", "portable"]
    with pytest.raises(UsageError, match="there is no x86-64-v4-amx here: native kernels can be for x86-64-v4, "):
        library.library.__wrapped__("x86-64-v4-amx")


def test_who_has_no_tiles_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    machine(monkeypatch, set(), may_use_tiles=True)
    monkeypatch.setattr(library, "_may_use_tiles", lambda: pytest.fail("asked"))
    assert library.levels() == ["portable"]


def test_an_architecture_has_none_of_another(monkeypatch: pytest.MonkeyPatch) -> None:
    machine(monkeypatch, SDOT | WITH_TILES, may_use_tiles=False, architecture="aarch64")
    assert library.levels() == ["aarch64-dotprod", "portable"]
    machine(monkeypatch, SDOT, may_use_tiles=False)
    assert library.levels() == ["portable"]


def test_the_first_processors_of_aarch64(monkeypatch: pytest.MonkeyPatch) -> None:
    machine(monkeypatch, SDOT - {"asimddp"}, may_use_tiles=False, architecture="aarch64")
    assert library.levels() == ["portable"]
