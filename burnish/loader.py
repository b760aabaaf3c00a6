"""`load`: an artifact, by any backend; by that of the compiler, too, where the compiler is installed."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from burnish.ir.errors import UsageError
from burnish.runtime.artifact import Artifact
from burnish.runtime.backends import Accuracy, Backend, Trust
from burnish.runtime.kernel_files import read_plan
from burnish.runtime.model import load as load_by_runtime

if TYPE_CHECKING:
    from burnish.runtime.executor import Executor


def load(
    path: Path | str,
    backend: Backend | None = None,
    threads: int | None = None,
    accuracy: Accuracy | None = None,
    trust: Trust | None = None,
) -> Any:
    """Load an artifact that `save` or `burnish compile` wrote: a `CompiledModel`, of other modules a `CompiledModule`.

    Args:
        path: the folder.
        backend: who executes it: "native" on CPUs, which is our own kernels; "onnxruntime" on CPUs; "cuda" on an NVIDIA
            GPU; "reference" for the graph node by node in PyTorch; "triton-interpret" for the GPU's kernels by Triton's
            interpreter, slowly and on any machine. If None, what the artifact was compiled for.
        threads: how many processors to use; None for all that this process has. (For the reference backend this sets
            PyTorch's threads for the whole process.)
        accuracy: for native kernels: "fast" rounds what is multiplied with weights of integers to 8 bits, in groups of
            32, as others do: prompts are read at twice the speed; "exact" (None) leaves it in floats.
        trust: for native kernels: "native" runs the machine code that the artifact brings, whoever built it; without
            it (None) that runs only where this user built it, and else this installation's own.

    Raises:
        ArtifactError: something in the folder is missing, was changed, or is from a newer version.
        UsageError: there is no such backend, or the artifact was not compiled for it, or it needs a GPU that is not
            here.
    """
    artifact = Artifact.open(path)
    if artifact.manifest.graph is not None:
        from burnish.runtime.load_module import module_of

        for name, given in (("accuracy", accuracy), ("trust", trust)):
            if given is not None:
                raise UsageError(f"{name}= is for native kernels, and {path} has none: leave it out")
        return module_of(artifact, backend, threads)
    return load_by_runtime(artifact, backend, threads, {"triton-interpret": interpreted}, accuracy, trust)


def interpreted(artifact: Artifact) -> Executor:
    """The executor of the backend "triton-interpret"."""
    from burnish.codegen.triton.interpreting import interpret

    interpret()
    from burnish.codegen.triton.interpreted import InterpretedExecutor, generate_kernels
    from burnish.runtime.mapped_weights import weight_tensors

    plan = read_plan(artifact)
    generate_kernels(plan, artifact.program())
    return InterpretedExecutor(plan, weight_tensors(artifact), artifact.tables)
