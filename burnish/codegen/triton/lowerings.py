"""Which host function runs an op, the kernels' own or the one for groups, and the sizes that are planned apart."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from burnish.codegen.plan.launches import HostFunctions
from burnish.codegen.plan.regimes import Regime
from burnish.codegen.triton.fused_elementwise import copy, fused_elementwise, single
from burnish.codegen.triton.kernels.argmax import argmax
from burnish.codegen.triton.kernels.attention_projection import attention_projection
from burnish.codegen.triton.kernels.cache_write import cache_write, ring_write
from burnish.codegen.triton.kernels.conv1d import conv1d
from burnish.codegen.triton.kernels.cumsum import cumsum
from burnish.codegen.triton.kernels.decode_attention import decode_attention
from burnish.codegen.triton.kernels.flash_attention import flash_attention
from burnish.codegen.triton.kernels.fused_linear import fused_linear
from burnish.codegen.triton.kernels.gather import gather
from burnish.codegen.triton.kernels.moe_linear import moe_linear
from burnish.codegen.triton.kernels.ring_positions import ring_positions
from burnish.codegen.triton.kernels.scatter import scatter_source, scatter_value
from burnish.codegen.triton.kernels.top_scores import top_scores
from burnish.codegen.triton.kernels.topk import topk
from burnish.codegen.triton.kernels.zeros_like import zeros_like
from burnish.ir.fused_group import MEMBERS
from burnish.ir.fused_ops import fused_ops
from burnish.ir.ops import burnish_ops

aten = torch.ops.aten

_FEW_TOKENS = 16  # up to here a step is bound by reading weights and caches, not by arithmetic


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
    aten.argmax.default: argmax,
    aten.conv1d.default: conv1d,
    aten.cumsum.default: cumsum,
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
    fused_ops.top_scores.default: top_scores,
}
FUNCTIONS = HostFunctions(KERNELS, copy)

# Tiles are chosen for the example of a regime, and are right for all of its sizes. A short prompt is one block of rows.
REGIMES = (
    Regime("one token", 1, 1, 1, {"batch": 1, "sequence": 1, "kept": 1}),
    Regime("a token for each of few rows", (2, 16, 5), 1, 1, {"batch": 8, "sequence": 1, "kept": 1}),
    Regime("a token for each of many rows", (17, None, 19), 1, 1, {"batch": 32, "sequence": 1, "kept": 1}),
    Regime("a short prompt", (1, 32, 3), (2, 64, 19), (1, None, 7), {"batch": 1, "sequence": 32, "kept": 1}, 64),
    Regime("a prompt", (1, None, 5), (2, None, 103), (1, None, 7), {"batch": 1, "sequence": 512, "kept": 1}),
)
