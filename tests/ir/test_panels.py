"""Weights in panels: what they stand for is what they were made of."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from burnish.ir.eight_bit_floats import in_floats_of_8_bits
from burnish.ir.panel_formats import FORMATS, GROUP, PANEL, SCALED, Format, is_integer, panel_bytes
from burnish.ir.panels import Panels, RowOrder, format_of, from_panels
from burnish.ir.quantization import Factored, Quantized, pack
from burnish.ir.weights import Cast, Concat, Reshape, Rows, Stored, Weight
from tests.passes.lower.test_read_integers import quantized


def weight_for(form: Format, rows: int, units: int, seed: int = 0) -> Weight:
    """A random weight[rows, units * 32], of f8b * 128, of the formats of K-quants * 256, held without loss."""
    generator = torch.Generator().manual_seed(seed)
    if form == "f8":
        return in_floats_of_8_bits(Stored(torch.randn(rows, units * GROUP, generator=generator)))
    if form == "f8b":
        codes = torch.randn(rows, units * SCALED, generator=generator).to(torch.float8_e4m3fn)
        scales = torch.rand(rows, units, generator=generator) + 0.5
        return Quantized(Stored(codes), Stored(scales), None, 8, SCALED)
    if not is_integer(form):
        dtype = {"f32": torch.float32, "bf16": torch.bfloat16, "f16": torch.float16}[form]
        return Stored(torch.randn(rows, units * GROUP, generator=generator).to(dtype).float())
    bits = int(form[1])
    if form.endswith("k"):
        return k_quant(rows, units, bits, generator)
    found = quantized(
        rows, units, bits, GROUP, {"q4f": "whole", "q4m": "minima", "q5m": "minima"}.get(form, "none"), seed
    )
    if form == "q8f":
        return replace(found, scales=Stored(torch.rand(rows, units, generator=generator)))
    return found if found.minima is None else replace(found, minima=Stored(found.minima.materialize().half()))


def k_quant(rows: int, units: int, bits: int, generator: torch.Generator) -> Quantized:
    """As `Q2_K`, `Q4_K`, `Q5_K` and `Q6_K` have them."""
    group = 32 if bits in (4, 5) else 16

    def factored(low: int, high: int) -> Factored:
        integers = torch.randint(low, high, (rows, units * 256 // group), generator=generator).to(torch.int8)
        return Factored(Stored((torch.rand(rows, units, generator=generator) / 50).half()), Stored(integers))

    most = 15 if bits == 2 else 63
    scales, minima = (factored(-128, 128), None) if bits == 6 else (factored(0, most + 1), factored(-most, 1))
    low = -32 if bits == 6 else 0
    q = torch.randint(low, low + 2**bits, (rows, units * 256), generator=generator)
    bits = max(bits, 4)  # 2 bits are in 4
    return Quantized(Stored(pack(q, bits, group)), scales, None, bits, group, minima)


@settings(max_examples=60, deadline=None)
@given(
    form=st.sampled_from(FORMATS),
    rows=st.integers(1, 40),
    groups=st.integers(1, 4),
    order=st.sampled_from([RowOrder(), RowOrder(pairs=True), RowOrder(head=5), RowOrder(head=16)]),
)
def test_panels_stand_for_the_weight(form: Format, rows: int, groups: int, order: RowOrder) -> None:
    if order.pairs:
        rows *= 2
    if order.head:
        rows *= order.head
    weight = weight_for(form, rows, groups)
    panels = Panels(weight, form, order)
    bytes_ = panels.materialize()
    assert (tuple(bytes_.shape), bytes_.dtype) == (panels.shape, torch.uint8)
    found = from_panels(bytes_, form, rows, weight.shape[1], order.head, order.pairs)
    torch.testing.assert_close(found, weight.materialize(), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("form", ["f32", "bf16", "f16"])
@pytest.mark.parametrize("size", [1, 7, 33])
def test_floats_of_any_size(form: Format, size: int) -> None:
    weight = Stored(torch.randn(3, size).bfloat16().float() if form == "bf16" else torch.randn(3, size).half().float())
    panels = Panels(weight, form, RowOrder()).materialize()
    assert panels.shape == (1, panel_bytes(form, size))
    assert torch.equal(from_panels(panels, form, 3, size), weight.materialize())


@pytest.mark.parametrize("size", [8, 40])
def test_a_row_of_one_scale_may_end_within_a_group(size: int) -> None:
    weight = quantized(3, 1, 8, size)
    panels = Panels(weight, "q8", RowOrder()).materialize()
    torch.testing.assert_close(from_panels(panels, "q8", 3, size), weight.materialize(), rtol=1e-6, atol=1e-6)


def test_rows_of_a_head_begin_a_panel_and_pairs_stand_apart() -> None:
    assert RowOrder(head=3).places(6).reshape(2, PANEL)[:, :4].tolist() == [[0, 1, 2, -1], [3, 4, 5, -1]]
    assert RowOrder(pairs=True).places(4).tolist() == [0, 2, *[-1] * 6, 1, 3, *[-1] * 6]


def test_what_loses_nothing_is_chosen() -> None:
    half = torch.randn(4, 64).bfloat16()
    wide = Cast(Stored(half), torch.float32)
    assert format_of(wide, None) == ("bf16", "")
    assert format_of(Concat((wide, Rows(wide, torch.tensor([1])))), None) == ("bf16", "")
    assert format_of(Concat((wide, Stored(half.float()))), None) == ("f32", "")
    assert format_of(Reshape(Cast(Stored(half.half()), torch.float32), (4, 64)), None) == ("f16", "")
    assert format_of(Cast(Stored(torch.ones(2, 2, dtype=torch.int8)), torch.float32), None) == ("f32", "")
    assert format_of(wide, torch.float32) == ("f32", "")


def test_integers_keep_their_scales() -> None:
    for form in filter(is_integer, FORMATS):
        assert format_of(weight_for(form, 3, 2), None) == (form, "")
    for group in (64, 128):
        assert format_of(quantized(3, 2, 4, group, "minima"), None) == ("q4f", "")
        assert format_of(quantized(3, 2, 8, group), None) == ("q8", "")


def test_rows_of_k_quants_may_be_chosen_and_joined() -> None:
    """As those of rotary embeddings are put in another order, and those of queries, keys and values together."""
    for form in ("q2k", "q4k", "q5k", "q6k"):
        weight = weight_for(form, 5, 2)
        joined = Concat((Rows(weight, torch.tensor([3, 1, 1, 4])), weight))
        assert format_of(joined, None) == (form, "")
        panels = Panels(joined, form, RowOrder()).materialize()
        assert torch.equal(from_panels(panels, form, 9, 512), joined.materialize())


def test_kinds_that_differ_are_floats_together() -> None:
    weights = weight_for("q4k", 2, 1), weight_for("q5k", 2, 1)
    assert format_of(Concat(weights), None) == ("f32", "")


def test_integers_without_a_format_are_floats_and_it_is_said() -> None:
    fine = quantized(3, 2, 5, 32)
    wide = replace(fine, scales=Stored(torch.rand(3, 2)))
    assert format_of(wide, None) == ("f32", "their scales are no half floats")


def test_groups_that_panels_do_not_have_stay_in_floats() -> None:
    assert format_of(quantized(3, 4, 4, 16), None) == (
        "f32",
        "16 of them share a scale, and panels have one for each 32",
    )


def test_what_rounding_loses_is_said() -> None:
    weight = Stored(torch.randn(4, 64))
    assert Panels(weight, "bf16", RowOrder()).rounded_to is torch.bfloat16
    assert Panels(Cast(Stored(torch.randn(4, 64).half()), torch.float32), "f16", RowOrder()).rounded_to is None
    assert Panels(weight, "f32", RowOrder()).rounded_to is None
    assert Panels(quantized(3, 2, 8, 32), "q8", RowOrder()).rounded_to is None


def test_a_format_that_there_is_not() -> None:
    with pytest.raises(ValueError, match="no format 'q7'"):
        from_panels(torch.zeros(1, 4, dtype=torch.uint8), "q7", 1, 1)  # type: ignore[arg-type]
