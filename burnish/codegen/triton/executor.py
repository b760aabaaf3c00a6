"""A fused step program, kernel by kernel: by Triton's interpreter where there is no GPU, by its JIT where there is.

What has no kernel runs as its ATen reference, and is reported with the reason.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, fx

from burnish.codegen.triton.fused_elementwise import fused_elementwise
from burnish.codegen.triton.kernels.decode_attention import decode_attention
from burnish.codegen.triton.kernels.flash_attention import flash_attention
from burnish.codegen.triton.kernels.fused_linear import fused_linear
from burnish.codegen.triton.kernels.rms_norm import rms_norm
from burnish.ir.cost import CostCounter
from burnish.ir.errors import UnsupportedError
from burnish.ir.fused_ops import fused_ops, with_heads
from burnish.ir.interpreter import run
from burnish.ir.ops import burnish_ops
from burnish.ir.program import Program

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


def attention_projection(
    x: Tensor,
    weight: Tensor,
    key_state: Tensor,
    value_state: Tensor,
    position: Tensor,
    bias: Tensor | None = None,
    norm_weight: Tensor | None = None,
    norm_bias: Tensor | None = None,
    *rest: Tensor | None,
    norm: str = "none",
    eps: float = 0.0,
    **options: Any,
) -> tuple[Tensor, Tensor, Tensor]:
    """The product by its kernel; heads, rotary embedding and writes by their references, for want of one kernel."""
    y = fused_linear(x, weight, bias, norm_weight, norm_bias, norm=norm, eps=eps)
    return with_heads(y, key_state, value_state, position, *rest, **options)


KERNELS: dict[Any, Callable[..., Any]] = {
    burnish_ops.attention.default: attention,
    burnish_ops.rms_norm.default: rms_norm,
    fused_ops.attention_projection.default: attention_projection,
    fused_ops.fused_elementwise.default: fused_elementwise,
    fused_ops.fused_linear.default: fused_linear,
}
