"""Launch plans over tables of positions: rows for the tokens that states have room for, made from formulas."""

from __future__ import annotations

import pytest
import torch

import burnish
from burnish.ir.position_table import PositionTable
from burnish.runtime.kernel_files import read_plan
from burnish.runtime.plan import Launch, TensorReference
from tests.zoo.configs import build


@pytest.mark.slow("a whole model is interpreted")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
def test_a_plan_is_given_the_rows_that_it_reads(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []
    first = PositionTable.first

    def counted(self: PositionTable, count: int) -> torch.Tensor:
        made.append(count)
        return first(self, count)

    model = build("llama")
    model.config.max_position_embeddings = 2**20
    with burnish.compile(model, backend="triton-interpret", dtype=dtype, verify=False) as compiled:
        tables = compiled.artifact.tables
        assert [(table.rows, table.dtype) for table in tables.values()] == [(2**20, dtype)] * 2
        monkeypatch.setattr(PositionTable, "first", counted)
        ids = torch.tensor([[3, 1, 4, 1, 5, 9, 2, 6]])
        session = compiled.session(capacity=64)
        found = torch.cat([session.append(ids[:, :5], every=True).clone(), session.append(ids[:, 5:], every=True)], 1)
        assert made == [1024, 1024]
    with torch.no_grad():
        expected = model(ids).logits
    tolerance = 1e-4 if dtype == torch.float32 else 5e-2
    assert float((found - expected).abs().max()) < tolerance * float(expected.abs().max())


def test_a_table_in_a_plan_is_as_long_as_the_states() -> None:
    with burnish.compile(build("llama"), backend="triton-interpret", verify=False) as compiled:
        names = {f"weight {name}" for name in compiled.artifact.tables}
        read = [
            argument
            for variant in read_plan(compiled.artifact).variants
            for step in variant.all_steps
            if isinstance(step, Launch)
            for argument in step.arguments
            if isinstance(argument, TensorReference) and argument.buffer in names
        ]
    assert read
    assert all(argument.shape[0] == "capacity" for argument in read)
