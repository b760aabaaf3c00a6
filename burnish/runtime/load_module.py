"""Loading of artifacts that are no language models'."""

from __future__ import annotations

from pathlib import Path

from burnish.ir.errors import UsageError
from burnish.runtime.artifact import MODEL_FILE, Artifact
from burnish.runtime.backends import Backend
from burnish.runtime.compiled_module import CompiledModule, GraphExecutor


def load_module(path: Path | str, backend: Backend | None = None, threads: int | None = None) -> CompiledModule:
    """The compiled module in a folder. For the arguments and errors see `burnish.load`."""
    artifact = Artifact.open(path)
    return module_of(artifact, backend, threads)


def module_of(artifact: Artifact, backend: Backend | None, threads: int | None) -> CompiledModule:
    """The compiled module of an artifact that is a graph's, with every byte compared with its checksum."""
    from burnish.runtime.graph_executors import OnnxGraphExecutor, ReferenceGraphExecutor

    artifact.verify(threads=threads)
    chosen: Backend = backend or ("onnxruntime" if artifact.has(MODEL_FILE) else "reference")
    assert artifact.manifest.graph is not None
    executor: GraphExecutor
    if chosen == "reference":
        executor = ReferenceGraphExecutor(artifact.program())
    elif chosen == "onnxruntime" and artifact.has(MODEL_FILE):
        executor = OnnxGraphExecutor(artifact.file(MODEL_FILE), artifact.manifest.graph, threads)
    else:
        raise UsageError(
            f"{artifact.path} was compiled for {artifact.manifest.target} and cannot run by {chosen}: load it without "
            "backend="
        )
    return CompiledModule(artifact, executor, chosen)
