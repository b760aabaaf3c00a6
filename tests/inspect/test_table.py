"""The trace as a table: width, contents, grouping."""

from __future__ import annotations

from dataclasses import replace

from burnish.inspect.table import WIDTH, plain_text, reasons, rewrites_view, trace_view
from burnish.ir.trace import Entry, PassRecord, Trace


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
    text = plain_text(trace_view(TRACE))
    assert "30 ×: cos of layer 0 is read elsewhere" in text
    assert "first: mul_0 (aten.mul) in layers.0" in text


def test_rewrites_are_shown_on_request() -> None:
    text = plain_text(rewrites_view(TRACE))
    assert "raise-attention, 30 ×: causal attention of 9 query heads, layer 0" in text


def test_an_empty_trace_has_a_table() -> None:
    assert "pass" in plain_text(trace_view(Trace()))
