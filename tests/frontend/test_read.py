"""`read` takes every kind of model, and says what it takes where it is given something else."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from burnish.frontend import read
from burnish.ir.errors import InvalidModelError

ACCEPTED = "a transformers PreTrainedModel, a folder with config.json and safetensors, "


class Bigram(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(11, 11)

    def forward(self, ids: Tensor) -> Tensor:
        return self.table(ids)


def test_a_module_and_its_export_are_read() -> None:
    module = Bigram()
    source = read(module, max_length=16)
    assert (source.name, source.tokenizer, source.generation) == ("Bigram", None, {})
    dims = {0: torch.export.Dim("batch"), 1: torch.export.Dim("sequence")}
    exported = torch.export.export(module, (torch.zeros(3, 5, dtype=torch.int64),), dynamic_shapes=(dims,))
    assert read(exported, max_length=16).program.signature == source.program.signature


@pytest.mark.parametrize("model", [None, 3, {"weights": []}, Bigram, torch.zeros(2)])
def test_what_is_no_model_is_refused(model: Any) -> None:
    with pytest.raises(
        InvalidModelError, match=rf"{type(model).__name__} is no model that burnish reads: give {ACCEPTED}"
    ):
        read(model)


def test_a_path_to_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidModelError, match=rf"there is no file or folder .*absent: give {ACCEPTED}"):
        read(tmp_path / "absent")


def test_a_file_of_another_kind_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model.bin").write_bytes(b"")
    with pytest.raises(InvalidModelError, match=r"model\.bin is a file, but neither \.gguf nor \.onnx"):
        read(str(tmp_path / "model.bin"))


@pytest.mark.parametrize(
    ("config", "adapter", "says"),
    [
        ({"model_type": "llama", "quantization_config": {"quant_method": "aqlm"}}, None, "quantized by 'aqlm'"),
        ({"model_type": "llama"}, {"peft_type": "IA3"}, "an adapter of the type 'IA3'"),
    ],
)
def test_what_is_not_read_is_told_before_transformers_is_imported(
    tmp_path: Path, config: dict[str, Any], adapter: dict[str, Any] | None, says: str
) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config))
    if adapter is not None:
        (tmp_path / "adapter_config.json").write_text(json.dumps(adapter))
    script = (
        "import sys\n"
        "from burnish.frontend import read\n"
        f"try: read({str(tmp_path)!r})\n"
        "except Exception as error: print(error)\n"
        "print('transformers' in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert says in done.stdout
    assert done.stdout.endswith("False\n")


def test_a_module_is_read_without_transformers() -> None:
    script = (
        "import sys; sys.modules['transformers'] = None\n"
        "from torch import nn\n"
        "from burnish.frontend import read\n"
        "print(read(nn.Embedding(5, 5), max_length=4).program.signature.vocabulary)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "5", done.stderr
