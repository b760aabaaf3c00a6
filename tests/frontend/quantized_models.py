"""Checkpoints of each format, written by hand from what its authors say of it, and the floats that they mean."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel

SIZES = {
    "vocab_size": 60,
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "bos_token_id": 1,
    "eos_token_id": 2,
}

Packed = tuple[dict[str, Tensor], Tensor]
"""Tensors by what follows a module's name, and the weight that they mean, in float32."""


@dataclass(frozen=True)
class Format:
    """A way to write the weight of a linear."""

    name: str
    settings: dict[str, Any]
    pack: Callable[[Tensor], Packed]
    kept: bool = True  # as integers, or floats of 8 bits
    kind: str = ""  # what the trace calls numbers that are not


FORMATS: list[Format] = []


def form(name: str, kept: bool = True, kind: str = "", **settings: Any) -> Callable[[Callable[[Tensor], Packed]], Any]:
    """The decorated function writes a weight so."""

    def add(pack: Callable[[Tensor], Packed]) -> Callable[[Tensor], Packed]:
        FORMATS.append(Format(name, settings, pack, kept, kind))
        return pack

    return add


def write(folder: Path, chosen: Format, model: PreTrainedModel | None = None) -> dict[str, Tensor]:
    """A small model with the weights of its linears, but for the head, in a format; the floats of all weights."""
    if model is None:
        torch.manual_seed(0)
        model = LlamaForCausalLM(LlamaConfig(**SIZES, tie_word_embeddings=False))
    model.save_pretrained(folder)
    tensors, meant = {}, {}
    for name, tensor in load_file(folder / "model.safetensors").items():
        tensors[name] = meant[name] = tensor.clone()
        if re.search(r"(_proj|\.w[123])\.weight$", name):
            parts, meant[name] = chosen.pack(tensor * 20)
            del tensors[name]
            tensors |= {
                f"{name.removesuffix('.weight')}.{part}": each.clone().contiguous() for part, each in parts.items()
            }
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"quantization_config": chosen.settings}))
    return meant


# ---------------------------------------------------------------- rounding


def words(u: Tensor, bits: int) -> Tensor:
    """Integers[..., n] in int32 words, the first of a word in its lowest bits."""
    grouped = u.long().reshape(*u.shape[:-1], -1, 32 // bits)
    whole = (grouped << torch.arange(0, 32, bits)).sum(-1)
    return torch.where(whole >= 2**31, whole - 2**32, whole).to(torch.int32)


def rounded(
    weight: Tensor, bits: int, group: int, symmetric: bool, dtype: torch.dtype = torch.float16
) -> tuple[Tensor, Tensor, Tensor]:
    """u[N, K] from 0 on, zero points and scales [N, K / group]."""
    x = weight.reshape(len(weight), -1, group)
    most = 2**bits - 1
    if symmetric:
        scale = (x.abs().amax(-1) / (most // 2)).to(dtype)
        zero = torch.full_like(scale, 2 ** (bits - 1))
    else:
        scale = ((x.amax(-1) - x.amin(-1)) / most).to(dtype)
        zero = (-x.amin(-1) / scale.float()).round().clamp(1, most).to(dtype)
    u = (x / scale.float().unsqueeze(-1) + zero.float().unsqueeze(-1)).round().clamp(0, most)
    return u.flatten(1).to(torch.uint8), zero.to(torch.uint8), scale


def meant_by(u: Tensor, zero: Tensor, scale: Tensor) -> Tensor:
    x = u.float().reshape(*scale.shape, -1)
    return ((x - zero.float().unsqueeze(-1)) * scale.float().unsqueeze(-1)).flatten(1)


# ---------------------------------------------------------------- GPTQ and AWQ


def gptq(weight: Tensor, bits: int, group: int, symmetric: bool, less: int = 1, shuffled: bool = False) -> Packed:
    order = torch.randperm(weight.shape[1]) if shuffled else torch.arange(weight.shape[1])
    u, zero, scale = rounded(weight[:, order], bits, group, symmetric)
    back = order.argsort()
    found = {
        "qweight": words(u[:, back].T.contiguous().T, bits).T,
        "qzeros": words((zero.T.long() - less) & (2**bits - 1), bits),
        "scales": scale.T,
        "g_idx": (torch.arange(weight.shape[1]) // group)[back].to(torch.int32),
    }
    return found, meant_by(u, zero, scale)[:, back]


GPTQ = {"quant_method": "gptq", "desc_act": False}


@form("gptq-int4", **GPTQ, bits=4, group_size=32, sym=True)
def gptq_of_4(weight: Tensor) -> Packed:
    return gptq(weight, 4, 32, symmetric=True)


@form("gptq-int4-zeros", **GPTQ, bits=4, group_size=64, sym=False, checkpoint_format="gptq")
def gptq_of_4_with_zeros(weight: Tensor) -> Packed:
    return gptq(weight, 4, 64, symmetric=False)


@form("gptq-v2-rows", **GPTQ, bits=4, group_size=-1, sym=False, checkpoint_format="gptq_v2")
def gptq_v2(weight: Tensor) -> Packed:
    return gptq(weight, 4, weight.shape[1], symmetric=False, less=0)


@form("gptq-int2", **GPTQ, bits=2, group_size=32, sym=True)
def gptq_of_2(weight: Tensor) -> Packed:
    return gptq(weight, 2, 32, symmetric=True)


@form("gptq-int8", **GPTQ, bits=8, group_size=32, sym=True)
def gptq_of_8(weight: Tensor) -> Packed:
    return gptq(weight, 8, 32, symmetric=True)


@form("gptq-int8-zeros", kept=False, kind="GPTQ int8 with zero points", **GPTQ, bits=8, group_size=32, sym=False)
def gptq_of_8_with_zeros(weight: Tensor) -> Packed:
    return gptq(weight, 8, 32, symmetric=False)


@form("gptq-act-order", False, "in the order of activations", quant_method="gptq", desc_act=True, bits=4, group_size=32)
def gptq_in_any_order(weight: Tensor) -> Packed:
    return gptq(weight, 4, 32, symmetric=False, shuffled=True)


@form("awq-gemm", quant_method="awq", bits=4, group_size=64, version="gemm", zero_point=True)
def awq(weight: Tensor) -> Packed:
    u, zero, scale = rounded(weight, 4, 64, symmetric=False)
    order = [0, 2, 4, 6, 1, 3, 5, 7]  # which of 8 outputs each place of a word has

    def in_order(x: Tensor) -> Tensor:
        return words(x.T.reshape(x.shape[1], -1, 8)[..., order].flatten(1), 4)

    return {"qweight": in_order(u), "qzeros": in_order(zero), "scales": scale.T}, meant_by(u, zero, scale)


def mlx(weight: Tensor, bits: int, group: int) -> Packed:
    x = weight.reshape(len(weight), -1, group)
    low = x.amin(-1).bfloat16()
    scale = ((x.amax(-1) - low.float()) / (2**bits - 1)).bfloat16()
    u = ((x - low.float().unsqueeze(-1)) / scale.float().unsqueeze(-1)).round().clamp(0, 2**bits - 1)
    meant = (u * scale.float().unsqueeze(-1) + low.float().unsqueeze(-1)).flatten(1)
    return {"weight": words(u.flatten(1), bits).view(torch.uint32), "scales": scale, "biases": low}, meant


@form("mlx-int4", group_size=64, bits=4)
def mlx_int4(weight: Tensor) -> Packed:
    return mlx(weight, 4, 64)


@form("mlx-int2", group_size=32, bits=2, mode="affine")
def mlx_int2(weight: Tensor) -> Packed:
    return mlx(weight, 2, 32)


@form("mlx-int8", kept=False, kind="MLX int8 with minima", group_size=64, bits=8)
def mlx_int8(weight: Tensor) -> Packed:
    return mlx(weight, 8, 64)


# ---------------------------------------------------------------- compressed-tensors


def compressed(kind: str, **weights: Any) -> dict[str, Any]:
    group = {"targets": ["Linear"], "weights": weights, "input_activations": None}
    return {
        "quant_method": "compressed-tensors",
        "format": kind,
        "quantization_status": "compressed",
        "config_groups": {"group_0": group},
        "ignore": ["lm_head"],
    }


def packed(weight: Tensor, bits: int, group: int, symmetric: bool) -> Packed:
    u, zero, scale = rounded(weight, bits, group, symmetric, torch.bfloat16)
    found = {"weight_packed": words(u, bits), "weight_scale": scale, "weight_shape": torch.tensor(weight.shape)}
    if not symmetric:
        found["weight_zero_point"] = words(zero.T, bits).T
    return found, meant_by(u, zero, scale)


@form("packed-int4", **compressed("pack-quantized", num_bits=4, type="int", group_size=32, strategy="group"))
def packed_int4(weight: Tensor) -> Packed:
    return packed(weight, 4, 32, symmetric=True)


@form("packed-int4-zeros", **compressed("pack-quantized", num_bits=4, type="int", symmetric=False, strategy="group"))
def packed_int4_with_zeros(weight: Tensor) -> Packed:
    return packed(weight, 4, 64, symmetric=False)


@form("packed-int4-old", **compressed("pack-quantized", num_bits=4, type="int", symmetric=False, strategy="group"))
def packed_by_first_versions(weight: Tensor) -> Packed:
    """Zero points one by one."""
    found, meant = packed(weight, 4, 64, symmetric=False)
    _, zero, _ = rounded(weight, 4, 64, False, torch.bfloat16)
    return found | {"weight_zero_point": (zero.int() - 8).to(torch.int8)}, meant


@form("packed-int8-rows", **compressed("pack-quantized", num_bits=8, type="int", strategy="channel"))
def packed_int8(weight: Tensor) -> Packed:
    return packed(weight, 8, weight.shape[1], symmetric=True)


@form("int8-rows", **compressed("int-quantized", num_bits=8, type="int", strategy="channel"))
def int8(weight: Tensor) -> Packed:
    u, zero, scale = rounded(weight, 8, weight.shape[1], symmetric=True, dtype=torch.float32)
    return {"weight": (u ^ 128).view(torch.int8), "weight_scale": scale}, meant_by(u, zero, scale)


@form("int8-zeros", kept=False, kind="with zero points", **compressed("int-quantized", num_bits=8, type="int"))
def int8_with_zeros(weight: Tensor) -> Packed:
    u, zero, scale = rounded(weight, 8, weight.shape[1], symmetric=False, dtype=torch.float32)
    found = {"weight": u, "weight_zero_point": zero}
    return {each: (x ^ 128).view(torch.int8) for each, x in found.items()} | {"weight_scale": scale}, meant_by(
        u, zero, scale
    )


E2M1 = torch.tensor([0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, -0.0, -0.5, -1.0, -1.5, -2.0, -3.0, -4.0, -6.0])
"""What each code of four bits stands for."""


def fp4(weight: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    """Bytes of two codes, and what they mean; `scale`: of each run of a row."""
    spread = scale.repeat_interleave(weight.shape[1] // scale.shape[1], 1)
    codes = ((weight / spread).unsqueeze(-1) - E2M1).abs().argmin(-1)
    return (codes[:, ::2] | (codes[:, 1::2] << 4)).to(torch.uint8), E2M1[codes] * spread


@form("ct-mxfp4", **compressed("mxfp4-pack-quantized", num_bits=4, type="float", strategy="group", group_size=32))
def ct_mxfp4(weight: Tensor) -> Packed:
    exponent = (weight.reshape(len(weight), -1, 32).abs().amax(-1) / 6).log2().ceil()
    packed, meant = fp4(weight, exponent.exp2())
    return {"weight_packed": packed, "weight_scale": (exponent + 127).to(torch.uint8)}, meant


@form("ct-nvfp4", False, "NVFP4", **compressed("nvfp4-pack-quantized", num_bits=4, type="float", group_size=16))
def ct_nvfp4(weight: Tensor) -> Packed:
    whole = 448 * 6 / weight.abs().max()
    scale = (weight.reshape(len(weight), -1, 16).abs().amax(-1) / 6 * whole).to(torch.float8_e4m3fn)
    packed, meant = fp4(weight, scale.float() / whole)
    return {"weight_packed": packed, "weight_scale": scale, "weight_global_scale": whole.reshape(1)}, meant


# ---------------------------------------------------------------- floats of 8 bits


def float8(weight: Tensor, scale: Tensor, name: str, spread: Tensor | None = None) -> Packed:
    """`scale`: as many as there are rows, or one; or of blocks, `spread` over all weights."""
    spread = scale if spread is None else spread
    codes = (weight / spread).clamp(-448, 448).to(torch.float8_e4m3fn)
    return {"weight": codes, name: scale}, codes.float() * spread


def in_blocks(weight: Tensor, high: int, wide: int) -> Packed:
    """Blocks that need not fill the weight at its edges."""
    scale = torch.rand(math.ceil(len(weight) / high), math.ceil(weight.shape[1] / wide)) * 0.01 + 0.01
    spread = scale.repeat_interleave(high, 0)[: len(weight)].repeat_interleave(wide, 1)[:, : weight.shape[1]]
    return float8(weight, scale, "weight_scale_inv", spread)


@form("fp8-blocks", quant_method="fp8", weight_block_size=[96, 128])
def fp8_in_blocks(weight: Tensor) -> Packed:
    return in_blocks(weight, 96, 128)


@form("fp8-wide-blocks", quant_method="fp8", weight_block_size=[48, 256])
def fp8_in_wide_blocks(weight: Tensor) -> Packed:
    return in_blocks(weight, 48, 256)


@form("fp8-odd-blocks", kept=False, kind="float8 in blocks", quant_method="fp8", weight_block_size=[96, 48])
def fp8_in_odd_blocks(weight: Tensor) -> Packed:
    return in_blocks(weight, 96, 48)


@form("fp8-tensor", quant_method="fp8", activation_scheme="static")
def fp8_of_a_tensor(weight: Tensor) -> Packed:
    found, meant = float8(weight, weight.abs().max() / 448, "weight_scale")
    return found | {"input_scale": torch.tensor(0.5)}, meant


@form("fbgemm", quant_method="fbgemm_fp8", modules_to_not_convert=["lm_head"])
def fbgemm(weight: Tensor) -> Packed:
    return float8(weight, weight.abs().amax(1, keepdim=True) / 448, "weight_scale")


@form("float8-rows", **compressed("float-quantized", num_bits=8, type="float", strategy="channel"))
def float8_rows(weight: Tensor) -> Packed:
    scale = (weight.abs().amax(1, keepdim=True) / 448).bfloat16()
    found, meant = float8(weight, scale.float(), "weight_scale")
    return found | {"weight_scale": scale}, meant


# ---------------------------------------------------------------- bitsandbytes


@form("bitsandbytes-int8", quant_method="bitsandbytes", load_in_8bit=True)
def bitsandbytes_int8(weight: Tensor) -> Packed:
    largest = weight.abs().amax(1)
    codes = (weight * (127 / largest).unsqueeze(1)).round().to(torch.int8)
    found = {"weight": codes, "SCB": largest, "weight_format": torch.tensor(0, dtype=torch.uint8)}
    return found, codes.float() * (largest / 127).unsqueeze(1)


NF4 = torch.tensor([-1.0, -0.7, -0.53, -0.39, -0.28, -0.18, -0.09, 0.0, 0.08, 0.16, 0.25, 0.34, 0.44, 0.56, 0.72, 1.0])
"""Numbers like those of nf4: a file brings its own."""


def bitsandbytes_of_4(weight: Tensor, nested: bool) -> Packed:
    blocks = weight.reshape(-1, 64)
    absmax = blocks.abs().amax(1)
    state = {"quant_type": "nf4", "blocksize": 64, "dtype": "bfloat16", "shape": list(weight.shape)}
    found: dict[str, Tensor] = {}
    if nested:
        table, offset = torch.linspace(-1, 1, 256), float(absmax.mean())
        outer = torch.stack([(run - offset).abs().max() for run in absmax.split(256)])
        scaled = (absmax - offset) / outer.repeat_interleave(256)[: len(absmax)]
        codes = (scaled.unsqueeze(1) - table).abs().argmin(1).to(torch.uint8)
        found |= {"weight.absmax": codes, "weight.nested_absmax": outer, "weight.nested_quant_map": table}
        absmax = table[codes.int()] * outer.repeat_interleave(256)[: len(absmax)] + offset
        state |= {"nested_blocksize": 256, "nested_offset": offset, "nested_dtype": "float32"}
    else:
        found["weight.absmax"] = absmax
    u = (blocks.unsqueeze(-1) / absmax.reshape(-1, 1, 1) - NF4).abs().argmin(-1).flatten().to(torch.uint8)
    text = list(json.dumps(state).encode())
    found |= {
        "weight": ((u[::2] << 4) | u[1::2]).reshape(-1, 1),
        "weight.quant_map": NF4,
        "weight.quant_state.bitsandbytes__nf4": torch.tensor(text, dtype=torch.uint8),
    }
    return found, (NF4[u.int()].reshape(-1, 64) * absmax.unsqueeze(1)).reshape(weight.shape)


@form("bitsandbytes-nf4", kept=False, kind="bitsandbytes nf4", quant_method="bitsandbytes", load_in_4bit=True)
def bitsandbytes_nf4(weight: Tensor) -> Packed:
    return bitsandbytes_of_4(weight, nested=False)


@form("bitsandbytes-nf4-nested", kept=False, kind="bitsandbytes nf4", quant_method="bitsandbytes", load_in_4bit=True)
def bitsandbytes_nf4_nested(weight: Tensor) -> Packed:
    return bitsandbytes_of_4(weight, nested=True)
