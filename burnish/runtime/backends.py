"""What executes an artifact."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from burnish.ir.errors import UsageError
from burnish.runtime.artifact import MODEL_FILE, Artifact
from burnish.runtime.kernel_files import PLAN_FILE, architectures, read_plan

if TYPE_CHECKING:  # each imports what it computes by
    from burnish.runtime.executor import Executor

Backend = Literal["onnxruntime", "native", "reference", "cuda", "triton-interpret"]
Accuracy = Literal["exact", "fast"]
Trust = Literal["native"]
_RUNS: dict[str, tuple[str, str]] = {
    "onnxruntime": ("onnxruntime", MODEL_FILE),
    "native": ("native", PLAN_FILE),
    "cuda": ("triton", PLAN_FILE),
    "triton-interpret": ("triton", PLAN_FILE),
}
"""What each backend runs: artifacts for which target, by which of their files. The reference runs all of them."""


def executor_of(
    artifact: Artifact, backend: Backend, threads: int | None, accuracy: Accuracy | None, trust: Trust | None
) -> Executor:
    """The executor of a backend, which alone imports what it needs: native kernels need no PyTorch."""
    if backend == "native":
        from burnish.runtime.executor_native import NativeExecutor
        from burnish.runtime.mapped_bytes import weight_bytes
        from burnish.runtime.native.carried import library_for
        from burnish.runtime.row_tables import row_tables

        plan, weights = read_plan(artifact), weight_bytes(artifact)
        library = library_for(artifact, trust == "native")
        return NativeExecutor(plan, weights, library, row_tables(artifact, weights), threads, accuracy)
    if backend == "triton-interpret":
        raise UsageError("the kernels' sources are in the compiler, which the runtime does without: use burnish.load")
    from burnish.runtime.torch_executors import cuda_executor, onnx_executor, reference_executor

    if backend == "reference":
        return reference_executor(artifact, threads)
    return cuda_executor(artifact) if backend == "cuda" else onnx_executor(artifact, threads)


def runs(backend: Backend, artifact: Artifact) -> bool:
    """Whether it can run an artifact."""
    target, file = _RUNS.get(backend, ("", ""))
    return not target or (artifact.manifest.target == target and artifact.has(file))


def default_backend(artifact: Artifact) -> Backend:
    """What an artifact was compiled for."""
    target = artifact.manifest.target
    if target == "triton":
        return "cuda" if architectures(artifact) else "triton-interpret"
    return target
