"""Writes into states, in place, and what a ring holds, by native kernels."""

from __future__ import annotations

from torch import Tensor

from burnish.codegen.native.operands import need_places
from burnish.codegen.native.spec import launch
from burnish.ir.errors import UnsupportedError
from burnish.ir.shapes import product


def cache_write(state: Tensor, new: Tensor, position: Tensor, axis: int) -> Tensor:
    """As `burnish::cache_write`, in place."""
    return _write(state, new, position, axis, ring=False)


def ring_write(state: Tensor, new: Tensor, position: Tensor, axis: int) -> Tensor:
    """As `burnish::ring_write`, in place."""
    return _write(state, new, position, axis, ring=True)


def _write(state: Tensor, new: Tensor, position: Tensor, axis: int, ring: bool) -> Tensor:
    need_places(position)
    axis %= state.dim()
    if axis == 0:
        raise UnsupportedError("the kernel writes along an axis of tokens, and the first one is the batch's")
    if not state.is_contiguous():
        raise UnsupportedError(f"memory of strides {state.stride()}: the kernel writes to one stretch of memory")
    if new.dtype != state.dtype:
        raise UnsupportedError(f"the kernel writes what the state is made of, {state.dtype}, and not {new.dtype}")
    capacity, size = state.shape[axis], product(state.shape[axis + 1 :])
    if new.dim() != 4 or axis != 2:
        new = new.reshape(new.shape[0], product(new.shape[1:axis]), new.shape[axis], size)
    if new.stride(3) != 1:
        new = new.contiguous()
    batch, heads, tokens, _ = new.shape
    item = state.dtype.itemsize
    launch(
        "state_write",
        fresh=new,
        state=state,
        position=position.expand(batch).contiguous(),
        batch=batch,
        heads=heads,
        tokens=tokens,
        capacity=capacity,
        bytes=size * item,
        **{f"fresh_stride_{letter}": new.stride(at) * item for at, letter in enumerate("bhs")},
        ring=ring,
    )
    return state


def ring_positions(tokens: Tensor, position: Tensor, size: int) -> Tensor:
    """As `burnish::ring_positions`."""
    need_places(position)
    batch, count = position.shape[0], tokens.shape[1]
    out = position.new_empty((batch, size + count))
    launch("ring_positions", position=position.contiguous(), out=out, batch=batch, size=size, tokens=count)
    return out
