"""The kernel against `burnish::attention_projection`, in float64; what it must not write stays as it was."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from burnish.codegen.triton.kernels.attention_projection import attention_projection
from burnish.ir.errors import UnsupportedError
from burnish.ir.fused_ops import fused_ops
from burnish.passes.transforms.quantize_rounding import Grid, nearest


def drawn(
    *,
    heads: int = 3,
    kv_heads: int = 2,
    size: int = 16,
    turned: int = 16,
    batch: int = 2,
    tokens: int = 3,
    size_k: int = 40,
    capacity: int = 24,
    dtype: torch.dtype = torch.float32,
    has: tuple[str, ...] = (),
    rows_of_tables: int | None = None,
) -> dict[str, Any]:
    """Arguments by name."""
    generator = torch.Generator().manual_seed(heads + size + tokens)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator).to(dtype)

    n = (heads + 2 * kv_heads) * size
    angles = torch.randn(batch if rows_of_tables is None else rows_of_tables, tokens, turned, generator=generator)
    given = {
        "bias": normal(n),
        "norm_weight": normal(size_k),
        "norm_bias": normal(size_k),
        "query_norm": normal(size),
        "key_norm": normal(size),
        "cos": angles.cos().to(dtype),
        "sin": angles.roll(1, -1).sin().to(dtype),  # halves that differ
    }
    return {
        "x": normal(batch, tokens, size_k),
        "weight": normal(n, size_k) / size_k**0.5,
        "key_state": normal(batch, kv_heads, capacity, size),
        "value_state": normal(batch, kv_heads, capacity, size),
        "position": torch.randint(0, capacity - tokens + 1, (batch,), generator=generator),
        **{name: given[name] for name in has},
        "heads": heads,
    }


def check(arguments: dict[str, Any], **options: Any) -> None:
    wide = {
        name: each.double() if isinstance(each, Tensor) and each.is_floating_point() and name != "scales" else each
        for name, each in arguments.items()
    }
    expected = fused_ops.attention_projection(**wide, **options)
    found = attention_projection(**arguments, **options)
    assert found[1] is arguments["key_state"]
    assert found[2] is arguments["value_state"]
    tolerance = 2e-5 if arguments["x"].dtype == torch.float32 else 8e-3
    for mine, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(mine.double(), theirs, rtol=tolerance, atol=tolerance)


@settings(max_examples=20, deadline=None)
@given(data=st.data())
def test_any_sizes(data: st.DataObject) -> None:
    size = data.draw(st.sampled_from([2, 8, 12, 16, 64, 80]))
    turned = data.draw(st.sampled_from([0, 2 * (size // 4), size]))
    kv_heads, groups = data.draw(st.integers(1, 2)), data.draw(st.integers(1, 3))
    names = ("bias", "norm_weight", "query_norm", "key_norm")
    has = tuple(name for name in names if data.draw(st.booleans(), label=name))
    arguments = drawn(
        heads=kv_heads * groups,
        kv_heads=kv_heads,
        size=size,
        turned=turned,
        batch=data.draw(st.integers(1, 3)),
        tokens=data.draw(st.sampled_from([1, 2, 7, 20])),
        size_k=data.draw(st.integers(1, 70)),
        has=(*has, "cos", "sin") if turned else has,
    )
    norm = data.draw(st.sampled_from(["none", "rms", "layer"])) if "norm_weight" not in has else "rms"
    check(arguments, norm=norm, eps=1e-5, head_eps=1e-5, interleaved=data.draw(st.booleans()))


@pytest.mark.parametrize("tokens", [1, 3])
@pytest.mark.parametrize(
    ("has", "options"),
    [
        ((), {}),
        (("cos", "sin"), {}),
        (("cos", "sin"), {"interleaved": True}),
        (("cos", "sin", "norm_weight"), {"norm": "rms", "eps": 1e-5}),
        (("bias", "norm_weight", "norm_bias"), {"norm": "layer", "eps": 1e-5}),
        (("cos", "sin", "query_norm", "key_norm"), {"head_eps": 1e-6}),
        (("query_norm",), {"head_eps": 1e-6}),
        (("key_norm", "cos", "sin"), {"head_eps": 1e-6, "interleaved": True}),
    ],
    ids=str,
)
def test_every_switch(has: tuple[str, ...], options: dict[str, Any], tokens: int) -> None:
    check(drawn(has=has, tokens=tokens), **options)


def test_float16() -> None:
    check(drawn(has=("cos", "sin", "norm_weight"), dtype=torch.float16, tokens=1), norm="rms", eps=1e-5)


def test_angles_that_all_rows_share() -> None:
    check(drawn(has=("cos", "sin"), rows_of_tables=1, batch=3))


def test_caches_that_are_parts_of_others() -> None:
    arguments = drawn(has=("cos", "sin"), batch=1)
    wide = torch.randn(4, 2, 24, 16)
    arguments["key_state"], arguments["value_state"] = wide[1:2], wide[2:3]
    before = wide.clone()
    check(arguments)
    assert torch.equal(wide[0], before[0])
    assert torch.equal(wide[3], before[3])


def test_nothing_is_written_past_the_capacity() -> None:
    arguments = drawn(batch=1, tokens=4, capacity=8)
    memory = torch.zeros(2, 2, 10, 16)
    arguments["key_state"], arguments["value_state"] = memory[0:1, :, :8], memory[1:2, :, :8]
    arguments["position"] = torch.tensor([6])
    attention_projection(**arguments)
    assert memory[:, :, 6:8].abs().sum(-1).gt(0).all()
    assert memory[:, :, 8:].eq(0).all()


def test_heads_without_pairs_are_refused() -> None:
    with pytest.raises(UnsupportedError, match="heads of 5 elements have no pairs"):
        attention_projection(**drawn(size=5, turned=4))


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("tokens", [1, 3])
@pytest.mark.parametrize("has", [("cos", "sin"), ("query_norm", "key_norm")], ids=str)
def test_weights_of_8_and_4_bits(bits: int, tokens: int, has: tuple[str, ...]) -> None:
    arguments = drawn(has=has, tokens=tokens, size_k=96)
    quantized = nearest(arguments["weight"], Grid(bits, 32))
    arguments |= {"weight": quantized.values.materialize(), "scales": quantized.scales.materialize()}
    check(arguments, head_eps=1e-6)
