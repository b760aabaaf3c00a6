"""Tables of positions by numpy: as PyTorch makes them, and refused where they are not its to make."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import burnish
from burnish.ir.errors import ParseError
from burnish.ir.fused_group import OPS
from burnish.ir.position_arrays import _OPS, ArrayTable, NotByNumpy
from burnish.ir.position_table import ALLOWED, position_table
from burnish.ir.weights import Stored
from tests.zoo.configs import build

VECTOR = torch.linspace(0.001, 1, 6)
HEAD = "input %p: i64[rows]\ninput %v: f32[6]\nsize %n: size rows\n%c: i64[rows, 1] = aten.unsqueeze(%p, 1)\n"


def body(*calls: str) -> str:
    """A formula whose lines are these calls, each of the one before it, `%x`; the first of positions [rows, 1]."""
    lines, last = [], "c"
    for number, call in enumerate(calls):
        lines.append(f"%x{number}: value = {call.replace('%x', f'%{last}')}")
        last = f"x{number}"
    return HEAD + "\n".join([*lines, f"return [%{last}]"])


def same(formula: str, count: int = 300) -> None:
    vectors = (VECTOR.numpy(),) if "%v" in formula else ()
    table = position_table(4096, formula, tuple(Stored(torch.from_numpy(each)) for each in vectors))
    mine = ArrayTable(4096, formula, vectors)
    expected, found = table.first(count).resolve_conj(), torch.from_numpy(mine.first(count))
    assert (mine.row, found.dtype, found.shape) == (table.row, expected.dtype, expected.shape)
    assert mine.nbytes_of(7) == table.nbytes_of(7)
    if expected.dtype.is_floating_point:
        torch.testing.assert_close(found, expected, rtol=2.5e-7, atol=6e-8, equal_nan=True)
    else:
        assert torch.equal(found, expected)


def test_what_may_be_called_is_what_pytorchs_may_call() -> None:
    assert {OPS[name] for name in _OPS} <= ALLOWED


@pytest.mark.parametrize("kind", ["llama", "gemma3_text", "llama4_text", "gpt_oss"])
def test_tables_of_models(kind: str) -> None:
    with burnish.compile(build(kind), backend="reference", verify=False) as found:
        assert found.artifact.tables
        for table in found.artifact.tables.values():
            mine = ArrayTable(table.rows, table.body, [each.materialize().numpy() for each in table.vectors])
            expected = table.first(table.rows)
            assert mine.row == table.row
            torch.testing.assert_close(torch.from_numpy(mine.first(table.rows)), expected, rtol=2.5e-7, atol=1.2e-7)


@pytest.mark.parametrize(
    "calls",
    [
        ["aten.mul.Tensor(%x, %v)", "aten.cos(%x)"],
        ["aten.mul.Tensor(%x, %v)", "aten.sin(%x)", "aten.to.dtype(%x, f16)"],
        ["aten.mul.Scalar(%x, 0.5)"],
        ["aten.add.Tensor(%x, %v)", "aten.pow.Tensor_Scalar(%x, 2)"],
        ["aten.div.Tensor(%x, 3)", "aten.floor(%x)"],
        ["aten.div.Tensor(%x, %x)"],
        ["aten.sub.Tensor(%x, 1.5)", "aten.abs(%x)", "aten.neg(%x)"],
        ["aten.mul.Tensor(%x, %v)", "aten.rsqrt(%x)"],
        ["aten._to_copy(%x, dtype=f64)", "aten.log1p(%x)", "aten.exp(%x)", "aten.reciprocal(%x)"],
        ["aten.sqrt(%x)", "aten.maximum(%x, %v)", "aten.minimum(%x, %v)"],
        ["aten.lt.Scalar(%x, 7)", "aten.where.self(%x, %v, %c)"],
        ["aten.ge.Scalar(%x, 6.5)", "aten.add.Tensor(%x, 1)"],
        ["aten.gt.Tensor(%x, %v)", "aten.eq.Scalar(%x, True)", "aten.clone(%x)"],
        ["aten.mul.Tensor(%x, %v)", "aten.polar(%v, %x)", "aten.view_as_real(%x)"],
        ["aten.mul.Tensor(%x, %v)", "aten.cat([%x, %x, %c], -1)", "aten.slice.Tensor(%x, -1, 1, -2, 3)"],
        ["aten.expand(%x, [-1, 5])", "aten.slice.Tensor(%x, 1, 2, 9223372036854775807)", "aten.select.int(%x, 1, -1)"],
        ["aten.reshape(%x, [1, %n, 1])", "aten.permute(%x, [1, 2, 0])", "aten.squeeze.dim(%x, 1)"],
        ["aten.expand(%x, [%n, 4])", "aten.view(%x, [%n, 2, 2])", "aten.transpose.int(%x, -1, 1)"],
    ],
    ids=str,
)
def test_operations(calls: list[str]) -> None:
    same(body(*calls))


@pytest.mark.parametrize(
    "calls",
    [
        ["aten.gelu(%v)"],
        ["aten.from_file(%x)"],
        ["aten.to.dtype(%x, bf16)"],
        ["aten.pow.Tensor_Scalar(%x, 2)"],
        ["aten.floor(%x)"],
        ["aten.slice.Tensor(%x, 0, 0, 9, -1)"],
        ["aten.add.Tensor(%x, %v, alpha=2)"],
        ["aten.expand(%x, [%n, 1000000000000])"],
        ["aten.expand(%x, [%n, 1048576])", "aten.cat([%x, %x], 1)"],
        ["aten.expand(%x, [%n, 2048])", "aten.unsqueeze(%x, 1)", "aten.expand(%x, [%n, 2048, 2048])"],
        ["aten.reshape(%x, [7])"],
        ["aten.select.int(%x, 0, 0)"],
        ["aten.select.int(%x, 1, 3)"],
        ["aten.mul.Tensor(%x, None)"],
        ["aten.cos([%x])"],
        ["aten.unsqueeze(%n, 0)"],
    ],
    ids=str,
)
def test_what_is_not_numpys_to_make(calls: list[str]) -> None:
    with pytest.raises((NotByNumpy, ParseError)):
        ArrayTable(100, body(*calls), [VECTOR.numpy()])


def test_rows_are_made_a_few_at_a_time() -> None:
    table = ArrayTable(2**17, body("aten.mul.Tensor(%x, %v)", "aten.sin(%x)"), [VECTOR.numpy()])
    found = table.first(2**17)
    expected = np.sin((np.arange(2**17, dtype=np.float32)[:, None] * VECTOR.numpy()).astype(np.float64))
    assert np.array_equal(found, expected.astype(np.float32))
