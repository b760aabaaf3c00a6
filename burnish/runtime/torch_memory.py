"""Memory by PyTorch, of the CPU or a GPU; and what numpy and PyTorch have in common, in the same memory."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from burnish.ir.dtypes import BYTES, name_of
from burnish.ir.torch_types import torch_dtype
from burnish.runtime.device_memory import room_for
from burnish.runtime.executor import Step
from burnish.runtime.memory import NUMPY, View, floats_of_bits


class TorchMemory:
    """PyTorch's tensors on a device."""

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def room(self, what: str, size: int) -> AbstractContextManager[None]:
        """See `Memory.room`."""
        return room_for(what, size, self.device)

    def zeros(self, shape: Sequence[int], dtype: str) -> torch.Tensor:
        """See `Memory.zeros`."""
        if self.device.type != "cpu":
            return torch.zeros(list(shape), dtype=torch_dtype(dtype), device=self.device)
        return tensor_of_bits(NUMPY.zeros(shape, dtype), dtype)

    def empty(self, shape: Sequence[int], dtype: str) -> torch.Tensor:
        """See `Memory.empty`."""
        return torch.empty(list(shape), dtype=torch_dtype(dtype), device=self.device)

    def copy(self, tensor: torch.Tensor) -> torch.Tensor:
        """See `Memory.copy`."""
        return tensor.clone()

    def take(self, tensor: torch.Tensor) -> torch.Tensor:
        """See `Memory.take`."""
        return tensor.to(self.device)

    def address(self, tensor: torch.Tensor) -> int:
        """See `Memory.address`."""
        return tensor.data_ptr()

    def view(
        self, tensor: torch.Tensor, dtype: str, shape: Sequence[int], stride: Sequence[int], offset: int
    ) -> torch.Tensor:
        """See `Memory.view`: PyTorch refuses what is outside of the memory."""
        kind = torch_dtype(dtype)
        base = tensor if tensor.dtype == kind else tensor.view(kind)
        return base.as_strided(list(shape), list(stride), base.storage_offset() + offset)

    def to_torch(self, view: torch.Tensor) -> torch.Tensor:
        """See `Memory.to_torch`."""
        return view


ON_CPU = TorchMemory(torch.device("cpu"))


def tensor_of_bits(array: NDArray[Any], dtype: str) -> torch.Tensor:
    """The tensor whose elements an array has, or their bits."""
    if name_of(array.dtype) != dtype:
        array = array.view(f"int{8 * BYTES[dtype]}")
    return torch.from_numpy(array).view(torch_dtype(dtype))


def tensor_of(values: NDArray[Any] | torch.Tensor) -> torch.Tensor:
    """A tensor in the memory of `values`."""
    return values if isinstance(values, torch.Tensor) else torch.from_numpy(values)


def array_of(tensor: torch.Tensor) -> NDArray[Any]:
    """An array in the memory of a tensor of the CPU; of bfloat16, which numpy lacks, its values as float32."""
    if tensor.dtype == torch.bfloat16:
        return floats_of_bits(tensor.view(torch.int16).numpy().view(np.uint16))
    found: NDArray[Any] = tensor.numpy()
    return found


def view_of(tensor: torch.Tensor) -> View:
    """A tensor of the CPU as native kernels take it."""
    return View(tensor.data_ptr(), name_of(tensor.dtype), tuple(tensor.shape), tensor.stride(), tensor)


def inputs_of(step: Step) -> dict[str, torch.Tensor]:
    """The inputs of a step by name."""
    return {name: tensor_of(values) for name, values in step.inputs.items()}
