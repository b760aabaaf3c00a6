"""A step program becomes an ONNX model whose weights lie in the artifact's weights file."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import onnx_ir as ir
import torch
from onnx_ir.passes.common import RemoveUnusedFunctionsPass, RemoveUnusedNodesPass
from torch import fx

from burnish.codegen.onnx import torchlib
from burnish.codegen.onnx.aten_axes import AXES
from burnish.codegen.onnx.aten_compute import COMPUTE
from burnish.codegen.onnx.aten_images import IMAGES
from burnish.codegen.onnx.aten_products import PRODUCTS
from burnish.codegen.onnx.aten_recurrent import RECURRENT
from burnish.codegen.onnx.aten_views import VIEWS, getitem
from burnish.codegen.onnx.attention import cached_attention, plan_cached_attention, reads_only_shape
from burnish.codegen.onnx.builder import CONTRIB, OPSET, Builder, onnx_dtype, origin_of_size
from burnish.codegen.onnx.burnish_ops import BURNISH
from burnish.codegen.onnx.context import Context, Result, Translate, dtype_of, shape_of
from burnish.codegen.onnx.past_attention import Flavor, past_attention, plan_past_attention
from burnish.codegen.onnx.whole_attention import WHOLE_ATTENTION
from burnish.ir.arguments import arguments
from burnish.ir.errors import BurnishError, UnsupportedError
from burnish.ir.interpreter import needed_only_for
from burnish.ir.ops import burnish_ops
from burnish.ir.program import Program, Stage, describe, origin
from burnish.ir.signature import Interface
from burnish.ir.states import StateKind
from burnish.ir.text import symbol_names
from burnish.runtime.weights_writer import WeightLayout

LOGITS = "logits"
_IR_VERSION = 11
_TRANSLATIONS: dict[Any, Translate] = {
    **VIEWS,
    **COMPUTE,
    **PRODUCTS,
    **AXES,
    **IMAGES,
    **RECURRENT,
    **WHOLE_ATTENTION,
    **BURNISH,
}


def output_name(state: str) -> str:
    """The name of the output that holds a state after the step."""
    return f"{state}_out"


def lower(program: Program, layout: WeightLayout) -> bytes:
    """The ONNX model of a step program, or of a graph, serialised.

    Inputs have the names of the program's placeholders; outputs are "logits" and STATE + "_out". A graph's have those
    that callers have for them. Weights are not in the
    model: each initializer says its place in `layout.file`, which lies beside it. A CACHE state may be bound as input
    and output to the same memory: nothing reads it but the operator that writes it.

    Raises UnsupportedError for what ONNX cannot express, with the node, its op and the user's line.
    """
    if not program.stage.is_step and program.stage is not Stage.GRAPH:
        raise UnsupportedError(f"only a step program can be lowered to ONNX; this one is {program.stage.value}")
    model = lower_to_model(program, layout)
    return bytes(ir.serde.serialize_model(model).SerializeToString(deterministic=True))


def lower_to_model(program: Program, layout: WeightLayout, outward: Flavor | None = None) -> ir.Model:
    """As `lower`, before serialisation, and of a whole program, too: to be looked at, or compared with.

    outward: of a program that is given pasts, for others to run: whose attention it has.
    """
    return _Lowering(program, layout, outward).run()


def is_assertion(node: fx.Node) -> bool:
    """Whether a node gives nothing: it checks what export took for granted."""
    return isinstance(node.target, torch._ops.OpOverload) and not node.target._schema.returns


def check_translated(program: Program) -> None:
    """UnsupportedError for the first node whose op has no ONNX translation, ours or torch's."""
    for node, reason in untranslated(program):
        raise _untranslated(node, reason)


def untranslated(program: Program) -> Iterator[tuple[fx.Node, str]]:
    """The nodes whose op has no ONNX translation, ours or torch's, and why."""
    others = _beside_logits(program)
    for node in program.graph.nodes:
        if node.op != "call_function" or node in others:
            continue
        ours = node.target in _TRANSLATIONS and node.target not in WHOLE_ATTENTION  # which leaves some to the table
        if ours or node.target is operator.getitem:
            continue
        if origin_of_size(node) is None and not is_assertion(node) and (reason := torchlib.missing(node)):
            yield node, reason


def _beside_logits(program: Program) -> set[fx.Node]:
    """The nodes of the other results, which are made of the logits once these are there."""
    if program.stage is Stage.GRAPH:
        return set()
    return needed_only_for(program, program.results.keys() - {LOGITS})


def _untranslated(node: fx.Node, reason: object) -> UnsupportedError:
    return UnsupportedError(f"{describe(node)} has no ONNX translation: {reason}. The reference backend runs it")


class _Lowering:
    def __init__(self, program: Program, layout: WeightLayout, outward: Flavor | None = None) -> None:
        self.program = program
        interface = program.interface
        self.names = {each.name: each.name for each in interface.inputs}  # of inputs, by their placeholders
        self.given = [LOGITS]
        if isinstance(interface, Interface):
            self.names = dict(zip(self.names, interface.names, strict=True))
            self.given = list(interface.outputs)
        self.builder = Builder(layout, symbol_names(program), {*self.names.values(), *self.given})
        self.context = Context(program, self.builder)
        self.plans: Mapping[fx.Node, Any]
        self.attention: Callable[[Context, fx.Node, Any], ir.Value]
        if outward is None:
            self.plans, self.attention = plan_cached_attention(program), cached_attention
        else:
            self.plans, self.attention = plan_past_attention(program), past_attention(outward)
        self.made_by_attention = {node for plan in self.plans.values() for node in plan.made}
        self.constants: dict[Any, ir.Value] = {}

    def run(self) -> ir.Model:
        self._check_caches()
        self._declare_leaves()
        others = _beside_logits(self.program)
        for node in self.program.graph.nodes:
            if node in others:
                continue
            self.builder.scope = node.name
            first = len(self.builder.nodes)
            try:
                self._lower(node)
            except BurnishError:
                raise
            except Exception as error:
                raise UnsupportedError(
                    f"{describe(node)} cannot be lowered to ONNX: {type(error).__name__}: {error}. "
                    "The reference backend runs it"
                ) from error
            self._mark(node, self.builder.nodes[first:])
        return self._finish()

    def _check_caches(self) -> None:
        """A cache is written in place, so that whoever else reads it may find it before or after."""
        caches = {state.name for state in self.program.states if state.kind is StateKind.CACHE}
        for node in self.program.placeholders:
            for user in node.users:
                if node.name not in caches or reads_only_shape(user, node):
                    continue
                if user.target is not burnish_ops.cache_write.default:
                    raise UnsupportedError(
                        f"{describe(user)} reads the state {node.name} as it was before this step, and the ONNX "
                        "backend writes caches in place; use the reference backend"
                    )

    # ------------------------------------------------------------ nodes

    def _declare_leaves(self) -> None:
        """Inputs and weights first: an op may be made together with a later one, and read what that one reads."""
        results = self.context.results
        for node in self.program.graph.nodes:
            if node.op == "placeholder":
                results[node] = self.builder.input(self.names.get(node.name, node.name), dtype_of(node), shape_of(node))
            elif node.op == "get_attr" and self.context.formula(node) is None:
                results[node] = self.builder.weight(self.program.weight_of(node))

    def _lower(self, node: fx.Node) -> None:
        if node.op == "call_function":
            result = self._call(node)
            if result is not None:
                self.context.results[node] = result
                self._declare(node, result)

    def _call(self, node: fx.Node) -> Result | None:
        """The value of a node; None for one that has none of its own: sizes, assertions, writes of an attention."""
        if node in self.made_by_attention or origin_of_size(node) is not None or is_assertion(node):
            return None
        if node in self.plans:
            return self.attention(self.context, node, self.plans[node])
        if not isinstance(node.target, torch._ops.OpOverload):
            return getitem(self.context, node)
        translate = _TRANSLATIONS.get(node.target)
        result = None if translate is None else translate(self.context, node, arguments(node))
        return self._from_table(node) if result is None else result

    def _from_table(self, node: fx.Node) -> Result:
        """What torch's own table makes of a node."""
        args = [self._table_argument(argument) for argument in node.args]
        kwargs = {name: self._table_argument(argument) for name, argument in node.kwargs.items()}
        try:
            found = torchlib.translate(node, args, kwargs, self.constants)
        except torchlib.TableError as error:
            raise _untranslated(node, error) from error
        for each in found.nodes:
            self.builder.add_node(each)
        self.builder.functions.update(found.functions)
        return found.result if isinstance(found.result, ir.Value) else list(found.result)

    def _table_argument(self, argument: Any) -> Any:
        if isinstance(argument, fx.Node):
            result = self.context.results.get(argument)
            return result if isinstance(result, list) else self.context.value(argument)
        if isinstance(argument, list | tuple):
            return [self._table_argument(item) for item in argument]
        if isinstance(argument, torch.dtype):
            return onnx_dtype(argument)
        if isinstance(argument, torch.device | torch.layout | torch.memory_format):
            return str(argument)
        return argument

    def _declare(self, node: fx.Node, result: Result) -> None:
        """Say the dtype and shape of what a node gives: torch's table asks for them, and people like to see them."""
        vals = node.meta["val"]
        pairs: Sequence[tuple[ir.Value, torch.Tensor]] = (
            [(result, vals)] if isinstance(result, ir.Value) else list(zip(result, vals, strict=False))
        )
        for value, val in pairs:
            if value.dtype is None:
                value.dtype = onnx_dtype(val.dtype)
                value.shape = self.builder.named_shape(val.shape)

    def _mark(self, node: fx.Node, made: list[ir.Node]) -> None:
        """Each ONNX node says which node of the program and which line of the user's source it comes from."""
        for each in made:
            each.metadata_props["burnish.node"] = node.name
            if place := str(origin(node)):
                each.metadata_props["burnish.origin"] = place

    # ------------------------------------------------------------ the model

    def _finish(self) -> ir.Model:
        outputs = [self._output(name, self.program.results[name]) for name in self.given]
        for state, node in zip(self.program.states, self.program.new_states, strict=True):
            outputs.append(self._output(output_name(state.name), node))
        graph = ir.Graph(
            self.builder.inputs,
            outputs,
            nodes=self.builder.nodes,
            initializers=list(self.builder.initializers.values()),
            opset_imports={"": OPSET, CONTRIB: 1},
            name="step" if self.program.states else self.program.stage.value,
        )
        model = ir.Model(
            graph,
            ir_version=_IR_VERSION,
            producer_name="burnish",
            functions=list(self.builder.functions.values()),
        )
        for (domain, *_), function in self.builder.functions.items():
            function.opset_imports[""] = OPSET  # ONNX's checker wants one for all; torch's means the same in it
            graph.opset_imports.setdefault(domain, 1)
        RemoveUnusedNodesPass()(model)
        for unread in [table for table in self.builder.tables if not table.uses()]:  # their halves are
            graph.inputs.remove(unread)
        RemoveUnusedFunctionsPass()(model)  # type: ignore[no-untyped-call]
        return model

    def _output(self, name: str, node: Any) -> ir.Value:
        """The value of `node` under an output's name of its own."""
        assert isinstance(node, fx.Node)
        value = self.context.value(node)
        taken = value.producer() is None or value.name in (*self.given, *map(output_name, self._state_names()))
        if taken:  # an input, a weight, or a value that is another output already
            value = self.builder.op("Identity", value)
        value.name = name
        value.dtype = onnx_dtype(dtype_of(node))
        value.shape = self.builder.named_shape(shape_of(node))
        return value

    def _state_names(self) -> list[str]:
        return [state.name for state in self.program.states]
