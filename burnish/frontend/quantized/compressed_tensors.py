"""The formats of the library compressed-tensors, which llm-compressor writes.

pack-quantized: weight_packed int32[N, K * bits / 32] has integers in words, weight_shape is [N, K], weight_scale
[N, K / group], [N, 1] or [1], and where it is there weight_zero_point int32[N * bits / 32, K / group], words of
outputs.
int-quantized: weight int8[N, K]; float-quantized: weight float8_e4m3fn[N, K].
mxfp4- and nvfp4-pack-quantized: weight_packed uint8[N, K / 2] has floats of 4 bits, weight_scale is an exponent for
each 32, or a float8_e4m3fn for each 16 that weight_global_scale divides.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from burnish.frontend.quantized import fp8, mxfp4
from burnish.frontend.quantized.parts import (
    SCALES,
    Computed,
    Parts,
    Settings,
    from_words,
    integers,
    parts_of,
    replaced,
    setting,
)
from burnish.frontend.safetensors_folder import Tensors
from burnish.ir.errors import InvalidModelError
from burnish.ir.quantization import Widened
from burnish.ir.weights import Weight

_FORMATS = (
    *("pack-quantized", "int-quantized", "float-quantized", "naive-quantized", "mxfp4-pack-quantized"),
    *("nvfp4-pack-quantized", "mixed-precision", "dense"),
)
_OTHERS = ("weight_scale", "weight_zero_point", "weight_shape", "weight_g_idx", "weight_global_scale")


def read(settings: Settings, stored: Tensors) -> Tensors:
    """The tensors of the model: see `burnish.frontend.quantized`."""
    setting(settings, "format", _FORMATS, "dense")
    setting(settings, "quantization_status", ("compressed",), "compressed")
    groups = list(_groups(settings))
    for each in groups:
        setting(each, "format", (*_FORMATS, None), None)
    for name in ("transform_config", "sparsity_config"):
        told = settings.get(name) or {}
        if told and not (name == "sparsity_config" and told.get("format", "dense") == "dense"):
            raise InvalidModelError(f"quantization_config has a {name}, which is not read: {told}")
    sizes = [each.get("weights") or {} for each in groups]
    blocks = next((each["block_structure"] for each in sizes if each.get("block_structure")), None)
    packed = list(parts_of(stored, "weight_packed", _OTHERS))
    floats = fp8.scaled(stored)
    whole = [
        each
        for each in parts_of(stored, "weight", _OTHERS)
        if each.tensors["weight"].dtype == torch.int8 and "weight_scale" in each
    ]
    found = {each.module: _packed(each) for each in packed}
    found |= {each.module: fp8.weight(each, blocks) for each in floats}
    found |= {each.module: _int8(each) for each in whole}
    return replaced(stored, found, [*packed, *floats, *whole])


def _groups(settings: Settings) -> Iterator[Settings]:
    groups = settings.get("config_groups") or {}
    yield from (each for each in groups.values() if isinstance(each, dict))


def _fp4(parts: Parts) -> Widened:
    given = parts.tensors["weight_packed"].shape
    if len(given) != 2 or given[1] % 16:
        raise parts.wrong(f"is {list(given)}, and no rows of blocks")
    rows, half = given
    codes = parts.get("weight_packed", given, torch.uint8)
    if "weight_global_scale" not in parts:
        return mxfp4.of_codes(codes, parts.get("weight_scale", (rows, half // 16), torch.uint8))
    scales = parts.get("weight_scale", (rows, half // 8), torch.float8_e4m3fn)
    whole = parts.get("weight_global_scale", parts.tensors["weight_global_scale"].shape, torch.float32)

    def make(code: Tensor, scale: Tensor, divisor: Tensor) -> Tensor:
        each = (scale.float() / divisor.reshape(())).unsqueeze(-1)
        return (mxfp4.twice(code).float().reshape(*scale.shape, -1) / 2 * each).flatten(1)

    return Widened(Computed((rows, 2 * half), torch.float32, (codes, scales, whole), make), None, "NVFP4")


def _packed(parts: Parts) -> Widened:
    if parts.tensors["weight_packed"].dtype == torch.uint8:
        return _fp4(parts)
    told = parts.get("weight_shape", (2,), torch.int64, torch.int32).materialize()
    rows, columns = (int(each) for each in told)
    words = parts.tensors["weight_packed"].shape
    bits = words[1] * 32 // max(columns, 1) if len(words) == 2 else 0
    if bits not in (2, 4, 8) or words[1] * 32 != columns * bits:
        raise parts.wrong(f"is {list(words)} for {[rows, columns]} weights, which is not 2, 4 or 8 bits of each")
    packed = parts.get("weight_packed", (rows, words[1]), torch.int32)
    values = Computed((rows, columns), torch.uint8, (packed,), lambda q: from_words(q, bits))
    scales, groups = _scales(parts, rows, columns)
    zeros: Weight | None = None
    if "weight_zero_point" in parts and parts.tensors["weight_zero_point"].dtype == torch.int8:  # by first versions
        whole = parts.get("weight_zero_point", (rows, groups), torch.int8)
        zeros = Computed((rows, groups), torch.uint8, (whole,), lambda q: (q + 2 ** (bits - 1)).to(torch.uint8))
    elif "weight_zero_point" in parts:
        stored = parts.get("weight_zero_point", (-(-rows * bits // 32), groups), torch.int32)
        zeros = Computed(
            (rows, groups), torch.uint8, (stored,), lambda q: from_words(q.T, bits)[:, :rows].T.contiguous()
        )
    return _of_integers(parts, values, scales, zeros, bits, f"compressed-tensors int{bits}")


def _int8(parts: Parts) -> Widened:
    """int8[N, K], whatever number of bits they have."""
    given = parts.tensors["weight"].shape
    if len(given) != 2:
        raise parts.wrong(f"is {list(given)}, and no matrix")
    rows, columns = given
    values = Computed((rows, columns), torch.uint8, (parts.tensors["weight"],), lambda q: q.view(torch.uint8) ^ 128)
    scales, groups = _scales(parts, rows, columns)
    zeros: Weight | None = None
    if "weight_zero_point" in parts:
        zero = parts.tensors["weight_zero_point"].shape
        stored = parts.get("weight_zero_point", zero, torch.int8)
        if math.prod(zero) not in (1, rows * groups):
            raise parts.wrong(f"has zero points {list(zero)} for scales {[rows, groups]}")
        zeros = Computed(
            (rows, groups),
            torch.uint8,
            (stored,),
            lambda q: (q.view(torch.uint8) ^ 128).reshape(-1, groups).expand(rows, -1),
        )
    return _of_integers(parts, values, scales, zeros, 8, "compressed-tensors int8")


def _of_integers(parts: Parts, values: Weight, scales: Weight, zeros: Weight | None, bits: int, kind: str) -> Widened:
    rows, columns = values.shape
    groups = scales.shape[1]
    if "weight_g_idx" in parts:
        numbers = parts.get("weight_g_idx", (columns,), torch.int32, torch.int64).materialize().long()
        if not bool((numbers == -1).all()) and not torch.equal(numbers, torch.arange(columns) // (columns // groups)):
            return _in_any_order(parts, values, scales, zeros, bits, numbers, kind)
    return integers(values, (rows, columns), scales, zeros, bits, columns // groups, kind)


def _in_any_order(
    parts: Parts, values: Weight, scales: Weight, zeros: Weight | None, bits: int, numbers: Tensor, kind: str
) -> Widened:
    """What is not in groups of neighbours (actorder), as floats."""
    if bool((numbers < 0).any()) or bool((numbers >= scales.shape[1]).any()):
        raise parts.wrong(f"has a weight_g_idx that names other groups than the {scales.shape[1]} that there are")

    def make(u: Tensor, scale: Tensor, *zero: Tensor) -> Tensor:
        least = zero[0].float()[:, numbers] if zero else 2 ** (bits - 1)
        return (u.float() - least) * scale.float()[:, numbers]

    sources = (values, scales) if zeros is None else (values, scales, zeros)
    made = Computed((values.shape[0], values.shape[1]), torch.float32, sources, make)
    return Widened(made, None, f"{kind} in the order of activations")


def _scales(parts: Parts, rows: int, columns: int) -> tuple[Weight, int]:
    """The scales[N, groups], and how many groups there are."""
    if "weight_scale" not in parts:
        raise parts.wrong("has no weight_scale")
    given = parts.tensors["weight_scale"].shape
    scales = parts.get("weight_scale", given, *SCALES)
    if math.prod(given) == 1:
        return Computed((rows, 1), scales.dtype, (scales,), lambda x: x.reshape(1, 1).repeat(rows, 1)), 1
    if len(given) != 2 or given[0] != rows or columns % given[1]:
        raise parts.wrong(f"is {[rows, columns]}, and its scales {list(given)}")
    return scales, given[1]
