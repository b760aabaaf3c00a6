"""GPTQ (Frantar et al., 2022), as AutoGPTQ and GPTQModel write it.

qweight int32[K * bits / 32, N] and qzeros int32[K / group, N * bits / 32] have integers in words, scales are
[K / group, N], g_idx int32[K] is the group of each input. A zero point is one more than what is stored,
but in the format "gptq_v2".
"""

from __future__ import annotations

import torch
from torch import Tensor

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
    turned,
)
from burnish.frontend.safetensors_folder import Tensors
from burnish.ir.quantization import Widened
from burnish.ir.weights import Weight


def read(settings: Settings, stored: Tensors) -> Tensors:
    """The tensors of the model: see `burnish.frontend.quantized`."""
    bits = setting(settings, "bits", (2, 4, 8), None)
    form = settings.get("checkpoint_format") or settings.get("format") or "gptq"
    setting({"checkpoint_format": form}, "checkpoint_format", ("gptq", "gptq_v2"), "gptq")
    parts = list(parts_of(stored, "qweight", ("qzeros", "scales", "g_idx")))
    return replaced(stored, {each.module: _weight(each, bits, form == "gptq") for each in parts}, parts)


def _weight(parts: Parts, bits: int, one_less: bool) -> Widened:
    words = parts.tensors["qweight"].shape
    if len(words) != 2 or "scales" not in parts or len(parts.tensors["scales"].shape) != 2:
        raise parts.wrong("needs a qweight and scales of two axes")
    inputs, outputs, groups = words[0] * 32 // bits, words[1], parts.tensors["scales"].shape[0]
    packed = parts.get("qweight", words, torch.int32)
    scales = parts.get("scales", (groups, outputs), *SCALES)
    zeros = parts.get("qzeros", (groups, outputs * bits // 32), torch.int32)
    shape, kind = (outputs, inputs), f"GPTQ int{bits}"
    values = Computed(shape, torch.uint8, (packed,), lambda q: from_words(q.T, bits))

    def zero_points(q: Tensor) -> Tensor:
        stored = from_words(q, bits) + int(one_less)
        return stored.bitwise_and(2**bits - 1).T.contiguous()

    zero: Weight = Computed((outputs, groups), torch.uint8, (zeros,), zero_points)
    if "g_idx" in parts:
        numbers = parts.get("g_idx", (inputs,), torch.int32, torch.int64).materialize().long()
        if bool((numbers < 0).any()) or bool((numbers >= groups).any()):
            raise parts.wrong(f"has a g_idx that names other groups than the {groups} that there are")
        if inputs % groups or not torch.equal(numbers, torch.arange(inputs) // (inputs // groups)):
            return _in_any_order(values, scales, zero, numbers, shape, f"{kind} in the order of activations")
    if inputs % groups:
        raise parts.wrong(f"has {groups} groups, and {inputs} inputs are no whole number of them")
    return integers(values, shape, turned(scales), zero, bits, inputs // groups, kind)


def _in_any_order(
    values: Weight, scales: Weight, zeros: Weight, numbers: Tensor, shape: tuple[int, int], kind: str
) -> Widened:
    """What is not in groups of neighbours (desc_act), as floats."""

    def make(u: Tensor, scale: Tensor, zero: Tensor) -> Tensor:
        return (u.float() - zero.float()[:, numbers]) * scale.T.float()[:, numbers]

    return Widened(Computed(shape, torch.float32, (values, scales, zeros), make), None, kind)
