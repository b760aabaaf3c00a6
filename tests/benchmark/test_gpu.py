"""What of the GPU benchmark needs no GPU."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from burnish.inspect.table import plain_text

FILE = Path(__file__).parents[2] / "benchmarks" / "gpu.py"


@pytest.fixture(scope="module")
def gpu() -> Any:
    spec = importlib.util.spec_from_file_location("burnish_benchmarks_gpu", FILE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where dataclasses look for it
    spec.loader.exec_module(module)
    return module


def test_bytes_are_those_of_the_weights_and_the_cache(gpu: Any) -> None:
    parameters = {"1b": 1_235_814_400, "8b": 8_030_261_248 - 128256 * 4096}  # without the table that is looked up
    for name, expected in parameters.items():
        assert gpu.bytes_a_token(gpu.SHAPES[name], 1, 0) == pytest.approx(2 * expected, rel=1e-3)
    shape = gpu.SHAPES["8b"]
    assert gpu.bytes_a_token(shape, 16, 512) - gpu.bytes_a_token(shape, 16, 0) == 16 * 512 * 131072
    assert gpu.bytes_a_token(shape, 1, 0, bits=4) / gpu.bytes_a_token(shape, 1, 0) == pytest.approx(4.5 / 16, rel=1e-3)


def test_a_budget_allows_what_is_left(gpu: Any) -> None:
    now = [100.0]
    budget = gpu.Budget(60.0, clock=lambda: now[0])
    assert budget.allows(60.0)
    now[0] = 131.0
    assert budget.allows(29.0)
    assert not budget.allows(30.0)


def test_the_file_is_whole_after_each_row(gpu: Any, tmp_path: Path) -> None:
    results = gpu.Results(tmp_path / "results" / "gpu.json", {"device": "none"})
    for count in (1, 2):
        results.add(part="1b", model="1b", batch=count, who="burnish", tokens_per_second=500.0, share_of_copy=0.71)
        assert len(json.loads(results.file.read_text())["rows"]) == count
    text = plain_text(gpu.table([*results.rows, {"part": "copy", "bytes_per_second": 1.0}]))
    assert "71%" in text
    assert "70%" in text


def test_parts_are_named(gpu: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert gpu.arguments(["1b", "int4", "--seconds", "60"]).parts == ["1b", "int4"]
    with pytest.raises(SystemExit):
        gpu.arguments(["70b"])
    assert "no part '70b': there are numbers, 1b" in capsys.readouterr().err


@pytest.mark.skipif(torch.cuda.is_available(), reason="says what happens where there is no GPU")
def test_without_a_gpu_it_says_so(gpu: Any, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        gpu.main([])
    assert stopped.value.code == 2
    assert "needs an NVIDIA GPU" in capsys.readouterr().err
