"""Bad files are refused by name, soon, and with little memory."""

from __future__ import annotations

import itertools
import os
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper

from burnish.frontend.onnx import OnnxModule, read_bytes, read_file
from burnish.ir.errors import BurnishError, InvalidModelError, UnsupportedError, WeightError
from tests.frontend.onnx.models import FLOAT, INT64, model, module, node, tensor, value


def plain() -> onnx.ModelProto:
    """y = x + w"""
    return model(
        [node("Add", ["x", "w"], ["y"])],
        [value("x", ["n", 3])],
        [value("y", ["n", 3])],
        [tensor("w", np.ones(3, np.float32))],
    )


def _cycle() -> onnx.ModelProto:
    nodes = [node("Add", ["x", "b"], ["a"]), node("Relu", ["a"], ["b"])]
    return model(nodes, [value("x", [3])], [value("b", [3])])


def _missing() -> onnx.ModelProto:
    proto = plain()
    del proto.graph.initializer[:]
    return proto


def _twice() -> onnx.ModelProto:
    return model([node("Relu", ["x"], ["y"]), node("Abs", ["x"], ["y"])], [value("x", [3])], [value("y", [3])])


def _short() -> onnx.ModelProto:
    proto = plain()
    proto.graph.initializer[0].raw_data = proto.graph.initializer[0].raw_data[:-1]
    return proto


def _lies_about_numbers() -> onnx.ModelProto:
    proto = plain()
    weight = proto.graph.initializer[0]
    weight.ClearField("raw_data")
    weight.float_data.extend([1.0, 2.0])
    return proto


def _absurd() -> onnx.ModelProto:
    proto = plain()
    proto.graph.initializer[0].dims[:] = [2**40, 2**40]
    return proto


def _negative() -> onnx.ModelProto:
    proto = plain()
    proto.graph.initializer[0].dims[:] = [-3]
    return proto


def _absurd_shape() -> onnx.ModelProto:
    return model(
        [node("ConstantOfShape", ["s"], ["y"])], [], [value("y", None)], [tensor("s", np.array([2**30, 2**30]))]
    )


def _unknown_type() -> onnx.ModelProto:
    proto = plain()
    proto.graph.initializer[0].data_type = 999
    return proto


def _unknown_operator() -> onnx.ModelProto:
    return model([node("Frobnicate", ["x"], ["y"])], [value("x", [3])], [value("y", [3])])


def _unknown_domain() -> onnx.ModelProto:
    return model([node("Relu", ["x"], ["y"], domain="elsewhere")], [value("x", [3])], [value("y", [3])])


def _foreign_operator() -> onnx.ModelProto:
    nodes = [node("Relu", ["x"], ["y"], domain="elsewhere")]
    return model(nodes, [value("x", [3])], [value("y", [3])], domains=["elsewhere"])


def _opset(version: int) -> Callable[[], onnx.ModelProto]:
    def make() -> onnx.ModelProto:
        proto = plain()
        proto.opset_import[0].version = version
        return proto

    return make


def _texts() -> onnx.ModelProto:
    proto = plain()
    proto.graph.initializer[0].CopyFrom(helper.make_tensor("w", TensorProto.STRING, [3], [b"a", b"b", b"c"]))
    return proto


def _sequence() -> onnx.ModelProto:
    inputs = [helper.make_tensor_sequence_value_info("x", FLOAT, None)]
    return model([node("SequenceLength", ["x"], ["y"])], inputs, [value("y", [], INT64)])


def _nested(depth: int) -> onnx.ModelProto:
    graph = helper.make_graph([node("Abs", ["x"], ["y0"])], "b", [], [value("y0", [3])])
    for level in range(1, depth):
        branch = node("If", ["c"], [f"y{level}"], then_branch=graph, else_branch=graph if level < 3 else _leaf(level))
        graph = helper.make_graph([branch], "b", [], [value(f"y{level}", [3])])
    inputs = [value("x", [3]), value("c", [], TensorProto.BOOL)]
    return model(list(graph.node), inputs, list(graph.output))


def _leaf(level: int) -> onnx.GraphProto:
    return helper.make_graph([node("Abs", ["x"], [f"e{level}"])], "b", [], [value(f"e{level}", [3])])


def _function(name: str, nodes: list[onnx.NodeProto]) -> onnx.FunctionProto:
    return helper.make_function(
        "own", name, ["x"], ["y"], nodes, [helper.make_opsetid("", 21), helper.make_opsetid("own", 1)]
    )


def _growing() -> onnx.ModelProto:
    """Functions of ten calls each, twelve deep: a million million nodes."""
    functions = []
    for level in range(12):
        called = "Relu" if level == 0 else f"f{level - 1}"
        domain = "" if level == 0 else "own"
        names = ["x", *(f"v{index}" for index in range(9)), "y"]
        nodes = [helper.make_node(called, [a], [b], domain=domain) for a, b in itertools.pairwise(names)]
        functions.append(_function(f"f{level}", nodes))
    call = node("f11", ["x"], ["y"], domain="own")
    return model([call], [value("x", [3])], [value("y", [3])], functions=functions, domains=["own"])


def _recursive() -> onnx.ModelProto:
    function = _function("f", [helper.make_node("f", ["x"], ["y"], domain="own")])
    call = node("f", ["x"], ["y"], domain="own")
    return model([call], [value("x", [3])], [value("y", [3])], functions=[function], domains=["own"])


def _wrong_attribute() -> onnx.ModelProto:
    return model([node("Softmax", ["x"], ["y"], axis="one")], [value("x", [3])], [value("y", [3])])


BAD: dict[str, tuple[Callable[[], onnx.ModelProto], type[BurnishError], str]] = {
    "a cycle": (_cycle, InvalidModelError, r"the node 'n_a' \(Add\) is in a cycle"),
    "a missing tensor": (_missing, InvalidModelError, r"the node 'n_y' \(Add\) reads 'w'"),
    "a value made twice": (_twice, InvalidModelError, r"\(Abs\) makes 'y', which is there already"),
    "too few bytes": (_short, WeightError, r"the tensor 'w': it has 11 bytes, and FLOAT\[3\] is of 12"),
    "too few numbers": (_lies_about_numbers, WeightError, "it has 2 numbers in float_data"),
    "an absurd tensor": (_absurd, InvalidModelError, r"the tensor 'w': its shape \[1099511627776"),
    "a negative size": (_negative, InvalidModelError, r"its shape is \[-3\]"),
    "an unknown element type": (_unknown_type, InvalidModelError, "there is no element type 999"),
    "an unknown operator": (_unknown_operator, UnsupportedError, r"the node 'n_y' \(Frobnicate\): this operator"),
    "a domain that is not imported": (_unknown_domain, InvalidModelError, "of the domain 'elsewhere', which"),
    "an unknown domain": (_foreign_operator, UnsupportedError, r"\(elsewhere.Relu\): this operator"),
    "an old opset": (_opset(6), UnsupportedError, "of opset 6: 7 to"),
    "an opset of the future": (_opset(99), UnsupportedError, "of opset 99: 7 to"),
    "texts": (_texts, UnsupportedError, "of type STRING are not supported"),
    "sequences": (_sequence, UnsupportedError, "'x' is a sequence: tensors are"),
    "deep nesting": (lambda: _nested(20), InvalidModelError, "nested"),
    "functions that grow": (_growing, InvalidModelError, "once they are written out"),
    "a function that calls itself": (_recursive, InvalidModelError, "own.f calls itself"),
}


@pytest.mark.parametrize("what", BAD)
def test_bad_files(what: str, tmp_path: Path) -> None:
    make, error, message = BAD[what]
    path = tmp_path / "model.onnx"
    path.write_bytes(make().SerializeToString())
    tracemalloc.start()
    start = time.process_time()
    try:
        with pytest.raises(error, match=message):
            OnnxModule.from_file(path)
        assert time.process_time() - start < 1
        assert tracemalloc.get_traced_memory()[1] < 200 * 2**20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("make", [_absurd_shape, _wrong_attribute])
def test_what_running_finds_is_named(make: Callable[[], onnx.ModelProto]) -> None:
    made = module(make())
    with pytest.raises(InvalidModelError, match="the node 'n_y'"):
        made(*(torch.zeros(3) for _ in made.inputs))


def test_no_protobuf_and_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    for data in (b"", b"not a model", plain().SerializeToString()[:-5], b"\x0a" * 1000):
        path.write_bytes(data)
        with pytest.raises(InvalidModelError):
            read_file(path)
    with pytest.raises(InvalidModelError, match="cannot be read"):
        read_file(tmp_path / "missing.onnx")
    with pytest.raises(InvalidModelError, match="is no file"):
        read_file(tmp_path)


def test_nodes_in_any_order() -> None:
    proto = model([node("Relu", ["a"], ["y"]), node("Neg", ["x"], ["a"])], [value("x", [3])], [value("y", [3])])
    (found,) = module(proto)(torch.tensor([1.0, -2.0, 3.0]))
    assert found.tolist() == [0, 2, 0]


# ---------------------------------------------------------------- data in other files


def external(folder: Path, location: str, offset: str = "0", length: str = "12") -> bytes:
    """y = x + w with w in another file."""
    proto = plain()
    weight = proto.graph.initializer[0]
    weight.ClearField("raw_data")
    weight.data_location = TensorProto.EXTERNAL
    for key, text in (("location", location), ("offset", offset), ("length", length)):
        weight.external_data.add(key=key, value=text)
    path = folder / "model.onnx"
    path.write_bytes(proto.SerializeToString())
    return path.read_bytes()


def test_external_data_is_read(tmp_path: Path) -> None:
    data = external(tmp_path, "w.bin", "4096")
    (tmp_path / "w.bin").write_bytes(bytes(4096) + np.array([1, 2, 3], np.float32).tobytes())
    made = OnnxModule(read_bytes(data, tmp_path))
    (found,) = made(torch.zeros(2, 3))
    assert found.tolist() == [[1, 2, 3]] * 2


def test_large_external_data_is_not_copied(tmp_path: Path) -> None:
    size = 2**22
    proto = model(
        [node("MatMul", ["x", "w"], ["y"])], [value("x", [1, 2048])], [value("y", [1, 2048])], [tensor("w", [0.0])]
    )
    weight = proto.graph.initializer[0]
    weight.ClearField("raw_data")
    weight.dims[:] = [2048, 2048]
    weight.data_type = FLOAT
    weight.data_location = TensorProto.EXTERNAL
    weight.external_data.add(key="location", value="w.bin")
    with (tmp_path / "w.bin").open("wb") as file:
        file.truncate(4 * size)
    tracemalloc.start()
    try:
        made = OnnxModule(read_bytes(proto.SerializeToString(), tmp_path))
        assert tracemalloc.get_traced_memory()[1] < size
    finally:
        tracemalloc.stop()
    if Path("/proc/self/maps").exists():
        assert "w.bin" in Path("/proc/self/maps").read_text()
    assert dict(made.named_parameters())["w"].shape == (2048, 2048)


@pytest.mark.parametrize("location", ["../w.bin", "/etc/hosts", "a/../../w.bin", "", "missing.bin", "w\0.bin", "."])
def test_external_data_stays_in_the_folder(location: str, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (tmp_path / "w.bin").write_bytes(bytes(12))
    with pytest.raises(InvalidModelError, match="the tensor 'w': its external data"):
        read_bytes(external(folder, location), folder)


def test_external_data_behind_a_link(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (tmp_path / "w.bin").write_bytes(bytes(12))
    os.symlink(tmp_path / "w.bin", folder / "w.bin")
    with pytest.raises(InvalidModelError, match=r"is a link to .* outside of"):
        read_bytes(external(folder, "w.bin"), folder)


@pytest.mark.parametrize(("offset", "length"), [("8", "12"), ("0", "13"), ("-1", "12"), ("x", "12"), ("9" * 30, "12")])
def test_external_data_has_the_bytes(offset: str, length: str, tmp_path: Path) -> None:
    (tmp_path / "w.bin").write_bytes(bytes(12))
    with pytest.raises((WeightError, InvalidModelError), match="the tensor 'w'"):
        read_bytes(external(tmp_path, "w.bin", offset, length), tmp_path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes here")
def test_a_pipe_is_no_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "w.bin")
    with pytest.raises(InvalidModelError, match="is no file"):
        read_bytes(external(tmp_path, "w.bin"), tmp_path)
