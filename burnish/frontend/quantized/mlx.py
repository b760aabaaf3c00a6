"""MLX, as mlx-lm writes it: `quantization` in config.json has bits and group_size, and for some modules their own.

weight uint32[N, K * bits / 32] has integers in words, scales and biases are [N, K / group]: scale * u + bias.
"""

from __future__ import annotations

from typing import Any

import torch

from burnish.frontend.quantized.parts import SCALES, Computed, Parts, Settings, from_words, parts_of, replaced, setting
from burnish.frontend.safetensors_folder import Tensors
from burnish.ir.quantization import SCALE_DTYPE, Quantized, Widened, dequantized, pack
from burnish.ir.weights import Cast, Weight


def read(settings: Settings, stored: Tensors) -> Tensors:
    """The tensors of the model: see `burnish.frontend.quantized`."""
    setting(settings, "mode", ("affine",), "affine")
    parts = [each for each in parts_of(stored, "weight", ("scales", "biases")) if "scales" in each]
    return replaced(stored, {each.module: _weight(each, settings) for each in parts}, parts)


def _weight(parts: Parts, settings: Settings) -> Widened:
    own = settings.get(parts.module)
    told: dict[str, Any] = {**settings, **(own if isinstance(own, dict) else {})}
    bits, group = setting(told, "bits", (2, 4, 8), 4), setting(told, "group_size", (32, 64, 128), 64)
    setting(told, "mode", ("affine",), "affine")
    given = parts.tensors["scales"].shape
    if len(given) != 2:
        raise parts.wrong(f"has scales {list(given)}")
    rows, columns = given[0], given[1] * group
    words = parts.get("weight", (rows, columns * bits // 32), torch.uint32)
    scales, minima = (_wide(parts.get(name, given, *SCALES)) for name in ("scales", "biases"))
    if bits == 8:
        sources = (Computed((rows, columns), torch.uint8, (words,), lambda x: from_words(x, 8)), scales, minima)
        made = Computed((rows, columns), torch.float32, sources, lambda u, s, m: dequantized(u.short(), s, None, m))
        return Widened(made, None, "MLX int8 with minima")
    shape = (rows, columns // 2)  # numbers of 2 bits are 4 here
    values = Computed(shape, torch.uint8, (words,), lambda x: pack(from_words(x, bits), 4, group))
    source = Quantized(values, scales, None, 4, group, minima)
    return Widened(source, source, f"MLX int{bits}")


def _wide(weight: Weight) -> Weight:
    return weight if weight.dtype == SCALE_DTYPE else Cast(weight, torch.float32)
