"""AWQ (Lin et al., 2023), as AutoAWQ writes it for its version "gemm".

qweight int32[K, N / 8] and qzeros int32[K / group, N / 8] have integers of 4 bits in words, of each 8 outputs those
with an even number first; scales are float16[K / group, N].
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

_PLACES = [0, 4, 1, 5, 2, 6, 3, 7]  # of each 8 outputs, in a word


def read(settings: Settings, stored: Tensors) -> Tensors:
    """The tensors of the model: see `burnish.frontend.quantized`."""
    setting(settings, "bits" if "bits" in settings else "w_bit", (4,), 4)
    version = str(settings.get("version") or settings.get("format") or "gemm").lower()
    setting({"version": version}, "version", ("gemm",), "gemm")
    parts = list(parts_of(stored, "qweight", ("qzeros", "scales")))
    return replaced(stored, {each.module: _weight(each) for each in parts}, parts)


def _weight(parts: Parts) -> Widened:
    words = parts.tensors["qweight"].shape
    if len(words) != 2 or "scales" not in parts or len(parts.tensors["scales"].shape) != 2:
        raise parts.wrong("needs a qweight and scales of two axes")
    inputs, outputs, groups = words[0], words[1] * 8, parts.tensors["scales"].shape[0]
    packed = parts.get("qweight", words, torch.int32)
    scales = parts.get("scales", (groups, outputs), *SCALES)
    zeros = parts.get("qzeros", (groups, outputs // 8), torch.int32)
    if inputs % groups:
        raise parts.wrong(f"has {groups} groups, and {inputs} inputs are no whole number of them")
    values = Computed((outputs, inputs), torch.uint8, (packed,), _outputs_in_order)
    zero = Computed((outputs, groups), torch.uint8, (zeros,), _outputs_in_order)
    return integers(values, (outputs, inputs), turned(scales), zero, 4, inputs // groups, "AWQ int4")


def _outputs_in_order(words: Tensor) -> Tensor:
    """int32[n, N / 8] as uint8[N, n]."""
    found = from_words(words, 4).reshape(len(words), -1, 8)[..., _PLACES]
    return found.flatten(1).T.contiguous()
