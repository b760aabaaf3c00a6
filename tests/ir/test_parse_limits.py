"""Texts that would take all memory, all time or the whole stack are refused with their line."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from burnish.inspect.dump import load_dump
from burnish.ir.errors import ParseError, UsageError
from burnish.ir.parse import parse_program
from tests.ir.test_parse import SMALL, WEIGHTS

DIGITS = "9" * 5000  # more than Python reads


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("vocabulary=5", f"vocabulary={DIGITS}", "line 2: 99999999999999999999… is too large a number"),
        ("token_limit=5", "token_limit=99999999999999999999", "line 2: 99999999999999999999 is too large a number"),
        ("max_length=16", "max_length=0", "line 2: max_length has to be at least 1"),
        ("example 3", f"example {DIGITS}", "line 3: 99999999999999999999… is too large"),
        ("weight: f32[5, 4]\n", f"weight: f32[5, {DIGITS}]\n", "line 5: 99999999999999999999… is too large"),
        ("i64[batch, sequence]\n", "i64[99999999999999, 99999999999999999]\n", "line 6: %tokens cannot be i64[9999"),
        ("i64[batch, sequence]\n", "qint8[batch, sequence]\n", "line 6: %tokens cannot be qint8['batch', 'sequence']"),
        ("model.py:12", f"model.py:{DIGITS}", "line 8: 99999999999999999999… is too large"),
        ("%tokens)", f"%tokens, {'[' * 5000})", "line 8: lists in more than 32 lists"),
        ("%embedding: ", "%power: int = pow(9, 9999999999)\n%embedding: ", "line 8: 9 to the power of 9999999999"),
        ("%embedding: ", "%power: int = pow(2)\n%embedding: ", "line 8: pow has two arguments"),
        (
            "%embedding: ",
            "%size: size sequence = aten.sym_size.int(%tokens, 1)\n%power: int = pow(%size, 999999999)\n%embedding: ",
            "line 9: s27 to the power of 999999999 is not worked out",
        ),
    ],
)
def test_what_has_no_end_is_refused(old: str, new: str, said: str) -> None:
    with pytest.raises(ParseError) as raised:
        parse_program(SMALL.replace(old, new), WEIGHTS)
    assert said in str(raised.value)


def test_the_example_of_a_size_takes_no_memory() -> None:
    parse_program(SMALL.replace("example 3", "example 9000000000000000000"), WEIGHTS)


@pytest.mark.parametrize("kind", ["f32[100000000000, 400000]", "qint8[1, 4]"])
def test_weights_that_cannot_be_drawn_are_named(kind: str, tmp_path: Path) -> None:
    declared = "weight @table.weight: f32[5, 4]\n"
    (tmp_path / "a.txt").write_text(SMALL.replace(declared, f"{declared}weight @other: {kind}\n"))
    with pytest.raises(UsageError, match="no values can be drawn for the weight 'other'"):
        load_dump(tmp_path / "a.txt")


def test_what_does_not_fit_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    text = SMALL.replace("aten.linear(%embedding, @table.weight)", "aten.mm(%embedding, @table.weight)")
    with caplog.at_level(logging.WARNING), pytest.raises(ParseError, match="line 9: linear"):
        parse_program(text, WEIGHTS)
    assert not caplog.records
