"""Native kernels for mixtures of experts, against `burnish::moe_linear` and ATen."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from burnish.codegen.native import operands
from burnish.codegen.native.mixture import moe_linear, topk
from burnish.codegen.native.spec import ROUNDED
from burnish.ir.eight_bit_floats import in_floats_of_8_bits
from burnish.ir.errors import UnsupportedError
from burnish.ir.ops import burnish_ops
from burnish.ir.panel_formats import FORMATS, GROUP, SCALED, Format, is_integer
from burnish.ir.panels import Panels, RowOrder, from_panels
from burnish.ir.weights import Stored, Weight
from tests.codegen.native.ways import ALL, Way, by, cases, ways
from tests.ir.test_panels import weight_for


def source_of(rows: int, size: int, form: Format) -> Weight:
    if form == "f8b":
        return weight_for(form, rows, -(-size // SCALED), seed=rows)
    if not form.startswith("q"):
        floats = Stored(torch.randn(rows, size) / size**0.5)
        return in_floats_of_8_bits(floats) if form == "f8" else floats
    return weight_for(form, rows, -(-size // (256 if form.endswith("k") else GROUP)), seed=rows)


def packed(experts: int, rows: int, size: int, form: Format) -> tuple[Tensor, Tensor]:
    """A weight[experts, rows, size] for kernels, and as floats."""
    source = source_of(experts * rows, size, form)
    panels = Panels(source, form, RowOrder(head=rows))
    arguments = (panels.materialize(), form, *source.shape, rows, False, experts)
    return operands.from_panels(*arguments), from_panels(*arguments)


def near(found: Tensor, expected: Tensor, tolerance: float) -> None:
    torch.testing.assert_close(found.double(), expected, rtol=tolerance, atol=tolerance)


@cases
@given(
    way=ways,
    rows=st.sampled_from([1, 2, 5, 40]),
    choices=st.integers(1, 3),
    experts=st.sampled_from([1, 4, 9]),
    n=st.integers(1, 150),
    k=st.integers(1, 150),
    shared=st.booleans(),
    has_bias=st.booleans(),
    form=st.sampled_from(FORMATS),
)
def test_experts(
    way: Way, rows: int, choices: int, experts: int, n: int, k: int, shared: bool, has_bias: bool, form: Format
) -> None:
    torch.manual_seed(n * k)
    weight, floats = packed(experts, n, k, form)
    bias = torch.randn(experts, n) if has_bias else None
    x = torch.randn(rows, 1 if shared else choices, floats.shape[2])
    ids = torch.randint(experts, (rows, choices))
    expected = burnish_ops.moe_linear(x.double(), floats.double(), None if bias is None else bias.double(), ids)
    with by(way):
        found = moe_linear(x, weight, bias, ids)
        near(found, expected, 1e-5 * max(1.0, float(expected.abs().max())))
        alone = torch.cat([moe_linear(x[row : row + 1], weight, bias, ids[row : row + 1]) for row in range(rows)])
    assert torch.equal(found, alone), "a token's numbers depend on how many others there are"


@pytest.mark.parametrize("way", ALL)
@pytest.mark.parametrize("form", filter(is_integer, FORMATS))
def test_activations_may_become_int8(way: Way, form: Format) -> None:
    torch.manual_seed(0)
    weight, floats = packed(3, 40, 96, form)
    x, ids = torch.randn(7, 1, floats.shape[2]), torch.randint(3, (7, 2))
    expected = burnish_ops.moe_linear(x.double(), floats.double(), None, ids)
    token = ROUNDED.set(True)
    try:
        with by(way):
            near(moe_linear(x, weight, None, ids), expected, 0.01 * float(expected.abs().max()))
    finally:
        ROUNDED.reset(token)


@pytest.mark.parametrize("way", ALL)
def test_a_prompt_is_in_several_blocks_of_rows(way: Way) -> None:
    weight, floats = packed(5, 70, 300, "f32")
    x, ids = torch.randn(200, 1, 300), torch.randint(5, (200, 3))
    ids[:150] = 2
    with by(way):
        near(moe_linear(x, weight, None, ids), burnish_ops.moe_linear(x.double(), floats.double(), None, ids), 1e-5)


@pytest.mark.parametrize("way", ALL)
def test_experts_that_nobody_chose_are_not_read(way: Way) -> None:
    floats = torch.full((3 * 20, 40), torch.nan)
    floats[20:40] = 1.0
    panels = Panels(Stored(floats), "f32", RowOrder(head=20)).materialize()
    weight = operands.from_panels(panels, "f32", 60, 40, 20, False, 3)
    with by(way):
        found = moe_linear(torch.ones(2, 1, 40), weight, None, torch.ones(2, 2, dtype=torch.int64))
    assert torch.equal(found, torch.full((2, 2, 20), 40.0))


@pytest.mark.parametrize("way", ALL)
def test_who_chose_no_expert_that_there_is_has_zeros(way: Way) -> None:
    weight, floats = packed(3, 20, 40, "f32")
    x, bias = torch.randn(4, 1, 40), torch.randn(3, 20)
    ids = torch.tensor([[0, 3], [-1, 1], [2**62, -(2**63)], [2, 4]])
    with by(way):
        found = moe_linear(x, weight, bias, ids)
    torch.testing.assert_close(found, burnish_ops.moe_linear(x, floats, bias, ids))
    assert found[ids.lt(0) | ids.gt(2)].eq(0).all()


def test_choices_may_lie_in_memory_in_another_order() -> None:
    weight, floats = packed(4, 5, 8, "f32")
    x, ids = torch.randn(3, 1, 8), torch.randint(4, (2, 3)).T
    torch.testing.assert_close(moe_linear(x, weight, None, ids), burnish_ops.moe_linear(x, floats, None, ids))


def test_what_is_not_in_panels_is_refused() -> None:
    with pytest.raises(UnsupportedError, match="panels"):
        moe_linear(torch.randn(1, 1, 8), torch.randn(2, 5, 8), None, torch.zeros(1, 1, dtype=torch.int64))
    weight, _ = packed(2, 5, 8, "f32")
    with pytest.raises(UnsupportedError, match="float64"):
        moe_linear(torch.randn(1, 1, 8).double(), weight, None, torch.zeros(1, 1, dtype=torch.int64))


@cases
@given(way=ways, rows=st.integers(1, 4), size=st.integers(1, 200), largest=st.booleans(), data=st.data())
def test_topk(way: Way, rows: int, size: int, largest: bool, data: st.DataObject) -> None:
    torch.manual_seed(size)
    count = data.draw(st.integers(1, size))
    x = torch.randint(-9, 9, (2, size, rows)).float().transpose(1, 2)  # many are equal
    with by(way):
        values, indices = topk(x, count, -1, largest)
    expected_values, expected = torch.sort(x, dim=-1, descending=largest, stable=True)
    assert torch.equal(values, expected_values[..., :count])
    assert torch.equal(indices, expected[..., :count])


@pytest.mark.parametrize("way", ALL)
def test_topk_of_what_is_no_number(way: Way) -> None:
    x = torch.tensor([[1.0, torch.nan, -torch.inf, torch.inf, -0.0, 0.0, -torch.nan]])
    with by(way):
        assert topk(x, 7)[1].tolist() == [[1, 6, 3, 0, 4, 5, 2]]
        assert topk(x, 7, largest=False)[1].tolist() == [[2, 4, 5, 0, 3, 1, 6]]


def test_topk_refuses_other_axes_and_more_than_there_are() -> None:
    for refused in (lambda: topk(torch.randn(2, 8), 1, 0), lambda: topk(torch.randn(2, 8), 9)):
        with pytest.raises(UnsupportedError, match="the kernel"):
            refused()
