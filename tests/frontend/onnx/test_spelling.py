"""What exporters write out is what torch has one word for, and the numbers hold."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto

from burnish.frontend.onnx import OnnxModule
from tests.frontend.onnx.models import model, module, node, tensor, value


def _targets(made: OnnxModule, *inputs: torch.Tensor) -> list[str]:
    exported = torch.export.export(made, inputs, dynamic_shapes=made.dynamic_shapes())
    return [str(each.target) for each in exported.graph.nodes if each.op == "call_function"]


def _safe(zero: float, other: str = "s") -> onnx.ModelProto:
    nodes = [
        node("Softmax", ["x"], ["s"], axis=-1),
        node("IsNaN", [other], ["n"]),
        node("Where", ["n", "z", "s"], ["y"]),
    ]
    return model(nodes, [value("x", ["n", 3])], [value("y", ["n", 3])], [tensor("z", np.float32(zero))])


def test_a_softmax_that_gives_zeros() -> None:
    made = module(_safe(0.0))
    x = torch.tensor([[1.0, 2.0, 3.0], [-torch.inf] * 3])
    assert "aten._safe_softmax.default" in _targets(made, x)
    (found,) = made(x)
    torch.testing.assert_close(found[0], x[0].softmax(-1))
    assert found[1].tolist() == [0, 0, 0]


@pytest.mark.parametrize(("zero", "other"), [(1.0, "s"), (0.0, "x")])
def test_what_looks_like_it_is_left_alone(zero: float, other: str) -> None:
    made = module(_safe(zero, other))
    assert "aten._safe_softmax.default" not in _targets(made, torch.zeros(2, 3))


def _turned(back: list[int]) -> onnx.ModelProto:
    nodes = [
        node("Reshape", ["x", "flat"], ["a"]),
        node("Transpose", ["a"], ["b"], perm=[0, 2, 1]),
        node("Reshape", ["b", "back"], ["y"]),
    ]
    tensors = [tensor("flat", np.array([-1, 5, 3])), tensor("back", np.array(back))]
    return model(nodes, [value("x", [2, 4, 5, 3])], [value("y", back)], tensors)


def test_axes_turned_by_way_of_three() -> None:
    made = module(_turned([2, 4, 3, 5]))
    x = torch.randn(2, 4, 5, 3)
    (found,) = made(x)
    assert torch.equal(found, x.transpose(2, 3))
    exported = torch.export.export(made, (x,))
    assert torch.equal(exported.module()(x)[0], found)
    (output,) = (each for each in exported.graph.nodes if each.op == "output")
    assert output.args[0][0].target is torch.ops.aten.transpose.int
    assert output.args[0][0].args[1:] == (2, 3)


def test_other_axes_are_reshaped() -> None:
    made = module(_turned([4, 2, 3, 5]))
    x = torch.randn(2, 4, 5, 3)
    wanted = x.reshape(8, 5, 3).transpose(1, 2).reshape(4, 2, 3, 5)
    assert torch.equal(made(x)[0], wanted)
    assert torch.equal(torch.export.export(made, (x,)).module()(x)[0], wanted)


def test_one_number_is_a_number_of_python() -> None:
    """Which is how rules of the passes know it."""
    nodes = [node("Mul", ["x", "half"], ["a"]), node("Pow", ["a", "two"], ["b"]), node("Add", ["b", "eps"], ["y"])]
    numbers = {"half": np.float32(0.5), "two": np.float32(2), "eps": np.array([1e-6], np.float32)}
    tensors = [tensor(name, number) for name, number in numbers.items()]
    made = module(model(nodes, [value("x", ["n", 3])], [value("y", ["n", 3])], tensors))
    targets = [each for each in _targets(made, torch.ones(2, 3)) if "sym_size" not in each]
    assert targets == [
        "aten.mul.Tensor",
        "aten.pow.Tensor_Scalar",
        "aten.add.Tensor",
    ]
    exported = torch.export.export(made, (torch.ones(2, 3),))
    assert all(
        not isinstance(each, torch.fx.Node)
        for n in exported.graph.nodes
        if n.op == "call_function"
        for each in n.args[1:]
    )


def test_names_of_types() -> None:
    made = module(
        model(
            [node("Identity", ["x"], ["y"])], [value("x", [2], TensorProto.INT4)], [value("y", [2], TensorProto.INT4)]
        )
    )
    assert str(made.inputs[0]) == "x: int4[2]"
    assert made.inputs[0].dtype is torch.int8
