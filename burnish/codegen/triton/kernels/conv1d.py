"""out[b, c, t] = bias[c] + sum over i, k of x[b, group(c) * I + i, t + k * dilation] * weight[c, i, k].

With I inputs and K taps a channel: a program takes BLOCK_C channels and BLOCK_T tokens, and adds up the I * K products
of each in float32. Reads weight and bias once, x I * K times for each channel of a group (but for the first, from
cache); writes out[B, C, S]. Each channel by itself, as short convolutions have it, is I = 1: bound by memory. Truth:
`aten::conv1d`.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl

from burnish.codegen.triton.spec import KernelSpec, pointer
from burnish.ir.errors import UnsupportedError

_ELEMENTS = 1024  # that one program makes


@triton.jit
def conv1d_kernel(
    x_ptr,
    weight_ptr,
    bias_ptr,
    out_ptr,
    x_stride_b,
    x_stride_c,
    x_stride_t,
    tokens,
    channels,
    HAS_BIAS: tl.constexpr,
    GROUP_OUT: tl.constexpr,
    GROUP_IN: tl.constexpr,
    TAPS: tl.constexpr,
    DILATION: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_T: tl.constexpr,
):
    """Program (block of channels, block of tokens, row of the batch). GROUP_OUT, GROUP_IN: channels of a group."""
    batch = tl.program_id(2).to(tl.int64)
    channel = tl.program_id(0) * BLOCK_C + tl.arange(0, BLOCK_C)
    token = tl.program_id(1) * BLOCK_T + tl.arange(0, BLOCK_T)
    inside_c, inside_t = channel < channels, token < tokens
    inside = inside_c[:, None] & inside_t[None, :]
    first = channel // GROUP_OUT * GROUP_IN
    total = tl.zeros((BLOCK_C, BLOCK_T), dtype=tl.float32)
    for i in range(GROUP_IN):
        row = x_ptr + batch * x_stride_b + (first + i).to(tl.int64)[:, None] * x_stride_c
        for k in tl.static_range(TAPS):
            weight = tl.load(weight_ptr + (channel * GROUP_IN + i) * TAPS + k, mask=inside_c, other=0.0)
            x = tl.load(row + (token.to(tl.int64) + k * DILATION)[None, :] * x_stride_t, mask=inside, other=0.0)
            total += weight.to(tl.float32)[:, None] * x.to(tl.float32)
    if HAS_BIAS:
        total += tl.load(bias_ptr + channel, mask=inside_c, other=0.0).to(tl.float32)[:, None]
    out = out_ptr + (batch * channels + channel)[:, None] * tokens + token[None, :]
    tl.store(out, total.to(out_ptr.dtype.element_ty), mask=inside)


def conv1d_spec(
    dtype: torch.dtype,
    weight_shape: tuple[int, int, int],
    dilation: int,
    groups: int,
    *,
    has_bias: bool,
    one_token: bool,
) -> KernelSpec:
    """The kernel for weights [C, I, K] of `dtype`, as its operands."""
    channels, inputs, taps = weight_shape
    block_t = 1 if one_token else 64
    block_c = min(triton.next_power_of_2(channels), max(16, 128 if one_token else _ELEMENTS // block_t))
    strides = ("x_stride_b", "x_stride_c", "x_stride_t")
    pointers = ("x_ptr", "weight_ptr", "bias_ptr", "out_ptr")
    return KernelSpec(
        conv1d_kernel,
        arguments={
            **dict.fromkeys(pointers, pointer(dtype)),
            **dict.fromkeys((*strides, "tokens", "channels"), "i32"),
        },
        constants={
            "HAS_BIAS": has_bias,
            "GROUP_OUT": channels // groups,
            "GROUP_IN": inputs,
            "TAPS": taps,
            "DILATION": dilation,
            "BLOCK_C": block_c,
            "BLOCK_T": block_t,
        },
        aligned=frozenset({"weight_ptr", "bias_ptr", "out_ptr", *(["channels"] if channels % 16 == 0 else [])}),
        num_warps=max(1, min(4, block_c * block_t // 128)),
    )


def conv1d(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    stride: Any = (1,),
    padding: Any = (0,),
    dilation: Any = (1,),
    groups: int = 1,
) -> torch.Tensor:
    """As `aten::conv1d` of x[B, C, T], without padding and with each token's result."""
    if list(stride) != [1] or list(padding) != [0] or x.dim() != 3:
        raise UnsupportedError(
            f"a convolution with stride {list(stride)} and padding {list(padding)}: the kernel takes 1 and 0"
        )
    if x.dtype not in (torch.float32, torch.float16, torch.bfloat16) or weight.dtype != x.dtype:
        raise UnsupportedError(
            f"a convolution of {x.dtype} by {weight.dtype}: the kernel takes one of 32 or 16 bits for both"
        )
    channels, inputs, taps = weight.shape
    tokens = x.shape[2] - (taps - 1) * dilation[0]
    out = x.new_empty((x.shape[0], channels, tokens))
    one_token = isinstance(tokens, int) and tokens == 1
    spec = conv1d_spec(
        x.dtype, (channels, inputs, taps), dilation[0], groups, has_bias=bias is not None, one_token=one_token
    )
    block_c, block_t = int(spec.constants["BLOCK_C"]), int(spec.constants["BLOCK_T"])  # type: ignore[arg-type]
    grid = (-(-channels // block_c), -(-tokens // block_t), x.shape[0])
    operands = (x, weight.contiguous(), x if bias is None else bias.contiguous(), out)
    spec.launch(grid, *operands, *x.stride(), tokens, channels)
    return out
