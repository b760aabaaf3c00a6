"""The executors that need PyTorch, for an artifact."""

from __future__ import annotations

import torch

from burnish.runtime.artifact import MODEL_FILE, Artifact
from burnish.runtime.executor import Executor
from burnish.runtime.executor_cuda import CudaExecutor
from burnish.runtime.executor_onnx import OnnxExecutor
from burnish.runtime.executor_reference import ReferenceExecutor
from burnish.runtime.kernel_files import architectures, read_kernels, read_plan
from burnish.runtime.mapped_weights import weight_tensors


def reference_executor(artifact: Artifact, threads: int | None) -> Executor:
    """The graph node by node, on that many threads of PyTorch's."""
    if threads is not None:
        torch.set_num_threads(threads)
    return ReferenceExecutor(artifact.program())


def cuda_executor(artifact: Artifact) -> Executor:
    """The kernels for this machine's GPU."""
    kernels = {each: read_kernels(artifact, each) for each in architectures(artifact)}
    return CudaExecutor(read_plan(artifact), kernels, weight_tensors(artifact), artifact.tables)


def onnx_executor(artifact: Artifact, threads: int | None) -> Executor:
    """ONNX Runtime on the CPU."""
    return OnnxExecutor(artifact.file(MODEL_FILE), artifact.states, artifact.signature, threads, artifact.tables)
