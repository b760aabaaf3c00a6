"""float32 programs in half precision."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from burnish.frontend import read
from burnish.ir.program import Program
from burnish.ir.trace import Trace
from burnish.passes.lower.narrow_floats import NarrowFloats
from burnish.passes.pipeline import run_passes
from burnish.passes.pipelines import lower_for_gpu, make_incremental
from burnish.runtime.executor import Step
from burnish.runtime.executor_reference import ReferenceExecutor
from burnish.runtime.states import States
from burnish.runtime.torch_memory import ON_CPU
from tests.zoo.configs import build


class Routed(nn.Module):
    """Its gate is widened by the model itself."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(50, 8)
        self.gate, self.up, self.head = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 50)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        x = self.embedding(ids)
        gate = torch.softmax(self.gate(x), dim=-1, dtype=torch.float32)
        return self.head(gate * self.up(x))


def incremental(model: nn.Module) -> Program:
    return run_passes(read(model).program, make_incremental(), Trace())


def logits(program: Program) -> torch.Tensor:
    """Of two prompts and of single tokens behind them."""
    generator = torch.Generator().manual_seed(0)
    executor, states = ReferenceExecutor(program), States.allocate(program.states, 2, 40, ON_CPU)
    position, found = torch.zeros(2, dtype=torch.int64), []
    for count in (7, 1, 1, 9):
        tokens = torch.randint(1, 50, (2, count), generator=generator)
        found.append(executor.step(Step(tokens, position, torch.tensor([count - 1])), states).values.clone())
        position += count
    return torch.cat(found)


def test_weights_and_values_become_narrow_and_what_the_model_widens_stays_wide() -> None:
    torch.manual_seed(0)
    trace = Trace()
    after = run_passes(incremental(Routed().eval()), [NarrowFloats(torch.bfloat16)], trace)
    widths = {node.name: node.meta["val"].dtype for node in after.graph.nodes if node.op == "call_function"}
    assert [name for name, dtype in widths.items() if dtype == torch.float32] == ["softmax", "_to_copy_default_1"]
    assert {weight.dtype for weight in after.weights.values()} == {torch.bfloat16}
    assert after.output.args[0][0].meta["val"].dtype == torch.float32  # type: ignore[index,union-attr]
    assert [entry.text for entry in trace.passes[-1].rewrites] == ["7 weights and 0 states became bfloat16"]
    assert trace.passes[-1].effect == "lossy"


def test_integers_stay() -> None:
    before = incremental(build("llama"))
    after = run_passes(before, [NarrowFloats(torch.float16)], Trace())

    def integers(program: Program) -> list[str]:
        return [
            node.name
            for node in program.graph.nodes
            if isinstance(node.meta.get("val"), torch.Tensor) and not node.meta["val"].is_floating_point()
        ]

    assert integers(after) == integers(before) != []
    assert {state.dtype for state in after.states} == {torch.float16}
    assert {state.dtype for state in before.states} == {torch.float32}  # another program


@pytest.mark.parametrize("model_type", ["llama", "gpt2", "gemma2", "bloom", "lfm2", "gpt_oss", "deepseek_v3"])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float16, 1e-2), (torch.bfloat16, 6e-2)])
def test_whole_models_hold_their_numbers(model_type: str, dtype: torch.dtype, tolerance: float) -> None:
    before = incremental(build(model_type))
    after = run_passes(before, lower_for_gpu(dtype), Trace())
    right, found = logits(before), logits(after)
    assert found.dtype == torch.float32
    assert float((found - right).abs().max() / right.abs().max()) < tolerance


def test_half_precision_weights_come_as_the_model_has_them() -> None:
    model = build("llama").bfloat16()
    after = run_passes(incremental(model), [NarrowFloats(torch.bfloat16)], Trace())
    kept = after.weights["model.layers.0.self_attn.o_proj.weight.bfloat16"].materialize()
    assert kept.data_ptr() == model.model.layers[0].self_attn.o_proj.weight.data_ptr()
