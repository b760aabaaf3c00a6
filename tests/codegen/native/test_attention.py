"""Attention by the native kernel: few tokens, whose chunks threads share, and many."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from burnish.codegen.native.attention import attention, coded_attention
from burnish.codegen.native.spec import THREADS
from burnish.ir.code_ops import code_ops, scales_for
from burnish.ir.errors import UnsupportedError
from burnish.ir.ops import burnish_ops
from tests.tolerances import RELATIVE, assert_near

MASKS = ("causal", "window", "chunk", "none")


def coded(x: Tensor, state: str) -> tuple[Tensor, Tensor]:
    """Codes and scales of tokens and heads, or of channels."""
    numbers = state.split()[0]
    if "channel" in state:
        scales = scales_for(x[:1].abs().amax(2, keepdim=True) / 2, numbers, torch.float32)  # what is greater is cut off
    else:
        scales = code_ops.code_scales(x, numbers)
    return code_ops.to_codes(x, scales, numbers), scales


@settings(max_examples=80, deadline=None)
@given(
    heads=st.sampled_from([(4, 4), (6, 2), (3, 1)]),
    sizes=st.sampled_from([(16, 16), (24, 40), (40, 8), (64, 128)]),
    tokens=st.sampled_from([1, 2, 8, 9, 70]),
    capacity=st.sampled_from([80, 128, 129, 300]),
    mask=st.sampled_from(MASKS),
    extent=st.sampled_from([1, 33, 200]),
    softcap=st.sampled_from([0.0, 4.0]),
    extra=st.sampled_from(["", "bias", "sinks", "slopes", "key_positions"]),
    state=st.sampled_from(["float32", "bfloat16", "float16", "int8", "fp8", "int8 by channel"]),
    seed=st.integers(0, 1000),
)
def test_it_is_the_reference(
    heads: tuple[int, int],
    sizes: tuple[int, int],
    tokens: int,
    capacity: int,
    mask: str,
    extent: int,
    softcap: float,
    extra: str,
    state: str,
    seed: int,
) -> None:
    torch.manual_seed(seed)
    query = torch.randn(2, heads[0], tokens, sizes[0])
    key, value = (torch.randn(2, heads[1], capacity, size) for size in sizes)
    position = torch.tensor([0, capacity - tokens])
    more = {
        "": {},
        "bias": {"bias": torch.randn(1, heads[0], tokens, capacity)},
        "sinks": {"sinks": torch.randn(heads[0])},
        "slopes": {"slopes": torch.rand(heads[0]) / 16},
        "key_positions": {"key_positions": torch.stack([torch.randperm(capacity) - 9, torch.randperm(capacity)])},
    }[extra]
    options = {"scale": sizes[0] ** -0.5, "mask": mask, "extent": extent, "softcap": softcap}
    if state in ("float32", "bfloat16", "float16"):
        key, value = (each.to(getattr(torch, state)) for each in (key, value))
        expected = burnish_ops.attention(query, key.float(), value.float(), position, **more, **options)
        found = attention(query, key, value, position, **more, **options)  # type: ignore[arg-type]
    else:
        held = (*coded(key, state), *coded(value, state))
        expected = code_ops.coded_attention(query, *held, position, **more, **options)
        found = coded_attention(query, *held, position, **more, **options)  # type: ignore[arg-type]
    assert torch.equal(found.isnan(), expected.isnan())  # of those that see no key
    assert_near(found.nan_to_num(), expected.nan_to_num())


def test_masks_of_the_smallest_numbers() -> None:
    """A row that sees nothing but the least float, as masks are written, sees all keys alike."""
    query, key, value = torch.randn(1, 2, 3, 16), torch.randn(1, 2, 40, 16), torch.randn(1, 2, 40, 16)
    bias = torch.zeros(1, 2, 3, 40)
    bias[..., 5:] = torch.finfo(torch.float32).min
    bias[:, :, 1] = torch.finfo(torch.float32).min
    options = {"scale": 0.25, "mask": "none"}
    assert_near(
        attention(query, key, value, None, bias, **options),  # type: ignore[arg-type]
        burnish_ops.attention(query, key, value, None, bias, **options),
    )


@pytest.mark.parametrize("tokens", [1, 3, 40])
def test_it_does_not_depend_on_threads_or_on_other_rows(tokens: int) -> None:
    query, key, value = torch.randn(3, 4, tokens, 32), torch.randn(3, 2, 700, 32), torch.randn(3, 2, 700, 32)
    position = torch.tensor([0, 650, 300])
    found = []
    for threads in (1, 2, 5):
        token = THREADS.set(threads)
        found.append(attention(query, key, value, position, scale=0.2))
        THREADS.reset(token)
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])
    for row in range(3):
        one = slice(row, row + 1)
        assert torch.equal(attention(query[one], key[one], value[one], position[one], scale=0.2), found[0][one])


def test_great_scores_do_not_overflow() -> None:
    query, key, value = 40 * torch.randn(1, 1, 2, 16), 40 * torch.randn(1, 1, 200, 16), torch.randn(1, 1, 200, 16)
    position = torch.tensor([198])
    expected = burnish_ops.attention(query.double(), key.double(), value.double(), position, scale=1.0)
    found = attention(query, key, value, position, scale=1.0)
    torch.testing.assert_close(found, expected.float(), rtol=0, atol=1e3 * RELATIVE[torch.float32])


def test_every_number_of_fp8_is_read_as_it_is() -> None:
    codes = torch.arange(256, dtype=torch.uint8)
    codes = codes[~codes.view(torch.float8_e4m3fn).float().isnan()].reshape(1, 1, 1, -1)
    ones, zeros = torch.ones(1, 1, 1, 1), torch.zeros(1, 1, 1, 16)
    nothing = torch.zeros(1, 1, 1, 16, dtype=torch.uint8)
    found = coded_attention(zeros, nothing, ones, codes, ones, scale=1.0, mask="none")
    assert torch.equal(found, codes.view(torch.float8_e4m3fn).float())


def test_codes_that_are_not_finite_show() -> None:
    x = torch.randn(1, 1, 5, 16)
    x[..., 3, 2] = torch.nan
    for state in ("int8", "fp8"):
        held = coded(x, state)
        assert coded_attention(x[:, :, :1], *held, *held, torch.tensor([4]), scale=1.0).isnan().all()


def test_caches_of_codes_without_scales_are_refused() -> None:
    with pytest.raises(UnsupportedError, match="caches of floats"):
        attention(torch.randn(1, 1, 1, 8), *[torch.zeros(1, 1, 4, 8, dtype=torch.int8)] * 2, scale=1.0)
