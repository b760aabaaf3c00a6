"""MXFP4 (Open Compute Project, 2023): floats of 4 bits, a power of two for each 32 of them.

Experts of gpt-oss: NAME_blocks uint8[experts, N, K / 32, 16], two codes in a byte, the first in its low half;
NAME_scales uint8[experts, N, K / 32] are exponents, 127 for one. The weight is [experts, K, N]. A code is a sign and
one of 0, 1/2, 1, 3/2, 2, 3, 4 and 6: twice of it is an integer of 5 bits.
"""

from __future__ import annotations

import torch
from torch import Tensor

from burnish.frontend.quantized.parts import Computed, Parts, Settings
from burnish.frontend.safetensors_folder import Tensors
from burnish.ir.quantization import Quantized, Widened
from burnish.ir.weights import Permute, Reshape, Weight

GROUP = 32
_TWICE = torch.tensor([0, 1, 2, 3, 4, 6, 8, 12], dtype=torch.int8)


def read(settings: Settings, stored: Tensors) -> Tensors:
    """The tensors of the model: see `burnish.frontend.quantized`."""
    found: Tensors = {}
    for name, (weight, file) in stored.items():
        module, _, last = name.rpartition("_")
        if last == "blocks" and f"{module}_scales" in stored:
            parts = Parts(module, {"blocks": weight, "scales": stored[f"{module}_scales"][0]}, file, joint="_")
            found[module] = (_experts(parts), file)
        elif not (last == "scales" and f"{module}_blocks" in stored):
            found[name] = (weight, file)
    return found


def _experts(parts: Parts) -> Weight:
    given = parts.tensors["blocks"].shape
    if len(given) != 4:
        raise parts.wrong(f"has blocks {list(given)}, which are no experts'")
    experts, outputs, groups, size = given
    blocks = parts.get("blocks", (experts, outputs, groups, GROUP // 2), torch.uint8)
    scales = parts.get("scales", (experts, outputs, groups), torch.uint8)
    rows = experts * outputs
    weight = of_codes(Reshape(blocks, (rows, groups * size)), Reshape(scales, (rows, groups)))
    return Permute(Reshape(weight, (experts, outputs, groups * GROUP)), (0, 2, 1))


def of_codes(codes: Weight, exponents: Weight) -> Widened:
    """The weight[N, K] of codes uint8[N, K / 2] and exponents uint8[N, K / 32]."""
    rows, half = codes.shape
    values = Computed((rows, 2 * half), torch.int8, (codes,), twice)
    scales = Computed((rows, half * 2 // GROUP), torch.float32, (exponents,), _halves_of_powers)
    source = Quantized(values, scales, None, 5, GROUP)
    return Widened(source, source, "MXFP4")


def twice(codes: Tensor) -> Tensor:
    """Twice the numbers of floats of 4 bits: int8[N, K] of uint8[N, K / 2]."""
    u = torch.stack([codes & 15, codes >> 4], -1).flatten(-2)
    magnitude = _TWICE[(u & 7).int()]
    return torch.where(u > 7, -magnitude, magnitude)


def _halves_of_powers(exponents: Tensor) -> Tensor:
    return torch.ldexp(torch.ones(exponents.shape), exponents.int() - 128)
