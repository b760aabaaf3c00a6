"""The launch plan of an artifact and its kernels: plan.json, kernels/sm_90.json and kernels/sm_90/KEY.cubin.

native/ has libraries of native kernels by instruction set, where such were asked for (burnish.runtime.native.carried).
kernels/source/ has the Triton source that they were compiled from, and kernels/tiles.json the tiles that `burnish tune`
found for some, to read.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import msgspec

from burnish.ir.errors import ArtifactError
from burnish.runtime.plan import VERSION, Plan

if TYPE_CHECKING:
    from burnish.runtime.artifact import Artifact

PLAN_FILE = "plan.json"
_KEY = re.compile(r"[A-Za-z0-9_]+-[0-9a-f]{16}")


class _Stored(msgspec.Struct):
    version: int = 1


class _StoredPlan(msgspec.Struct, forbid_unknown_fields=True):
    version: int
    plan: Plan


class CompiledKernel(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a launch must know of a kernel for one architecture."""

    symbol: str  # its name in the cubin
    shared_bytes: int  # of shared memory
    num_warps: int
    scratch_bytes: int  # of global memory, a program: for tensor descriptors, which lie at multiples of 128
    ptxas: str  # the version of CUDA's assembler that made it, which an older driver may not take: "13.0"


@dataclass(frozen=True)
class PlannedCode:
    """A launch plan, and its kernels by architecture (90 for sm_90) and key."""

    plan: Plan
    kernels: Mapping[int, Mapping[str, tuple[CompiledKernel, bytes]]] = field(default_factory=dict)
    sources: Mapping[str, str] = field(default_factory=dict)  # by file name
    tiles: bytes | None = None  # the file of those that `burnish tune` found and that were used
    libraries: Mapping[str, bytes] = field(default_factory=dict)  # of native kernels, by file name


def files_of(code: PlannedCode) -> Iterator[tuple[str, bytes]]:
    """The files by name, as an artifact has them."""
    yield PLAN_FILE, msgspec.json.encode({"version": VERSION, "plan": code.plan})
    for architecture, kernels in code.kernels.items():
        facts = {key: kernel for key, (kernel, _) in kernels.items()}
        yield f"kernels/sm_{architecture}.json", msgspec.json.format(msgspec.json.encode(facts), indent=1)
        for key, (_, cubin) in kernels.items():
            yield f"kernels/sm_{architecture}/{key}.cubin", cubin
    if code.tiles is not None:
        yield "kernels/tiles.json", code.tiles
    for name, library in code.libraries.items():
        yield f"native/{name}", library
    for name, text in code.sources.items():
        yield f"kernels/source/{name}", text.encode()


def read_plan(artifact: Artifact) -> Plan:
    """The launch plan. Raises ArtifactError if it is none, or one of another burnish."""
    stored = artifact.decoded(PLAN_FILE, _Stored)
    if stored.version != VERSION:
        raise ArtifactError(
            f"{PLAN_FILE} in {artifact.path} has version {stored.version}, and this burnish reads version {VERSION}: "
            + ("install a newer burnish" if stored.version > VERSION else "compile the model again")
        )
    plan = artifact.decoded(PLAN_FILE, _StoredPlan).plan
    if any("logits" not in variant.results for variant in plan.variants):
        raise ArtifactError(f"{PLAN_FILE} in {artifact.path} has a variant without logits: compile the model again")
    wrong = [key for key in plan.kernels if not _KEY.fullmatch(key)]
    if wrong:
        raise ArtifactError(f"{PLAN_FILE} in {artifact.path} has a kernel with the key {wrong[0]!r}")
    return plan


def architectures(artifact: Artifact) -> list[int]:
    """The architectures that the artifact has kernels for."""
    names = (re.fullmatch(r"kernels/sm_(\d+)\.json", name) for name in artifact.manifest.files)
    return sorted(int(found[1]) for found in names if found)


def read_kernels(artifact: Artifact, architecture: int) -> dict[str, tuple[CompiledKernel, bytes]]:
    """The kernels for one architecture by key."""
    facts = artifact.decoded(f"kernels/sm_{architecture}.json", dict[str, CompiledKernel])
    return {
        key: (kernel, artifact.file(f"kernels/sm_{architecture}/{key}.cubin").read_bytes())
        for key, kernel in facts.items()
    }


def architecture_for(device: int, available: list[int]) -> int | None:
    """Of the architectures that kernels were compiled for, the one that runs on `device`, best first; None if none.

    Up to sm_89 machine code runs on later devices of its generation; from sm_90 on Triton uses instructions that no
    other device has.
    """
    fits = [each for each in available if each == device or (each // 10 == device // 10 == 8 and each <= device)]
    return max(fits, default=None)
