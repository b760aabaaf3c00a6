"""Models whose code comes with them: refused with the word that runs it, and run for who says that word."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from transformers import dynamic_module_utils
from typer.testing import CliRunner

import burnish
from burnish.cli.commands import app
from burnish.frontend import read
from burnish.ir.errors import InvalidModelError
from burnish.ir.interpreter import run
from tests.frontend.test_folder import small_llama

CONFIGURATION = """
from transformers import PreTrainedConfig

class Config(PreTrainedConfig):
    model_type = "bigram_of_a_folder"

    def __init__(self, vocab_size=11, **others):
        self.vocab_size = vocab_size
        super().__init__(**others)
"""
MODEL = """
import torch
from transformers import PreTrainedModel
from transformers.modeling_outputs import CausalLMOutput

from .configuration_bigram import Config

class Model(PreTrainedModel):
    config_class = Config

    def __init__(self, config):
        super().__init__(config)
        self.table = torch.nn.Embedding(config.vocab_size, config.vocab_size)
        self.post_init()

    def forward(self, input_ids, use_cache=None):
        return CausalLMOutput(logits=self.table(input_ids))
"""


@pytest.fixture(scope="module", autouse=True)
def modules(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Where transformers copies such code to, not in the cache of who runs this; one place, which Python remembers."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dynamic_module_utils, "HF_MODULES_CACHE", str(tmp_path_factory.mktemp("modules")))
        yield


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model that transformers has no class for."""
    found = tmp_path / "bigram"
    found.mkdir()
    classes = {"AutoConfig": "configuration_bigram.Config", "AutoModelForCausalLM": "modeling_bigram.Model"}
    (found / "config.json").write_text(json.dumps({"model_type": "bigram_of_a_folder", "auto_map": classes}))
    (found / "configuration_bigram.py").write_text(CONFIGURATION)
    (found / "modeling_bigram.py").write_text(MODEL)
    save_file({"table.weight": torch.arange(121.0).reshape(11, 11)}, found / "model.safetensors", {"format": "pt"})
    return found


def test_the_code_is_not_run_and_the_message_says_what_runs_it(folder: Path) -> None:
    (folder / "configuration_bigram.py").write_text("raise SystemExit('the code ran')")
    with pytest.raises(InvalidModelError) as raised:
        burnish.compile(folder)
    message = str(raised.value)
    assert "(configuration_bigram.py, modeling_bigram.py)" in message
    assert "give trust_remote_code=True" in message
    assert "a .gguf or .onnx file" in message  # what is read without


def test_the_code_is_run_for_who_trusts_it(folder: Path) -> None:
    source = read(folder, max_length=16, trust_remote_code=True)
    tokens = torch.tensor([[1, 5, 10]])
    assert torch.equal(run(source.program, [tokens])[0], torch.arange(121.0).reshape(11, 11)[tokens])


def test_a_model_of_transformers_with_code_of_its_own_is_built_by_transformers(folder: Path) -> None:
    """Many folders have both: the code of the time before transformers knew the model."""
    auto_map = json.loads((folder / "config.json").read_text())["auto_map"]
    torch.manual_seed(0)
    small_llama().save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"auto_map": auto_map}))
    assert read(folder).program.signature.max_length == 64


def test_the_command_names_its_flag_and_takes_it(folder: Path) -> None:
    command = ["compile", str(folder), "-o", str(folder.parent / "out.burnish"), "--max-length", "16"]
    refused = CliRunner().invoke(app, command)
    assert refused.exit_code == 1
    assert "give --trust-remote-code." in refused.output
    done = CliRunner().invoke(app, [*command, "--trust-remote-code", "--backend", "reference"])
    assert done.exit_code == 0, done.output


def test_a_file_of_options_cannot_trust(folder: Path) -> None:
    """One that lies in a folder from elsewhere is taken from there, and so is the code."""
    options = folder / "burnish.toml"
    options.write_text("trust_remote_code = true\n")
    refused = CliRunner().invoke(app, ["compile", str(folder), "-o", "out.burnish", "--config", str(options)])
    assert refused.exit_code == 2
    assert "there are target, backend" in refused.output


def test_code_that_fails_is_told(folder: Path) -> None:
    (folder / "configuration_bigram.py").write_text(CONFIGURATION + "# another class than that of other tests\n")
    (folder / "modeling_bigram.py").write_text(MODEL.replace("self.post_init()", "raise LookupError('no such thing')"))
    with pytest.raises(InvalidModelError, match="no such thing"):
        read(folder, trust_remote_code=True)
