"""Which host function runs an op by the native library's kernels, and the sizes that are planned apart."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from burnish.codegen.native.attention import attention, coded_attention
from burnish.codegen.native.choose import argmax, embedding, lookup, top_scores
from burnish.codegen.native.codes import code_scales, from_codes, to_codes
from burnish.codegen.native.convolution import conv1d
from burnish.codegen.native.copies import cat, clone, contiguous, copy, index_select, positions, zeros_like
from burnish.codegen.native.elementwise import FORMULAS, pointwise
from burnish.codegen.native.gathers import cumsum, gather, scatter_source, scatter_value
from burnish.codegen.native.mixture import moe_linear, topk
from burnish.codegen.native.operands import from_panels
from burnish.codegen.native.products import attention_projection, fused_linear
from burnish.codegen.native.rows import ROWS
from burnish.codegen.native.state_writes import cache_write, ring_positions, ring_write
from burnish.codegen.plan.launches import HostFunctions
from burnish.codegen.plan.regimes import Regime
from burnish.ir.code_ops import code_ops
from burnish.ir.fused_ops import fused_ops
from burnish.ir.ops import burnish_ops
from burnish.ir.panels import panel_ops

aten = torch.ops.aten


KERNELS: dict[Any, Callable[..., Any]] = {
    **{op: pointwise(op) for op in FORMULAS},  # the kernels below are written for theirs
    **ROWS,
    aten.argmax.default: argmax,
    aten.cat.default: cat,
    aten.clone.default: clone,
    aten.contiguous.default: contiguous,
    aten.index_select.default: index_select,
    aten.zeros_like.default: zeros_like,
    aten.conv1d.default: conv1d,
    aten.cumsum.default: cumsum,
    aten.embedding.default: embedding,
    aten.gather.default: gather,
    aten.scatter.src: scatter_source,
    aten.scatter.value: scatter_value,
    aten.topk.default: topk,
    burnish_ops.attention.default: attention,
    burnish_ops.cache_write.default: cache_write,
    burnish_ops.lookup.default: lookup,
    burnish_ops.positions.default: positions,
    burnish_ops.moe_linear.default: moe_linear,
    burnish_ops.ring_positions.default: ring_positions,
    burnish_ops.ring_write.default: ring_write,
    code_ops.code_scales.default: code_scales,
    code_ops.coded_attention.default: coded_attention,
    code_ops.from_codes.default: from_codes,
    code_ops.to_codes.default: to_codes,
    fused_ops.attention_projection.default: attention_projection,
    fused_ops.fused_linear.default: fused_linear,
    fused_ops.top_scores.default: top_scores,
    panel_ops.from_panels.default: from_panels,
}
FUNCTIONS = HostFunctions(KERNELS, copy)

# Few tokens share their chunks of the cache out among threads; of many, each thread has its own.
REGIMES = (
    Regime("a token a row", (1, None, 5), 1, 1, {"batch": 1, "sequence": 1, "kept": 1}),
    Regime("few tokens", (1, None, 5), (1, 8, 7), (1, None, 3), {"batch": 1, "sequence": 4, "kept": 4}),
    Regime("a prompt", (1, None, 5), (1, None, 103), (1, None, 7), {"batch": 1, "sequence": 512, "kept": 1}),
)
