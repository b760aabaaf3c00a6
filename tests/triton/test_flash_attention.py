"""The kernel against `burnish::attention` and `burnish::paged_attention`."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from burnish.codegen.triton.kernels.flash_attention import flash_attention
from burnish.codegen.triton.tiles import SHARED_BYTES_OF, PromptTiles, Target, aimed_at, prompt_tiles
from burnish.ir.ops import burnish_ops
from burnish.ir.paged_ops import paged_attention
from tests.triton.attention import assert_same, attentions, truth

SIZES = [(16, 16), (24, 24), (64, 64), (80, 80), (96, 96), (128, 128), (48, 32)]
TILES = st.sampled_from(
    [PromptTiles(16, 16, 4, 2), PromptTiles(32, 16, 4, 2), PromptTiles(16, 32, 4, 2), PromptTiles(64, 64, 4, 2)]
)


@settings(max_examples=25, deadline=None)
@given(data=st.data(), tiles=TILES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
def test_prompts(dtype: torch.dtype, data: st.DataObject, tiles: PromptTiles) -> None:
    arguments = data.draw(attentions(st.integers(1, 50), SIZES, dtype))
    assert_same(flash_attention(**arguments, tiles=tiles), truth(arguments))


def example(tokens: int, capacity: int, positions: tuple[int, int] = (0, 0), heads: int = 4) -> dict[str, Any]:
    torch.manual_seed(0)
    return {
        "query": torch.randn(2, heads, tokens, 16),
        "key": torch.randn(2, 2, capacity, 16),
        "value": torch.randn(2, 2, capacity, 16),
        "position": torch.tensor(positions),
        "scale": 0.25,
    }


SMALL = PromptTiles(16, 16, 4, 2)


@pytest.mark.parametrize(("mask", "extent"), [("causal", 0), ("window", 20), ("window", 3), ("chunk", 24)])
@pytest.mark.parametrize("position", [0, 1, 15, 16, 17, 40])
def test_pieces_of_a_prompt(mask: str, extent: int, position: int) -> None:
    """Tiles that begin before, at and behind the edges of blocks of keys."""
    arguments = {**example(37, 90, (position, 3)), "mask": mask, "extent": extent}
    assert_same(flash_attention(**arguments, tiles=SMALL), truth(arguments))


@pytest.mark.parametrize("mask", ["causal", "window", "chunk"])
def test_rows_of_their_own_length(mask: str) -> None:
    arguments = {**example(40, 64, (5, 0)), "mask": mask, "extent": 9}
    expected, lengths = truth(arguments), torch.tensor([40, 18])
    for name in ("key", "value"):
        arguments[name][0, :, 45:] = float("nan")
        arguments[name][1, :, 18:] = float("nan")
    found = flash_attention(**arguments, lengths=lengths, tiles=SMALL)
    for row, length in enumerate(lengths.tolist()):
        assert_same(found[row, :, :length], expected[row, :, :length])


def test_keys_that_no_token_sees_are_not_read() -> None:
    arguments = {**example(20, 64, (30, 30)), "mask": "window", "extent": 4}
    expected = truth(arguments)
    for name in ("key", "value"):
        arguments[name][:, :, :16] = float("nan")
        arguments[name][:, :, 50:] = float("nan")
    assert_same(flash_attention(**arguments, tiles=SMALL), expected)


def test_heads_whose_elements_lie_apart() -> None:
    """As a convolution over tokens leaves them."""
    arguments = example(20, 40, (3, 11))
    expected = truth(arguments)
    for name in ("query", "key", "value"):
        arguments[name] = arguments[name].transpose(2, 3).contiguous().transpose(2, 3)
    assert_same(flash_attention(**arguments, tiles=SMALL), expected)


@pytest.mark.parametrize("heads", [1, 4])
def test_biases(heads: int) -> None:
    arguments = example(20, 40, (3, 11))
    bias, table = torch.randn(1, heads, 20, 40), torch.randn(heads, 40, 40)
    table[:, :, 7] = float("-inf")
    found = flash_attention(**arguments, bias=bias, tiles=SMALL)
    assert_same(found, truth({**arguments, "bias": bias}))
    found = flash_attention(**arguments, bias_table=table, tiles=SMALL)
    bias = burnish_ops.attention_bias(table, arguments["position"], arguments["query"], arguments["key"])
    assert_same(found, truth({**arguments, "bias": bias}))


def test_a_ring() -> None:
    """More tokens than the ring holds: keys are its slots, then the new tokens."""
    arguments = {**example(20, 10 + 20, (0, 27)), "mask": "window", "extent": 10}
    tokens = torch.zeros(2, 20, dtype=torch.int64)
    arguments["key_positions"] = burnish_ops.ring_positions(tokens, arguments["position"], 10)
    assert_same(flash_attention(**arguments, tiles=SMALL), truth(arguments))


@pytest.mark.parametrize("page_size", [4, 16, 32])
@pytest.mark.parametrize("mask", ["causal", "window"])
def test_pages(mask: str, page_size: int) -> None:
    arguments = {**example(20, 0, (30, 9)), "mask": mask, "extent": 9}
    del arguments["key"], arguments["value"]
    query, position = arguments.pop("query"), arguments.pop("position")
    count = -(-50 // page_size)
    pools = [torch.randn(2 * count, 2, page_size, 16) for _ in range(2)]
    pages = torch.randperm(2 * count).view(2, count).int()
    found = flash_attention(query, *pools, position, **arguments, block_table=pages, tiles=SMALL)
    pools = [pool.double() for pool in pools]
    assert_same(found, paged_attention(query.double(), *pools, pages, position, **arguments))


@pytest.mark.parametrize("architecture", SHARED_BYTES_OF)
@pytest.mark.parametrize("size", [64, 80, 128, 256])
@pytest.mark.parametrize("tokens", [23, 103])
def test_tiles_fit_the_shared_memory(tokens: int, size: int, architecture: int) -> None:
    with aimed_at(Target((90, architecture))):
        tiles = prompt_tiles(tokens, size, torch.bfloat16, "causal")
    wide = 1 << (size - 1).bit_length()
    assert 2 * wide * (tiles.rows + 2 * tiles.block * tiles.num_stages) <= SHARED_BYTES_OF[architecture]
