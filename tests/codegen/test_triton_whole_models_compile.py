"""Every kernel of a model's launch plan, compiled for GPUs that are not here; what the machine code shows."""

from __future__ import annotations

import re

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from burnish.codegen.plan.planner import fallbacks
from burnish.codegen.triton.compile import compile_all
from burnish.codegen.triton.lower import plan
from burnish.codegen.triton.tiles import Target
from burnish.frontend import read
from burnish.ir.program import Program
from burnish.ir.trace import Trace
from burnish.passes.pipeline import run_passes
from burnish.passes.pipelines import lower_for_gpu, make_incremental
from burnish.runtime.plan import Launch, Plan
from tests.codegen.machine_code import disassembly, spill_bytes

SHAPES = {
    "SmolLM2, two layers": {
        "hidden_size": 576,
        "intermediate_size": 1536,
        "num_attention_heads": 9,
        "num_key_value_heads": 3,
        "num_hidden_layers": 2,
    },
    "Llama 3 8B, one layer": {
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "num_hidden_layers": 1,
    },
}
WIDE_LOADS = re.compile(r"(?:LDG\.E[.\w]*|LDGSTS[.\w]*)\.128|UBLKCP|UTMALDG")
TENSOR_CORES = re.compile(r"HMMA|HGMMA|UTCHMMA")


def without_values(shape: dict[str, int]) -> LlamaForCausalLM:
    """A model in bfloat16 whose weights are memory that nobody wrote: none of it is read to compile it."""
    config = LlamaConfig(**shape, vocab_size=1024, max_position_embeddings=2048)
    with torch.device("meta"):
        model = LlamaForCausalLM(config)
    model = model.to_empty(device="cpu").bfloat16()
    model.model.rotary_emb = type(model.model.rotary_emb)(config)
    return model.eval()


@pytest.fixture(scope="module", params=SHAPES)
def planned(request: pytest.FixtureRequest) -> tuple[Program, Plan, dict[str, object]]:
    program = read(without_values(SHAPES[request.param])).program
    step = run_passes(program, [*make_incremental(), *lower_for_gpu(torch.bfloat16)], Trace())
    launches, specs = plan(step, Target((80, 90, 100), 132))
    return step, launches, dict(specs)


def kernels_of(launches: Plan, number: int) -> set[str]:
    """Of the variant with that number."""
    return {step.kernel for step in launches.variants[number].all_steps if isinstance(step, Launch)}


def test_everything_has_a_kernel(planned: tuple[Program, Plan, dict[str, object]]) -> None:
    assert fallbacks(planned[1]) == {}


@pytest.mark.slow("all kernels of a model go through the assembler")
@pytest.mark.parametrize("architecture", [80, 90, 100])
def test_machine_code(planned: tuple[Program, Plan, dict[str, object]], architecture: int) -> None:
    _, launches, specs = planned
    binaries = compile_all(specs.values(), architecture)  # type: ignore[arg-type]
    decode = kernels_of(launches, 0) | kernels_of(launches, 1)
    for key, binary in binaries.items():
        code = disassembly(binary)
        if key in decode:
            assert spill_bytes(binary) == 0, key
        many_rows = key not in kernels_of(launches, 0)
        if "attention_kernel" in key or (many_rows and ("linear" in key or "projection" in key)):
            assert TENSOR_CORES.search(code), f"{key} has no tensor-core instructions"
        if "linear" in key or "attention" in key:
            assert WIDE_LOADS.search(code), f"{key} has no 16-byte loads"
