"""Memory of a GPU: whether there is enough, and what to say where there is not."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from burnish.ir.errors import UsageError


@contextmanager
def room_for(what: str, size: int, device: torch.device | None) -> Iterator[None]:
    """For allocations of `size` bytes on `device`. Raises UsageError, which says what they are for, if they fail."""
    try:
        yield
    except torch.OutOfMemoryError as error:
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
    here = "there is less"
    if device is not None and device.type == "cuda":
        whole = torch.cuda.mem_get_info(device)[1]
        here = f"{free_bytes(device) / 1e9:.2f} of the {whole / 1e9:.2f} GB of the GPU are free"
    return (
        f"{what} take {size / 1e9:.2f} GB, and {here}: compile with fewer bits, ask for fewer rows or tokens, or close "
        "what else is on the GPU"
    )
