"""What one step hands to the next."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

from burnish.ir.dtypes import BYTES

if TYPE_CHECKING:
    from burnish.ir.torch_types import Dtype


class StateKind(Enum):
    """How a state remembers the tokens so far.

    CACHE: slot t of axis `axis` holds token t; the axis has the run's capacity. To go back is to forget the last slots.
    RING: slot t % size holds token t; the axis has the window's size. A token that left the window is overwritten.
    WINDOW: the last `size` tokens in order, zeros before the first. Each step moves them on.
    ACCUMULATOR: a running total, one slot, whatever the number of tokens.
    """

    CACHE = "cache"
    RING = "ring"
    WINDOW = "window"
    ACCUMULATOR = "accumulator"


BATCH = "batch"
CAPACITY = "capacity"
_CONTEXT = 512


def context_of(max_length: int) -> int:
    """How many tokens are before the one that costs are counted for: 512, or as many as the model takes."""
    return min(_CONTEXT, max_length - 1)


@dataclass(frozen=True)
class State:
    """A tensor handed from step to step; zeros at the start.

    `shape` has `"batch"` at axis 0 and, for a CACHE, `"capacity"` at `axis`; all else are integers.
    """

    name: str  # of its placeholder in the step graph
    kind: StateKind
    shape: tuple[int | str, ...]
    dtype_name: str
    axis: int  # the token axis; of size 1 for an ACCUMULATOR
    module: str = ""  # where in the user's model the remembered tensor is made

    def concrete_shape(self, batch: int, capacity: int) -> tuple[int, ...]:
        """The shape for `batch` rows and, in a CACHE, room for `capacity` tokens."""
        sizes: dict[str, int] = {BATCH: batch, CAPACITY: capacity}
        return tuple(sizes[size] if isinstance(size, str) else size for size in self.shape)

    @property
    def dtype(self) -> Dtype:
        from burnish.ir.torch_types import torch_dtype

        return torch_dtype(self.dtype_name)

    @property
    def can_rewind(self) -> bool:
        """Whether going back to an earlier position needs nothing but the position."""
        return self.kind is StateKind.CACHE

    @property
    def bytes_a_token(self) -> int:
        """Bytes that each further token adds for one row; 0 for a state of fixed size."""
        if self.kind is not StateKind.CACHE:
            return 0
        count = BYTES[self.dtype_name]
        for size in self.shape:
            count *= 1 if isinstance(size, str) else size
        return count
