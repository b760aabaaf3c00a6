"""Products by AMX's tiles: the numbers of those by registers, to the last bit."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from burnish.codegen.native.products import fused_linear
from burnish.codegen.native.spec import LEVEL, ROUNDED, THREADS
from burnish.ir.panel_formats import FORMATS, GROUP, Format, is_integer
from burnish.ir.panels import RowOrder
from burnish.runtime.native.library import levels
from tests.codegen.native.test_products import packed
from tests.tolerances import assert_near

pytestmark = pytest.mark.skipif("x86-64-v4-amx" not in levels(), reason="a processor with AMX")
INTEGERS = [form for form in FORMATS if is_integer(form)]


@pytest.fixture(scope="module", autouse=True)
def level() -> None:
    """Two are compared: in place of the folder's instruction sets."""


@pytest.fixture(autouse=True)
def rounded() -> Iterator[None]:
    """Tiles are of integers."""
    token = ROUNDED.set(True)
    yield
    ROUNDED.reset(token)


def by(level: str, threads: int, x: Tensor, weight: Tensor) -> Tensor:
    tokens = LEVEL.set(level), THREADS.set(threads)
    try:
        return fused_linear(x, weight, norm="rms", eps=1e-6)
    finally:
        LEVEL.reset(tokens[0])
        THREADS.reset(tokens[1])


@pytest.mark.parametrize("form", INTEGERS)
@pytest.mark.parametrize("groups", [1, 2, 31, 32, 33, 65])
def test_tiles_have_the_numbers_of_registers(form: Format, groups: int) -> None:
    """Groups are unpacked 32 together, and rows are 16: in parts, just so, and with a rest of any size."""
    torch.manual_seed(groups)
    weight, _ = packed(form, 40, groups, RowOrder())
    x = torch.randn(300, weight.shape[1])
    expected = by("x86-64-v4", 1, x, weight)
    for count in (1, 11, 12, 15, 16, 17, 27, 28, 33, 100, 300):
        found = by("x86-64-v4-amx", 3 if count % 2 else 1, x[:count], weight)
        assert torch.equal(found, expected[:count])


@pytest.mark.parametrize("form", INTEGERS)
def test_tiles_are_right(form: Format) -> None:
    """Of the largest integers, too, which weights and activations have here."""
    weight, floats = packed(form, 40, 34, RowOrder())
    x = torch.randint(-127, 128, (50, weight.shape[1])).float()
    x[:, ::GROUP] = 127.0  # so that rounding, which has ties, leaves all as they are
    x[:20] = 127.0 * x[:20].sign()
    tokens = LEVEL.set("x86-64-v4-amx")
    found = fused_linear(x, weight)
    LEVEL.reset(tokens)
    assert_near(found, (x.double() @ floats.double().T).float())


def test_what_is_no_number_stays_in_its_row() -> None:
    weight, _ = packed("q8", 16, 2, RowOrder())
    x = torch.randn(32, 2 * GROUP)
    x[3, 40], x[20, 3] = torch.nan, torch.inf
    finite = by("x86-64-v4-amx", 1, x, weight).isfinite()
    assert not finite[[3, 20]].any()
    assert finite[[row for row in range(32) if row not in (3, 20)]].all()


def test_children_use_tiles_as_their_parent_does() -> None:
    weight, _ = packed("q4", 16, 2, RowOrder())
    x = torch.randn(32, 2 * GROUP)
    expected = by("x86-64-v4-amx", 2, x, weight)
    child = os.fork()
    if not child:
        os._exit(0 if torch.equal(by("x86-64-v4-amx", 2, x, weight), expected) else 1)
    assert os.waitpid(child, 0)[1] == 0
