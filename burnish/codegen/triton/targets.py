"""What `target` says: which GPUs to compile kernels for."""

from __future__ import annotations

from burnish.ir.errors import UsageError
from burnish.runtime.executor_cuda import this_architecture
from burnish.runtime.target_names import ARCHITECTURES, architectures_named


def architectures_of(target: str) -> tuple[int, ...]:
    """ "cuda:sm_80,sm_90" -> (80, 90); "cuda" -> that of this machine's GPU.

    Raises UsageError for what is none of that, an architecture that is not known, and "cuda" where there is no GPU.
    """
    if target != "cuda":
        return architectures_named(target)
    here = this_architecture()
    if here not in ARCHITECTURES:
        known = ", ".join(f"sm_{each}" for each in ARCHITECTURES)
        raise UsageError(f"this machine's GPU is an sm_{here}, and kernels are compiled for {known}")
    return (here,)
