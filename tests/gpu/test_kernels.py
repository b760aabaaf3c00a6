"""Every kernel on a GPU against its op, which is computed in float64 on the CPU."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
import triton
from torch import Tensor

from burnish.codegen.triton.fused_elementwise import fused_elementwise
from burnish.codegen.triton.kernels import fused_linear as linears
from burnish.codegen.triton.kernels.argmax import argmax
from burnish.codegen.triton.kernels.attention_projection import attention_projection
from burnish.codegen.triton.kernels.cache_write import cache_write, ring_write
from burnish.codegen.triton.kernels.decode_attention import decode_attention
from burnish.codegen.triton.kernels.flash_attention import flash_attention
from burnish.codegen.triton.kernels.fused_linear import fused_linear
from burnish.codegen.triton.kernels.gather import gather
from burnish.codegen.triton.kernels.moe_linear import moe_linear
from burnish.codegen.triton.kernels.paged_write import paged_write
from burnish.codegen.triton.kernels.ring_positions import ring_positions
from burnish.codegen.triton.kernels.rms_norm import rms_norm
from burnish.codegen.triton.kernels.scatter import scatter_source, scatter_value
from burnish.codegen.triton.kernels.top_scores import top_scores
from burnish.codegen.triton.kernels.topk import topk
from burnish.codegen.triton.kernels.zeros_like import zeros_like
from burnish.codegen.triton.tile_candidates import descriptor_candidates
from burnish.codegen.triton.tiles import SplitTiles, Target, aimed_at
from burnish.ir.fused_ops import fused_ops
from burnish.ir.ops import burnish_ops
from burnish.ir.paged_ops import paged_write as paged_reference
from burnish.passes.transforms.quantize_rounding import Grid, nearest
from burnish.runtime.executor_cuda import this_architecture

DEVICE = "cuda"
# Of results of about one; a bfloat16 has 8 bits.
TOLERANCE = {torch.float32: 1e-4, torch.float16: 6e-3, torch.bfloat16: 3e-2}
DTYPES = pytest.mark.parametrize("dtype", TOLERANCE, ids=str)


def here(value: Any) -> Any:
    """A tensor on the GPU; anything else as it is."""
    return value.to(DEVICE) if isinstance(value, Tensor) else value


def wide(value: Any) -> Any:
    """A tensor in float64 on the CPU, if it is of floats; anything else as it is."""
    return value.double() if isinstance(value, Tensor) and value.is_floating_point() else value


def assert_same(found: Tensor, expected: Tensor) -> None:
    tolerance = TOLERANCE[found.dtype]
    torch.testing.assert_close(found.cpu().double(), expected.double(), rtol=tolerance, atol=tolerance)


def normal(*shape: int, dtype: torch.dtype) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape))).to(dtype)


def attention_of(tokens: int, size: int, dtype: torch.dtype, **options: Any) -> dict[str, Any]:
    """Arguments of `burnish::attention`: two rows that are at different positions of a cache of 300 tokens."""
    return {
        "query": normal(2, 8, tokens, size, dtype=dtype),
        "key": normal(2, 2, 300, size, dtype=dtype),
        "value": normal(2, 2, 300, size + 0, dtype=dtype).flip(2).contiguous(),
        "position": torch.tensor([300 - tokens, 3]),
        "scale": size**-0.5,
        **options,
    }


MASKS = pytest.mark.parametrize(
    "options", [{}, {"mask": "window", "extent": 40}, {"mask": "chunk", "extent": 33}, {"softcap": 2.0}], ids=str
)


@DTYPES
@MASKS
@pytest.mark.parametrize("size", [64, 80, 128])
@pytest.mark.parametrize("tokens", [1, 5])
def test_attention_of_few_tokens(dtype: torch.dtype, options: dict[str, Any], size: int, tokens: int) -> None:
    given = attention_of(tokens, size, dtype, **options)
    expected = burnish_ops.attention(**{name: wide(each) for name, each in given.items()})
    on_device = {name: here(each) for name, each in given.items()}
    for splits, combines in ((1, False), (3, False), (3, True)):
        assert_same(decode_attention(**on_device, tiles=SplitTiles(splits, 32, 8, 3), combines=combines), expected)


@DTYPES
@MASKS
@pytest.mark.parametrize("size", [64, 80, 128])
@pytest.mark.parametrize("tokens", [17, 200])
def test_attention_of_prompts(dtype: torch.dtype, options: dict[str, Any], size: int, tokens: int) -> None:
    given = attention_of(tokens, size, dtype, **options)
    expected = burnish_ops.attention(**{name: wide(each) for name, each in given.items()})
    assert_same(flash_attention(**{name: here(each) for name, each in given.items()}), expected)


@DTYPES
@pytest.mark.parametrize("rows", [1, 5, 16, 70])
@pytest.mark.parametrize(("n", "k"), [(96, 576), (250, 1100)])
@pytest.mark.parametrize(
    "options",
    [
        {"has": ("bias",)},
        {"has": ("norm_weight", "residual"), "norm": "rms", "eps": 1e-5},
        {"has": ("norm_weight", "norm_bias"), "norm": "layer", "eps": 1e-5, "activation": "gelu_tanh"},
        {"gated": True, "activation": "silu", "norm": "rms", "eps": 1e-5},
    ],
    ids=str,
)
def test_linears(dtype: torch.dtype, rows: int, n: int, k: int, options: dict[str, Any]) -> None:
    options = dict(options)
    shapes = {"bias": (n,), "norm_weight": (k,), "norm_bias": (k,), "residual": (rows, n)}
    tensors = {name: normal(*shapes[name], dtype=dtype) for name in options.pop("has", ())}
    x, weight = normal(rows, k, dtype=dtype), (normal(n, k, dtype=torch.float32) / k**0.5).to(dtype)
    expected = fused_ops.fused_linear(*map(wide, (x, weight)), **{k: wide(v) for k, v in tensors.items()}, **options)
    found = fused_linear(*map(here, (x, weight)), **{k: here(v) for k, v in tensors.items()}, **options)
    assert_same(found, expected)


@pytest.mark.parametrize("norm", ["none", "rms"])
def test_linears_by_tensor_descriptors(norm: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each candidate at sizes that are no multiples of its tiles."""
    with aimed_at(Target((this_architecture(),), 132)):
        candidates = {each for rows in (64, 65) for each in descriptor_candidates(rows, 272, norm)}
    if not candidates:
        pytest.skip(f"an sm_{this_architecture()} has no tensor descriptors")
    triton.set_allocator(lambda size, alignment, stream: torch.empty(size, dtype=torch.int8, device=DEVICE))
    dtype = torch.bfloat16
    x, weight, residual = (normal(*shape, dtype=dtype) for shape in ((200, 272), (300, 272), (200, 300)))
    x = x / 272**0.5
    expected = fused_ops.fused_linear(wide(x), wide(weight), residual=wide(residual), norm=norm, eps=1e-5)
    for tiles in candidates:
        monkeypatch.setattr(linears, "product_tiles", lambda *_, tiles=tiles, **__: tiles)
        found = fused_linear(here(x), here(weight), residual=here(residual), norm=norm, eps=1e-5)
        assert_same(found / 16, expected / 16)  # with a norm, results are about 16


@DTYPES
@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("rows", [1, 5, 70])
def test_linears_of_integers(dtype: torch.dtype, bits: int, rows: int) -> None:
    quantized = nearest(normal(96, 1024, dtype=torch.float32) / 32, Grid(bits, 32))
    weight, scales = quantized.values.materialize(), quantized.scales.materialize().to(dtype)
    x = normal(rows, 1024, dtype=dtype)
    expected = fused_ops.fused_linear(x.double(), weight, scales=scales.double())
    assert_same(fused_linear(here(x), here(weight), scales=here(scales)), expected)


@DTYPES
@pytest.mark.parametrize(("batch", "tokens"), [(1, 1), (3, 1), (2, 40)])
@pytest.mark.parametrize("has", [("cos", "sin"), ("norm_weight", "query_norm", "key_norm", "cos", "sin")], ids=len)
def test_projections(dtype: torch.dtype, batch: int, tokens: int, has: Sequence[str]) -> None:
    angles = normal(batch, tokens, 64, dtype=torch.float32)
    given = {
        "norm_weight": normal(576, dtype=dtype),
        "query_norm": normal(64, dtype=dtype),
        "key_norm": normal(64, dtype=dtype),
        "cos": angles.cos().to(dtype),
        "sin": angles.sin().to(dtype),
    }
    arguments: dict[str, Any] = {
        "x": normal(batch, tokens, 576, dtype=dtype),
        "weight": (normal(13 * 64, 576, dtype=torch.float32) / 24).to(dtype),
        "key_state": normal(batch, 2, 90, 64, dtype=dtype),
        "value_state": normal(batch, 2, 90, 64, dtype=dtype),
        "position": torch.arange(batch) * 7,
        **{name: given[name] for name in has},
        "heads": 9,
        "norm": "rms",
        "eps": 1e-5,
        "head_eps": 1e-5,
    }
    expected = fused_ops.attention_projection(**{name: wide(each) for name, each in arguments.items()})
    found = attention_projection(**{name: here(each) for name, each in arguments.items()})
    for mine, theirs in zip(found, expected, strict=True):
        assert_same(mine, theirs)


@DTYPES
def test_writes(dtype: torch.dtype) -> None:
    new, position = normal(2, 2, 5, 64, dtype=dtype), torch.tensor([3, 20])
    cache, ring = normal(2, 2, 40, 64, dtype=dtype), normal(2, 2, 12, 64, dtype=dtype)
    for kernel, op, state in (
        (cache_write, burnish_ops.cache_write, cache),
        (ring_write, burnish_ops.ring_write, ring),
    ):
        expected = op(state.clone(), new, position, 2)
        assert torch.equal(kernel(here(state), here(new), here(position), 2).cpu(), expected)
    pages, table = normal(5, 2, 16, 64, dtype=dtype), torch.tensor([[3, -1], [4, 0]], dtype=torch.int32)
    expected = paged_reference(pages.clone(), new, table, position)
    assert torch.equal(paged_write(*map(here, (pages, new, table, position))).cpu(), expected)
    tokens = torch.zeros(2, 5, dtype=torch.int64)
    found = ring_positions(here(tokens), here(position), 12)
    assert torch.equal(found.cpu(), burnish_ops.ring_positions(tokens, position, 12))


@DTYPES
def test_experts(dtype: torch.dtype) -> None:
    x, experts = normal(5, 1, 256, dtype=dtype), torch.randint(4, (5, 2))
    weight = (normal(4, 96, 256, dtype=torch.float32) / 16).to(dtype)
    expected = burnish_ops.moe_linear(x.double(), weight.double(), None, experts)
    assert_same(moe_linear(here(x), here(weight), None, here(experts)), expected)


@DTYPES
def test_choices(dtype: torch.dtype) -> None:
    logits, router = normal(3, 4500, dtype=dtype), normal(3, 60, dtype=dtype)
    for _ in range(3):  # the counters of one launch are those of the next
        assert torch.equal(argmax(here(logits), -1).cpu(), logits.argmax(-1))
    vocabulary = normal(2, 128_256, dtype=dtype)
    assert torch.equal(top_scores(here(vocabulary), 128).cpu(), fused_ops.top_scores(vocabulary, 128))
    values, places = topk(here(router), 4)
    expected = torch.sort(router, dim=-1, descending=True, stable=True)
    assert torch.equal(values.cpu(), expected.values[:, :4])
    assert torch.equal(places.cpu(), expected.indices[:, :4])


@DTYPES
def test_places(dtype: torch.dtype) -> None:
    x, source = normal(6, 37, dtype=dtype), normal(6, 5, dtype=dtype)
    index = torch.stack([torch.randperm(37)[:5] for _ in range(6)])
    assert torch.equal(gather(here(x), -1, here(index)).cpu(), torch.gather(x, -1, index))
    found = scatter_source(here(x), 1, here(index), here(source))
    assert torch.equal(found.cpu(), torch.scatter(x, 1, index, source))
    assert torch.equal(scatter_value(here(x), -1, here(index), 1).cpu(), torch.scatter(x, -1, index, 1))
    assert zeros_like(here(x)).eq(0).all()


@DTYPES
def test_norms(dtype: torch.dtype) -> None:
    x, weight = normal(5, 1100, dtype=dtype), normal(1100, dtype=dtype)
    assert_same(rms_norm(here(x), here(weight), 1e-5), burnish_ops.rms_norm(x.double(), weight.double(), 1e-5))


@DTYPES
def test_a_group_of_operations(dtype: torch.dtype) -> None:
    name = str(dtype).removeprefix("torch.")
    body = f"input %x: {name}\n%exp: tensor = aten.exp(%x)\n%sum: tensor = aten.sum.dim_IntList(%exp, [-1], True)\n"
    body += "%div: tensor = aten.div.Tensor(%exp, %sum)\nreturn [%div]"
    x = normal(5, 300, dtype=dtype)
    (found,) = fused_elementwise([here(x)], [], body=body)
    assert_same(found, torch.softmax(x.double(), -1))
