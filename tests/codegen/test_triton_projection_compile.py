"""Projections of an attention compiled for GPUs that are not here, at the sizes of real models."""

from __future__ import annotations

import re

import pytest
import torch

from burnish.codegen.triton.compile import compile_kernel
from burnish.codegen.triton.kernels.attention_projection import attention_projection_spec
from burnish.codegen.triton.tiles import projection_tiles
from tests.codegen.machine_code import disassembly, spill_bytes

MODELS = {
    "SmolLM2-135M": (576, 9, 3, 64, False),
    "Llama-3-8B": (4096, 32, 8, 128, False),
    "Qwen3-8B": (4096, 32, 8, 128, True),
}


@pytest.mark.parametrize("architecture", [80, 90, 100])
@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("rows", [1, 8, 512])
def test_machine_code(rows: int, model: str, architecture: int) -> None:
    size_k, heads, kv_heads, size, normed = MODELS[model]
    names = ["x", "weight", "norm_weight", "cos", "sin", "query", "key", "value"]
    pointers: dict[str, torch.dtype | None] = dict.fromkeys(names, torch.bfloat16)
    pointers["position"] = torch.int64
    if normed:
        pointers |= {"query_norm": torch.bfloat16, "key_norm": torch.bfloat16}
    spec = attention_projection_spec(
        pointers,
        size_k,
        projection_tiles(rows, size_k, size, whole=normed),
        heads=heads,
        kv_heads=kv_heads,
        head_size=size,
        norm="rms",
        turned=size,
    )
    binary = compile_kernel(spec, architecture)
    machine = disassembly(binary)
    assert spill_bytes(binary) <= (0 if rows <= 16 else 64)  # of a prompt, a few registers once a program
    assert len(re.findall(r"(?:LDG\.E|LDGSTS\.E\.BYPASS)[.\w]*\.128", machine)) >= 8  # of the weight, 16 bytes each
    assert bool(re.search(r"HMMA|HGMMA|UTCHMMA", machine)) == (rows > 1)
