"""The model as a whole: names, weights by reference, sizes, and refusals."""

from __future__ import annotations

import operator
import time
from dataclasses import replace
from pathlib import Path

import onnx
import pytest
import torch

from burnish.codegen.onnx import lower, torchlib
from burnish.ir.errors import UnsupportedError
from burnish.ir.program import Stage
from burnish.ir.states import StateKind
from burnish.ir.weights import Permute, Stored
from burnish.runtime.weights_writer import plan_weights
from tests.codegen.programs import VOCABULARY, Maker, OnnxStep, aten, compare, ops


def test_weights_are_references_into_the_weights_file_and_tied_ones_are_one(tmp_path: Path) -> None:
    m = Maker()
    shared = m.random(VOCABULARY, 32)
    embedding = m.weight("embedding.weight", shared)
    head = m.weight("head.weight", shared)
    x = m.call(aten.embedding.default, embedding, m.tokens)
    program = m.step(m.call(aten.linear.default, x, head))
    step = compare(program, tmp_path)
    (initializer,) = onnx.load_from_string(step.bytes).graph.initializer
    place = plan_weights(program.weights).placements["head.weight"]
    stated = {each.key: each.value for each in initializer.external_data}
    assert stated == {
        "location": "weights.safetensors",
        "offset": str(place.offset),
        "length": str(place.length),
    }
    assert len(step.bytes) < 4000


def test_derived_weights_are_read_where_they_were_written(tmp_path: Path) -> None:
    m = Maker()
    weight = m.weight("given", m.random(4, 32))
    program = m.step(m.call(aten.linear.default, m.embed(32), weight))
    program.weights._entries["given"] = Permute(Stored(m.random(32, 4)), (1, 0))
    compare(program, tmp_path)


def test_nodes_name_the_users_line(tmp_path: Path) -> None:
    m = Maker()
    program = m.step(m.call(aten.relu.default, m.embed(4)))
    (node,) = (n for n in onnx.load_from_string(OnnxStep(program, tmp_path).bytes).graph.node if n.op_type == "Relu")
    stated = {each.key: each.value for each in node.metadata_props}
    assert stated == {"burnish.node": "relu_default", "burnish.origin": "model.layer model.py:12"}


def test_sizes_are_computed_once_and_from_the_inputs(tmp_path: Path) -> None:
    m = Maker()
    rows = m.call(operator.add, m.call(operator.mul, m.new_node(), 3), m.batch_node())
    columns = m.call(operator.floordiv, m.new_node(), 2)
    fills = [m.call(aten.full.default, [rows, columns], value) for value in (1.0, 2.0)]
    step = compare(m.step(m.call(aten.add.Tensor, *fills)), tmp_path, new=5)
    types = step.op_types()
    assert types.count("Shape") == 2
    assert types.count("Div") == 1


def test_the_same_model_gives_the_same_bytes(tmp_path: Path) -> None:
    def make() -> bytes:
        m = Maker()
        program = m.step(m.call(aten.linear.default, m.embed(8), m.weight("w", m.random(4, 8))))
        return lower(program, plan_weights(program.weights))

    assert make() == make()


def test_an_op_without_translation_is_refused_by_name_and_line() -> None:
    m = Maker()
    program = m.step(m.call(aten.lgamma.default, m.embed(4)))
    with pytest.raises(UnsupportedError, match=r"lgamma_default \(aten\.lgamma\.default\).*model\.py:12.*layer\(x\)"):
        lower(program, plan_weights(program.weights))


def test_a_dtype_that_onnx_has_not_is_refused_by_node() -> None:
    m = Maker()
    x = m.call(aten.complex.default, m.embed(4), m.embed(4))
    program = m.step(m.call(aten.mul.Tensor, x, 2))
    with pytest.raises(UnsupportedError, match="complex"):
        lower(program, plan_weights(program.weights))


def test_a_cache_read_as_it_was_before_the_step_is_refused() -> None:
    m = Maker()
    past = m.remembered("past", StateKind.CACHE, ("batch", "capacity", 4), 1)
    written = m.call(ops.cache_write.default, past, m.embed(4), m.position, 1)
    program = m.step(m.call(aten.sum.dim_IntList, past, [1]), written)
    with pytest.raises(UnsupportedError, match="before this step"):
        lower(program, plan_weights(program.weights))


def test_only_a_step_program_can_be_lowered() -> None:
    m = Maker()
    program = replace(m.step(m.embed(4)), stage=Stage.CAPTURED)
    with pytest.raises(UnsupportedError, match="captured"):
        lower(program, plan_weights(program.weights))


def test_thirty_layers_are_lowered_in_a_moment(tmp_path: Path) -> None:
    m = Maker()
    x = m.embed(16)
    weight = m.weight("w", m.random(16, 16, scale=0.2))
    scale = m.weight("scale", torch.ones(16))
    for _ in range(30):
        normed = m.call(ops.rms_norm.default, x, scale, 1e-5)
        gated = m.call(ops.gated_activation.default, *(m.call(aten.linear.default, normed, weight),) * 2, "silu")
        x = m.call(aten.add.Tensor, x, m.call(aten.linear.default, gated, weight))
    program = m.step(x)
    start = time.perf_counter()
    lower(program, plan_weights(program.weights))
    assert time.perf_counter() - start < 5
    compare(program, tmp_path, tolerance=1e-4)


def test_torchs_table_is_read_without_warnings(caplog: pytest.LogCaptureFixture) -> None:
    torchlib._registry.cache_clear()
    torchlib._registry()
    assert "torchvision" not in caplog.text


def test_the_least_of_a_sigmoid_is_no_floor(tmp_path: Path) -> None:
    """ONNX Runtime's own gives the same for all below -18."""
    m = Maker()
    far = m.call(aten.sub.Tensor, m.embed(4, scale=12.0), 20.0)
    gated = m.call(
        ops.gated_activation.default, far, m.call(aten.exp.default, m.call(aten.neg.default, far)), "sigmoid"
    )
    both = m.call(aten.cat.default, [m.call(aten.log.default, m.call(aten.sigmoid.default, far)), gated], -1)
    compare(m.step(both), tmp_path)
