"""Floats of 8 bits with scales, under the names that transformers, vLLM, FBGEMM and compressed-tensors have for them.

weight float8_e4m3fn[N, K]; weight_scale_inv or weight_scale, which it is multiplied by: one number, one for each
output, or [N / 128, K / 128] for blocks of weights.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from burnish.frontend.quantized.parts import Computed, Parts, Settings, parts_of, replaced, setting
from burnish.frontend.safetensors_folder import Tensors
from burnish.ir.quantization import Quantized, Widened
from burnish.ir.weights import Weight

SCALES = ("weight_scale_inv", "weight_scale")
GROUP = 128  # of inputs that share a scale in weights that are kept
_OF_SCALES = (torch.float32, torch.bfloat16, torch.float16)


def read(settings: Settings, stored: Tensors) -> Tensors:
    """The tensors of the model: see `burnish.frontend.quantized`."""
    setting(settings, "expert_dtype", ("fp8",), "fp8")
    blocks = settings.get("weight_block_size")
    parts = scaled(stored)
    return replaced(stored, {each.module: weight(each, blocks) for each in parts}, parts)


def scaled(stored: Tensors) -> list[Parts]:
    """The weights that are floats of 8 bits."""
    found = parts_of(stored, "weight", SCALES)
    return [each for each in found if each.tensors["weight"].dtype == torch.float8_e4m3fn]


def weight(parts: Parts, blocks: object) -> Widened:
    """The weight of a module; `blocks`: rows and columns of those that share a scale, where some do."""
    values = parts.tensors["weight"]
    name = next((each for each in SCALES if each in parts), None)
    if name is None or len(values.shape) != 2:
        raise parts.wrong(f"is of floats of 8 bits, and has no {' or '.join(SCALES)}")
    rows, columns = values.shape
    given = parts.tensors[name].shape
    scale = parts.get(name, given, *_OF_SCALES)
    if given in ((rows,), (rows, 1)) or (math.prod(given) == 1 and (len(given) < 2 or blocks is None)):
        by_row = Computed(
            (rows, 1), torch.float32, (scale,), lambda x: x.float().reshape(-1, 1).repeat(rows // x.numel(), 1)
        )
        source = Quantized(values, by_row, None, 8, columns)
        return Widened(source, source, "float8")
    if not isinstance(blocks, list | tuple) or len(blocks) != 2 or not all(type(n) is int and n > 0 for n in blocks):
        raise parts.wrong(f"has scales {list(given)}, and quantization_config no size of blocks that share one")
    high, wide = blocks
    parts.get(name, (-(-rows // high), -(-columns // wide)), *_OF_SCALES)
    if wide % GROUP or columns % GROUP:
        return Widened(in_blocks(values, scale, high, wide), None, f"float8 in blocks of {high} by {wide}")

    def spread(x: Tensor) -> Tensor:
        return _spread(x, high, rows, wide // GROUP, columns // GROUP)

    source = Quantized(values, Computed((rows, columns // GROUP), torch.float32, (scale,), spread), None, 8, GROUP)
    return Widened(source, source, "float8")


def in_blocks(values: Weight, scale: Weight, high: int, wide: int) -> Weight:
    """The floats, of which each block `high` by `wide` is multiplied by a scale."""
    rows, columns = values.shape

    def make(x: Tensor, each: Tensor) -> Tensor:
        return x.float() * _spread(each, high, rows, wide, columns)

    return Computed((rows, columns), torch.float32, (values, scale), make)


def _spread(scale: Tensor, high: int, rows: int, wide: int, columns: int) -> Tensor:
    """The scales of blocks `high` by `wide` for each of rows by columns, float32."""
    tall = scale.float().repeat_interleave(min(high, rows), 0)[:rows]
    return tall.repeat_interleave(min(wide, columns), 1)[:, :columns]
