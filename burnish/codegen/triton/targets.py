"""What `target` says: which GPUs to compile kernels for."""

from __future__ import annotations

import re

from burnish.codegen.triton.compile import ARCHITECTURES
from burnish.ir.errors import UsageError
from burnish.runtime.executor_cuda import this_architecture


def architectures_of(target: str) -> tuple[int, ...]:
    """ "cuda:sm_80,sm_90" -> (80, 90); "cuda" -> that of this machine's GPU.

    Raises UsageError for what is none of that, an architecture that is not known, and "cuda" where there is no GPU.
    """
    known = ", ".join(f"sm_{each}" for each in ARCHITECTURES)
    if target == "cuda":
        here = this_architecture()
        if here not in ARCHITECTURES:
            raise UsageError(f"this machine's GPU is an sm_{here}, and kernels are compiled for {known}")
        return (here,)
    found = re.fullmatch(r"cuda:(\w+(?:,\w+)*)", target)
    if found is None:
        raise UsageError(f"there is no target {target!r}: there are cpu, cuda (this machine's GPU) and cuda:sm_90")
    names = found[1].split(",")
    for name in names:
        if name not in known.split(", "):
            raise UsageError(f"there is no architecture {name!r} to compile for; known are {known}")
    return tuple(sorted({int(name.removeprefix("sm_")) for name in names}))
