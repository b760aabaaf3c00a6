"""An artifact as an ONNX model for others: with its weights at hand, in operators of a flavor, named by modules."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

import onnx_ir as ir
from onnx_ir.tensor_adapters import TorchTensor

from burnish.codegen.onnx.builder import CONTRIB
from burnish.codegen.onnx.lowering import check_translated, lower_to_model
from burnish.codegen.onnx.past_attention import Flavor
from burnish.codegen.onnx.standard import make_standard
from burnish.export.outward import outward, past_dtype, state_axes
from burnish.ir import past_present
from burnish.ir.errors import UsageError
from burnish.ir.past_present import state_names
from burnish.ir.program import Program, origin
from burnish.ir.trace import Trace
from burnish.ir.weights import Reshape, Weights
from burnish.passes.lower.read_integers import ReadIntegers
from burnish.passes.lower.take_apart import take_apart
from burnish.passes.run import Run
from burnish.runtime.artifact import MODEL_FILE, Artifact
from burnish.runtime.backends import Backend
from burnish.runtime.weights_writer import plan_weights
from burnish.version import __version__

EXACT = 1  # accuracy_level
_SCOPE = re.compile(r"\.(?=\d+(?:\.|$))")  # in front of a number: model/layers.0/mlp


def model_of(artifact: Artifact, flavor: Flavor) -> ir.Model:
    """The model, whose weights are made when they are written. Integers are multiplied with floats, and not in 8 bits.

    Raises UsageError for an artifact that has to be compiled otherwise, UnsupportedError for what ONNX, or the flavor,
    has no operators for.
    """
    model, program = _graph(artifact) if artifact.manifest.graph is not None else _language_model(artifact, flavor)
    if flavor == "standard":
        make_standard(model)
    else:
        for node in ir.traversal.RecursiveGraphIterator(model.graph):
            if node.op_type == "SimplifiedLayerNormalization":  # its word from before ONNX had one, which checkers lack
                node.op_type = "RMSNormalization"
        model.graph.opset_imports.setdefault(CONTRIB, 1)
    _name_by_modules(model, program)
    set_accuracy_level(model, EXACT)
    model.graph.name = artifact.manifest.name
    model.producer_version = __version__
    model.metadata_props.update(_metadata(artifact, flavor))
    return model


def accuracy_level(backend: Backend) -> int:
    """How ONNX Runtime has to multiply with integers to do it as a backend does: 1, in floats; 4, in 8 bits."""
    return 4 if backend == "onnxruntime" else EXACT


def set_accuracy_level(model: ir.Model, level: int) -> bool:
    """Have all products with integers be so, in place; whether any is changed."""
    changed = False
    for node in ir.traversal.RecursiveGraphIterator(model.graph):
        if node.op_type == "MatMulNBits" and node.attributes["accuracy_level"].as_int() != level:
            node.attributes["accuracy_level"] = ir.AttrInt64("accuracy_level", level)
            changed = True
    return changed


def session_settings(level: int) -> dict[str, str]:
    """ONNX Runtime's settings with which it takes DequantizeLinear and MatMul together as `accuracy_level` has it."""
    return {"session.qdq_matmulnbits_accuracy_level": str(level)}


def _graph(artifact: Artifact) -> tuple[ir.Model, Program]:
    """Of a graph, the model that was compiled and verified."""
    if not artifact.has(MODEL_FILE):
        raise UsageError(
            f"{artifact.path} was compiled for the reference backend, and has no ONNX model: compile it with "
            "backend='onnxruntime'"
        )
    model = ir.load(artifact.file(MODEL_FILE))
    _bring_weights(model, artifact.weights)
    return model, artifact.program()


def _language_model(artifact: Artifact, flavor: Flavor) -> tuple[ir.Model, Program]:
    target = artifact.manifest.target
    if target == "triton":
        raise UsageError(
            f"{artifact.path} was compiled for GPUs, whose fused operations ONNX does not have: compile the model with "
            "target='cpu' (burnish compile MODEL --target cpu)"
        )
    run = Run(outward(artifact.program()), Trace())
    run.passes([ReadIntegers("blocks")])
    take_apart(run)
    program = run.program
    check_translated(program)
    model = lower_to_model(program, plan_weights(program.weights, tables=False), outward=flavor)
    _bring_weights(model, program.weights)
    return model, program


def _bring_weights(model: ir.Model, weights: Weights) -> None:
    """Initializers that say a place in a file of ours have the weight itself, made when it is asked for."""
    for value in model.graph.initializers.values():
        tensor = value.const_value
        if isinstance(tensor, ir.ExternalTensor):
            value.const_value = _made_later(weights, tensor)


def _made_later(weights: Weights, tensor: ir.ExternalTensor) -> ir.LazyTensor:
    weight, shape = weights[tensor.name or ""], tensor.shape.numpy()
    if weight.shape != shape:
        weight = Reshape(weight, shape)
    return ir.LazyTensor(
        lambda: TorchTensor(weight.materialize().contiguous()), dtype=tensor.dtype, shape=tensor.shape, name=tensor.name
    )


# ---------------------------------------------------------------- names


def _name_by_modules(model: ir.Model, program: Program) -> None:
    """Nodes are called by the module that they come from, /model/layers.0/self_attn/q_proj/MatMul, and so their values.

    A product has the name of the module whose weight it reads.
    """
    modules = {node.name: origin(node).module for node in program.graph.nodes}
    kept = {value.name for value in (*model.graph.inputs, *model.graph.outputs)}
    taken: dict[str, int] = {}
    for node in ir.traversal.RecursiveGraphIterator(model.graph):
        module = _weight_module(node, model.graph.initializers)
        scope = _SCOPE.sub("\0", module or modules.get(node.metadata_props.get("burnish.node", ""), ""))
        path = scope.replace(".", "/").replace("\0", ".")
        name = "/".join(("", path, node.op_type) if path else ("", node.op_type))
        taken[name] = number = taken.get(name, -1) + 1
        node.name = f"{name}_{number}" if number else name
        if path:
            node.metadata_props["namespace"] = path
        for place, output in enumerate(node.outputs):
            if node.op_type.startswith("Skip") and not output.uses() and not output.is_graph_output():
                output.name = ""  # means and deviations: who is asked for them by name has to give them
            elif output.name and output.name not in kept:
                output.name = f"{node.name}_output_{place}"


def _weight_module(node: ir.Node, initializers: Mapping[str, Any]) -> str:
    """The module of the weight that a node multiplies with; of a table that it looks up in, which others may multiply
    with, nothing.
    """
    for value in () if node.op_type.startswith("Gather") else node.inputs:
        if value is not None and value.name and value.name in initializers and ".weight" in value.name:
            return value.name.partition(".weight")[0]
        maker = None if value is None else value.producer()
        if maker is not None and maker.op_type == "DequantizeLinear":
            return _weight_module(maker, initializers)
    return ""


# ---------------------------------------------------------------- metadata


def end_tokens(artifact: Artifact) -> list[int]:
    """The ids of the tokens that end a text."""
    found = artifact.manifest.generation.get("eos_token_id")
    return [] if found is None else [found] if isinstance(found, int) else list(found)


def _metadata(artifact: Artifact, flavor: Flavor) -> dict[str, str]:
    """What a caller has to know: see `burnish.ir.past_present`."""
    told = {past_present.VERSION: __version__, past_present.FLAVOR: flavor}
    if artifact.manifest.graph is not None:
        return told
    signature, names = artifact.signature, state_names([state.name for state in artifact.states])
    limits = ("max_length", "vocabulary", "token_limit", "longer_than")
    told[past_present.LIMITS] = json.dumps({name: getattr(signature, name) for name in limits})
    told[past_present.END_TOKENS] = json.dumps(end_tokens(artifact))
    told[past_present.STATES] = json.dumps(
        [
            {
                "past": names[state.name][0],
                "present": names[state.name][1],
                "kind": state.kind.value,
                "axis": state.axis,
                "shape": state_axes(state),
                "dtype": past_dtype(state),
                "module": state.module,
            }
            for state in artifact.states
        ]
    )
    return told
