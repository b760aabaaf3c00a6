"""Sizes and typed graphs without torch.export: ranges, names, types, and programs that passes take."""

from __future__ import annotations

import pytest
import torch
from torch.fx.experimental.symbolic_shapes import ShapeEnv

from burnish.ir.errors import InvalidProgramError
from burnish.ir.full_text import full_text
from burnish.ir.interpreter import run
from burnish.ir.ops import burnish_ops
from burnish.ir.parse import parse_program
from burnish.ir.program import Stage
from burnish.ir.shapes import is_batch, is_sequence
from burnish.ir.signature import Signature
from burnish.ir.states import State, StateKind
from burnish.ir.symbols import TypedGraph, symbolic_size
from burnish.ir.text import type_text
from burnish.ir.trace import Trace
from burnish.passes.pipeline import run_passes
from burnish.passes.pipelines import make_incremental
from tests.ir.decoders import VOCABULARY, decoder

aten = torch.ops.aten


def limits(size: torch.SymInt) -> tuple[int, object]:
    found = size.node.shape_env.var_to_range[size.node.expr]
    return int(found.lower), found.upper


def test_a_size_has_its_range_and_its_example() -> None:
    environment = ShapeEnv(duck_shape=False)
    size = symbolic_size(environment, "batch", 7, 5, 64)
    assert limits(size) == (5, 64)
    assert size.node.hint == 7
    assert limits(symbolic_size(environment, "more", 7))[0] == 2
    assert limits(symbolic_size(environment, "one", 7, least=1))[0] == 1


def test_sizes_of_one_example_are_not_one_size() -> None:
    environment = ShapeEnv(duck_shape=False)
    first, second = (symbolic_size(environment, name, 7) for name in ("batch", "sequence"))
    assert str(first) != str(second)


def test_a_size_can_have_the_symbol_that_is_asked_for() -> None:
    for symbol in ("s0", "s52", "s99"):
        assert str(symbolic_size(ShapeEnv(), "batch", 3, symbol=symbol)) == symbol


def test_each_node_is_typed_as_it_is_added() -> None:
    made, tokens = TypedGraph.of_tokens()
    x = made.call(aten.embedding.default, made.weight("table", torch.randn(11, 8)), tokens)
    names = {str(size): name for name, size in made.sizes.items()}
    assert type_text(x.meta["val"], names) == "f32[batch, sequence, 8]"
    wide = made.call(aten.cat.default, [x, x], 1)
    assert type_text(wide.meta["val"], names) == "f32[batch, 2*sequence, 8]"
    with pytest.raises(InvalidProgramError, match="does not fit its arguments"):
        made.call(aten.linear.default, x, made.weight("other", torch.randn(4, 5)))


def test_states_and_sizes_are_in_the_text_and_come_back() -> None:
    made, tokens = TypedGraph.of_tokens()
    made.size("capacity", 41)
    position = made.input("position", ["batch"], torch.int64)
    past = made.state(State("past", StateKind.CACHE, ("batch", "capacity", 8), "float32", 1))
    x = made.call(aten.embedding.default, made.weight("table", torch.randn(11, 8)), tokens)
    written = made.call(burnish_ops.cache_write.default, past, x, position, 1)
    program = made.program(x, written, signature=Signature(8, 16, 11), stage=Stage.INCREMENTAL)
    assert is_batch(program, made.sizes["batch"])
    assert is_sequence(program, made.sizes["sequence"])
    text = full_text(program)
    assert "input %past: f32[batch, capacity, 8]" in text
    assert full_text(parse_program(text, program.weights)) == text


def test_passes_take_a_program_made_by_hand() -> None:
    """And give a step of it, whose sizes are as open as those of an exported one."""
    program = decoder()
    ids = torch.randint(VOCABULARY, (2, 6), generator=torch.Generator().manual_seed(0))
    (expected,) = run(program, [ids])
    trace = Trace()
    step = run_passes(program, make_incremental(), trace)
    ops = [str(node.target) for node in step.graph.nodes]
    for name in ("attention", "rms_norm", "gated_activation"):
        assert ops.count(f"burnish.{name}.default") == (4 if name == "rms_norm" else 2)
    states = [torch.zeros(state.concrete_shape(2, 16)) for state in step.states]
    for start, stop in ((0, 4), (4, 5), (5, 6)):
        position = torch.full((2,), start)
        found, *states = run(step, [ids[:, start:stop], position, torch.arange(stop - start), *states])
        torch.testing.assert_close(found, expected[:, start:stop], rtol=1e-5, atol=1e-5)
