"""What bitsandbytes writes (Dettmers et al., 2022 and 2023).

8 bits: weight int8[N, K], and SCB float32[N], the largest magnitude of each row: weight * SCB / 127. 4 bits: weight
uint8[N * K / 2, 1], two codes in a byte, the first in its high half; quant_map float32[16] has their numbers, absmax
the scale of each run of weights (64, mostly), itself in 8 bits or not; quant_state is JSON with the rest.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from burnish.frontend.quantized.parts import Computed, Parts, Settings, parts_of, replaced
from burnish.frontend.safetensors_folder import Tensors
from burnish.ir.quantization import Quantized, Widened
from burnish.ir.weights import Weight

_STATES = ("weight.quant_state.bitsandbytes__nf4", "weight.quant_state.bitsandbytes__fp4")
_OF_4_BITS = ("weight.absmax", "weight.quant_map", "weight.nested_absmax", "weight.nested_quant_map", *_STATES)


def read(settings: Settings, stored: Tensors) -> Tensors:
    """The tensors of the model: see `burnish.frontend.quantized`."""
    eight = [each for each in parts_of(stored, "weight", ("SCB", "weight_format")) if "SCB" in each]
    four = [each for each in parts_of(stored, "weight", _OF_4_BITS) if "weight.absmax" in each]
    found = {each.module: _int8(each) for each in eight} | {each.module: _of_4_bits(each) for each in four}
    return replaced(stored, found, [*eight, *four])


def _int8(parts: Parts) -> Widened:
    given = parts.tensors["weight"].shape
    if len(given) != 2:
        raise parts.wrong(f"is {list(given)}, and no matrix")
    values = parts.get("weight", given, torch.int8)
    largest = parts.get("SCB", (given[0],), torch.float32)
    if "weight_format" in parts and bool(parts.tensors["weight_format"].materialize().any()):
        raise parts.wrong("is laid out for a GPU (weight_format): save it by a newer bitsandbytes, which writes rows")
    scales = Computed((given[0], 1), torch.float32, (largest,), lambda x: (x / 127).unsqueeze(1))
    source = Quantized(values, scales, None, 8, given[1])
    return Widened(source, source, "bitsandbytes int8")


def _of_4_bits(parts: Parts) -> Widened:
    told = _state(parts)
    shape, size = told.get("shape"), told.get("blocksize")
    if (
        not isinstance(shape, list)
        or not all(type(n) is int and n > 0 for n in shape)
        or type(size) is not int
        or size < 1
    ):
        raise parts.wrong(f"says nothing of its shape and blocks: {told}")
    count = math.prod(shape)
    size = min(size, count)
    codes = parts.get("weight", (-(-count // 2), 1), torch.uint8)
    numbers = parts.get("weight.quant_map", (16,), torch.float32)
    scales = _absmax(parts, told, -(-count // size))

    def make(packed: Tensor, table: Tensor, absmax: Tensor) -> Tensor:
        both = torch.stack([packed.flatten() >> 4, packed.flatten() & 15], -1).flatten()[:count]
        return (table[both.int()] * absmax.repeat_interleave(size)[:count]).reshape(shape)

    made = Computed(tuple(shape), torch.float32, (codes, numbers, scales), make)
    return Widened(made, None, f"bitsandbytes {told.get('quant_type', '4 bits')}")


def _absmax(parts: Parts, told: Mapping[str, Any], blocks: int) -> Weight:
    """float32[blocks]: the scales of runs, also where they were themselves put into 8 bits."""
    if "weight.nested_absmax" not in parts:
        return parts.get("weight.absmax", (blocks,), torch.float32)
    size, offset = told.get("nested_blocksize"), told.get("nested_offset")
    if type(size) is not int or size < 1 or not isinstance(offset, int | float):
        raise parts.wrong(f"says nothing of the blocks of its scales: {told}")
    size = min(size, blocks)
    codes = parts.get("weight.absmax", (blocks,), torch.uint8)
    numbers = parts.get("weight.nested_quant_map", (256,), torch.float32)
    outer = parts.get("weight.nested_absmax", (-(-blocks // size),), torch.float32)

    def make(code: Tensor, table: Tensor, scale: Tensor) -> Tensor:
        return table[code.int()] * scale.repeat_interleave(size)[:blocks] + offset

    return Computed((blocks,), torch.float32, (codes, numbers, outer), make)


def _state(parts: Parts) -> dict[str, Any]:
    name = next((each for each in _STATES if each in parts), None)
    if name is None:
        raise parts.wrong("has no quant_state")
    try:
        found = json.loads(bytes(parts.tensors[name].materialize().flatten().to(torch.uint8).tolist()))
    except ValueError as error:
        raise parts.wrong(f"has a quant_state that is no JSON: {error}") from error
    return found if isinstance(found, dict) else {}
