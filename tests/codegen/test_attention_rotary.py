"""Rotary embedding and packed projections that GroupQueryAttention takes over, against the reference body."""

from __future__ import annotations

import operator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import fx

from burnish.ir.program import Program
from burnish.ir.states import StateKind
from tests.codegen.programs import Maker, OnnxStep, compare, compare_steps, ops

aten = torch.ops.aten
STEPS = [(3, [0, 0]), (1, [5, 9]), (4, [0, 7])]  # a prompt, decoding, chunks


def program(
    *,
    heads: int = 4,
    kv_heads: int = 2,
    size: int = 16,
    turned: int | None = None,
    interleaved: bool = False,
    packed: bool = True,
    equal_halves: bool = True,
    later: bool = False,
    scales: tuple[int, ...] | None = None,
    sinks: bool = False,
    slopes: bool = False,
    **options: Any,
) -> Program:
    """Attention over a cache, queries and keys turned. `packed`: with values they are parts of one value.

    `later`: they are turned by the position behind their own. `scales`: of codes in the cache, by shape.
    """
    m = Maker()
    turned = turned or size
    kind = torch.float32 if scales is None else torch.int8
    past = [
        m.remembered(name, StateKind.CACHE, ("batch", kv_heads, "capacity", size), 2, kind) for name in ("key", "value")
    ]
    where = m.call(ops.positions.default, m.tokens, m.call(aten.add.Tensor, m.position, 1) if later else m.position)
    angles = m.random(64, turned // 2)
    other = angles if equal_halves else m.random(64, turned // 2)
    angles = torch.stack((angles, other), -1).flatten(1) if interleaved else torch.cat((angles, other), -1)
    cos, sin = (
        m.call(aten.unsqueeze.default, m.call(ops.lookup.default, m.weight(name, table), where), 1)
        for name, table in (("cos", angles.cos()), ("sin", angles.sin()))
    )
    counts = (heads, kv_heads, kv_heads)
    if packed:
        whole = m.embed((heads + 2 * kv_heads) * size)
        parts = m.call(aten.split_with_sizes.default, whole, [count * size for count in counts], -1)
        split = [m.call(operator.getitem, parts, index) for index in range(3)]
    else:
        split = [m.embed(count * size) for count in counts]
    query, key, value = (split_heads(m, each, count, size) for each, count in zip(split, counts, strict=True))
    query, key = (m.call(ops.rotary.default, each, cos, sin, interleaved) for each in (query, key))
    by = [] if scales is None else [m.weight(f"{name}_scales", m.random(*scales).abs() / 40 + 0.01) for name in "kv"]
    new = (
        [key, value]
        if not by
        else [m.call(ops.to_codes.default, *pair, "int8") for pair in zip((key, value), by, strict=True)]
    )
    written = [m.call(ops.cache_write.default, *pair, m.position, 2) for pair in zip(past, new, strict=True)]
    read = written if not by else [m.call(ops.from_codes.default, *pair) for pair in zip(written, by, strict=True)]
    more: dict[str, Any] = {"scale": size**-0.5}
    if sinks:
        more["sinks"] = m.weight("sinks", m.random(heads))
    if slopes:
        more["slopes"] = m.weight("slopes", m.random(heads).abs())
    out = m.call(ops.attention.default, query, *read, m.position, **more, **options)
    out = m.call(aten.transpose.int, out, 1, 2)
    joined = m.call(aten.reshape.default, out, [m.batch_node(), m.new_node(), heads * size])
    return m.step(joined, *written)


def split_heads(m: Maker, joined: fx.Node, count: int, size: int) -> fx.Node:
    """[B, S, H * D] -> [B, H, S, D], as models write it."""
    apart = m.call(aten.reshape.default, joined, [m.batch_node(), m.new_node(), count, size])
    return m.call(aten.transpose.int, apart, 1, 2)


FORMS: dict[str, dict[str, Any]] = {
    "halves": {},
    "pairs": {"interleaved": True},
    "a part of each head": {"size": 32, "turned": 16},
    "pairs of a part": {"size": 32, "turned": 16, "interleaved": True},
    "one head of keys": {"kv_heads": 1},
    "a head of keys each": {"kv_heads": 4},
}
ELSEWHERE: dict[str, dict[str, Any]] = {
    "different halves": {"equal_halves": False},
    "heads of 24": {"size": 24},
    "8 elements of a head": {"turned": 8},
    "a position of its own": {"later": True},
}


@pytest.mark.parametrize("packed", [True, False], ids=["packed", "apart"])
@pytest.mark.parametrize("form", FORMS)
def test_attention_turns_queries_and_keys_by_itself(form: str, packed: bool, tmp_path: Path) -> None:
    types = compare_steps(program(packed=packed, **FORMS[form]), tmp_path, STEPS).op_types()
    assert types.count("GroupQueryAttention") == 1
    assert "RotaryEmbedding" not in types
    assert "Split" not in types, "what is packed is taken as it is"


@pytest.mark.parametrize("form", ELSEWHERE)
def test_other_embeddings_stay_before_attention(form: str, tmp_path: Path) -> None:
    types = compare_steps(program(**ELSEWHERE[form]), tmp_path, STEPS).op_types()
    assert types.count("GroupQueryAttention") == 1
    assert types.count("Gather") > 1, "cosines are looked up"


def test_capacity_up_to_the_end_of_the_table(tmp_path: Path) -> None:
    step = OnnxStep(program(), tmp_path)
    compare(step.program, tmp_path, new=4, positions=[60, 3], capacity=64, step=step)


CODED: dict[str, dict[str, Any]] = {
    "halves": {},
    "one head of keys": {"kv_heads": 1},
    "a head of keys each, apart": {"kv_heads": 4, "packed": False},
    "turned before": {"turned": 8},
    "window": {"mask": "window", "extent": 4},
    "chunk": {"mask": "chunk", "extent": 4},
    "softcap": {"softcap": 2.0},
    "sinks": {"sinks": True},
    "slopes": {"slopes": True},
}


@pytest.mark.parametrize("form", CODED)
def test_a_cache_of_codes_with_a_scale_a_channel_is_attentions_own(form: str, tmp_path: Path) -> None:
    options = CODED[form]
    made = program(scales=(1, options.get("kv_heads", 2), 1, 16), **options)
    types = compare_steps(made, tmp_path, STEPS, tolerance=1e-3).op_types()
    assert types.count("GroupQueryAttention") == 1
    assert not {"Round", "TensorScatter", "MatMul"} & set(types), "codes are made and read by attention itself"


def test_a_scale_for_all_channels_of_a_head_is_not_what_attention_takes(tmp_path: Path) -> None:
    types = compare_steps(program(scales=(1, 2, 1, 1)), tmp_path, STEPS).op_types()
    assert "GroupQueryAttention" not in types
    assert types.count("Round") == types.count("TensorScatter") == 2


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    kv_heads=st.integers(1, 3),
    group=st.integers(1, 3),
    size=st.sampled_from([16, 32, 48]),
    part=st.sampled_from([16, 32, 48]),
    interleaved=st.booleans(),
    packed=st.booleans(),
    steps=st.lists(st.tuples(st.integers(1, 5), st.lists(st.integers(0, 11), min_size=2, max_size=2)), min_size=1),
)
def test_any_shape(
    kv_heads: int,
    group: int,
    size: int,
    part: int,
    interleaved: bool,
    packed: bool,
    steps: list[tuple[int, list[int]]],
    tmp_path: Path,
) -> None:
    made = program(
        heads=kv_heads * group,
        kv_heads=kv_heads,
        size=size,
        turned=min(part, size),
        interleaved=interleaved,
        packed=packed,
    )
    assert "RotaryEmbedding" not in compare_steps(made, tmp_path, steps).op_types()
