"""Kernels compiled ahead of time, on a machine that needs no GPU and no driver."""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.backends.nvidia.compiler import get_ptxas
from triton.compiler import ASTSource

from burnish.codegen.triton.spec import KernelSpec
from burnish.codegen.triton.tiles import SHARED_BYTES_OF
from burnish.ir.errors import UnsupportedError, UsageError
from burnish.runtime.kernel_files import CompiledKernel
from burnish.runtime.target_names import ARCHITECTURES


@dataclass(frozen=True)
class Binary:
    """A kernel as machine code, and what a launcher must know of it."""

    name: str  # of the symbol in the cubin
    architecture: int  # 90 for sm_90
    cubin: bytes
    ptx: str
    shared_bytes: int
    num_warps: int
    scratch_bytes: int  # of global memory, a program, which the launch has to give
    ptxas: str  # the version of the assembler: "13.0"
    arguments: tuple[tuple[str, str], ...]  # names and types of what is passed, in order

    @property
    def compiled(self) -> tuple[CompiledKernel, bytes]:
        """What a launcher takes: facts and machine code."""
        facts = CompiledKernel(self.name, self.shared_bytes, self.num_warps, self.scratch_bytes, self.ptxas)
        return facts, self.cubin


def compile_kernel(spec: KernelSpec, architecture: int) -> Binary:
    """`spec` as a cubin for sm_`architecture`.

    Raises UsageError for an architecture that is not known, UnsupportedError where it has too little shared memory or
    Triton's compiler fails.
    """
    if architecture not in ARCHITECTURES:
        known = ", ".join(f"sm_{each}" for each in ARCHITECTURES)
        raise UsageError(f"there is no target sm_{architecture}; known are {known}")
    names = list(spec.function.arg_names)
    signature = {name: spec.arguments.get(name, "constexpr") for name in names}
    constants = {(names.index(name),): value for name, value in spec.constants.items()}
    attributes = {(names.index(name),): [["tt.divisibility", 16]] for name in spec.aligned}
    source = ASTSource(spec.function, signature, constants, attributes)
    options: dict[str, Any] = {
        "num_warps": spec.num_warps,
        "num_stages": spec.num_stages,
        "enable_fp_fusion": True,  # said, because Triton's default is about to change
    }
    try:
        compiled = triton.compile(source, target=GPUTarget("cuda", architecture, 32), options=options)
    except RuntimeError as error:
        if "PassManager::run failed" not in str(error):
            raise
        raise UnsupportedError(
            f"Triton {triton.__version__} fails to compile {spec.name} for an sm_{architecture} with "
            f"{spec.num_warps} warps and {dict(spec.constants)}: what it printed says where"
        ) from error
    metadata = compiled.metadata
    if metadata.shared > SHARED_BYTES_OF[architecture]:
        raise UnsupportedError(
            f"{spec.name} takes {metadata.shared:,} bytes of shared memory, and a program on an sm_{architecture} has "
            f"{SHARED_BYTES_OF[architecture]:,}: its tiles ({dict(spec.constants)}) are too large"
        )
    return Binary(
        name=metadata.name,
        architecture=architecture,
        cubin=compiled.asm["cubin"],
        ptx=compiled.asm["ptx"],
        shared_bytes=metadata.shared,
        num_warps=metadata.num_warps,
        scratch_bytes=metadata.global_scratch_size,
        ptxas=get_ptxas(architecture).version,
        arguments=tuple(spec.arguments.items()),
    )


def compile_all(specs: Iterable[KernelSpec], architecture: int) -> dict[str, Binary]:
    """Each distinct kernel once, several at a time, by its key. Raises as `compile_kernel` does."""
    found = {}
    for key, each in compile_each(specs, architecture).items():
        if isinstance(each, UnsupportedError):
            raise each
        found[key] = each
    return found


def compile_each(specs: Iterable[KernelSpec], architecture: int) -> dict[str, Binary | UnsupportedError]:
    """The same, with the error of a kernel that this architecture or Triton cannot take in its place."""
    distinct = {spec.key: spec for spec in specs}
    with ThreadPoolExecutor() as pool:
        tried = pool.map(lambda spec: _compiled_beside_others(spec, architecture), distinct.values())
        found = dict(zip(distinct, tried, strict=True))
    return {key: found[key] or _compiled(spec, architecture) for key, spec in distinct.items()}


def _compiled(spec: KernelSpec, architecture: int) -> Binary | UnsupportedError:
    try:
        return compile_kernel(spec, architecture)
    except UnsupportedError as error:
        return error


def _compiled_beside_others(spec: KernelSpec, architecture: int) -> Binary | UnsupportedError | None:
    """The kernel; None where Python's parser was disturbed by that of another thread, and it has to be tried alone."""
    try:
        return _compiled(spec, architecture)
    except Exception as error:  # which Triton wraps in its own, once for each function that calls another
        cause: BaseException | None = error
        while cause is not None and "recursion depth mismatch" not in str(cause):
            cause = cause.__cause__ or cause.__context__
        if cause is None:  # not https://github.com/python/cpython/issues/106905
            raise
        return None
