"""out[b, j] = the last position below position[b] that is j modulo size; out[b, size + i] = position[b] + i.

What the slots of a ring hold before a step, and the new tokens. Reads position[B], writes out[B, size + S]. Truth:
`burnish::ring_positions`.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from burnish.codegen.triton.spec import KernelSpec


@triton.jit
def ring_positions_kernel(position_ptr, out_ptr, columns, SIZE: tl.constexpr, BLOCK: tl.constexpr):
    """Program (block of columns, row)."""
    row = tl.program_id(1).to(tl.int64)
    column = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    position = tl.load(position_ptr + row)
    last = position - 1
    behind = (last % SIZE - column + SIZE) % SIZE  # slots since slot `column`; before any token, last is -1
    behind = tl.where(last < 0, (SIZE - 1 - column) % SIZE, behind)
    out = tl.where(column < SIZE, last - behind, position + column - SIZE)
    tl.store(out_ptr + row * columns + column, out, mask=column < columns)


def ring_positions_spec(size: int, block: int) -> KernelSpec:
    """The kernel for a ring of `size` slots; a grid of (ceil((size + tokens) / block), batch, 1)."""
    return KernelSpec(
        ring_positions_kernel,
        {"position_ptr": "*i64", "out_ptr": "*i64", "columns": "i32"},
        constants={"SIZE": size, "BLOCK": block},
        aligned=frozenset({"position_ptr", "out_ptr"}),
        num_warps=1,
    )


def ring_positions(tokens: torch.Tensor, position: torch.Tensor, size: int) -> torch.Tensor:
    """As `burnish::ring_positions`."""
    batch, columns = tokens.shape[0], size + tokens.shape[1]
    block = min(1024, triton.next_power_of_2(size + 1))
    out = position.new_empty((batch, columns))
    ring_positions_spec(size, block).launch((-(-columns // block), batch, 1), position, out, columns)
    return out
