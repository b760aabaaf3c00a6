"""What contenders read a step, counted on files whose tensors are known."""

from __future__ import annotations

import json
from pathlib import Path

import gguf
import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper
from safetensors.torch import save_file

from burnish.benchmark import reads
from burnish.benchmark.runner import BenchmarkError, Reads
from burnish.runtime.artifact import Artifact

IR = """
<net>
 <layers>
  <layer id="0" type="Const"><data element_type="u4" offset="0" size="100"/></layer>
  <layer id="1" type="Convert"/>
  <layer id="2" type="MatMul"/>
  <layer id="3" type="Const"><data element_type="i8" offset="100" size="7000"/></layer>
  <layer id="4" type="Convert"/>
  <layer id="5" type="Gather"/>
  <layer id="6" type="Const"><data element_type="i8" offset="7100" size="20"/></layer>
  <layer id="7" type="Const"><data element_type="i8" offset="7100" size="20"/></layer>
 </layers>
 <edges>
  <edge from-layer="0" to-layer="1"/>
  <edge from-layer="1" to-layer="2"/>
  <edge from-layer="3" to-layer="4"/>
  <edge from-layer="4" to-layer="5"/>
  <edge from-layer="6" to-layer="2"/>
  <edge from-layer="6" to-layer="5"/>
  <edge from-layer="7" to-layer="2"/>
 </edges>
</net>
"""


def write_gguf(path: Path, file_type: int, head: bool = False) -> None:
    """Three layers with four heads of 8 numbers, of which two are of keys and values; a table of 10 rows of 32."""
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(3)
    writer.add_embedding_length(32)
    writer.add_head_count(4)
    writer.add_head_count_kv(2)
    writer.add_file_type(file_type)
    for name in ("token_embd.weight", *(["output.weight"] if head else [])):
        table = gguf.quantize(np.ones((10, 32), np.float32), gguf.GGMLQuantizationType.Q8_0)
        writer.add_tensor(name, table, raw_dtype=gguf.GGMLQuantizationType.Q8_0)
    writer.add_tensor("output_norm.weight", np.ones(32, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.mark.parametrize("head", [False, True])
def test_a_file_of_gguf_is_read_but_for_a_table_that_is_no_head(tmp_path: Path, head: bool) -> None:
    write_gguf(tmp_path / "tiny.gguf", 7, head)
    assert reads.of_gguf(tmp_path / "tiny.gguf") == Reads(10 * 34 + 128, 2 * 2 * 3 * 2 * 8)
    assert reads.of_floats(tmp_path / "tiny.gguf") == Reads(4 * (320 + 32), 4 * 2 * 3 * 2 * 8)


def test_a_folder_is_read_in_float32(tmp_path: Path) -> None:
    config = {"num_attention_heads": 4, "num_hidden_layers": 3, "hidden_size": 32}
    (tmp_path / "config.json").write_text(json.dumps(config))
    tensors = {"model.embed_tokens.weight": torch.zeros(10, 32), "model.norm.weight": torch.zeros(32)}
    save_file(tensors, tmp_path / "model.safetensors")
    assert reads.of_floats(tmp_path) == Reads(4 * 352, 4 * 2 * 3 * 4 * 8)
    save_file({"lm_head.weight": torch.zeros(10, 32, dtype=torch.bfloat16)}, tmp_path / "head.safetensors")
    assert reads.of_floats(tmp_path) == Reads(4 * 352, 4 * 2 * 3 * 4 * 8)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(BenchmarkError, match="num_attention_heads"):
        reads.remembered(tmp_path)


def test_a_graph_of_onnx_is_read_but_for_its_gathers(tmp_path: Path) -> None:
    constants = [
        helper.make_tensor("weight", TensorProto.UINT8, [4, 4], bytes(16), raw=True),
        helper.make_tensor("table", TensorProto.FLOAT, [4, 4], bytes(64), raw=True),
        helper.make_tensor("both", TensorProto.UINT8, [2], bytes(2), raw=True),
    ]
    nodes = [
        helper.make_node("MatMul", ["x", "weight"], ["y"]),
        helper.make_node("Gather", ["table", "x"], ["z"]),
        helper.make_node("GatherBlockQuantized", ["both", "x"], ["u"]),
        helper.make_node("Add", ["both", "x"], ["v"]),
    ]
    onnx.save(helper.make_model(helper.make_graph(nodes, "g", [], [], constants)), tmp_path / "model.onnx")
    assert reads.of_onnx(tmp_path, 5) == Reads(18, 20)


def test_a_graph_of_openvino_is_read_but_for_its_gathers(tmp_path: Path) -> None:
    (tmp_path / "openvino_model.xml").write_text(IR)
    assert reads.of_openvino(tmp_path, 5) == Reads(120, 5)


def test_burnish_reads_its_floor_without_the_cache_that_is_in_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Pass:
        floor_bytes, bytes_a_token = 1000 + 100 * 3, 3

    class Opened:
        def trace(self) -> Opened:
            return self

        passes = (Pass,)
        context = 100

    monkeypatch.setattr(Artifact, "open", lambda path: Opened())
    assert reads.of_artifact(tmp_path) == Reads(1000, 3)
    monkeypatch.setattr(Pass, "floor_bytes", 0)
    assert reads.of_artifact(tmp_path) is None
