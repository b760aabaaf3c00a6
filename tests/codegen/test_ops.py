"""Every other burnish:: op, and the ATen ops that we translate ourselves, against the reference executor."""

from __future__ import annotations

import operator
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import fx

from burnish.codegen.onnx.burnish_ops import BURNISH
from burnish.ir.ops import ACTIVATIONS
from burnish.ir.states import StateKind
from tests.codegen.programs import Maker, aten, compare, compare_steps, ops

Make = Callable[[Maker], fx.Node]


def table_rows(m: Maker, table: torch.Tensor) -> fx.Node:
    where = m.call(ops.positions.default, m.tokens, m.position)
    return m.call(ops.lookup.default, m.weight("table", table), where)


def rotary(
    m: Maker,
    *,
    size: int = 8,
    rotary_size: int | None = None,
    interleaved: bool = False,
    equal: bool = True,
    heads_first: bool = True,
) -> fx.Node:
    rotary_size = rotary_size or size
    angles = m.random(64, rotary_size // 2)
    other = angles if equal else m.random(64, rotary_size // 2)
    angles = torch.stack((angles, other), -1).flatten(1) if interleaved else torch.cat((angles, other), -1)
    axis = 1 if heads_first else 2
    cos = m.call(aten.unsqueeze.default, table_rows(m, angles.cos()), axis)
    sin = m.call(aten.unsqueeze.default, table_rows(m, angles.sin()), axis)
    x = m.heads(3, size) if heads_first else m.embed(3, size)
    return m.call(ops.rotary.default, x, cos, sin, interleaved)


def mixture(m: Maker, experts: int, one_row: bool, bias: bool) -> fx.Node:
    x = m.call(aten.view.default, m.embed(12), [-1, 1 if one_row else 2, 12 if one_row else 6])
    size = 12 if one_row else 6
    ids = m.weight("ids", torch.stack([torch.randperm(experts, generator=m.generator)[:2] for _ in range(23)]))
    chosen = m.call(aten.view.default, m.call(aten.embedding.default, ids, m.tokens), [-1, 2])
    weight = m.weight("experts", m.random(experts, 5, size))
    return m.call(ops.moe_linear.default, x, weight, m.weight("bias", m.random(experts, 5)) if bias else None, chosen)


def norm_of_heads(m: Maker) -> fx.Node:
    normed = m.call(ops.rms_norm.default, m.heads(4, 8), m.weight("scale", m.random(8)), 1e-6)
    return m.call(aten.reshape.default, m.call(aten.transpose.int, normed, 1, 2), [m.batch_node(), m.new_node(), 32])


def residual_norm(m: Maker) -> fx.Node:
    """x + y is normalised by one kernel, and read again."""
    x, y = m.embed(16), m.embed(16)
    total = m.call(aten.add.Tensor, x, y)
    normed = m.call(ops.rms_norm.default, total, m.weight("scale", m.random(16)), 1e-5)
    again = m.call(ops.rms_norm.default, total, m.weight("scale", m.random(16)), 1e-3)
    return m.call(aten.cat.default, [total, normed, again], -1)


BURNISH_CASES: dict[str, Make] = {
    "rms_norm": lambda m: m.call(ops.rms_norm.default, m.embed(16), m.weight("scale", m.random(16)), 1e-5),
    "rms_norm without scale": lambda m: m.call(ops.rms_norm.default, m.embed(16), None, 1e-5),
    "rms_norm of heads": norm_of_heads,
    "rms_norm, scale a head": lambda m: m.call(
        ops.rms_norm.default, m.embed(4, 8), m.weight("scale", m.random(4, 8)), 1e-5
    ),
    "rms_norm of a sum": residual_norm,
    "rotary": rotary,
    "rotary, partial": lambda m: rotary(m, size=12, rotary_size=8),
    "rotary, interleaved": lambda m: rotary(m, interleaved=True),
    "rotary, interleaved, partial": lambda m: rotary(m, size=12, rotary_size=6, interleaved=True),
    "rotary, odd half": lambda m: rotary(m, size=6),
    "rotary, different halves": lambda m: rotary(m, equal=False),
    "rotary, different pairs": lambda m: rotary(m, equal=False, interleaved=True, size=12, rotary_size=8),
    "rotary, tokens first": lambda m: rotary(m, heads_first=False),
    "rotary, tokens first, different halves": lambda m: rotary(m, heads_first=False, equal=False),
    **{
        f"gated_activation {name}": lambda m, name=name: m.call(  # type: ignore[misc]
            ops.gated_activation.default, m.embed(16), m.embed(16), name
        )
        for name in ACTIVATIONS
    },
    "positions": lambda m: m.call(ops.positions.default, m.tokens, m.position),
    "positions from zero": lambda m: m.call(ops.positions.default, m.tokens),
    "lookup": lambda m: table_rows(m, m.random(64, 3, 2)),
    "ring_positions": lambda m: m.call(ops.ring_positions.default, m.tokens, m.position, 5),
    "attention_bias": lambda m: m.call(
        ops.attention_bias.default, m.weight("table", m.random(3, 64, 64)), m.position, m.heads(3, 4), m.heads(1, 4)
    ),
    "attention_bias from zero": lambda m: m.call(
        ops.attention_bias.default, m.weight("table", m.random(1, 64, 64)), None, m.heads(3, 4), m.heads(1, 4)
    ),
    "causal_conv1d": lambda m: m.call(
        ops.causal_conv1d.default,
        m.call(aten.transpose.int, m.embed(6), 1, 2),
        m.weight("kernel", m.random(6, 1, 4)),
        m.weight("bias", m.random(6)),
        1,
        6,
    ),
    "causal_conv1d, dilated": lambda m: m.call(
        ops.causal_conv1d.default,
        m.call(aten.transpose.int, m.embed(6), 1, 2),
        m.weight("kernel", m.random(4, 3, 3)),
        None,
        2,
        2,
    ),
    "shift": lambda m: m.call(ops.shift.default, m.embed(6), 1, 2),
    "shift by one along a later axis": lambda m: m.call(
        ops.shift.default, m.call(aten.transpose.int, m.embed(6), 1, 2), -1, 1
    ),
    "moe_linear": lambda m: mixture(m, 4, one_row=True, bias=False),
    "moe_linear with bias": lambda m: mixture(m, 4, one_row=True, bias=True),
    "moe_linear, a row a choice": lambda m: mixture(m, 3, one_row=False, bias=True),
    "moe_linear, more experts than choices": lambda m: mixture(m, 40, one_row=True, bias=True),
}


@pytest.mark.parametrize("case", BURNISH_CASES)
def test_burnish_op(case: str, tmp_path: Path) -> None:
    m = Maker()
    compare_steps(m.step(BURNISH_CASES[case](m)), tmp_path, [(5, [0, 0]), (1, [4, 9])])


def test_every_burnish_op_has_a_lowering() -> None:
    names = {name.split("::")[1] for name in torch._C._dispatch_get_all_op_names() if name.startswith("burnish::")}
    # Whatever else this process has imported.
    of_other_targets = {
        "from_panels",
        "fused_linear",
        "attention_projection",
        "coded_attention",
        "fused_elementwise",
        "top_scores",
        "paged_attention",
        "paged_write",
    }
    assert {op.name().split("::")[1] for op in BURNISH} == {name.split(".")[0] for name in names} - of_other_targets


def test_rotary_is_one_operator_where_it_can_be(tmp_path: Path) -> None:
    m = Maker()
    types = compare(m.step(rotary(m)), tmp_path).op_types()
    assert types.count("RotaryEmbedding") == 1
    assert "Neg" not in types


def test_sum_and_norm_are_one_operator(tmp_path: Path) -> None:
    m = Maker()
    types = compare(m.step(residual_norm(m)), tmp_path).op_types()
    assert types.count("SkipSimplifiedLayerNormalization") == 1
    assert "Add" not in types


def test_attention_is_fed_without_transposes_through_norm_and_rotary(tmp_path: Path) -> None:
    m = Maker()
    angles = m.random(64, 4).repeat(1, 2)
    cos = m.call(aten.unsqueeze.default, table_rows(m, angles.cos()), 1)
    sin = m.call(aten.unsqueeze.default, table_rows(m, angles.sin()), 1)

    def turned(heads: int) -> fx.Node:
        normed = m.call(ops.rms_norm.default, m.heads(heads, 8), m.weight("scale", m.random(8)), 1e-5)
        return m.call(ops.rotary.default, normed, cos, sin)

    past = [m.remembered(f"past_{i}", StateKind.CACHE, ("batch", 2, "capacity", 8), 2) for i in range(2)]
    written = [
        m.call(ops.cache_write.default, state, new, m.position, 2)
        for state, new in zip(past, (turned(2), m.heads(2, 8)), strict=True)
    ]
    out = m.call(ops.attention.default, turned(4), *written, m.position, scale=0.3)
    out = m.call(aten.reshape.default, m.call(aten.transpose.int, out, 1, 2), [m.batch_node(), m.new_node(), 32])
    types = compare(m.step(out, *written), tmp_path, positions=[0, 4]).op_types()
    assert "Transpose" not in types
    assert types.count("GroupQueryAttention") == 1


# ---------------------------------------------------------------- states


@pytest.mark.parametrize("axis", [1, 2])
def test_cache_write_along_any_axis(axis: int, tmp_path: Path) -> None:
    m = Maker()
    shape: list[int | str] = ["batch", 3, 3, 4]
    shape[axis] = "capacity"
    past = m.remembered("past", StateKind.CACHE, shape, axis)
    new = m.heads(3, 4) if axis == 2 else m.embed(3, 4)
    written = m.call(ops.cache_write.default, past, new, m.position, axis)
    compare(m.step(m.embed(3), written), tmp_path, positions=[0, 11])


def test_ring_write(tmp_path: Path) -> None:
    m = Maker()
    past = m.remembered("past", StateKind.RING, ("batch", 3, 5, 4), 2)
    written = m.call(ops.ring_write.default, past, m.heads(3, 4), m.position, 2)
    compare_steps(m.step(m.embed(3), written), tmp_path, [(new, [0, 7]) for new in (1, 4, 5, 9, 13)])


def test_window_of_tokens_moves_on(tmp_path: Path) -> None:
    m = Maker()
    past = m.remembered("window", StateKind.WINDOW, ("batch", 3, 6), 1)
    seen = m.call(aten.cat.default, [past, m.embed(6)], 1)
    logits = m.call(aten.slice.Tensor, seen, 1, 0, -3)
    compare(m.step(logits, m.call(aten.slice.Tensor, seen, 1, -3, 2**63 - 1)), tmp_path, new=2)


def test_an_output_may_be_an_input_a_weight_or_another_output(tmp_path: Path) -> None:
    m = Maker()
    one = m.remembered("one", StateKind.WINDOW, ("batch", 3, 6), 1)
    m.remembered("two", StateKind.WINDOW, ("batch", 3, 6), 1)
    m.remembered("three", StateKind.WINDOW, ("batch", 3, 6), 1)
    new = m.call(aten.mul.Tensor, one, 2.0)
    compare(m.step(new, one, new, new), tmp_path)


# ---------------------------------------------------------------- ATen

ATEN_CASES: dict[str, Make] = {
    "linear": lambda m: m.call(aten.linear.default, m.embed(6), m.weight("w", m.random(4, 6))),
    "linear with bias": lambda m: m.call(
        aten.linear.default, m.embed(6), m.weight("w", m.random(4, 6)), m.weight("b", m.random(4))
    ),
    "addmm": lambda m: m.call(
        aten.addmm.default,
        m.weight("b", m.random(4)),
        m.call(aten.view.default, m.embed(6), [-1, 6]),
        m.weight("w", m.random(6, 4)),
    ),
    "view of all rows and back": lambda m: m.call(
        aten.view.default, m.call(aten.view.default, m.embed(6), [-1, 3]), [m.batch_node(), m.new_node(), 6]
    ),
    "permute and unbind": lambda m: m.call(
        aten.add.Tensor, *_parts(m, m.call(aten.unbind.int, m.call(aten.permute.default, m.embed(2, 3), [2, 0, 1, 3])))
    ),
    "split": lambda m: _parts(m, m.call(aten.split_with_sizes.default, m.embed(6), [4, 2], -1))[1],
    "chunk": lambda m: _parts(m, m.call(aten.chunk.default, m.embed(6), 2, -1))[1],
    "expand": lambda m: m.call(aten.expand.default, m.call(aten.unsqueeze.default, m.embed(6), 2), [-1, -1, 3, -1]),
    "repeat_interleave": lambda m: m.call(aten.repeat_interleave.self_int, m.embed(3, 2), 2, 2),
    "select and stack": lambda m: m.call(
        aten.stack.default, [m.call(aten.select.int, m.embed(3, 2), 2, i) for i in (0, -1)], -1
    ),
    "slice with a step": lambda m: m.call(aten.slice.Tensor, m.embed(6), 2, 1, 9, 2),
    "index_select": lambda m: m.call(aten.index_select.default, m.embed(6), 1, m.index),
    "int and float": lambda m: m.call(aten.mul.Tensor, m.call(aten.add.Tensor, m.tokens, 3), 0.5),
    "true division of ints": lambda m: m.call(aten.div.Tensor, m.tokens, 4),
    "size as a number": lambda m: m.call(aten.mul.Tensor, m.embed(2), m.new_node()),
    "add with alpha": lambda m: m.call(aten.add.Tensor, m.embed(3), m.embed(3), alpha=0.5),
    "rsub": lambda m: m.call(aten.rsub.Scalar, m.embed(3), 1),
    "pow": lambda m: m.call(aten.pow.Tensor_Scalar, m.embed(3), 3),
    "comparison with a float": lambda m: m.call(aten.gt.Scalar, m.tokens, 7.5),
    "where with an int": lambda m: m.call(aten.where.ScalarOther, m.call(aten.ne.Scalar, m.tokens, 3), m.tokens, 1.5),
    "masked_fill": lambda m: m.call(
        aten.masked_fill.Scalar, m.embed(1), m.call(aten.unsqueeze.default, m.call(aten.lt.Scalar, m.tokens, 9), -1), -1
    ),
    "layer_norm": lambda m: m.call(aten.layer_norm.default, m.embed(6), [6], m.weight("w", m.random(6)), None, 1e-3),
    "layer_norm without weight": lambda m: m.call(aten.layer_norm.default, m.embed(6), [6]),
    "softmax": lambda m: m.call(aten.softmax.int, m.embed(6), -1, torch.float32),
    "mean": lambda m: m.call(aten.mean.dim, m.embed(6), [-1], True),
    "sum of ints": lambda m: m.call(aten.sum.dim_IntList, m.call(aten.eq.Scalar, m.tokens, 3), [-1]),
    "argmax": lambda m: m.call(aten.argmax.default, m.embed(6), -1),
    "topk": lambda m: _parts(m, m.call(aten.topk.default, m.embed(6), 2))[0],
    "indices of topk": lambda m: _parts(m, m.call(aten.topk.default, m.embed(6), 2))[1],
    "diff": lambda m: m.call(aten.diff.default, m.tokens, 1, -1, m.call(aten.slice.Tensor, m.tokens, 1, 0, 1)),
    "diff twice": lambda m: m.call(aten.diff.default, m.embed(6), 2, 2),
    "diff of booleans": lambda m: m.call(aten.diff.default, m.call(aten.gt.Scalar, m.embed(6), 0.0), 1, 2),
    "cumsum": lambda m: m.call(aten.cumsum.default, m.embed(6), 1),
    "clamp": lambda m: m.call(aten.clamp.default, m.embed(6), -0.5),
    "clamp between ints": lambda m: m.call(aten.clamp.default, m.tokens, 2, 7),
    "arange": lambda m: m.call(aten.arange.default, m.new_node()),
    "new_zeros": lambda m: m.call(aten.new_zeros.default, m.embed(3), [m.batch_node(), 4]),
    "full_like": lambda m: m.call(aten.full_like.default, m.tokens, 3.5, dtype=torch.float32),
    "triu": lambda m: m.call(aten.triu.default, m.embed(4, 4), 1),
    "pad": lambda m: m.call(aten.constant_pad_nd.default, m.embed(4), [1, 2, 0, 3], 7.0),
    "conv1d": lambda m: m.call(
        aten.conv1d.default,
        m.call(aten.transpose.int, m.embed(6), 1, 2),
        m.weight("k", m.random(6, 1, 3)),
        None,
        [1],
        [2],
        [1],
        6,
    ),
    "activations": lambda m: m.call(
        aten.cat.default,
        [
            m.call(op, m.embed(3))
            for op in (
                aten.silu.default,
                aten.gelu.default,
                aten.relu.default,
                aten.rsqrt.default,
                aten.softplus.default,
            )
            if op is not aten.rsqrt.default
        ],
        -1,
    ),
    "matmul with a transposed weight": lambda m: m.call(
        aten.matmul.default, m.embed(6), m.call(aten.permute.default, m.weight("w", m.random(4, 6)), [1, 0])
    ),
    "matmul with a permuted weight that is not transposed": lambda m: m.call(
        aten.matmul.default, m.embed(6), m.call(aten.permute.default, m.weight("w", m.random(6, 4)), [0, 1])
    ),
    "index": lambda m: m.call(aten.index.Tensor, m.embed(3, 2), [None, None, m.weight("i", torch.tensor([[2, 0]]))]),
    "heads split, sliced, scaled, turned and joined": lambda m: _join_heads(
        m, m.call(aten.mul.Tensor, m.call(aten.slice.Tensor, m.heads(3, 6), 3, 1, 5), 0.5)
    ),
    "heads split in two and put together the other way round": lambda m: _join_heads(
        m,
        m.call(aten.cat.default, _parts(m, m.call(aten.split_with_sizes.default, m.heads(3, 6), [2, 4], -1))[::-1], -1),
    ),
    "fewer heads": lambda m: _join_heads(m, m.call(aten.slice.Tensor, m.heads(3, 6), 1, 1, 3)),
    "one head": lambda m: m.call(
        aten.squeeze.dim, m.call(aten.add.Tensor, m.call(aten.unsqueeze.default, m.embed(4), 1), 1.0), 1
    ),
    "a view of a view": lambda m: m.call(
        aten.add.Tensor,
        m.embed(3, 4),
        m.call(
            aten.view.default,
            m.call(aten.view.default, m.embed(3, 4), [-1, 12]),
            [m.batch_node(), m.new_node(), 3, 4],
        ),
    ),
    "scatter": lambda m: m.call(aten.scatter.src, m.embed(6), 2, _columns(m), m.embed(1)),
    "scatter of a number": lambda m: m.call(aten.scatter.value, m.embed(6), 2, _columns(m), 1),
    # From torch's own table.
    "index by two": lambda m: m.call(aten.index.Tensor, m.weight("w", m.random(23, 30, 3)), [m.tokens, m.tokens]),
    "sort": lambda m: _parts(m, m.call(aten.sort.default, m.embed(6)))[0],
    "hardswish": lambda m: m.call(aten.hardswish.default, m.embed(6)),
    "log1p": lambda m: m.call(aten.log1p.default, m.call(aten.abs.default, m.embed(6))),
    "roll": lambda m: m.call(aten.roll.default, m.embed(6), [2], [2]),
    "var": lambda m: m.call(aten.var.correction, m.embed(6), [-1], correction=0, keepdim=True),
    "floor_divide": lambda m: m.call(aten.div.Tensor_mode, m.tokens, 4, rounding_mode="floor"),
}


def _columns(m: Maker) -> fx.Node:
    return m.call(aten.unsqueeze.default, m.call(aten.remainder.Scalar, m.tokens, 6), -1)


def _join_heads(m: Maker, heads: fx.Node) -> fx.Node:
    """[B, H, S, D] -> [B, S, H * D]."""
    _, count, _, size = heads.meta["val"].shape
    turned = m.call(aten.transpose.int, heads, 1, 2)
    return m.call(aten.reshape.default, turned, [m.batch_node(), m.new_node(), count * size])


def _parts(m: Maker, node: fx.Node) -> list[fx.Node]:
    return [m.call(operator.getitem, node, index) for index in range(2)]


@pytest.mark.parametrize("case", ATEN_CASES)
def test_aten_op(case: str, tmp_path: Path) -> None:
    m = Maker()
    compare_steps(m.step(ATEN_CASES[case](m)), tmp_path, [(4, [0, 0]), (1, [0, 0])])


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    heads=st.integers(1, 4),
    half=st.integers(1, 9),
    kept=st.integers(0, 5),
    interleaved=st.booleans(),
    equal=st.booleans(),
    heads_first=st.booleans(),
    new=st.integers(1, 6),
)
def test_rotary_of_any_shape(
    heads: int,
    half: int,
    kept: int,
    interleaved: bool,
    equal: bool,
    heads_first: bool,
    new: int,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    m = Maker()
    options: dict[str, Any] = {"interleaved": interleaved, "equal": equal, "heads_first": heads_first}
    program = m.step(rotary(m, size=2 * half + kept, rotary_size=2 * half, **options))
    compare(program, tmp_path_factory.mktemp("rotary"), new=new, positions=[0, 3])
