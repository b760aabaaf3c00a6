"""The benchmark on CPUs on a model of two layers, and the part of the README that its lines become."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from burnish.benchmark.runner import BenchmarkError

ROOT = Path(__file__).parents[2]
SHAPE = {
    **{"hidden_size": 64, "num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 128},
    **{"num_hidden_layers": 2, "vocab_size": 96, "max_position_embeddings": 64},
}


def module_of(file: Path) -> Any:
    spec = importlib.util.spec_from_file_location(f"burnish_{file.parent.name}_{file.stem}", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where dataclasses look for it
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def cpu() -> Any:
    folder = str(ROOT / "benchmarks")
    sys.path.insert(0, folder)  # where it finds its other parts
    try:
        return module_of(ROOT / "benchmarks" / "cpu.py")
    finally:
        sys.path.remove(folder)


@pytest.fixture(scope="module")
def readme() -> Any:
    return module_of(ROOT / "docs" / "readme.py")


@pytest.fixture
def tiny(cpu: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Makes all scenarios those of a tiny model; the file of results."""
    random_weights = sys.modules["random_weights"]
    monkeypatch.setitem(random_weights.SHAPES, "tiny", SHAPE)
    model = random_weights.random_model("tiny", tmp_path)
    contenders = ("native int4", "native int4 fast", "onnxruntime float32", "ort-genai-int4")
    scenario = cpu.Scenario(lambda: model, contenders, prompt_length=12, batch=2, new_tokens=3, repeats=1)
    steps = dataclasses.replace(scenario, contenders=contenders[:2])
    monkeypatch.setattr(cpu, "SCENARIOS", {"tiny": scenario, "rows": steps})
    monkeypatch.setattr(cpu, "RESULTS", tmp_path / "cpu.jsonl")

    def missing(name: str, model: Path, progress: object) -> None:
        raise BenchmarkError(f"{name} cannot be installed here")

    monkeypatch.setattr(cpu, "prepare", missing)
    return tmp_path / "cpu.jsonl"


def test_a_model_of_random_weights_is_made_once_and_is_the_same_each_time(cpu: Any, tiny: Path, tmp_path: Path) -> None:
    random_weights = sys.modules["random_weights"]
    one, two = (random_weights.random_model("tiny", folder) for folder in (tmp_path, tmp_path / "other"))
    first, second = ((folder / "model.safetensors").read_bytes() for folder in (one, two))
    assert first == second
    assert json.loads((one / "config.json").read_text())["dtype"] == "bfloat16"


@pytest.mark.slow("contenders are processes of their own")
def test_scenarios_are_measured_and_become_tables(
    cpu: Any, readme: Any, tiny: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["cpu.py"])
    cpu.main()
    printed = capsys.readouterr().out
    assert "tiny: ort-genai-int4 is left out: ort-genai-int4 cannot be installed here" in printed
    assert "of read" in printed
    assert "batch 2, greedy: 12 tokens read, 3 written" in printed
    lines = [json.loads(line) for line in tiny.read_text().splitlines()]
    assert [(line["scenario"], line["contender"]) for line in lines] == [
        *[("tiny", name) for name in ("native int4", "native int4 fast", "onnxruntime float32")],
        *[("rows", name) for name in ("native int4", "native int4 fast")],
    ]
    assert all(line["share_of_bandwidth"] >= 0 for line in lines[:3])
    assert lines[0]["same_tokens"] == 3
    assert set(lines[3]["milliseconds"]) == {"1", "2", "4", "8"}

    # An older run of a scenario is not in the README, whoever was in it.
    older = [{**lines[0], "date": "2020-01-01", "contender": "of an older run"}]
    text = readme.numbers(readme.newest([*older, *lines]))
    assert "of an older run" not in text
    assert "random-tiny at batch 2, 12 tokens of context, 3 new tokens" in text
    assert text.count("| native int4 fast |") == 2
    assert "| a step of | 1 token, ms | 2 tokens | 4 tokens | 8 tokens |" in text


def test_accuracy_is_how_an_artifact_is_loaded_and_not_another_one(cpu: Any, tiny: Path, tmp_path: Path) -> None:
    artifacts = cpu.Artifacts(tmp_path)
    model = cpu.SCENARIOS["tiny"].model()
    exact, fast = (artifacts.entrant(name, model) for name in ("native int4", "native int4 fast"))
    assert exact.model == fast.model
    assert (exact.accuracy, fast.accuracy) == ("exact", "fast")
    assert exact.reads == fast.reads
    assert exact.reads.a_token == 2 * 2 * 2 * 16 * torch.float32.itemsize


@pytest.mark.parametrize("arguments", [["fast"], ["tiny", "--contenders", "vllm"]])
def test_what_there_is_not_is_refused(
    cpu: Any, tiny: Path, arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["cpu.py", *arguments])
    with pytest.raises(SystemExit):
        cpu.main()
    assert f"there is no {arguments[-1]!r}" in capsys.readouterr().err
