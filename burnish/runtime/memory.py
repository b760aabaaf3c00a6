"""Where tensors of a step lie. Of the CPU's memory by numpy, in which native kernels run; PyTorch has its own."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from burnish.ir.dtypes import BYTES
from burnish.ir.errors import UsageError

if TYPE_CHECKING:  # what runs by native kernels alone does without
    from numpy.typing import NDArray

    from burnish.ir.torch_types import Tensor

_ALIGNMENT = 64  # a cache line, and the widest vector
_NOT_NUMPYS = {name for name in BYTES if name.startswith(("bfloat", "float8"))}


class Memory(Protocol):
    """Makes tensors, of a kind of its own, in contiguous memory."""

    def room(self, what: str, size: int) -> AbstractContextManager[None]:
        """For allocations of `size` bytes. Raises UsageError, which says what they are for, if they fail."""
        ...

    def zeros(self, shape: Sequence[int], dtype: str) -> Any:
        """Of the CPU's memory only taken as it is written: a cache is mostly room for tokens."""
        ...

    def empty(self, shape: Sequence[int], dtype: str) -> Any:
        """With any values."""
        ...

    def copy(self, tensor: Any) -> Any:
        """The same values in memory of their own."""
        ...

    def take(self, tensor: Any) -> Any:
        """A tensor on the CPU, here."""
        ...

    def address(self, tensor: Any) -> int:
        """Where the first element is."""
        ...

    def view(self, tensor: Any, dtype: str, shape: Sequence[int], stride: Sequence[int], offset: int) -> Any:
        """Its memory as another tensor, as kernels take them; `stride` and `offset` count elements of `dtype`.

        Raises ValueError, or what PyTorch does, where that would be outside of it.
        """
        ...

    def to_torch(self, view: Any) -> Tensor:
        """A view as PyTorch's tensor, in the same memory."""
        ...


@dataclass(frozen=True, eq=False)
class View:
    """A tensor in memory of the CPU, as a kernel takes it. `stride` counts elements."""

    address: int
    dtype: str
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    owner: Any = field(repr=False)  # of the memory

    @property
    def extent(self) -> tuple[int, int]:
        """The addresses from and up to which it is."""
        if 0 in self.shape:
            return self.address, self.address
        last = sum((size - 1) * stride for size, stride in zip(self.shape, self.stride, strict=True))
        return self.address, self.address + (last + 1) * BYTES[self.dtype]


class NumpyMemory:
    """Arrays of numpy's; of types that numpy lacks, their bits as integers."""

    @contextmanager
    def room(self, what: str, size: int) -> Iterator[None]:
        """See `Memory.room`. Linux gives out memory that it does not have: more than the whole machine's fails here."""
        refused = UsageError(
            f"{what} take {size / 1e9:.2f} GB, and the machine has less: compile with fewer bits, or ask for fewer "
            "rows or tokens"
        )
        if size > machine_bytes():
            raise refused
        try:
            yield
        except MemoryError as error:
            raise refused from error

    def zeros(self, shape: Sequence[int], dtype: str) -> NDArray[Any]:
        """See `Memory.zeros`."""
        return _aligned(np.zeros, shape, dtype)

    def empty(self, shape: Sequence[int], dtype: str) -> NDArray[Any]:
        """See `Memory.empty`."""
        return _aligned(np.empty, shape, dtype)

    def copy(self, tensor: NDArray[Any]) -> NDArray[Any]:
        """See `Memory.copy`."""
        copied: NDArray[Any] = _aligned(np.empty, (tensor.nbytes,), "uint8").view(tensor.dtype).reshape(tensor.shape)
        copied[...] = tensor
        return copied

    def take(self, tensor: NDArray[Any]) -> NDArray[Any]:
        """See `Memory.take`."""
        return tensor

    def address(self, tensor: NDArray[Any] | View) -> int:
        """See `Memory.address`."""
        return tensor.address if isinstance(tensor, View) else _address(tensor)

    def view(self, tensor: NDArray[Any], dtype: str, shape: Sequence[int], stride: Sequence[int], offset: int) -> View:
        """See `Memory.view`."""
        if len(shape) != len(stride) or min((*shape, *stride, offset)) < 0:
            raise ValueError("sizes, strides and offset are at least 0, and a stride is for each size")
        assert tensor.flags.c_contiguous
        start = _address(tensor)
        found = View(start + offset * BYTES[dtype], dtype, tuple(shape), tuple(stride), tensor)
        if found.extent[1] > start + tensor.nbytes:
            raise ValueError(f"it would end {found.extent[1] - start - tensor.nbytes} bytes behind the memory")
        return found

    def to_torch(self, view: View) -> Tensor:
        """See `Memory.to_torch`."""
        from burnish.runtime.torch_memory import tensor_of_bits

        return tensor_of_bits(bits(view), view.dtype)


NUMPY = NumpyMemory()


def machine_bytes() -> int:
    """The memory that the machine has."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def numpy_name(dtype: str) -> str:
    """The type by which numpy has the elements of a type, or their bits."""
    return f"uint{8 * BYTES[dtype]}" if dtype in _NOT_NUMPYS else dtype


def bits(view: View) -> NDArray[Any]:
    """A view of memory that numpy owns as an array; of types that numpy lacks, their bits as integers."""
    size = BYTES[view.dtype]
    return np.ndarray(
        view.shape,
        numpy_name(view.dtype),
        buffer=view.owner,
        offset=view.address - _address(view.owner),
        strides=[each * size for each in view.stride],
    )


def floats_of_bits(bits: NDArray[np.uint16]) -> NDArray[np.float32]:
    """The values of bfloat16, which numpy lacks, by their bits."""
    return (bits.astype(np.uint32) << 16).view(np.float32)


def _aligned(make: Any, shape: Sequence[int], dtype: str) -> NDArray[Any]:
    """In memory of `make`, which is one of numpy's functions: zeros by calloc, unlike PyTorch's."""
    size = math.prod(shape) * BYTES[dtype]
    memory: NDArray[np.uint8] = make(size + _ALIGNMENT, np.uint8)
    start = -_address(memory) % _ALIGNMENT
    return memory[start : start + size].view(numpy_name(dtype)).reshape(shape)


def _address(array: NDArray[Any]) -> int:
    found: int = array.__array_interface__["data"][0]
    return found
