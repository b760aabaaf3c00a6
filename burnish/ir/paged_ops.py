"""`burnish::` ops over a cache in pages (Kwon et al., 2023): rows of a batch share one pool, none owns a stretch of it.

Pages are [pages, H, page_size, D]. Token t of row b is slot t % page_size of page block_table[b, t // page_size];
entries of the table behind a row's last token are not read, whatever they are.
"""

from __future__ import annotations

import torch
from torch import Tensor

from burnish.ir.ops import attention, define
from burnish.ir.traits import Traits


def gather_pages(pages: Tensor, block_table: Tensor) -> Tensor:
    """[B, H, max_pages * page_size, D]: each row's pages side by side; a page below 0 is read as page 0."""
    return pages[block_table.clamp(min=0)].transpose(1, 2).flatten(2, 3)


def _attention_shape(query: Tensor, key_pages: Tensor, value_pages: Tensor, *rest: object, **options: object) -> Tensor:
    return query.new_empty((*query.shape[:-1], value_pages.shape[-1]))


@define(
    "paged_attention(Tensor query, Tensor key_pages, Tensor value_pages, Tensor block_table, Tensor position, "
    "Tensor? sinks=None, Tensor? slopes=None, *, float scale, str mask='causal', int extent=0, float softcap=0.0) "
    "-> Tensor",
    Traits(position=4),
    _attention_shape,
)
def paged_attention(
    query: Tensor,
    key_pages: Tensor,
    value_pages: Tensor,
    block_table: Tensor,
    position: Tensor,
    sinks: Tensor | None = None,
    slopes: Tensor | None = None,
    *,
    scale: float,
    mask: str = "causal",
    extent: int = 0,
    softcap: float = 0.0,
) -> Tensor:
    """`burnish::attention` of query[B, Hq, S, Dk] over pages; block_table[B, max_pages], position[B].

    `mask` is "causal", "window" or "chunk": a row has no last slot that "none" could end at.
    """
    if mask == "none":
        raise ValueError("burnish::paged_attention has no mask kind 'none'")
    key, value = gather_pages(key_pages, block_table), gather_pages(value_pages, block_table)
    return attention(
        query, key, value, position, None, sinks, slopes, scale=scale, mask=mask, extent=extent, softcap=softcap
    )


def _same_as_pages(pages: Tensor, *rest: object) -> Tensor:
    return torch.empty_like(pages)


@define(
    "paged_write(Tensor pages, Tensor new, Tensor block_table, Tensor position) -> Tensor",
    Traits(writes=(0,)),
    _same_as_pages,
)
def paged_write(pages: Tensor, new: Tensor, block_table: Tensor, position: Tensor) -> Tensor:
    """`pages` with the tokens of new[B, H, S, D] written to the slots of tokens position[b] to position[b] + S - 1."""
    slots = position.unsqueeze(-1) + torch.arange(new.shape[2])
    page = block_table.long().gather(1, slots // pages.shape[2])
    out = pages.clone()
    out.transpose(1, 2).index_put_((page, slots % pages.shape[2]), new.transpose(1, 2))
    return out
