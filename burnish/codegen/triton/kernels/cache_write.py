"""state[b, h, slot(position[b] + i), :] = new[b, h, i, :] in place; slot(t) is t, or t % capacity in a ring.

Reads and writes B * H * S * D elements; of a ring, the newest `capacity` tokens only. A token past the end of the state
is not written. Truth: `burnish::cache_write`, `burnish::ring_write`.
"""

from __future__ import annotations

import math

import torch
import triton
import triton.language as tl

from burnish.codegen.triton.spec import KernelSpec, pointer
from burnish.ir.errors import UnsupportedError

_MOST_ELEMENTS = 4096  # of a token and head, that one program holds


@triton.jit
def cache_write_kernel(
    new_ptr,
    state_ptr,
    position_ptr,
    new_stride_b,
    new_stride_h,
    new_stride_s,
    heads,
    tokens,
    capacity,
    RING: tl.constexpr,
    SIZE: tl.constexpr,
    BLOCK_TOKENS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Program (block of tokens, head, row of the batch); BLOCK is the next power of two of SIZE."""
    head, batch = tl.program_id(1), tl.program_id(2).to(tl.int64)
    token = tl.program_id(0) * BLOCK_TOKENS + tl.arange(0, BLOCK_TOKENS)
    column = tl.arange(0, BLOCK)
    slot = tl.load(position_ptr + batch).to(tl.int32) + token
    inside = token < tokens
    if RING:
        inside = inside & (token >= tokens - capacity)
        slot = slot % capacity
    inside = inside & (slot < capacity)
    mask = inside[:, None] & (column < SIZE)[None, :]
    source = new_ptr + batch * new_stride_b + head * new_stride_h + token[:, None] * new_stride_s + column[None, :]
    target = (batch * heads + head) * capacity + slot
    x = tl.load(source, mask=mask, other=0.0)
    tl.store(state_ptr + target[:, None] * SIZE + column[None, :], x.to(state_ptr.dtype.element_ty), mask=mask)


def cache_write_spec(dtype: torch.dtype, state: torch.dtype, size: int, block_tokens: int, ring: bool) -> KernelSpec:
    """The kernel for `size` elements a head; a grid of (ceil(tokens / block_tokens), heads, batch)."""
    strides = ["new_stride_b", "new_stride_h", "new_stride_s"]
    pointers = {"new_ptr": pointer(dtype), "state_ptr": pointer(state), "position_ptr": "*i64"}
    return KernelSpec(
        cache_write_kernel,
        {**pointers, **dict.fromkeys([*strides, "heads", "tokens", "capacity"], "i32")},
        constants={
            "RING": ring,
            "SIZE": size,
            "BLOCK_TOKENS": block_tokens,
            "BLOCK": triton.next_power_of_2(size),
        },
        aligned=frozenset({"state_ptr", "position_ptr"}),  # new ones may be parts of a product
        num_warps=2,
    )


def cache_write(state: torch.Tensor, new: torch.Tensor, position: torch.Tensor, axis: int) -> torch.Tensor:
    """As `burnish::cache_write`, in place."""
    return _write(state, new, position, axis, ring=False)


def ring_write(state: torch.Tensor, new: torch.Tensor, position: torch.Tensor, axis: int) -> torch.Tensor:
    """As `burnish::ring_write`, in place."""
    return _write(state, new, position, axis, ring=True)


def _write(state: torch.Tensor, new: torch.Tensor, position: torch.Tensor, axis: int, ring: bool) -> torch.Tensor:
    axis %= state.dim()
    new, block_tokens = as_written(_as_heads(new, axis, math.prod(state.shape[axis + 1 :])), state)
    batch, heads, tokens, size = new.shape
    spec = cache_write_spec(new.dtype, state.dtype, size, block_tokens, ring)
    grid = (-(-tokens // block_tokens), heads, batch)
    spec.launch(grid, new, state, position, *new.stride()[:3], heads, tokens, state.shape[axis])
    return state


def as_written(new: torch.Tensor, memory: torch.Tensor) -> tuple[torch.Tensor, int]:
    """new[B, H, S, D] with the elements of a token side by side, and how many tokens a program writes to `memory`.

    Raises UnsupportedError where a program cannot hold a token, or `memory` lies in pieces.
    """
    tokens, size = new.shape[2:]
    if size > _MOST_ELEMENTS:
        raise UnsupportedError(f"a token's {size} elements are more than the kernel's {_MOST_ELEMENTS}")
    if not memory.is_contiguous():
        raise UnsupportedError(f"memory of strides {memory.stride()}: the kernel writes to one stretch of memory")
    block_tokens = 1 if isinstance(tokens, int) and tokens == 1 else max(1, 2048 // triton.next_power_of_2(size))
    return new if new.stride(3) == 1 else new.contiguous(), block_tokens


def _as_heads(x: torch.Tensor, axis: int, size: int) -> torch.Tensor:
    """[B, H, S, size]: what is before the axis of tokens, and what is after it, as one axis each."""
    if x.dim() == 4 and axis == 2:
        return x
    return x.reshape(x.shape[0], math.prod(x.shape[1:axis]), x.shape[axis], size)
