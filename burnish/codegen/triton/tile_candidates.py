"""What `burnish tune` tries for each kernel beside the table's tiles: short lists, since each is compiled and timed.

A file of tiles may name these and no others: whatever it says, a kernel gives the right numbers.
"""

from __future__ import annotations

import triton

from burnish.codegen.triton.tiles import (
    MOST_SPLITS,
    TARGET,
    ProductTiles,
    PromptTiles,
    SplitTiles,
    of_heads,
    row_class,
)

_PRODUCTS = {
    "1": ((1, 4, 1024, 4, 3), (1, 8, 512, 4, 3), (1, 8, 1024, 4, 2), (1, 16, 256, 4, 4), (1, 16, 512, 8, 3),
          (1, 32, 256, 4, 3), (1, 32, 512, 8, 2)),
    "2-16": ((16, 16, 256, 4, 4), (16, 32, 64, 4, 5), (16, 32, 256, 8, 3), (16, 64, 64, 4, 4), (16, 64, 128, 4, 3),
             (16, 128, 64, 8, 4)),
    "17-64": ((32, 32, 128, 4, 4), (32, 64, 64, 4, 4), (64, 32, 64, 4, 4), (64, 32, 128, 4, 3), (64, 64, 64, 4, 4),
              (64, 64, 128, 8, 3), (64, 128, 64, 8, 3), (64, 256, 64, 8, 3)),
    "65-": ((64, 64, 64, 4, 4), (64, 128, 64, 4, 4), (64, 256, 64, 8, 3), (128, 64, 64, 4, 4), (128, 128, 32, 4, 4),
            (128, 128, 64, 4, 3), (128, 128, 64, 8, 3), (128, 128, 64, 8, 4), (128, 256, 64, 8, 3),
            (256, 128, 64, 8, 3)),
}  # fmt: skip

# Through tensor descriptors, and these with warps that only load. On sm_90 Triton 3.6 to 3.9 makes such warps for 4
# others and no other number, and fails to compile 128 rows with a norm, whose statistics it cannot split in two.
_DESCRIPTORS = {
    "17-64": ((64, 32, 64, 4, 4), (64, 64, 64, 4, 4), (64, 128, 64, 4, 4)),
    "65-": ((64, 128, 64, 4, 4), (128, 128, 64, 8, 3), (128, 128, 64, 8, 4), (128, 256, 64, 8, 3)),
}
_SPECIALIZED = {"17-64": ((64, 64, 64, 4, 3), (64, 128, 64, 4, 3)), "65-": ((64, 128, 64, 4, 3),)}
_SPECIALIZED_ON_90_WITHOUT_NORM = {"65-": ((128, 128, 64, 4, 3),)}
_SPECIALIZED_FROM_100 = {"65-": ((128, 128, 64, 8, 3), (128, 256, 64, 8, 3))}


def product_candidates(rows: int, size_k: int, bits: int = 0, group: int = 1) -> tuple[ProductTiles, ...]:
    """For a product of so many rows. A group of integers is taken whole, and not more of K than there is."""
    most = max(32, group, triton.next_power_of_2(size_k))
    found = (ProductTiles(*each) for each in _PRODUCTS[row_class(rows)])
    return tuple(each for each in found if (group if bits else 1) <= each.block_k <= most)


def descriptor_candidates(rows: int, size_k: int, norm: str) -> tuple[ProductTiles, ...]:
    """For a product of so many rows of 16-bit floats whose memory suits tensor descriptors; none below sm_90."""
    oldest = min(TARGET.get().architectures, default=0)
    if oldest < 90:
        return ()
    kind = row_class(rows)
    specialized = _SPECIALIZED.get(kind, ())
    if oldest >= 100:
        specialized += _SPECIALIZED_FROM_100.get(kind, ())
    elif norm == "none":
        specialized += _SPECIALIZED_ON_90_WITHOUT_NORM.get(kind, ())
    found = [ProductTiles(*each, descriptors=True) for each in _DESCRIPTORS.get(kind, ())]
    found += [ProductTiles(*each, descriptors=True, warp_specialize=True) for each in specialized]
    return tuple(each for each in found if each.block_k <= size_k)


def projection_candidates(
    rows: int, size_k: int, head_size: int, *, whole: bool, bits: int = 0, group: int = 1
) -> tuple[ProductTiles, ...]:
    """For a projection to heads: the same, of at most a head."""
    found = product_candidates(rows, size_k, bits, group)
    return tuple(dict.fromkeys(of_heads(each, head_size, whole, bits, group) for each in found))


def expert_candidates(size_n: int, size_k: int, in_contiguous: bool) -> tuple[ProductTiles, ...]:
    """For one token by its expert."""
    fits_n, fits_k = max(16, triton.next_power_of_2(size_n)), max(32, triton.next_power_of_2(size_k))
    if in_contiguous:
        return tuple(each for each in product_candidates(1, size_k) if each.block_k <= fits_k)
    shapes = ((32, 64, 4, 3), (32, 128, 4, 3), (64, 64, 4, 3), (128, 64, 4, 3), (128, 32, 4, 4), (64, 128, 8, 3))
    return tuple(ProductTiles(1, *each) for each in shapes if each[0] <= fits_n and each[1] <= fits_k)


def prompt_candidates(tokens: int) -> tuple[PromptTiles, ...]:
    """For the attention of so many new tokens."""
    few = ((32, 32, 4, 2), (32, 64, 4, 2), (64, 32, 4, 3), (64, 64, 4, 2), (64, 64, 4, 3), (64, 128, 8, 2))
    many = ((64, 64, 4, 3), (64, 128, 4, 2), (128, 32, 4, 3), (128, 64, 4, 3), (128, 64, 8, 2), (128, 64, 8, 3),
            (128, 128, 8, 2))  # fmt: skip
    return tuple(PromptTiles(*each) for each in (few if tokens <= 64 else many))


def split_candidates(table: SplitTiles) -> tuple[SplitTiles, ...]:
    """For the attention of few new tokens: half and twice as many parts and keys as the table's."""
    shapes = [(table.splits // 2, table.block), (table.splits * 2, table.block), (table.splits * 2, table.block // 2)]
    shapes += [(table.splits, table.block // 2), (table.splits, table.block * 2)]
    return tuple(
        SplitTiles(splits, block, num_warps, table.num_stages)
        for splits, block in [(table.splits, table.block), *shapes]
        for num_warps in (4, 8)
        if 1 <= splits <= MOST_SPLITS and block >= 16
    )
