"""Launch plans as data: sizes, variants, and what is refused."""

from __future__ import annotations

import msgspec
import pytest

from burnish.ir.errors import ArtifactError
from burnish.runtime.memory import NUMPY
from burnish.runtime.plan import Launch, Plan, Result, Scalar, TensorReference, Variant, evaluate
from burnish.runtime.plan_runner import Operands

LOGITS = TensorReference("temporary 0", "float32", ["batch", "kept", 7], ["7*kept", 7, 1])
IDS = TensorReference("temporary 1", "int64", ["batch", "kept"], ["kept", 1])

TOP = TensorReference("temporary 1", "int32", ["batch", "kept", 2, 7], ["14*kept", 14, 7, 1])


def variant(**ranges: tuple[int, int | None]) -> Variant:
    launch = Launch("k", ["batch", 1, 1], [LOGITS, Scalar("batch"), Scalar(0.5)], "n")
    results = {"ids": Result([launch], IDS), "top": Result([launch], TOP), "logits": Result([], LOGITS)}
    return Variant(ranges, [launch], [], [], results)


def test_it_survives_being_written() -> None:
    plan = Plan([variant(batch=(1, 1), sequence=(1, None))], {})
    assert msgspec.json.decode(msgspec.json.encode(plan), type=Plan) == plan


def test_the_first_variant_that_fits_is_taken() -> None:
    plan = Plan([variant(batch=(1, 1)), variant(batch=(2, 16)), variant(batch=(17, None))], {})
    found = [plan.variants.index(plan.variant({"batch": batch, "sequence": 3})) for batch in (1, 2, 16, 17, 1000)]
    assert found == [0, 1, 1, 2, 2]
    with pytest.raises(ArtifactError, match="no variant"):
        plan.variant({"batch": 0, "sequence": 3})


def test_sizes_are_arithmetic() -> None:
    sizes = {"batch": 3, "sequence": 5, "capacity": 64, "kept": 1}
    assert evaluate(7, sizes) == 7
    assert evaluate("(batch*sequence + 15)//16", sizes) == 1
    assert evaluate("-(-capacity//5) % 4 - max(batch, kept)", sizes) == -2
    assert evaluate("capacity", sizes) == 64


@pytest.mark.parametrize(
    "text",
    [
        "__import__('os')",
        "batch.real",
        "batch ** capacity",
        "[batch]",
        "1.5",
        "'a'",
        "batch if kept else 1",
        "unknown",
        "(lambda: 1)()",
        "max(batch, key=min)",
        "batch +",
        "",
        "8 // 0",
        "8 % (batch - 1)",
    ],
)
def test_a_size_that_is_no_arithmetic_is_refused(text: str) -> None:
    with pytest.raises(ArtifactError, match="for a size"):
        evaluate(text, {"batch": 1, "sequence": 1, "capacity": 1, "kept": 1})


def test_a_dtype_that_does_not_exist_is_refused() -> None:
    operands = Operands({"input x": NUMPY.zeros((4,), "float32")}, {}, NUMPY)
    assert operands.tensor(TensorReference("input x", "bfloat16", [8], [1])).dtype == "bfloat16"
    with pytest.raises(ArtifactError, match="'nn'"):
        operands.tensor(TensorReference("input x", "nn", [2], [1]))
