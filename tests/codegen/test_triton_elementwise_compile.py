"""Generated kernels of fused groups: their source as it is read, and their machine code for GPUs that are not here."""

from __future__ import annotations

import inspect

import pytest
import torch
from inline_snapshot import snapshot
from torch import Tensor

from burnish.codegen.triton.compile import compile_kernel
from burnish.codegen.triton.fused_elementwise import elementwise_spec
from tests.codegen.machine_code import disassembly, spill_bytes

NORM = """\
input %down_proj: bf16[batch, sequence, 4096]
input %norm_weight: bf16[4096]
input %x: bf16[batch, sequence, 4096]
%rms_norm: bf16[batch, sequence, 4096] = burnish.rms_norm(%down_proj, %norm_weight, 1e-05)  # layers.*.norm | Norm | \
model.py:64 | return self.weight * x
%add: bf16[batch, sequence, 4096] = aten.add.Tensor(%x, %rms_norm)  # layers.* | Layer | model.py:308 | x = x + y
return [%add]"""

ROUTER = """\
input %logits: bf16[tokens, 64]
input %bias: f32[64]
%_to_copy: f32[tokens, 64] = aten._to_copy(%logits, dtype=f32)
%softmax: f32[tokens, 64] = aten.softmax.int(%_to_copy, -1)
%add: f32[tokens, 64] = aten.add.Tensor(%softmax, %bias)
return [%softmax, %add]"""

ACTIVATION = """\
input %up: bf16[batch, sequence, 14336]
%relu: bf16[batch, sequence, 14336] = aten.relu(%up)
%pow: bf16[batch, sequence, 14336] = aten.pow.Tensor_Scalar(%relu, 2)
return [%pow]"""

EMBEDDING = """\
input %tokens: i64[batch, sequence]
input %position: i64[batch]
input %weight: bf16[1000, 4096]
input %table: f32[4096, 1, 128]
%positions: i64[batch, sequence] = burnish.positions(%tokens, %position)
%embedding: bf16[batch, sequence, 4096] = aten.embedding(%weight, %tokens)
%lookup: f32[batch, sequence, 1, 128] = burnish.lookup(%table, %positions)
return [%embedding, %lookup]"""

LONG = NORM.replace("4096", "8192")


def bf16(*shape: int) -> Tensor:
    return torch.empty(shape, dtype=torch.bfloat16)


GROUPS: dict[str, tuple[str, list[Tensor]]] = {
    "norm and residual": (NORM, [bf16(1, 1, 4096), bf16(4096), bf16(1, 1, 4096)]),
    "in a loop": (LONG, [bf16(1, 1, 8192), bf16(8192), bf16(1, 1, 8192)]),
    "router": (ROUTER, [bf16(16, 64), torch.empty(64)]),
    "activation": (ACTIVATION, [bf16(1, 16, 14336)]),
    "embedding and tables": (
        EMBEDDING,
        [
            torch.zeros(2, 5, dtype=torch.int64),
            torch.zeros(2, dtype=torch.int64),
            bf16(1000, 4096),
            torch.empty(4096, 1, 128),
        ],
    ),
}


@pytest.mark.parametrize("architecture", [80, 90, 100])
@pytest.mark.parametrize("name", GROUPS)
def test_groups_compile_without_spills_and_load_16_bytes(name: str, architecture: int) -> None:
    binary = compile_kernel(elementwise_spec(*GROUPS[name]), architecture)
    machine = disassembly(binary)
    assert spill_bytes(binary) == 0
    assert "LDG.E.128" in machine
    assert "STG.E.128" in machine


def test_the_source_is_read_line_by_line() -> None:
    function = elementwise_spec(*GROUPS["norm and residual"]).function
    assert inspect.getsource(inspect.getmodule(function.fn)) == snapshot('''\
"""Generated: a group of operations that are one kernel."""

import triton
import triton.language as tl


# %rms_norm: bf16[batch, sequence, 4096] = burnish.rms_norm(%down_proj, %norm_weight, 1e-05)
#     layers.*.norm model.py:64: return self.weight * x
# %add: bf16[batch, sequence, 4096] = aten.add.Tensor(%x, %rms_norm)
#     layers.* model.py:308: x = x + y
@triton.jit
def fused_rms_norm_add_kernel(
    down_proj_ptr,
    norm_weight_ptr,
    x_ptr,
    add_out_ptr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """ROWS rows a program, BLOCK columns at once."""
    columns = tl.arange(0, BLOCK)[None, :]
    x = tl.load(x_ptr + columns).to(tl.float32)
    down_proj = tl.load(down_proj_ptr + columns).to(tl.float32)
    rms_norm_square = down_proj * down_proj
    rms_norm_squares = tl.sum(rms_norm_square, axis=1, keep_dims=True)
    rms_norm_inverse = tl.rsqrt(rms_norm_squares / 4096.0 + 1e-05)
    norm_weight = tl.load(norm_weight_ptr + columns).to(tl.float32)
    rms_norm = down_proj * rms_norm_inverse * norm_weight  # bf16[batch, sequence, 4096]
    add = x + rms_norm  # bf16[batch, sequence, 4096]
    tl.store(add_out_ptr + columns, add.to(add_out_ptr.dtype.element_ty))
''')


def test_a_kernel_is_known_by_its_source() -> None:
    first, again, longer = (elementwise_spec(*GROUPS[name]) for name in ("norm and residual",) * 2 + ("in a loop",))
    assert first.key == again.key
    assert first.key != longer.key
