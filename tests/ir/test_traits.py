"""What each op is stands once: every op of the language has a row, and rows agree with what torch says."""

from __future__ import annotations

import operator
from typing import Any

import pytest
import torch

from burnish.codegen.onnx.lowering import _TRANSLATIONS
from burnish.codegen.triton.element_formulas import FORMULAS
from burnish.ir import serialize  # defines all ops of the library's own
from burnish.ir.ops import burnish_ops
from burnish.ir.states import StateKind
from burnish.ir.traits import TRAITS, having, is_random, traits

aten = torch.ops.aten
assert serialize

# They make values of sizes alone, and no value with tokens reaches them.
_MAKERS = {
    aten.arange.default,
    aten.arange.start,
    aten.arange.start_step,
    aten.scalar_tensor.default,
    aten.sym_size.int,
}

# They are of graphs alone: where nothing is known of an op, a language model that has it is refused.
_OF_GRAPHS = {
    aten.conv2d.default,
    aten.conv2d.padding,
    aten.conv3d.default,
    aten.conv3d.padding,
    aten.scaled_dot_product_attention.default,
}


def name(target: Any) -> str:
    return getattr(target, "__name__", str(target)) if target is operator.getitem else str(target)


@pytest.mark.parametrize("target", sorted({*_TRANSLATIONS, *FORMULAS} - _MAKERS - _OF_GRAPHS, key=name), ids=name)
def test_what_a_target_translates_has_a_row(target: Any) -> None:
    known = traits(target)
    own = isinstance(target, torch._ops.OpOverload) and target.namespace == "burnish"
    told = known.label is not None or known.fills or own
    assert told or is_random(target), "nothing is known of how it treats tokens"


def test_every_op_of_the_librarys_own_has_a_row() -> None:
    names = {op.split("::")[1] for op in torch._C._dispatch_get_all_op_names() if op.startswith("burnish::")}
    assert names
    for each in names:
        assert getattr(burnish_ops, each.split(".")[0]).default in TRAITS, each


def test_what_mixes_tokens_has_a_state_and_what_writes_names_its_operands() -> None:
    mixing = {
        burnish_ops.attention.default: StateKind.CACHE,
        burnish_ops.causal_conv1d.default: StateKind.WINDOW,
        burnish_ops.shift.default: StateKind.WINDOW,
        aten.cumsum.default: StateKind.ACCUMULATOR,
    }
    assert having("state") == set(mixing)
    for target, kind in mixing.items():
        found = traits(target).state
        assert found is not None
        assert found.kind is kind
        assert (found.step is None) == bool(found.all_tokens)
    for target in having("writes"):
        assert target not in having("view")
        arguments = target._schema.arguments
        assert all(0 <= place < len(arguments) for place in traits(target).writes)


def test_unknown_ops_have_no_label_and_pointwise_ones_have() -> None:
    assert traits(aten.fft_rfft.default).label is None
    assert traits(aten.sinh.default).label is not None
    assert is_random(aten.rand.default)
    assert not is_random(aten.scaled_dot_product_attention.default)
