"""Programs of every stage as ONNX: what ONNX Runtime computes is what the interpreter computes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from burnish.inspect.onnx_dump import OnnxFolder, write_onnx
from burnish.inspect.table import plain_text
from burnish.ir.errors import UnsupportedError, UsageError
from burnish.ir.parse import parse_program
from burnish.ir.program import Program
from burnish.passes.verify import logits_of, random_tokens
from tests.inspect.models import stages


def run_onnx(path: Path, program: Program, tokens: torch.Tensor) -> torch.Tensor:
    """The logits of the ONNX file for `tokens` fed at once."""
    session = onnxruntime.InferenceSession(str(path))
    rows, length = tokens.shape
    feed: dict[str, Any] = {"tokens": tokens.numpy()}
    feed["logits_index"] = np.arange(length)
    feed["position"] = np.zeros(rows, dtype=np.int64)
    feed.update({name: each.numpy() for name, each in program.first_states(rows, length).items()})
    names = {each.name for each in session.get_inputs()}
    return torch.tensor(session.run(["logits"], {name: feed[name] for name in names})[0])


@pytest.mark.parametrize("model_type", ["gemma2", "gpt_oss", "lfm2"])
def test_every_stage_computes_the_same_in_onnx_runtime(model_type: str, tmp_path: Path) -> None:
    for name, program in stages(model_type, "onnxruntime").items():
        path = tmp_path / f"{name}.onnx"
        write_onnx(program, path, with_weights=True)
        tokens = random_tokens(program, 2, 11)
        expected = logits_of(program, tokens)
        found = run_onnx(path, program, tokens)
        assert found.shape == expected.shape
        assert float((found - expected).abs().max() / expected.abs().max()) < 1e-5, name


def test_without_weights_files_are_small_and_say_names_and_shapes(tmp_path: Path) -> None:
    program = stages()["captured"]
    write_onnx(program, tmp_path / "captured.onnx", with_weights=False)
    assert [path.name for path in tmp_path.iterdir()] == ["captured.onnx"]
    assert (tmp_path / "captured.onnx").stat().st_size < 200_000
    graph = onnx.load(str(tmp_path / "captured.onnx"), load_external_data=False).graph
    initializers = {each.name: tuple(each.dims) for each in graph.initializer}
    assert initializers["model.layers.0.mlp.gate_proj.weight"] == (48, 64)
    assert [each.name for each in graph.input] == ["tokens"]
    assert [each.name for each in graph.output] == ["logits"]
    origins = {prop.value for node in graph.node for prop in node.metadata_props if prop.key == "burnish.origin"}
    assert any(origin.startswith("model.layers.0.mlp") for origin in origins)


OUTSIDE = """\
program captured: vocabulary=5, max_length=16, token_limit=5, logits_dtype=f32
size batch: s52 from 2, example 3
size sequence: s27 from 2 to 16, example 7
weight @table: f32[5, 4]
input %tokens: i64[batch, sequence]
%table: f32[5, 4] = @table
%embedding: f32[batch, sequence, 4] = aten.embedding(@table, %tokens)  # table | Embedding | model.py:12
%bessel: f32[batch, sequence, 4] = aten.special_bessel_j0(%embedding)  # odd | Odd | model.py:13 | odd(x)
return [%bessel]
"""


def test_what_onnx_cannot_express_is_named_with_its_op_and_line(tmp_path: Path) -> None:
    program = parse_program(OUTSIDE, {"table": torch.zeros(5, 4)})
    with pytest.raises(UnsupportedError):
        write_onnx(program, tmp_path / "it.onnx", with_weights=True)
    folder = OnnxFolder(tmp_path / "new" / "folder")
    folder.add(program, "00-captured")
    folder.add(stages()["captured"], "01-other")
    assert [path.name for path in folder.folder.iterdir()] == ["01-other.onnx"]
    text = plain_text(folder.view())
    assert "1 of 2 programs as ONNX" in text
    assert "00-captured cannot be expressed: bessel (aten.special_bessel_j0.default) in odd (Odd), model.py:13" in (
        " ".join(text.split())
    )


def test_a_folder_that_cannot_be_written_to_is_a_mistake(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="cannot write ONNX files"):
        OnnxFolder(tmp_path / "file")
