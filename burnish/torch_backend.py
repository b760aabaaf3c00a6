"""`torch.compile(module, backend="burnish")`: what no other library has a kernel for, fused, for any module.

Chains of elementwise operations, reductions and gathers become generated Triton kernels; products, convolutions and the
like stay PyTorch's. Nothing is made incremental here: that is `burnish.compile`.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, fx
from torch._dynamo.backends.common import aot_autograd

from burnish.codegen.triton.fused_elementwise import fused_elementwise
from burnish.ir.errors import BurnishError, UnsupportedError
from burnish.ir.fused_ops import fused_ops
from burnish.ir.program import Program
from burnish.ir.signature import Signature
from burnish.ir.weights import Weights
from burnish.passes.base import Log
from burnish.passes.fuse.elementwise import FuseElementwise

_log = logging.getLogger(__name__)
_NO_SIGNATURE = Signature(vocabulary=1, max_length=1, token_limit=1)


@dataclass
class _AnyGraph(Program):
    """A graph that is no language model: its first input may be a size."""

    @property
    def tokens(self) -> fx.Node:
        return next(node for node in self.placeholders if isinstance(node.meta.get("val"), Tensor))


def compile_graph(graph: fx.GraphModule, inputs: Sequence[Any]) -> Callable[..., Any]:
    """For `torch.compile`: the graph with its groups as kernels, forward and, in training, backward.

    What falls back to PyTorch is told to the logger "burnish.torch_backend", with the reason.
    """
    backend = aot_autograd(fw_compiler=_fused, bw_compiler=_fused, inference_compiler=_fused)
    compiled: Callable[..., Any] = backend(graph, inputs)
    return compiled


def _fused(graph: fx.GraphModule, inputs: Sequence[Any]) -> Callable[..., Any]:
    """An ATen graph with each group of elementwise operations as one launch."""
    obstacle = _obstacle(graph)
    if obstacle is None:
        obstacle = _fuse(graph)
    if obstacle is not None:
        _log.warning("a graph of %d operations runs by PyTorch: %s", _operations(graph), obstacle)
    from functorch.compile import make_boxed_func

    boxed: Callable[..., Any] = make_boxed_func(graph.forward)
    return boxed


def _obstacle(graph: fx.GraphModule) -> str | None:
    """Why kernels cannot run on what the graph is given; None if they can."""
    values = [node.meta.get("val") for node in graph.graph.nodes]
    devices = {value.device.type for value in values if isinstance(value, Tensor)}
    if os.environ.get("TRITON_INTERPRET") == "1":
        return None if devices == {"cpu"} else "Triton's interpreter takes tensors on the CPU"
    return None if devices == {"cuda"} else f"its tensors are on {', '.join(sorted(devices))}, and kernels are for cuda"


def _fuse(graph: fx.GraphModule) -> str | None:
    """Fuse in place; why nothing was, where nothing was."""
    program = _AnyGraph(graph.graph, Weights(), _NO_SIGNATURE)
    before = _operations(graph)
    log = Log()
    try:
        FuseElementwise().run(program, log)
    except BurnishError as error:  # an op that the pass cannot type, for one: PyTorch runs what it made
        return str(error)
    groups = [node for node in graph.graph.nodes if node.target is fused_ops.fused_elementwise.default]
    for node in groups:
        node.target = partial(_run_group, _Told(node.name))
        node.target.__name__ = "fused_elementwise"
        node.target.__module__ = __name__
    graph.graph.lint()
    graph.recompile()
    for entry in log.rewrites:
        _log.info("%s: %s", entry.node, entry.text)
    for entry in log.refusals:
        _log.info("%s: %s", entry.node, entry.text)
    _log.info("%d operations became %d, of which %d kernels of groups", before, _operations(graph), len(groups))
    return None


@dataclass
class _Told:
    """A group, and whether it was told that it has no kernel."""

    name: str
    done: bool = False


def _run_group(told: _Told, inputs: Sequence[Tensor], sizes: Sequence[int], *, body: str) -> list[Tensor]:
    try:
        return fused_elementwise(inputs, sizes, body=body)
    except UnsupportedError as reason:
        if not told.done:
            told.done = True
            _log.warning("the group %s runs by PyTorch: %s", told.name, reason)
        results: list[Tensor] = torch.ops.burnish.fused_elementwise(inputs, sizes, body=body)
        return results


def _operations(graph: fx.GraphModule) -> int:
    return sum(node.op == "call_function" for node in graph.graph.nodes)
