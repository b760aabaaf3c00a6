"""Weights in panels, as weights in rows again."""

from __future__ import annotations

from typing import cast

import pytest
import torch

from burnish.ir.panel_formats import FLOATS, FORMATS, Format, is_integer, panel_bytes
from burnish.ir.panels import Panels, RowOrder, from_panels
from burnish.ir.quantization import Quantized, pack
from burnish.ir.unpanelled import unpanelled
from burnish.ir.weights import Stored

ROWS, SIZE = 24, 256
ORDERS = (RowOrder(), RowOrder(12), RowOrder(0, True))


def _bytes(form: Format, order: RowOrder) -> torch.Tensor:
    """Panels of a format with random contents."""
    generator = torch.Generator().manual_seed(0)
    panels = len(order.places(ROWS)) // 16
    if form in FLOATS:
        return torch.randn(panels, SIZE * 16, generator=generator).to(FLOATS[form]).view(torch.uint8)
    return torch.randint(0, 256, (panels, panel_bytes(form, SIZE)), dtype=torch.uint8, generator=generator)


@pytest.mark.parametrize("order", ORDERS, ids=str)
@pytest.mark.parametrize("form", FORMATS)
def test_a_weight_of_each_format_is_what_its_panels_stand_for(form: Format, order: RowOrder) -> None:
    panels = _bytes(form, order)
    found = unpanelled(Stored(panels), form, ROWS, SIZE, order)
    assert isinstance(found, Quantized) == is_integer(form)
    assert found.shape == (ROWS, SIZE)
    wanted = from_panels(panels, form, ROWS, SIZE, order.head, order.pairs)
    assert torch.equal(found.materialize().nan_to_num(), wanted.nan_to_num())


@pytest.mark.parametrize("order", ORDERS, ids=str)
def test_integers_come_back_as_they_were(order: RowOrder) -> None:
    q = torch.randint(0, 16, (ROWS, SIZE), generator=torch.Generator().manual_seed(1))
    scales = torch.rand(ROWS, SIZE // 32).half() + 0.5
    weight = Quantized(Stored(pack(q, 4, 32)), Stored(scales), None, 4, 32)
    found = unpanelled(Stored(Panels(weight, "q4", order).materialize()), "q4", ROWS, SIZE, order)
    assert isinstance(found, Quantized)
    assert torch.equal(found.values.materialize(), weight.values.materialize())
    assert torch.equal(found.scales.materialize(), scales.float())
    assert (found.bits, found.group, found.zeros, found.minima) == (4, 32, None, None)


def test_zero_points_come_back() -> None:
    """Panels have minima in their place."""
    generator = torch.Generator().manual_seed(2)
    q, zeros = (torch.randint(0, 16, shape, generator=generator) for shape in ((ROWS, SIZE), (ROWS, SIZE // 32)))
    scales = torch.rand(zeros.shape, generator=generator) + 0.01
    weight = Quantized(Stored(pack(q, 4, 32)), Stored(scales), Stored(zeros.float()), 4, 32)
    for form in ("q4f", "q4m"):
        panels = Panels(weight, cast(Format, form), RowOrder())
        found = unpanelled(Stored(panels.materialize()), form, ROWS, SIZE, RowOrder())
        assert isinstance(found, Quantized)
        assert (found.zeros is None) == (form == "q4m")  # whose minima are rounded to half floats
        if found.zeros is not None:
            assert found.minima is None
            assert torch.equal(found.zeros.materialize(), zeros.float())
            torch.testing.assert_close(found.materialize(), weight.materialize())


def test_rows_that_end_within_a_group_are_floats() -> None:
    weight = Quantized(Stored(torch.ones(16, 40, dtype=torch.int8)), Stored(torch.ones(16, 1).half()), None, 8, 40)
    panels = Stored(Panels(weight, "q8", RowOrder()).materialize())
    found = unpanelled(panels, "q8", 16, 40, RowOrder())
    assert not isinstance(found, Quantized)
    assert torch.equal(found.materialize(), weight.materialize())
