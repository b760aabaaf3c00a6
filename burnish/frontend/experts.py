"""Mixture-of-experts layers of transformers as two `burnish::moe_linear` around the gate.

transformers lets a function stand in for the loop over experts, which torch.export cannot trace: which experts run
depends on the data.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn
from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS

from burnish.ir.ops import burnish_ops

IMPLEMENTATION = "burnish"


@contextmanager
def registered() -> Iterator[None]:
    """transformers knows this implementation for a while."""
    ALL_EXPERTS_FUNCTIONS[IMPLEMENTATION] = experts
    try:
        yield
    finally:
        del ALL_EXPERTS_FUNCTIONS[IMPLEMENTATION]


def experts(module: Any, hidden_states: Tensor, top_k_index: Tensor, top_k_weights: Tensor) -> Tensor:
    """sum_k weight[n, k] * down(gate(up(x[n]))) by the experts index[n, k].

    hidden_states[N, hidden], top_k_index[N, K] (expert ids), top_k_weights[N, K] -> [N, hidden]. `module` is as
    transformers' `use_experts_implementation` describes it.
    """
    x = hidden_states.unsqueeze(1)  # [N, 1, hidden]
    x = _product(module, x, top_k_index, "gate_up_proj" if module.has_gate else "up_proj")
    x = module._apply_gate(x) if module.has_gate else module.act_fn(x)
    x = _product(module, x, top_k_index, "down_proj")
    if getattr(module, "has_post_expert_norm", False):  # transformers 5.17 does not know of it yet
        x = module.post_expert_norm(x)
    mixed: Tensor = (x * top_k_weights.unsqueeze(-1)).sum(dim=1)
    return mixed.to(hidden_states.dtype)


def _product(module: nn.Module, x: Tensor, index: Tensor, name: str) -> Tensor:
    """x[N, K|1, in] times each chosen expert's matrix: [N, K, out]."""
    weight, bias = getattr(module, name), getattr(module, f"{name}_bias") if module.has_bias else None
    if module.is_transposed:  # [experts, in, out]
        weight = weight.transpose(1, 2)
    product: Tensor = burnish_ops.moe_linear(x, weight, bias, index)
    return product
