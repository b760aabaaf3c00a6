"""What can be asked for, by name: mistakes are told before PyTorch is imported, which takes a second or more."""

from __future__ import annotations

import ctypes
import re
import sys
from collections.abc import Iterable
from typing import get_args

from burnish.ir.errors import UsageError
from burnish.ir.similar import did_you_mean
from burnish.runtime.backends import Backend
from burnish.runtime.native.build import check_buildable
from burnish.runtime.native.levels import LEVELS

# Known architectures, and how many multiprocessors a GPU of each has: A100, RTX 3090, RTX 4090, H100, B200, RTX 5090.
MULTIPROCESSORS_OF = {80: 108, 86: 82, 89: 128, 90: 132, 100: 148, 120: 170}
ARCHITECTURES = tuple(MULTIPROCESSORS_OF)
_SPELLED = [f"sm_{each}" for each in ARCHITECTURES]


def check_name(what: str, name: str, known: Iterable[str]) -> None:
    """UsageError if `name` is none of the known; `what` they are."""
    known = list(known)
    if name not in known:
        raise UsageError(f"there is no {what} {name!r}{did_you_mean(name, known)}: there are {', '.join(known)}")


def levels_named(target: str) -> tuple[str, ...]:
    """ "cpu:x86-64-v4,cpu:aarch64" -> ("x86-64-v4", "aarch64"), each once. UsageError for one that is not known."""
    names = dict.fromkeys(each.removeprefix("cpu:") for each in target.split(","))
    for name in names:
        if name not in LEVELS:
            meant = did_you_mean(name, LEVELS)
            raise UsageError(
                f"there is no instruction set {name!r} to compile for{meant}: there are {', '.join(LEVELS)}, as in "
                "target='cpu:x86-64-v3,cpu:aarch64'"
            )
    return tuple(names)


def architectures_named(target: str) -> tuple[int, ...]:
    """ "cuda:sm_80,sm_90" -> (80, 90). UsageError for an architecture that is not known, and for no such text."""
    found = re.fullmatch(r"cuda:(\w+(?:,\w+)*)", target)
    if found is None:
        targets = ("cpu", "cuda", *(f"cpu:{each}" for each in LEVELS), *(f"cuda:{each}" for each in _SPELLED))
        raise UsageError(
            f"there is no target {target!r}{did_you_mean(target, targets)}: there are cpu, cpu:x86-64-v4 (with kernels "
            "for that), cuda (this machine's GPU) and cuda:sm_90"
        )
    for name in found[1].split(","):
        if name not in _SPELLED:
            known = ", ".join(_SPELLED)
            raise UsageError(f"there is no architecture {name!r} to compile for; known are {known}")
    return tuple(sorted({int(name.removeprefix("sm_")) for name in found[1].split(",")}))


def no_gpu(why: str) -> UsageError:
    """That target="cuda" needs one here, for `why`, and what needs none."""
    known = ", ".join(_SPELLED)
    return UsageError(
        f"{why}: target='cuda' compiles for this machine's GPU. For another one name it, target='cuda:sm_90' "
        f"(known are {known}), or leave target out for CPUs"
    )


def check_options(target: str, backend: str | None, quantize: str | None, tiles: object) -> None:
    """UsageError for a name that there is not, and for options that do not fit together."""
    if backend is not None:
        check_name("backend", backend, get_args(Backend))
    if quantize is not None:
        check_name("quantization", quantize, ("int8", "int4", "fp8"))
    if target == "cpu" or target.startswith("cpu:"):
        if tiles is not None:
            raise UsageError(f"{tiles} has tiles for GPUs: give target='cuda', or leave tiles out")
        if backend == "cuda":
            raise UsageError("backend='cuda' needs target='cuda', or target='cuda:sm_90' for the GPU of that name")
        if target != "cpu":
            levels_named(target)
            if backend not in (None, "native"):
                raise _other_backend(target, "native", backend)
        return
    if target != "cuda":
        architectures_named(target)
    if backend not in (None, "cuda"):
        raise _other_backend(target, "cuda", backend)


def _other_backend(target: str, runs: Backend, backend: str) -> UsageError:
    what = f"target={target!r} is executed by the backend {runs}, not by {backend}"
    return UsageError(f"{what}: leave one of them out")


def check_means(target: str) -> None:
    """What one sees without PyTorch: UsageError where "cuda" can be none of this machine.

    NativeBuildError where native kernels are asked for, and there is no compiler for them.
    """
    if target.startswith("cpu:"):
        check_buildable(levels_named(target))
    if target == "cuda" and not _has_driver():
        raise no_gpu("there is no driver for NVIDIA GPUs here")


def _has_driver() -> bool:
    name = {"linux": "libcuda.so.1", "win32": "nvcuda.dll"}.get(sys.platform)
    if name is None:
        return False
    try:
        ctypes.CDLL(name)
    except OSError:
        return False
    return True
