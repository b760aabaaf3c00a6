"""Memory of a GPU or of the machine: whether there is enough, and what to say where there is not."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from burnish.ir.errors import UsageError
from burnish.runtime.memory import machine_bytes


@contextmanager
def room_for(what: str, size: int, device: torch.device | None) -> Iterator[None]:
    """For allocations of `size` bytes on `device`, the CPU if None.

    Raises UsageError, which says what they are for, if they fail. Linux gives out memory that it does not have: more
    than the whole machine's fails here, and not as it is written.
    """
    if (device is None or device.type != "cuda") and size > machine_bytes():
        raise UsageError(_message(what, size, device))
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError) as error:
        raise UsageError(_message(what, size, device)) from error
    except RuntimeError as error:
        if "can't allocate memory" not in str(error):  # as PyTorch says it on CPUs
            raise
        raise UsageError(_message(what, size, device)) from error


def check_room(what: str, size: int, device: torch.device) -> None:
    """Raise UsageError if `size` bytes are more than `device`, a GPU, has."""
    if size > free_bytes(device):
        raise UsageError(_message(what, size, device))


def free_bytes(device: torch.device) -> int:
    """What a GPU has free, with what PyTorch took from it and does not use."""
    free, _ = torch.cuda.mem_get_info(device)
    return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)


def _message(what: str, size: int, device: torch.device | None) -> str:
    taken, less = f"{what} take {size / 1e9:.2f} GB", "compile with fewer bits, ask for fewer rows or tokens"
    if device is None or device.type != "cuda":
        return f"{taken}, and the machine has less: {less}"
    free, whole = free_bytes(device) / 1e9, torch.cuda.mem_get_info(device)[1] / 1e9
    return (
        f"{taken}, and {free:.2f} of the {whole:.2f} GB of the GPU are free: {less}, or close what else is on the GPU"
    )
