"""Every form of attention, against the reference body."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import fx

from burnish.ir.program import Program
from burnish.ir.states import StateKind
from tests.codegen.programs import Maker, compare, compare_steps, ops

FUSED = "GroupQueryAttention"


def cached(
    *,
    heads: int = 4,
    kv_heads: int = 2,
    size: int = 16,
    value_size: int | None = None,
    sinks: bool = False,
    slopes: bool = False,
    bias: str = "",
    seed: int = 0,
    **options: Any,
) -> Program:
    """Attention over a cache of keys and one of values."""
    m = Maker(seed)
    value_size = value_size or size
    past_key = m.remembered("past_key", StateKind.CACHE, ("batch", kv_heads, "capacity", size), 2)
    past_value = m.remembered("past_value", StateKind.CACHE, ("batch", kv_heads, "capacity", value_size), 2)
    key = m.call(ops.cache_write.default, past_key, m.heads(kv_heads, size), m.position, 2)
    value = m.call(ops.cache_write.default, past_value, m.heads(kv_heads, value_size), m.position, 2)
    query = m.heads(heads, size)
    more: dict[str, fx.Node] = {}
    if sinks:
        more["sinks"] = m.weight("sinks", m.random(heads))
    if slopes:
        more["slopes"] = m.weight("slopes", m.random(heads).abs())
    if bias:
        shape = {"heads": (heads, 64, 64), "shared": (1, 64, 64)}[bias]
        table = m.weight("table", m.random(*shape))
        more["bias"] = m.call(ops.attention_bias.default, table, m.position, query, key)
    out = m.call(ops.attention.default, query, key, value, m.position, **more, **{"scale": size**-0.5, **options})
    return m.step(joined(m, out, heads * value_size), key, value)


def joined(m: Maker, out: fx.Node, width: int) -> fx.Node:
    """[B, H, S, D] -> [B, S, H * D], as models write it."""
    turned = m.call(torch.ops.aten.transpose.int, out, 1, 2)
    return m.call(torch.ops.aten.reshape.default, turned, [m.batch_node(), m.new_node(), width])


FORMS: dict[str, dict[str, Any]] = {
    "causal": {},
    "scaled": {"scale": 0.4},
    "softcap": {"softcap": 2.0},
    "window": {"mask": "window", "extent": 4},
    "window of one": {"mask": "window", "extent": 1},
    "chunk": {"mask": "chunk", "extent": 4},
    "sinks": {"sinks": True},
    "slopes": {"slopes": True},
    "bias a head": {"bias": "heads"},
    "one bias": {"bias": "shared"},
    "everything": {"bias": "heads", "sinks": True, "slopes": True, "softcap": 3.0, "mask": "window", "extent": 5},
    "one kv head": {"kv_heads": 1},
    "own kv heads": {"kv_heads": 4},
}
SMALL: dict[str, dict[str, Any]] = {
    "head size 6": {"size": 6},
    "values of another size": {"value_size": 24},
}


STEPS = [(3, [0, 0]), (1, [5, 9]), (4, [0, 7])]  # a prompt, decoding, chunks


@pytest.mark.parametrize("form", FORMS)
def test_cached_attention_is_one_operator(form: str, tmp_path: Path) -> None:
    step = compare_steps(cached(**FORMS[form]), tmp_path, STEPS)
    types = step.op_types()
    assert types.count(FUSED) == 1
    assert "TensorScatter" not in types
    assert "MatMul" not in types
    # A bias table has its heads first and is turned; nothing else is.
    assert types.count("Transpose") == ("bias" in FORMS[form]), "heads are split off and joined for nothing"


@pytest.mark.parametrize("form", [*FORMS, *SMALL])
def test_plain_attention(form: str, tmp_path: Path) -> None:
    options = {**FORMS, **SMALL}[form]
    step = compare_steps(cached(**{"size": 12, **options}), tmp_path, STEPS)
    types = step.op_types()
    assert FUSED not in types
    assert types.count("TensorScatter") == 2


def test_capacity_can_be_filled_to_the_last_slot(tmp_path: Path) -> None:
    step = compare(cached(), tmp_path, new=4, positions=[12, 3], capacity=16)
    compare(step.program, tmp_path, new=1, positions=[15, 0], capacity=16, step=step)


def test_attention_without_position_sees_from_zero(tmp_path: Path) -> None:
    m = Maker()
    out = m.call(ops.attention.default, m.heads(4, 8), m.heads(2, 8), m.heads(2, 8), scale=0.3, mask="causal")
    compare(m.step(joined(m, out, 32)), tmp_path, new=5)


def test_attention_that_sees_every_key(tmp_path: Path) -> None:
    m = Maker()
    out = m.call(ops.attention.default, m.heads(4, 8), m.heads(4, 8), m.heads(4, 8), scale=0.3, mask="none")
    compare(m.step(joined(m, out, 32)), tmp_path, new=5)


def ring(size: int = 8, window: int = 5, mask: str = "window") -> Program:
    """Windowed attention over a ring and the new tokens."""
    m = Maker()
    operands, written = [], []
    for name in ("key", "value"):
        past = m.remembered(f"past_{name}", StateKind.RING, ("batch", 2, window, size), 2)
        new = m.heads(2, size)
        written.append(m.call(ops.ring_write.default, past, new, m.position, 2))
        operands.append(m.call(torch.ops.aten.cat.default, [past, new], 2))
    held = m.call(ops.ring_positions.default, m.tokens, m.position, window)
    out = m.call(
        ops.attention.default,
        m.heads(4, size),
        *operands,
        m.position,
        key_positions=held,
        scale=0.3,
        mask=mask,
        extent=window,
    )
    return m.step(joined(m, out, 4 * size), *written)


@pytest.mark.parametrize("mask", ["window", "chunk"])
def test_ring(mask: str, tmp_path: Path) -> None:
    steps = [(3, [0, 0]), (1, [2, 9]), (1, [5, 4]), (4, [3, 7]), (7, [0, 6]), (12, [1, 0])]
    compare_steps(ring(mask=mask), tmp_path, steps)


def test_values_read_by_two_attentions_stay_right(tmp_path: Path) -> None:
    """A cache that two attentions read cannot be written by one of them: it is written by itself."""
    m = Maker()
    past = m.remembered("past", StateKind.CACHE, ("batch", 2, "capacity", 8), 2)
    both = m.call(ops.cache_write.default, past, m.heads(2, 8), m.position, 2)
    first, second = (
        m.call(ops.attention.default, m.heads(4, 8), both, both, m.position, scale=scale, mask="causal")
        for scale in (0.2, 0.5)
    )
    step = compare(m.step(m.call(torch.ops.aten.sub.Tensor, first, second), both), tmp_path, positions=[0, 6])
    assert step.op_types().count("TensorScatter") == 1


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    kv_heads=st.integers(1, 3),
    groups=st.integers(1, 3),
    size=st.sampled_from([8, 16, 20, 40]),
    new=st.integers(1, 9),
    positions=st.lists(st.integers(0, 20), min_size=1, max_size=3),
    spare=st.integers(0, 5),
    mask=st.sampled_from(["causal", "window", "chunk"]),
    extent=st.integers(1, 9),
    sinks=st.booleans(),
)
def test_any_shape(
    kv_heads: int,
    groups: int,
    size: int,
    new: int,
    positions: list[int],
    spare: int,
    mask: str,
    extent: int,
    sinks: bool,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    program = cached(heads=kv_heads * groups, kv_heads=kv_heads, size=size, mask=mask, extent=extent, sinks=sinks)
    compare(
        program,
        tmp_path_factory.mktemp("any"),
        rows=len(positions),
        new=new,
        positions=positions,
        capacity=max(positions) + new + spare,
    )
