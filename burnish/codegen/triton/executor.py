"""A fused step program, kernel by kernel: by Triton's interpreter where there is no GPU, by its JIT where there is.

What has no kernel runs as its ATen reference, and is reported with the reason.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, fx

from burnish.codegen.triton.fused_elementwise import fused_elementwise, single
from burnish.codegen.triton.kernels.attention_projection import attention_projection
from burnish.codegen.triton.kernels.cache_write import cache_write, ring_write
from burnish.codegen.triton.kernels.decode_attention import decode_attention
from burnish.codegen.triton.kernels.flash_attention import flash_attention
from burnish.codegen.triton.kernels.fused_linear import fused_linear
from burnish.codegen.triton.kernels.gather import gather
from burnish.codegen.triton.kernels.moe_linear import moe_linear
from burnish.codegen.triton.kernels.ring_positions import ring_positions
from burnish.codegen.triton.kernels.scatter import scatter_source, scatter_value
from burnish.codegen.triton.kernels.topk import topk
from burnish.codegen.triton.kernels.zeros_like import zeros_like
from burnish.ir.cost import CostCounter
from burnish.ir.errors import UnsupportedError
from burnish.ir.fused_group import MEMBERS
from burnish.ir.fused_ops import fused_ops
from burnish.ir.interpreter import run
from burnish.ir.ops import burnish_ops
from burnish.ir.program import Program

aten = torch.ops.aten

_FEW_TOKENS = 16  # up to here a step is bound by reading weights and caches, not by arithmetic


class TritonExecutor:
    """Runs a program over kernels; `fallbacks` says which operations had none, by node, and why."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self.fallbacks: dict[str, str] = {}
        self.kernels: dict[str, int] = {}  # launches by the kernel's name
        self._cost = CostCounter(program)

    def run(self, inputs: Sequence[Tensor]) -> tuple[Any, ...]:
        """The outputs, one input a placeholder in order."""
        return run(self.program, inputs, call=self._call)

    def _call(self, node: fx.Node, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        kernel = KERNELS.get(node.target)
        if kernel is not None:
            try:
                result = kernel(*args, **kwargs)
            except UnsupportedError as reason:
                self.fallbacks[node.name] = str(reason)
            else:
                self.kernels[kernel.__name__] = self.kernels.get(kernel.__name__, 0) + 1
                return result
        elif self._cost.cost(node).launches:
            self.fallbacks[node.name] = f"there is no kernel for {node.target}"
        assert callable(node.target)
        return node.target(*args, **kwargs)


def attention(query: Tensor, key: Tensor, value: Tensor, *rest: Any, **options: Any) -> Tensor:
    """The kernel for few tokens, or for many."""
    few = query.shape[2] <= _FEW_TOKENS
    return (decode_attention if few else flash_attention)(query, key, value, *rest, **options)


_select = single(aten.index_select.default)


def index_select(x: Tensor, dim: int, index: Tensor) -> Tensor:
    """As `torch.index_select`; of one token, the one is what it is, and nothing is launched."""
    alone = x.shape[dim] == 1 and index.shape[0] == 1
    return x if alone else _select(x, dim, index)


KERNELS: dict[Any, Callable[..., Any]] = {
    **{op: single(op) for op in MEMBERS},  # what is in no group; the kernels below are written for theirs
    aten.gather.default: gather,
    aten.index_select.default: index_select,
    aten.scatter.src: scatter_source,
    aten.scatter.value: scatter_value,
    aten.topk.default: topk,
    aten.zeros_like.default: zeros_like,
    burnish_ops.attention.default: attention,
    burnish_ops.cache_write.default: cache_write,
    burnish_ops.moe_linear.default: moe_linear,
    burnish_ops.ring_write.default: ring_write,
    burnish_ops.ring_positions.default: ring_positions,
    fused_ops.attention_projection.default: attention_projection,
    fused_ops.fused_elementwise.default: fused_elementwise,
    fused_ops.fused_linear.default: fused_linear,
}
