"""What a step of each contender reads, counted on its files: weights once, and what it remembers of each token.

Tables of which a step looks up single rows do not count.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import onnx
from safetensors import safe_open

from burnish.benchmark.runner import BenchmarkError, Reads
from burnish.frontend.gguf_file import open_gguf
from burnish.runtime.artifact import Artifact

_TOKENS, _HEAD = "token_embd.weight", "output.weight"  # a file without the head has one table for both
# What stands between OpenVINO's constants and their readers: other names and the arithmetic of integers.
_BETWEEN = {"Convert", "Multiply", "Subtract", "Reshape", "Transpose", "Unsqueeze", "Squeeze", "FakeConvert"}


def of_artifact(path: Path) -> Reads | None:
    """burnish: what the trace says that a token cannot do without; None where it does not, as in older artifacts."""
    trace = Artifact.open(path).trace()
    last = trace.passes[-1]
    if last.floor_bytes == 0:
        return None
    return Reads(last.floor_bytes - trace.context * last.bytes_a_token, last.bytes_a_token)


def of_floats(model: Path) -> Reads:
    """All weights of a folder or a .gguf file in float32, and so the cache: eager PyTorch."""
    if model.suffix == ".gguf":
        counts = {name: math.prod(tensor.shape) for name, tensor in open_gguf(model).tensors.items()}
        looked_up = {_TOKENS} if _HEAD in counts else set()
    else:
        counts = dict(_elements(model))
        looked_up = {name for name in counts if name.endswith("embed_tokens.weight") and "lm_head.weight" in counts}
    return Reads(4 * sum(count for name, count in counts.items() if name not in looked_up), 4 * remembered(model))


def of_gguf(file: Path) -> Reads:
    """llama.cpp: the file's tensors, and a cache of float16."""
    tensors = open_gguf(file).tensors
    looked_up = {_TOKENS} if _HEAD in tensors else set()
    weights = sum(tensor.data.nbytes for name, tensor in tensors.items() if name not in looked_up)
    return Reads(weights, 2 * remembered(file))


def of_onnx(folder: Path, numbers: int) -> Reads:
    """onnxruntime-genai: the constants of its graph, and a cache of float32."""
    graph = onnx.load(folder / "model.onnx", load_external_data=False).graph
    read = {name for node in graph.node if not node.op_type.startswith("Gather") for name in node.input}
    weights = 0
    for constant in graph.initializer:
        if constant.name in read:
            outside = {entry.key: entry.value for entry in constant.external_data}
            weights += int(outside.get("length", 0)) or len(constant.raw_data)
    return Reads(weights, 4 * numbers)


def of_openvino(folder: Path, numbers: int) -> Reads:
    """OpenVINO: the constants of its graph, and a cache of 8 bits, without its scales."""
    root = ElementTree.parse(folder / "openvino_model.xml").getroot()
    layers = {layer.attrib["id"]: layer for layer in root.iter("layer")}
    readers: dict[str, list[str]] = {name: [] for name in layers}
    for edge in root.iter("edge"):
        readers[edge.attrib["from-layer"]].append(edge.attrib["to-layer"])

    def ends(name: str) -> Iterator[str]:
        for reader in readers[name]:
            kind = layers[reader].attrib["type"]
            if kind in _BETWEEN:
                yield from ends(reader)
            else:
                yield kind

    places: dict[str, int] = {}  # of bytes in the file: several constants may be the same ones
    for name, layer in layers.items():
        data = layer.find("data")
        if layer.attrib["type"] == "Const" and data is not None and set(ends(name)) - {"Gather"}:
            places[data.attrib["offset"]] = int(data.attrib["size"])
    return Reads(sum(places.values()), numbers)


def remembered(model: Path) -> int:
    """How many numbers a token leaves in the caches: keys and values, of every layer.

    Raises BenchmarkError for a model whose configuration does not say so.
    """
    try:
        if model.suffix == ".gguf":
            return _remembered_gguf(open_gguf(model).metadata)
        found = json.loads((model / "config.json").read_text())
        heads, layers = found["num_attention_heads"], found["num_hidden_layers"]
        size = found.get("head_dim") or found["hidden_size"] // heads
        return int(2 * layers * (found.get("num_key_value_heads") or heads) * size)
    except KeyError as error:
        raise BenchmarkError(f"{model} does not say {error}: the bytes that others read of it are not known") from error


def _remembered_gguf(metadata: dict[str, Any]) -> int:
    kind = metadata["general.architecture"]
    heads = metadata[f"{kind}.attention.head_count"]
    size = metadata.get(f"{kind}.attention.key_length", metadata[f"{kind}.embedding_length"] // heads)
    return int(2 * metadata[f"{kind}.block_count"] * metadata.get(f"{kind}.attention.head_count_kv", heads) * size)


def _elements(folder: Path) -> Iterator[tuple[str, int]]:
    """The tensors of a folder of safetensors, and how many elements each has."""
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, "pt") as opened:
            for name in opened.keys():  # noqa: SIM118 (no mapping)
                yield name, math.prod(opened.get_slice(name).get_shape())
