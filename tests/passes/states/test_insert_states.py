"""The step program: what is remembered, and that any way of feeding it gives the whole sequence's logits."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from burnish.frontend.capture import capture
from burnish.ir.program import Program
from burnish.ir.trace import Trace
from burnish.passes.pipeline import run_passes
from burnish.passes.pipelines import make_incremental
from burnish.passes.verify import run_step
from burnish.passes.verify_run import verify_by_reference
from tests.own_modules import causal


def step_of(style: type[nn.Module]) -> tuple[nn.Module, Program]:
    torch.manual_seed(0)
    model = style().eval()
    return model, run_passes(capture(model, max_length=causal.LENGTH), make_incremental(), Trace())


def states(program: Program) -> list[tuple[str, str, tuple[int | str, ...]]]:
    return [(state.name, state.kind.value, state.shape) for state in program.states]


def test_keys_and_values_are_cached_before_their_heads_are_repeated() -> None:
    _, program = step_of(causal.SharedKey)  # one KV head for four query heads, one K for two attentions
    shape = ("batch", 1, "capacity", 8)
    assert states(program) == [("key_0", "cache", shape), ("value_0", "cache", shape), ("value_1", "cache", shape)]


def test_a_sliding_window_gets_a_ring_of_its_size() -> None:
    _, program = step_of(causal.SlidingWindow)
    shape = ("batch", 4, 7, 8)
    assert states(program) == [("key_0", "ring", shape), ("value_0", "ring", shape)]


def test_convolutions_and_sums_remember_what_they_need_and_no_more() -> None:
    _, program = step_of(causal.ConvolutionFirst)
    assert ("window", ("batch", 32, 3)) in [(kind, shape) for _, kind, shape in states(program)]
    _, program = step_of(causal.RunningSum)
    assert states(program) == [("sum_0", "accumulator", ("batch", 1, 32))]


def test_keys_are_remembered_after_their_rotary_embedding() -> None:
    _, program = step_of(causal.SlidingWindow)
    ring = next(node for node in program.graph.nodes if node.name == "key_0")
    write = next(user for user in ring.users if "ring_write" in str(user.target))
    assert "rotary" in str(write.args[1].target)  # type: ignore[union-attr]


def test_no_op_but_attention_sees_all_tokens() -> None:
    """What grows with the tokens so far: the caches, the attention that reads them, nothing else."""
    _, program = step_of(causal.NanoGPT)
    capacity = next(symbol for symbol, name in program.details["symbols"].items() if name == "capacity")
    for node in program.graph.nodes:
        shape = getattr(node.meta.get("val"), "shape", ())
        if any(capacity in str(size) for size in shape):
            assert node.op == "placeholder" or "cache_write" in str(node.target), node


@settings(max_examples=15, deadline=None)
@given(pieces=st.lists(st.integers(1, 12), min_size=1, max_size=6).filter(lambda pieces: sum(pieces) <= 40))
def test_any_pieces_give_the_same_logits(pieces: list[int]) -> None:
    for style, (model, program) in _STEPS.items():
        ids = torch.randint(causal.VOCABULARY, (2, sum(pieces)))
        with torch.no_grad():
            expected = model(ids)
        found = run_step(program, ids, pieces, capacity=sum(pieces))
        difference = float((found - expected).abs().max())
        assert difference < 1e-4 * max(1.0, float(expected.abs().max())), style


def test_verification_names_a_wrong_step() -> None:
    import pytest

    from burnish.ir.errors import VerificationError

    model = causal.FusedQKV().eval()
    program = capture(model, max_length=causal.LENGTH)
    step = run_passes(program, make_incremental(), Trace())
    attention = next(node for node in step.graph.nodes if "burnish.attention" in str(node.target))
    attention.kwargs = {**attention.kwargs, "scale": attention.kwargs["scale"] * 1.1}  # type: ignore[operator]
    with pytest.raises(VerificationError, match="first for the logits at place 1"):
        verify_by_reference(program, step)


_STEPS = {
    style.__name__: step_of(style)
    for style in (causal.NanoGPT, causal.SlidingWindow, causal.ConvolutionFirst, causal.MultiHeadLatent)
}
