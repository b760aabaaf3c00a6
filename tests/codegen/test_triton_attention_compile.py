"""Attention compiled ahead of time at real shapes: what the machine code shows."""

from __future__ import annotations

import pytest
import torch

from burnish.codegen.triton.attention import Attention
from burnish.codegen.triton.compile import compile_kernel
from burnish.codegen.triton.kernels.combine_splits import combine_splits_spec
from burnish.codegen.triton.kernels.decode_attention import decode_attention_spec
from burnish.codegen.triton.kernels.flash_attention import flash_attention_spec
from burnish.codegen.triton.tiles import SplitTiles, Target, aimed_at, prompt_tiles
from tests.codegen.machine_code import disassembly, spill_bytes

SMOLLM2 = Attention(torch.bfloat16, 9, 3, 64, 64, scale=0.125)
LLAMA_8B = Attention(torch.bfloat16, 32, 8, 128, 128, scale=128**-0.5)
PAGED = Attention(torch.bfloat16, 32, 8, 128, 128, scale=128**-0.5, page_size=16)
# The instruction that multiplies matrices, by architecture: of a warp, of a warp group, of the tensor memory.
TENSOR_CORES = {80: "HMMA.16816.F32.BF16", 90: "HGMMA.64x", 100: "UTCHMMA"}
SPLIT = SplitTiles(16, 64, 8, 3)
FROM_CACHE = "LDGSTS.E.BYPASS.128"  # 16 bytes from global to shared memory, past the registers


@pytest.mark.parametrize(
    ("attention", "architecture", "combines"),
    [
        (SMOLLM2, 80, True),
        (SMOLLM2, 90, False),
        (LLAMA_8B, 80, True),
        (LLAMA_8B, 90, True),
        (LLAMA_8B, 100, True),
        (PAGED, 90, True),
    ],
    ids=["smollm2-80", "smollm2-90", "llama-80", "llama-90", "llama-100", "paged-90"],
)
def test_decode(attention: Attention, architecture: int, combines: bool) -> None:
    binary = compile_kernel(decode_attention_spec(attention, 1, SPLIT, combines=combines), architecture)
    assert spill_bytes(binary) == 0
    machine = disassembly(binary)
    assert FROM_CACHE in machine
    assert "LDGSTS.E.BYPASS.64" not in machine
    assert ("out_ptr" in dict(binary.arguments)) == combines
    assert list(dict(binary.arguments)) == [
        name for name in decode_attention_spec(attention, 1, SPLIT, combines=combines).function.arg_names
        if name in dict(binary.arguments)
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("attention", "architecture"),
    [(SMOLLM2, 80), (SMOLLM2, 90), (LLAMA_8B, 80), (LLAMA_8B, 90), (LLAMA_8B, 100)],
    ids=["smollm2-80", "smollm2-90", "llama-80", "llama-90", "llama-100"],
)
@pytest.mark.parametrize("tokens", [32, 512])
def test_prefill(tokens: int, attention: Attention, architecture: int) -> None:
    with aimed_at(Target((architecture,))):
        tiles = prompt_tiles(tokens, attention.key_size, attention.dtype, attention.mask)
    binary = compile_kernel(flash_attention_spec(attention, tiles), architecture)
    machine = disassembly(binary)
    assert TENSOR_CORES[architecture] in machine
    assert FROM_CACHE in machine
    assert spill_bytes(binary) == 0


def test_the_kernel_that_combines() -> None:
    binary = compile_kernel(combine_splits_spec(torch.bfloat16, None, 32, 1, 16, 128), 90)
    assert spill_bytes(binary) == 0
    assert "LDG.E.128" in disassembly(binary)
