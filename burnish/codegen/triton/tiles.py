"""Tiles: how much one program of a kernel takes at a time, with how many threads and how many loads in flight.

The table is here: by kernel, rows, shape and architecture. Nobody has timed it on a GPU: it says what fits registers
and shared memory, and what is known to be good for products of matrices on A100 and H100. `burnish tune` times the
candidates of `tile_candidates`, and its winners go before the table. Whichever it is, `launch_tiled` hands it to the
kernel. All tiles give the same numbers, up to the order of sums.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeAlias, TypeVar

import msgspec
import torch
import triton

from burnish.codegen.triton.spec import source_hash
from burnish.ir.errors import UsageError


class ProductTiles(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="product", omit_defaults=True):
    """Of a product x[rows, K] @ weight[N, K]^T: a program makes rows * block_n results, block_k of K at a time.

    With `descriptors` x and the weight come through tensor descriptors, and with `warp_specialize` by warps that do
    nothing else: see `descriptor_product`. num_warps are then those that Triton adds more to.
    """

    rows: int
    block_n: int
    block_k: int
    num_warps: int
    num_stages: int
    descriptors: bool = False
    warp_specialize: bool = False


class PromptTiles(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="prompt"):
    """Of the attention of many new tokens: so many of these, and `block` keys at a time."""

    rows: int
    block: int
    num_warps: int
    num_stages: int


class SplitTiles(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="splits"):
    """Of the attention of few new tokens: keys in so many parts side by side, of which `block` at a time."""

    splits: int
    block: int
    num_warps: int
    num_stages: int


Tiles: TypeAlias = ProductTiles | PromptTiles | SplitTiles
T = TypeVar("T", bound=Tiles)

# Bytes of shared memory that one program can have: 163, 99 and 227 KiB (CUDA C++ Programming Guide).
SHARED_BYTES_OF = {80: 166_912, 86: 101_376, 89: 101_376, 90: 232_448, 100: 232_448, 120: 101_376}
# Rows of x that share an entry: a sum of products; the least rows of a tensor core; one tile of rows; more of them.
_ROW_CLASSES = ((1, "1"), (16, "2-16"), (64, "17-64"))


@dataclass(frozen=True)
class Problem:
    """What tiles are chosen for: a kernel, and what of its operands matters to the choice."""

    function: Any  # the kernel
    about: str  # "bf16, rows 17-64, n 28672, k 4096, norm rms, gated"

    @property
    def kernel(self) -> str:
        """Its name, and a hash of all source that it is compiled from: with another one, winners are stale."""
        return f"{self.function.__name__}-{source_hash(self.function)}"

    @property
    def key(self) -> str:
        """Of its entry in a file of tiles."""
        return f"{self.kernel}: {self.about}"


@dataclass(frozen=True)
class Target:
    """What kernels are planned for: one plan for all `architectures` (none: to be interpreted)."""

    architectures: tuple[int, ...] = ()
    multiprocessors: int = 1
    winners: Mapping[str, Tiles | None] = field(default_factory=dict)  # by key; None where architectures disagree

    used: dict[str, Tiles] = field(default_factory=dict)  # the winners that were asked for
    skipped: dict[str, str] = field(default_factory=dict)  # why one that was asked for is not used

    def tiles(self, problem: Problem, table: T, candidates: Sequence[T]) -> T:
        """The winner, or where there is none the table's. Raises UsageError for a winner that is no candidate."""
        winner: Any = self.winners.get(problem.key)
        if winner is None:
            if problem.key in self.winners:
                self.skipped[problem.key] = "the GPUs have no winner in common"
            return table
        if winner != table and winner not in candidates:
            if len(self.architectures) > 1:  # whose table may have other parts of the keys, and other candidates
                self.skipped[problem.key] = f"{winner} is no candidate for all of these GPUs"
                return table
            raise UsageError(
                f"the file of tiles has {winner} for {problem.key}, which is none of those that fit there: "
                "write the file by burnish tune"
            )
        self.used[problem.key] = winner
        found: T = winner
        return found

    @property
    def shared_bytes(self) -> int:
        """Of the architecture that has least, which decides for all."""
        return min((SHARED_BYTES_OF[each] for each in self.architectures), default=min(SHARED_BYTES_OF.values()))

    @property
    def roomy(self) -> bool:
        """Whether all have the 227 KiB, and the products of warp groups, of sm_90 and sm_100."""
        return self.shared_bytes == SHARED_BYTES_OF[90]


TARGET: ContextVar[Target] = ContextVar("target of a plan", default=Target())  # noqa: B039  # it is frozen


@contextmanager
def aimed_at(target: Target) -> Iterator[None]:
    """What is planned within is for `target`."""
    token = TARGET.set(target)
    try:
        yield
    finally:
        TARGET.reset(token)


class Tuner(Protocol):
    """Sees each problem as it is planned, with its candidates and what launches them."""

    def offer(self, problem: Problem, candidates: tuple[Any, ...], launch: Callable[[Any], object]) -> None:
        """`launch` with any of the candidates does the same, and can be called with each."""
        ...


TUNER: ContextVar[Tuner | None] = ContextVar("burnish tuner", default=None)
R = TypeVar("R")


def launch_tiled(
    function: Any, facts: Mapping[str, object], table: T, candidates: tuple[T, ...], launch: Callable[[T], R]
) -> R:
    """`launch` with the winner for a kernel and these facts, or with the `table`'s tiles where there is none.

    Facts that are None, 0, False or "none" are not mentioned in the problem; True ones are, without a value.
    """
    told = [
        name if value is True else f"{name} {value}".strip().removeprefix("torch.")
        for name, value in facts.items()
        if value and value != "none"
    ]
    problem = Problem(function, ", ".join(told))
    tuner = TUNER.get()
    if tuner is not None:
        tuner.offer(problem, tuple(dict.fromkeys((table, *candidates))), launch)
    return launch(TARGET.get().tiles(problem, table, candidates))


def row_class(rows: int) -> str:
    """The name of the class of a number of rows."""
    return next((name for most, name in _ROW_CLASSES if rows <= most), "65-")


# ---------------------------------------------------------------- the table


def product_tiles(
    rows: int,
    size_n: int,
    size_k: int,
    dtype: torch.dtype = torch.bfloat16,
    *,
    norm: str = "none",
    residual: bool = False,
    bits: int = 0,
    group: int = 1,
) -> ProductTiles:
    """Tiles of a product whose weight is [size_n, size_k], of floats or of integers with a scale for each `group`.

    None with descriptors, which are among the candidates: no GPU has shown yet where they are faster.
    """
    target, kind = TARGET.get(), row_class(rows)
    fits_k = triton.next_power_of_2(size_k)
    if kind == "1":  # long pieces of few rows of the weight: bound by reading it
        return ProductTiles(1, 16, min(1024, max(64, fits_k)) if bits else min(512, max(32, fits_k)), 4, 3)
    if kind == "2-16":  # one pass over the weight; widening integers takes registers, so more warps
        return ProductTiles(16, 32, 256, 8, 4) if bits else ProductTiles(16, 32, 128, 4, 4)
    if bits or dtype.itemsize > 2:  # widened in registers; or no tensor cores, products in registers: small tiles
        return ProductTiles(64, 64, max(64, group), 4, 3)
    if kind == "17-64":
        # One block of rows. Narrow blocks of columns where wide ones would leave multiprocessors without work; but
        # each program computes the norm of its rows anew, which for narrow blocks is most of what it reads.
        narrow = norm == "none" and triton.cdiv(size_n, 64) < target.multiprocessors
        return ProductTiles(64, 32, 64, 4, 4) if narrow else ProductTiles(64, 64, 64, 4, 3)
    if not target.roomy and target.shared_bytes < SHARED_BYTES_OF[80]:
        return ProductTiles(128, 128, 32, 8, 3)  # 48 KiB: two programs in a multiprocessor's 99
    # 128 * 256 results are 128 registers of each of 256 threads: with a residual, and by the products of sm_80, that
    # spills. And 512 rows by such tiles have to be a program for each multiprocessor.
    wide = triton.cdiv(size_n, 256) * (512 // 128) >= target.multiprocessors
    if target.roomy and wide and not residual:
        return ProductTiles(128, 256, 64, 8, 3)
    return ProductTiles(128, 128, 64, 8, 3)


def projection_tiles(
    rows: int,
    size_k: int,
    head_size: int,
    dtype: torch.dtype = torch.bfloat16,
    *,
    whole: bool,
    bits: int = 0,
    group: int = 1,
) -> ProductTiles:
    """Tiles of at most a head; of a `whole` one, where its norm needs that, with the same number of elements.

    At most 64 rows: the pairs of rotary embedding split a tile in registers, which hold no more.
    """
    tiles = product_tiles(min(rows, 64), head_size, size_k, dtype, norm="rms", bits=bits, group=group)
    return of_heads(tiles, head_size, whole, bits, group)


def of_heads(tiles: ProductTiles, head_size: int, whole: bool, bits: int, group: int) -> ProductTiles:
    """Tiles of a product as ones of at most a head."""
    head = max(16, triton.next_power_of_2(head_size))
    block_n = head if whole else min(tiles.block_n, head)
    least = max(128 if bits else 32, group)
    block_k = min(tiles.block_k, max(least, tiles.block_n * tiles.block_k // block_n))
    num_warps = 8 if tiles.rows * block_n > 4096 else tiles.num_warps
    return ProductTiles(tiles.rows, block_n, block_k, num_warps, tiles.num_stages)


def expert_tiles(size_n: int, size_k: int, in_contiguous: bool) -> ProductTiles:
    """Tiles of one token by its expert, long along the axis that lies in memory side by side: 128 bytes and more."""
    fits_n, fits_k = triton.next_power_of_2(size_n), triton.next_power_of_2(size_k)
    if in_contiguous:
        return ProductTiles(1, 16, min(512, max(32, fits_k)), 4, 3)
    return ProductTiles(1, min(64, max(16, fits_n)), min(128, max(32, fits_k)), 4, 3)


def prompt_tiles(tokens: int, size: int, dtype: torch.dtype, mask: str) -> PromptTiles:
    """Tiles whose queries, and keys and values in two stages, of heads of at most `size`, fit the shared memory."""
    target, size = TARGET.get(), triton.next_power_of_2(size)
    if dtype.itemsize > 2:  # no tensor cores in full precision: products are in registers
        return PromptTiles(32, 32, 4, 2)
    begins = mask in ("window", "chunk")  # their third loop takes registers: fewer keys at a time keep it from spilling
    small = target.shared_bytes < SHARED_BYTES_OF[80]
    if tokens <= 64:
        return PromptTiles(64, 16 if small and size > 128 else 32 if begins or size > 64 else 64, 4, 2)
    if size > 128:
        return PromptTiles(128, 32, 8, 2) if target.roomy else PromptTiles(64, 16 if small else 32, 8, 2)
    if target.roomy:
        return PromptTiles(128, 64 if begins else 128, 8, 2)
    return PromptTiles(128, 32 if begins and size > 64 else 64, 8, 2)


def split_tiles(batch: int, kv_heads: int, size: int, dtype: torch.dtype, rows: int) -> SplitTiles:
    """Parts of the keys of `batch` rows and heads of `size`; `rows` of queries have one KV head."""
    splits = split_count(batch, kv_heads)
    bytes_of_key = size * dtype.itemsize
    # At most 16 KiB of keys at a time, and few enough that short contexts are split too.
    block = 64 if bytes_of_key <= 256 else 32 if bytes_of_key <= 512 else 16
    # What combines the parts holds more at a time: 4 warps would spill.
    return SplitTiles(splits, block, 4 if rows <= 32 and splits == 1 else 8, 3)


MOST_SPLITS = 64


def split_count(batch: int, kv_heads: int) -> int:
    """Into how many parts to take the keys: about two programs for each multiprocessor of the target, a power of two.

    Where there are fewer blocks of keys than parts, some programs find nothing to do, and end.
    """
    wanted = 2 * TARGET.get().multiprocessors // (batch * kv_heads)
    return min(MOST_SPLITS, 1 << max(0, wanted.bit_length() - 1))
