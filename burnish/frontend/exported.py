"""What `torch.export` gives, read: inputs and outputs, sizes, weights, and the places in the user's source."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import fx
from torch.export import ExportedProgram
from torch.export.graph_signature import ConstantArgument, InputKind, OutputKind
from torch.utils import _pytree as pytree

from burnish.frontend.source_lines import line_of, noted_origin
from burnish.ir.errors import CaptureError, InvalidModelError
from burnish.ir.origin import Origin
from burnish.ir.second_names import VIEWS
from burnish.ir.weights import Stored, Weight, Weights


def logits_of(output: Any) -> Any:
    """The logits in what a forward gives: a tensor, `.logits`, `["logits"]`, or the first of several."""
    if isinstance(output, Mapping):
        return output.get("logits")
    if hasattr(output, "logits"):
        return output.logits
    if isinstance(output, tuple | list) and output:
        return output[0]
    return output


def tokens_of(exported: ExportedProgram, graph: fx.Graph) -> fx.Node:
    """The one input, in a graph of the program's signature. Raises InvalidModelError unless it is token ids."""
    names = {
        spec.arg.name
        for spec in exported.graph_signature.input_specs
        if spec.kind is InputKind.USER_INPUT and not isinstance(spec.arg, ConstantArgument)
    }
    nodes = [node for node in graph.nodes if node.op == "placeholder" and node.name in names]
    expected = "one input is expected, token ids int64[batch, sequence]"
    if len(nodes) != 1:
        raise InvalidModelError(f"the model takes {len(nodes)} inputs ({', '.join(sorted(names))}): {expected}")
    tokens: fx.Node = nodes[0]
    if _kind(tokens) != "int64 of 2 axes":
        raise InvalidModelError(f"the input {tokens.name} is {_kind(tokens)}: {expected}")
    return tokens


def size_symbols(tokens: fx.Node) -> tuple[torch.SymInt, torch.SymInt]:
    """The batch and sequence sizes. Raises CaptureError if one is not a symbol of its own."""
    sizes = tuple(tokens.meta["val"].shape)
    for name, size in zip(("batch", "sequence"), sizes, strict=True):
        if not isinstance(size, torch.SymInt) or not size.node.expr.is_Symbol:
            raise CaptureError(
                f"the {name} size became the constant {size}, and the program holds for no other: "
                "export with torch.export.Dim for both sizes"
            )
    if str(sizes[0]) == str(sizes[1]):
        raise CaptureError("the batch and sequence sizes are one symbol: the program holds only where they are equal")
    return sizes[0], sizes[1]


def check_keeps_nothing(exported: ExportedProgram, prefix: str) -> None:
    """InvalidModelError for a forward that changes the module's own tensors."""
    for result in exported.graph_signature.output_specs:
        if result.kind is not OutputKind.USER_OUTPUT:
            raise InvalidModelError(
                f"the forward changes {str(result.target).removeprefix(prefix)} in place: what it gives may depend on "
                "earlier calls. Give a forward that keeps nothing (no cache of its own)."
            )


def translate(
    exported: ExportedProgram,
    operations: fx.Graph,
    inputs: Mapping[fx.Node, str],
    results: Sequence[fx.Node],
    given: Mapping[str, Weight],
    prefix: str,
) -> tuple[fx.Graph, Weights]:
    """The program's operations with its parameters, buffers and constants as weights; one weight for tied ones.

    `inputs` has the placeholders of the operations and what they are to be called, `results` what is given. `given` has
    the weights to use instead of the tensors of those names. `prefix` is taken off names.
    """
    signature = exported.graph_signature
    targets = {
        spec.arg.name: str(spec.target)
        for spec in signature.input_specs
        if spec.kind in (InputKind.PARAMETER, InputKind.BUFFER, InputKind.CONSTANT_TENSOR)
    }
    weights, names = Weights(), dict[Any, str]()
    graph, mapping = fx.Graph(), dict[fx.Node, fx.Node]()
    for node in operations.nodes:
        if node in inputs:
            copied = graph.create_node("placeholder", inputs[node], name=inputs[node])
        elif node.op == "placeholder":
            if node.name not in targets or not node.users:  # an input that was None, or a tensor that nothing reads
                continue
            identity, weight = _weight(exported, targets[node.name], given, prefix)
            if identity not in names:
                names[identity] = weights.add(targets[node.name].removeprefix(prefix), weight)
            copied = graph.create_node("get_attr", names[identity], name=node.name)
        elif node.op == "output":
            copied = graph.output(tuple(mapping[each] for each in results))
        else:
            copied = graph.node_copy(node, mapping.__getitem__)
            if copied.target in VIEWS:  # passes make values that lie otherwise in memory
                copied.target = torch.ops.aten.reshape.default
        copied.meta = {"val": node.meta.get("val"), "origin": origin_of_node(node, prefix)}
        mapping[node] = copied
    return graph, weights


def _weight(exported: ExportedProgram, target: str, given: Mapping[str, Weight], prefix: str) -> tuple[Any, Weight]:
    """A weight, and what tells whether two are one."""
    name = target.removeprefix(prefix)
    if name in given:
        return id(given[name]), given[name]
    tensor = exported.state_dict.get(target)
    if tensor is None:
        tensor = exported.constants[target]
    assert isinstance(tensor, torch.Tensor)
    check_device(name, tensor)
    place = (tensor.data_ptr(), tuple(tensor.shape), tensor.stride(), tensor.dtype)
    return place if tensor.numel() else name, Stored(tensor.detach())


def check_device(name: str, tensor: torch.Tensor) -> None:
    """Raises InvalidModelError unless a model's tensor is on the CPU."""
    if tensor.device.type != "cpu":
        raise InvalidModelError(f"{name} is on the device {tensor.device}: move the model to the CPU to compile it")


def logits_node(exported: ExportedProgram, operations: fx.Graph) -> fx.Node:
    """What gives the logits. Raises InvalidModelError where the forward gives something else."""
    structure = exported.call_spec.out_spec
    results: Any = operations.output_node().args[0]
    assert structure is not None
    found = logits_of(pytree.tree_unflatten(results, structure))
    val = found.meta.get("val") if isinstance(found, fx.Node) else None
    if not isinstance(val, torch.Tensor) or val.dim() != 3 or not val.is_floating_point():
        raise InvalidModelError(
            f"the forward gives {_kind(found)} where logits, floats of 3 axes [batch, sequence, vocabulary], are "
            "expected: return them as a tensor, as `.logits` of an object, or first in a tuple"
        )
    assert isinstance(found, fx.Node)
    return found


def _kind(found: Any) -> str:
    val = found.meta.get("val") if isinstance(found, fx.Node) else found
    if isinstance(val, torch.Tensor):
        return f"{str(val.dtype).removeprefix('torch.')} of {val.dim()} axes"
    return type(val).__name__


def origin_of_node(node: fx.Node, prefix: str = "") -> Origin:
    """Innermost module and source line of the user's program, from what export recorded."""
    noted = noted_origin(node)
    if noted is not None:
        return Origin(*noted)
    modules = list((node.meta.get("nn_module_stack") or {}).values())
    path, kind = modules[-1][:2] if modules else ("", "")
    if node.op != "call_function" or path.startswith("_empty"):  # torch's mark for "no module"
        return Origin()
    path = re.sub(r"@\d+", "", f"{path}.")  # "@1": the second call of a module
    module = path.removeprefix(prefix).removesuffix(".")
    kind = (kind if isinstance(kind, str) else kind.__name__).rsplit(".", 1)[-1]
    return Origin(module, kind, *line_of(node))
