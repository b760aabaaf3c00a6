"""Dumps: a program as a text with its weights beside it, read back, and run."""

from __future__ import annotations

import logging
import re
from pathlib import Path

import pytest
import torch

from burnish.inspect.dump import load_dump, save_dump
from burnish.inspect.run import run_program, runs_table
from burnish.inspect.table import WIDTH, plain_text
from burnish.ir.errors import ParseError, UsageError
from burnish.ir.full_text import full_text
from burnish.ir.trace import Trace
from burnish.ir.weights import Concat, Stored
from burnish.passes.pipeline import run_passes
from burnish.passes.pipelines import default_passes
from burnish.passes.verify import logits_of, random_tokens
from tests.inspect.models import stages


@pytest.mark.parametrize("stage", ["captured", "raise-rotary", "insert-states", "pack-linears"])
def test_a_dump_with_weights_is_the_program(stage: str, tmp_path: Path) -> None:
    program = stages()[stage]
    save_dump(program, tmp_path / "dump.txt", with_weights=True)
    again = load_dump(tmp_path / "dump.txt")
    assert full_text(again) == full_text(program)
    tokens = random_tokens(program, 2, 20)
    assert torch.equal(logits_of(again, tokens), logits_of(program, tokens))


def test_the_rest_of_the_passes_runs_on_a_dump(tmp_path: Path) -> None:
    save_dump(stages()["raise-attention"], tmp_path / "dump.txt", with_weights=True)
    names = [each.name for each in default_passes()]
    rest = default_passes()[names.index("raise-attention") + 1 :]
    program = run_passes(load_dump(tmp_path / "dump.txt"), rest, Trace())
    assert full_text(program) == full_text(stages()[names[-1]])


def test_weights_that_are_expressions_or_tied_are_written_by_all_their_names(tmp_path: Path) -> None:
    program = stages()["captured"].copy()
    first = next(name for name in program.weights if "layernorm" in name)
    size = program.weights[first].shape[0]
    names = [name for name, weight in program.weights.items() if weight.shape == (size,)]
    tied = torch.arange(size, dtype=torch.float32)
    entries = dict(program.weights)
    entries[names[0]] = entries[names[1]] = Stored(tied)
    entries[names[2]] = Concat((Stored(tied[:3]), Stored(tied[3:])))
    program.weights = type(program.weights)(entries)
    save_dump(program, tmp_path / "dump.txt", with_weights=True)
    again = load_dump(tmp_path / "dump.txt")
    for name in names[:3]:
        assert torch.equal(again.weights[name].materialize(), tied)


def test_a_dump_can_be_written_over_the_one_it_was_read_from(tmp_path: Path) -> None:
    program = stages()["captured"]
    save_dump(program, tmp_path / "dump.txt", with_weights=True)
    again = load_dump(tmp_path / "dump.txt")
    save_dump(again, tmp_path / "dump.txt", with_weights=True)
    tokens = random_tokens(program, 1, 5)
    for each in (again, load_dump(tmp_path / "dump.txt")):
        assert torch.equal(logits_of(each, tokens), logits_of(program, tokens))
    assert {path.name for path in tmp_path.iterdir()} == {"dump.txt", "weights.safetensors"}


def test_weights_that_are_not_there_are_drawn_and_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    program = stages()["pack-linears"]
    save_dump(program, tmp_path / "dump.txt", with_weights=False)
    tokens = random_tokens(program, 1, 5)
    with caplog.at_level(logging.WARNING):
        one, other = (logits_of(load_dump(tmp_path / "dump.txt"), tokens) for _ in range(2))
    assert "all weights are random (seed 0)" in caplog.text
    assert bool(one.isfinite().all())
    assert torch.equal(one, other)
    caplog.clear()
    save_dump(stages()["insert-states"], tmp_path / "other.txt", with_weights=True)
    with caplog.at_level(logging.WARNING):
        load_dump(tmp_path / "dump.txt")  # beside the weights of another stage
    assert re.search(r"\d of \d+ weights are random \(seed 0\)", caplog.text)


def test_what_is_no_dump_is_refused_with_its_path(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"cannot read .*nothing\.txt"):
        load_dump(tmp_path / "nothing.txt")
    (tmp_path / "binary.txt").write_bytes(b"\xff\xfe")
    with pytest.raises(UsageError, match=r"binary\.txt is not a text"):
        load_dump(tmp_path / "binary.txt")
    (tmp_path / "wrong.txt").write_text("nonsense\n")
    with pytest.raises(ParseError, match=r"wrong\.txt: line 1, column 1: expected the line 'program"):
        load_dump(tmp_path / "wrong.txt")


def test_runs_of_a_whole_and_of_a_step_program() -> None:
    whole = list(run_program(stages()["captured"]))
    assert [(run.tokens, run.difference) for run in whole] == [((1, 1), None), ((2, 9), None), ((1, 40), None)]
    step = list(run_program(stages()["pack-linears"]))
    assert [run.pieces for run in step] == [(12,), (9, 1, 1, 1), (24,), (9, 1, 1, 13)]
    assert all(run.difference is None or run.difference < 1e-5 for run in step)
    tokens = random_tokens(stages()["captured"], 2, 24)
    expected = logits_of(stages()["captured"], tokens)
    assert float((step[-1].logits - expected).abs().max()) < 1e-4


def test_the_table_of_runs_counts_what_is_no_number() -> None:
    (run, *_) = run_program(stages()["captured"])
    run.logits[0, 0, 0] = float("nan")
    run.logits[0, 0, 1:3] = torch.tensor([2.0**20, -(2.0**20)])
    text = plain_text(runs_table([run]))
    assert max(map(len, text.splitlines())) <= WIDTH
    (row,) = (line for line in text.splitlines() if "1 x 1" in line)
    assert row.split()[:4] == ["1", "x", "1", "all"]
    assert row.split()[-4:-1] == ["-1.05e+06", "1.05e+06", "1"]
    run.logits[:] = float("inf")
    (row,) = (line for line in plain_text(runs_table([run])).splitlines() if "1 x 1" in line)
    assert row.split()[-6:-1] == ["-", "-", "-", "-", str(run.logits.numel())]
