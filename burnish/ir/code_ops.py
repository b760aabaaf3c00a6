"""`burnish::` ops on caches in 8 bits: each number a code of 8 bits, with one scale for a token and head or a channel.

"int8": codes int8, code * scale, code from -128 to 127. "fp8": codes uint8, the bits of a float8_e4m3fn (Micikevicius
et al., 2022), which float * scale; as plain bytes, since neither scatters nor GPUs before sm_89 know that dtype. The
dtype of codes says which they are.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor

from burnish.ir import label_rules as rules
from burnish.ir.ops import attention, define
from burnish.ir.traits import Traits

CODES: dict[str, torch.dtype] = {"int8": torch.int8, "fp8": torch.uint8}
LARGEST: dict[str, float] = {"int8": 127.0, "fp8": 448.0}  # what the greatest code stands for, before its scale
LEAST: dict[str, float] = {"int8": -128.0, "fp8": -448.0}


_ROUNDS: ContextVar[bool] = ContextVar("codes are whole", default=True)


@contextmanager
def unrounded() -> Iterator[None]:
    """Within it codes are floats, and what they stand for is what was given.

    For comparing programs that compute the same in another order: at the edge between two codes the last bit of a sum
    says which it becomes, and each layer behind carries that on. States of codes have to be of floats, too.
    """
    token = _ROUNDS.set(False)
    try:
        yield
    finally:
        _ROUNDS.reset(token)


def smallest_scale(dtype: torch.dtype) -> float:
    """The scale of a token and head of zeros: not zero, which nothing could be divided by."""
    return torch.finfo(dtype).tiny


def scales_for(greatest: Tensor, numbers: str, dtype: torch.dtype) -> Tensor:
    """The scales, in `dtype`, by which elements of the sizes `greatest` have the greatest code."""
    return (greatest.float() * (1 / LARGEST[numbers])).to(dtype).clamp(min=smallest_scale(dtype))


def _scales_shape(x: Tensor, numbers: str) -> Tensor:
    return x.new_empty((*x.shape[:-1], 1))


@define(
    "code_scales(Tensor x, str numbers) -> Tensor", Traits(rules.last_axis("has one scale for all {}")), _scales_shape
)
def code_scales(x: Tensor, numbers: str) -> Tensor:
    """max |x| over the last axis / the greatest code: x[..., D] -> [..., 1]. `numbers` is a key of `CODES`."""
    return scales_for(x.abs().amax(-1, keepdim=True), numbers, x.dtype)


def _codes_shape(x: Tensor, scales: Tensor, numbers: str) -> Tensor:
    return torch.empty_like(x, dtype=CODES[numbers])


@define("to_codes(Tensor x, Tensor scales, str numbers) -> Tensor", Traits(rules.pointwise), _codes_shape)
def to_codes(x: Tensor, scales: Tensor, numbers: str) -> Tensor:
    """The codes nearest to x / scales, halves to even: int8 or uint8, in the shape of x; what is too large is cut off.

    `scales`: [..., 1] for those of tokens and heads of x[..., D]; of fixed ones, all that broadcast.
    """
    if not _ROUNDS.get():
        return x.float() / scales.float()
    parts = (x.float() / scales.float()).clamp(LEAST[numbers], LARGEST[numbers])
    return parts.round().to(torch.int8) if numbers == "int8" else parts.to(torch.float8_e4m3fn).view(torch.uint8)


def _floats_shape(codes: Tensor, scales: Tensor) -> Tensor:
    return torch.empty_like(codes, dtype=scales.dtype)


@define("from_codes(Tensor codes, Tensor scales) -> Tensor", Traits(rules.pointwise), _floats_shape)
def from_codes(codes: Tensor, scales: Tensor) -> Tensor:
    """What codes stand for by their scales, which broadcast to them, in the dtype of the scales."""
    parts = codes.view(torch.float8_e4m3fn) if codes.dtype == torch.uint8 else codes
    return (parts.float() * scales.float()).to(scales.dtype)


def _attention_shape(
    query: Tensor, key: Tensor, key_scales: Tensor, value: Tensor, *rest: object, **o: object
) -> Tensor:
    return query.new_empty((*query.shape[:-1], value.shape[-1]))


@define(
    "coded_attention(Tensor query, Tensor key, Tensor key_scales, Tensor value, Tensor value_scales, "
    "Tensor? position=None, Tensor? bias=None, Tensor? sinks=None, Tensor? slopes=None, Tensor? key_positions=None, *, "
    "float scale, str mask='causal', int extent=0, float softcap=0.0) -> Tensor",
    Traits(position=5),
    _attention_shape,
)
def coded_attention(
    query: Tensor,
    key: Tensor,
    key_scales: Tensor,
    value: Tensor,
    value_scales: Tensor,
    *masks: Tensor | None,
    **options: Any,
) -> Tensor:
    """`burnish::attention` of keys and values that are codes, with scales [B, Hkv, T, 1] or [1 or B, Hkv, 1, D]."""
    return attention(query, from_codes(key, key_scales), from_codes(value, value_scales), *masks, **options)


code_ops = torch.ops.burnish
