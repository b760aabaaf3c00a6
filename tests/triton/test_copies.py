"""What has to lie in order and does not is copied by a kernel: reshapes, operands of kernels, states made elsewhere."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from burnish.codegen.plan.planner import fallbacks
from burnish.codegen.triton.fused_elementwise import copy
from burnish.codegen.triton.lower import plan
from burnish.ir.errors import UnsupportedError
from burnish.runtime.plan import Launch, Variant
from tests.triton.planned import assert_steps_match, fused, interpreted


@settings(max_examples=20, deadline=None)
@given(
    shape=st.lists(st.integers(1, 7), min_size=1, max_size=4),
    dtype=st.sampled_from([torch.float32, torch.float16, torch.int64, torch.bool]),
    data=st.data(),
)
def test_elements_in_order(shape: list[int], dtype: torch.dtype, data: st.DataObject) -> None:
    order = data.draw(st.permutations(range(len(shape))))
    x = torch.randint(-5, 5, shape).to(dtype).permute(order)[..., :: data.draw(st.integers(1, 2))]
    if data.draw(st.booleans()):
        x = x.unsqueeze(1).expand(-1, 3, *x.shape[1:])
    found = copy(x)
    assert found.is_contiguous()
    assert torch.equal(found, x)


def test_what_no_kernel_copies_is_told() -> None:
    with pytest.raises(UnsupportedError, match=r"no torch\.float64"):
        copy(torch.ones(2, 3, dtype=torch.float64).T)


def copies(variant: Variant) -> list[str]:
    """The nodes that launch a copy."""
    return [
        each.node for each in variant.steps if isinstance(each, Launch) and each.kernel.startswith("fused_copy_kernel")
    ]


def test_only_prompts_copy_what_tokens_have_in_order() -> None:
    """BLOOM's heads in front of tokens, and back: of one token, both are views. Before, PyTorch copied them."""
    launches, _ = plan(fused("bloom"))
    assert fallbacks(launches) == {}
    assert [len(copies(variant)) for variant in launches.variants] == [0, 0, 0, 4, 4]


@pytest.mark.parametrize("model_type", ["dots1", "phimoe"])
def test_whole_models(model_type: str) -> None:
    """Scores repeated for each group of experts; the largest score with its place, and bounds that are values."""
    program = fused(model_type)
    launches, _ = plan(program)
    assert fallbacks(launches) == {}
    assert_steps_match(program, interpreted(program, launches), 2, [3, 1])
