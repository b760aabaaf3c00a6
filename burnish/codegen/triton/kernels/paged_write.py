"""pages[block_table[b, t // page_size], h, t % page_size, :] = new[b, h, i, :] in place; t is position[b] + i.

Reads and writes B * H * S * D elements, and an entry of the table for each token of a head. A token without a page,
behind the table's end or where the entry is below 0, is not written. Truth: `burnish::paged_write`.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from burnish.codegen.triton.kernels.cache_write import as_written
from burnish.codegen.triton.spec import KernelSpec, pointer


@triton.jit
def paged_write_kernel(
    new_ptr,
    pages_ptr,
    block_table_ptr,
    position_ptr,
    new_stride_b,
    new_stride_h,
    new_stride_s,
    heads,
    tokens,
    max_pages,
    page_size,
    SIZE: tl.constexpr,
    BLOCK_TOKENS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Program (block of tokens, head, row of the batch); BLOCK is the next power of two of SIZE."""
    head, batch = tl.program_id(1), tl.program_id(2).to(tl.int64)
    token = tl.program_id(0) * BLOCK_TOKENS + tl.arange(0, BLOCK_TOKENS)
    column = tl.arange(0, BLOCK)
    place = tl.load(position_ptr + batch).to(tl.int32) + token
    entry = place // page_size
    inside = (token < tokens) & (entry < max_pages)
    page = tl.load(block_table_ptr + batch * max_pages + entry, mask=inside, other=-1).to(tl.int64)
    mask = (inside & (page >= 0))[:, None] & (column < SIZE)[None, :]
    source = new_ptr + batch * new_stride_b + head * new_stride_h + token[:, None] * new_stride_s + column[None, :]
    target = (page * heads + head) * page_size + place % page_size
    x = tl.load(source, mask=mask, other=0.0)
    tl.store(pages_ptr + target[:, None] * SIZE + column[None, :], x.to(pages_ptr.dtype.element_ty), mask=mask)


def paged_write_spec(
    dtype: torch.dtype, pages: torch.dtype, table: torch.dtype, size: int, block_tokens: int
) -> KernelSpec:
    """The kernel for `size` elements a head; a grid of (ceil(tokens / block_tokens), heads, batch)."""
    pointers = {"new_ptr": dtype, "pages_ptr": pages, "block_table_ptr": table, "position_ptr": torch.int64}
    numbers = ["new_stride_b", "new_stride_h", "new_stride_s", "heads", "tokens", "max_pages", "page_size"]
    return KernelSpec(
        paged_write_kernel,
        {**{name: pointer(each) for name, each in pointers.items()}, **dict.fromkeys(numbers, "i32")},
        constants={"SIZE": size, "BLOCK_TOKENS": block_tokens, "BLOCK": triton.next_power_of_2(size)},
        aligned=frozenset({"pages_ptr", "position_ptr"}),  # new ones may be parts of a product
        num_warps=2,
    )


def paged_write(
    pages: torch.Tensor, new: torch.Tensor, block_table: torch.Tensor, position: torch.Tensor
) -> torch.Tensor:
    """As `burnish::paged_write`, in place."""
    new, block_tokens = as_written(new, pages)
    (batch, heads, tokens, size), page_size = new.shape, pages.shape[2]
    spec = paged_write_spec(new.dtype, pages.dtype, block_table.dtype, size, block_tokens)
    grid = (-(-tokens // block_tokens), heads, batch)
    sizes = (heads, tokens, block_table.shape[1], page_size)
    spec.launch(grid, new, pages, block_table.contiguous(), position, *new.stride()[:3], *sizes)
    return pages
