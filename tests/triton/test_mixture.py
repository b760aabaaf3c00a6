"""What mixtures of experts need, against `burnish::moe_linear` and ATen."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from burnish.codegen.triton.kernels.gather import gather
from burnish.codegen.triton.kernels.moe_linear import moe_linear
from burnish.codegen.triton.kernels.scatter import scatter_source, scatter_value
from burnish.codegen.triton.kernels.topk import topk
from burnish.codegen.triton.kernels.zeros_like import zeros_like
from burnish.ir.errors import UnsupportedError
from burnish.ir.ops import burnish_ops


@settings(max_examples=20, deadline=None)
@given(
    rows=st.sampled_from([1, 2, 5]),
    choices=st.integers(1, 3),
    n=st.integers(1, 90),
    k=st.integers(1, 150),
    shared=st.booleans(),
    has_bias=st.booleans(),
    transposed=st.booleans(),
    half=st.booleans(),
)
def test_experts(
    rows: int, choices: int, n: int, k: int, shared: bool, has_bias: bool, transposed: bool, half: bool
) -> None:
    torch.manual_seed(n * k)
    dtype = torch.float16 if half else torch.float32
    weight = (torch.randn(4, k, n).transpose(1, 2) if transposed else torch.randn(4, n, k)).to(dtype) / k**0.5
    bias = torch.randn(4, n).to(dtype) if has_bias else None
    x = torch.randn(rows, 1 if shared else choices, k).to(dtype)
    experts = torch.randint(4, (rows, choices))
    wide_bias = None if bias is None else bias.double()
    expected = burnish_ops.moe_linear(x.double(), weight.double(), wide_bias, experts)
    found = moe_linear(x, weight, bias, experts)
    tolerance = 5e-3 if half else 2e-5
    torch.testing.assert_close(found.double(), expected, rtol=tolerance, atol=tolerance)


def test_experts_that_nobody_chose_are_not_read() -> None:
    weight = torch.full((3, 20, 40), torch.nan)
    weight[1] = 1.0
    found = moe_linear(torch.ones(2, 1, 40), weight, None, torch.ones(2, 2, dtype=torch.int32))
    assert torch.equal(found, torch.full((2, 2, 20), 40.0))


def test_choices_may_lie_in_memory_in_another_order() -> None:
    x, weight = torch.randn(3, 1, 8), torch.randn(4, 5, 8)
    experts = torch.randint(4, (2, 3)).T
    torch.testing.assert_close(moe_linear(x, weight, None, experts), burnish_ops.moe_linear(x, weight, None, experts))


def test_weights_with_gaps_and_of_other_types_are_refused() -> None:
    x, experts = torch.randn(1, 1, 8), torch.zeros(1, 1, dtype=torch.int64)
    with pytest.raises(UnsupportedError, match="dense matrices"):
        moe_linear(x, torch.randn(2, 5, 16)[..., ::2], None, experts)
    with pytest.raises(UnsupportedError, match="for both"):
        moe_linear(x, torch.randn(2, 5, 8).half(), None, experts)


@settings(max_examples=20, deadline=None)
@given(rows=st.integers(1, 4), size=st.integers(1, 200), largest=st.booleans(), half=st.booleans(), data=st.data())
def test_topk(rows: int, size: int, largest: bool, half: bool, data: st.DataObject) -> None:
    torch.manual_seed(size)
    choices = data.draw(st.integers(1, min(size, 12)))
    x = torch.randint(-9, 9, (2, rows, size)).to(torch.float16 if half else torch.float32)  # many are equal
    values, indices = topk(x, choices, -1, largest)
    expected_values, expected = torch.sort(x, dim=-1, descending=largest, stable=True)
    assert torch.equal(values, expected_values[..., :choices])
    assert torch.equal(indices, expected[..., :choices])


def test_topk_of_the_most_and_of_what_is_no_number() -> None:
    x = torch.randn(1, 1024)
    assert torch.equal(topk(x, 64)[1], torch.topk(x, 64)[1])
    x = torch.tensor([[1.0, torch.nan, -torch.inf, torch.inf, -0.0, 0.0, -torch.nan]])
    assert topk(x, 7)[1].tolist() == [[1, 6, 3, 0, 4, 5, 2]]
    assert topk(x, 7, largest=False)[1].tolist() == [[2, 4, 5, 0, 3, 1, 6]]


@pytest.mark.parametrize(("size", "choices", "axis"), [(1025, 1, -1), (100, 65, -1), (8, 1, 0)])
def test_topk_refuses_what_is_too_large(size: int, choices: int, axis: int) -> None:
    with pytest.raises(UnsupportedError, match="the kernel takes"):
        topk(torch.randn(2, size), choices, axis)


DTYPES = [torch.float32, torch.float16, torch.int64, torch.bool]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("size", "places"), [(1, 1), (37, 5), (1030, 3)])
def test_gather_and_scatter(size: int, places: int, dtype: torch.dtype) -> None:
    torch.manual_seed(size)
    x = torch.randint(-5, 5, (2, 3, size)).to(dtype)
    index = torch.stack([torch.randperm(size)[:places] for _ in range(6)]).view(2, 3, places)
    source = torch.randint(-5, 5, index.shape).to(dtype)
    assert torch.equal(gather(x, -1, index), torch.gather(x, -1, index))
    assert torch.equal(scatter_source(x, 2, index, source), torch.scatter(x, 2, index, source))
    assert torch.equal(scatter_value(x, -1, index, 1), torch.scatter(x, -1, index, 1))
    assert torch.equal(zeros_like(x), torch.zeros_like(x))


def test_the_last_of_equal_places_wins() -> None:
    found = scatter_source(torch.zeros(1, 4), 1, torch.tensor([[2, 2, 0]]), torch.tensor([[5.0, 7.0, 1.0]]))
    assert found.tolist() == [[1.0, 0.0, 7.0, 0.0]]


def test_other_axes_and_parts_are_refused() -> None:
    x, index = torch.randn(3, 4), torch.zeros(2, 2, dtype=torch.int64)
    for refused in (lambda: gather(x, 0, index), lambda: gather(x, 1, index), lambda: scatter_value(x, 0, index, 1)):
        with pytest.raises(UnsupportedError, match="the kernel takes"):
            refused()
