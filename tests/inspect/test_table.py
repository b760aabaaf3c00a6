"""The trace as a table: width, contents, grouping."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from burnish.frontend.capture import capture
from burnish.inspect.table import WIDTH, pass_table, plain_text, reasons, rewrites_view, trace_view
from burnish.ir.cost import CostCounter
from burnish.ir.states import context_of
from burnish.ir.trace import Entry, PassRecord, Trace, Verification
from burnish.passes.pipeline import run_passes
from burnish.passes.pipelines import default_passes
from burnish.passes.spelling import options_of
from tests.own_modules.causal import NanoGPT


def record(number: int, name: str, **fields: object) -> PassRecord:
    values: dict[str, object] = {
        "options": {},
        "effect": "reassociates",
        "rewrites": (),
        "refusals": (),
        "notes": (),
        "nodes_before": 12345,
        "nodes_after": 11234,
        "seconds": 12.3456,
        "weight_bytes": 134_515_008 * 400,
        "bytes_a_token": 1_046_080,
        "launches": 1234,
        "bytes_moved": 56_789_012_345,
        "text": "",
    }
    return PassRecord(number=number, name=name, **{**values, **fields})  # type: ignore[arg-type]


def entries(count: int, reason: str) -> tuple[Entry, ...]:
    return tuple(Entry(f"mul_{i}", f"mul_{i} (aten.mul) in layers.{i}", reason.format(i)) for i in range(count))


TRACE = Trace(
    [
        record(0, "captured", effect="exact"),
        record(1, "raise-attention", rewrites=entries(30, "causal attention of 9 query heads, layer {}")),
        record(
            2,
            "raise-rotary-embeddings-and-a-name-that-is-too-long",
            options={"interleaved": "False", "layers": "(1, 2, 3)"},
            refusals=(*entries(2, "the tables differ"), *entries(30, "cos of layer {} is read elsewhere")),
            notes=("the frequencies are frozen for 8192 tokens " + "and so on " * 20,),
        ),
    ],
    {"capture": 12.34, "passes": 1.5},
)


def test_everything_fits_the_width() -> None:
    lines = plain_text(trace_view(TRACE)).splitlines()
    assert max(len(line) for line in lines) <= WIDTH


def usual(verified: bool, **fields: object) -> Trace:
    """The passes for native kernels, with numbers of a model of 135 M, unless `fields` say others."""
    passes = [*default_passes("native", dtype=torch.bfloat16)]
    check = Verification(1.2e-6, 1e-4, "") if verified else None
    numbers: dict[str, object] = {
        "nodes_before": 2165,
        "nodes_after": 2165,
        "seconds": 1.2345,
        "weight_bytes": 542_000_000,
        "bytes_a_token": 46_080,
        "launches": 1297,
        "bytes_moved": 6_181_000_000,
        "floor_bytes": 562_000_000,
        "verification": check,
        **fields,
    }
    return Trace([record(number, each.name, options=options_of(each), **numbers) for number, each in enumerate(passes)])


@pytest.mark.parametrize("verified", [False, True])
def test_usual_names_are_whole_in_80_columns(verified: bool) -> None:
    trace = usual(verified)
    text = plain_text(pass_table(trace))
    assert max(map(len, text.splitlines())) <= 80
    for each in trace.passes:
        assert each.name in text.split()
    assert ("error" in text.split(), "ms" in text.split()) == (verified, not verified)
    assert {"542", "6,181", "≥562"} <= set(text.split())
    assert "{dtype=bfloat16}" in text


def test_bytes_of_a_small_model_are_no_zeros() -> None:
    text = plain_text(pass_table(usual(False, weight_bytes=12_345, bytes_moved=234_567, floor_bytes=34_567)))
    assert {"12", "235", "≥35", "kB"} <= set(text.split())
    assert "MB" not in text.split()
    assert {"345", "B"} <= set(plain_text(pass_table(usual(False, weight_bytes=345))).split())


def test_costs_are_after_as_many_tokens_as_the_model_takes() -> None:
    assert [context_of(length) for length in (2048, 513, 512, 40)] == [512, 512, 511, 39]
    trace, program = Trace(), capture(NanoGPT().eval(), max_length=40)
    run_passes(program, [], trace)
    assert "one more token after 39," in " ".join(plain_text(pass_table(trace)).split())
    embedding = next(node for node in program.graph.nodes if "embedding" in str(node.target))
    width = embedding.meta["val"].shape[-1]
    # A program without states runs all tokens: it reads the row of each, and writes it.
    assert CostCounter(program).cost(embedding).bytes_moved == 40 * (8 + 2 * 4 * width)


def test_rows_say_what_the_passes_did() -> None:
    text = plain_text(trace_view(TRACE))
    row = next(line for line in text.splitlines() if "raise-attention" in line)
    assert row.split() == [
        *("1", "raise-attention", "≈", "30", "11234", "1234", "56,789", "53,806", "1046080", "12346")
    ]
    assert "seconds: capture 12.3 · passes 1.5" in text
    assert "frozen for 8192 tokens" in text
    untimed = Trace([replace(record, seconds=None) for record in TRACE.passes])  # as an artifact has it
    row = next(line for line in plain_text(trace_view(untimed)).splitlines() if "raise-attention" in line)
    assert row.split()[-1] == "1046080"
    assert not {"ms", "seconds:"} & set(plain_text(trace_view(untimed)).split())


def test_refusals_are_grouped_by_reason_most_frequent_first() -> None:
    found = reasons(TRACE.passes[2].refusals)
    assert [(reason.count, reason.text) for reason in found] == [
        (30, "cos of layer 0 is read elsewhere"),
        (2, "the tables differ"),
    ]
    text = " ".join(plain_text(trace_view(TRACE)).split())
    assert "30 ×: cos of layer 0 is read elsewhere" in text
    assert "first: mul_0 (aten.mul) in layers.0" in text


def test_rewrites_are_shown_on_request() -> None:
    text = plain_text(rewrites_view(TRACE))
    assert "raise-attention, 30 ×: causal attention of 9 query heads, layer 0" in text


def test_an_empty_trace_has_a_table() -> None:
    assert "pass" in plain_text(trace_view(Trace()))
