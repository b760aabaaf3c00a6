"""The kernel against `burnish::attention` and `burnish::paged_attention`."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from burnish.codegen.triton.kernels.decode_attention import decode_attention
from burnish.codegen.triton.tiles import SplitTiles, Target, aimed_at, split_count
from burnish.ir.errors import UsageError
from burnish.ir.ops import burnish_ops
from burnish.ir.paged_ops import paged_attention, paged_write
from tests.triton.attention import assert_same, attentions, truth

SIZES = [(16, 16), (24, 24), (48, 32), (64, 64), (80, 80), (96, 96), (128, 128), (32, 48)]
SPLITS = st.tuples(st.sampled_from([1, 2, 3, 5]), st.booleans())


def parts(splits: int) -> SplitTiles:
    return SplitTiles(splits, 16, 4, 2)


@settings(max_examples=25, deadline=None)
@given(data=st.data(), splits=SPLITS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
def test_contiguous_cache(dtype: torch.dtype, data: st.DataObject, splits: tuple[int, bool]) -> None:
    arguments = data.draw(attentions(st.sampled_from([1, 1, 2, 5, 16]), SIZES, dtype))
    found = decode_attention(**arguments, tiles=parts(splits[0]), combines=splits[1])
    assert_same(found, truth(arguments))


def example(tokens: int = 1, capacity: int = 50, position: int = 20, heads: int = 4) -> dict[str, Any]:
    torch.manual_seed(0)
    return {
        "query": torch.randn(2, heads, tokens, 16),
        "key": torch.randn(2, 2, capacity, 16),
        "value": torch.randn(2, 2, capacity, 16),
        "position": torch.tensor([position, 0]),
        "scale": 0.25,
    }


@pytest.mark.parametrize("splits", [1, 3])
@pytest.mark.parametrize("mask", ["causal", "window"])
def test_nothing_behind_the_newest_token_is_read(mask: str, splits: int) -> None:
    arguments = {**example(tokens=3), "mask": mask, "extent": 5}
    expected = truth(arguments)
    for name in ("key", "value"):
        arguments[name][0, :, 23:] = float("nan")
        arguments[name][1, :, 3:] = float("nan")
    assert_same(decode_attention(**arguments, tiles=parts(splits)), expected)


@pytest.mark.parametrize("splits", [1, 3])
@pytest.mark.parametrize("heads", [1, 4])
def test_a_bias_a_query(heads: int, splits: int) -> None:
    bias = torch.randn(2, heads, 3, 50)
    bias[:, :, :, 4] = float("-inf")
    arguments = {**example(tokens=3), "bias": bias}
    assert_same(decode_attention(**arguments, tiles=parts(splits)), truth(arguments))


@pytest.mark.parametrize("heads", [1, 4])
def test_a_bias_by_position(heads: int) -> None:
    arguments, table = example(tokens=3), torch.randn(heads, 60, 60)
    bias = burnish_ops.attention_bias(table, arguments["position"], arguments["query"], arguments["key"])
    found = decode_attention(**arguments, bias_table=table, tiles=parts(2))
    assert_same(found, truth({**arguments, "bias": bias}))


@pytest.mark.parametrize("splits", [1, 2])
@pytest.mark.parametrize("position", [0, 3, 29, 64])
def test_a_ring(position: int, splits: int) -> None:
    arguments = {**example(tokens=2, capacity=10 + 2), "mask": "window", "extent": 10}
    arguments["position"] = torch.tensor([position, position + 1])
    tokens = torch.zeros(2, 2, dtype=torch.int64)
    arguments["key_positions"] = burnish_ops.ring_positions(tokens, arguments["position"], 10)
    assert_same(decode_attention(**arguments, tiles=parts(splits)), truth(arguments))


def test_queries_of_another_layout() -> None:
    """[B, S, H, D], as a linear leaves them."""
    arguments = example(tokens=3)
    strided = {**arguments, "query": arguments["query"].transpose(1, 2).contiguous().transpose(1, 2)}
    assert_same(decode_attention(**strided), truth(arguments))


def test_no_position_is_position_zero() -> None:
    arguments = {**example(tokens=16, capacity=16), "position": None}
    assert_same(decode_attention(**arguments), truth(arguments))


def test_a_long_prompt_is_refused() -> None:
    with pytest.raises(UsageError, match="1 to 16 new tokens, not 17"):
        decode_attention(**example(tokens=17))


@settings(max_examples=20, deadline=None)
@given(data=st.data(), splits=SPLITS, page_size=st.sampled_from([4, 16, 32]))
def test_pages(data: st.DataObject, splits: tuple[int, bool], page_size: int) -> None:
    arguments = data.draw(attentions(st.sampled_from([1, 2, 4]), [(16, 16), (24, 32)], torch.float32))
    if arguments["mask"] == "none":
        arguments["mask"] = "causal"
    batch, kv_heads, capacity, _ = arguments["key"].shape
    longest = -(-capacity // page_size)
    pages = torch.randperm(batch * longest + 3)[: batch * longest].view(batch, longest).int()
    pools = []
    for name in ("key", "value"):
        cache = arguments.pop(name)
        pool = torch.full((batch * longest + 3, kv_heads, page_size, cache.shape[-1]), float("nan"))
        # Slots that no token was written to stay no numbers: to read one is to fail.
        for row, end in enumerate((arguments["position"] + arguments["query"].shape[2]).tolist()):
            pool = paged_write(pool, cache[row : row + 1, :, :end], pages[row : row + 1], torch.zeros(1).long())
        pools.append(pool)
    for row, end in enumerate((arguments["position"] + arguments["query"].shape[2]).tolist()):
        pages[row, -(-end // page_size) :] = -1
    query = arguments.pop("query")
    found = decode_attention(query, *pools, **arguments, block_table=pages, tiles=parts(splits[0]), combines=splits[1])
    clean = [pool.nan_to_num().double() for pool in pools]
    options = {name: arguments[name] for name in ("scale", "mask", "extent", "softcap")}
    expected = paged_attention(
        query.double(), *clean, pages, arguments["position"], arguments["sinks"], arguments["slopes"], **options
    )
    assert_same(found, expected)


def test_pages_need_an_end() -> None:
    arguments = {**example(), "mask": "none"}
    with pytest.raises(UsageError, match="needs a mask that ends"):
        decode_attention(**arguments, block_table=torch.zeros(2, 1, dtype=torch.int32))


def test_splits_fill_the_multiprocessors_and_no_more() -> None:
    assert split_count(1, 8) == 1  # of a target that nobody named
    with aimed_at(Target((90,), 132)):
        assert [split_count(*sizes) for sizes in ((1, 8), (4, 8), (64, 8), (1, 1))] == [32, 8, 1, 64]
