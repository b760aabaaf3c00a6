"""An exported graph in functional ATen: nothing is written in place, and no op leaves open whether it copies.

`ExportedProgram.run_decompositions({})` gives that by tracing the whole graph twice more, which takes longer than the
export. Few nodes need it: these are run, each by itself, on the fake tensors that export left, and the ops that come of
them are written down. What else stands in the graph is functional already.
"""

from __future__ import annotations

import logging
import operator
from typing import Any

import sympy
import torch
from torch import Tensor, fx
from torch._dispatch.python import enable_python_dispatcher
from torch._ops import HigherOrderOperator, OpOverload
from torch._subclasses.fake_tensor import FakeTensor
from torch.export import ExportedProgram
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._sympy.interp import sympy_interp
from torch.utils._sympy.reference import PythonReferenceAnalysis

from burnish.ir.shapes import same_type

_log = logging.getLogger(__name__)

aten = torch.ops.aten

_SAME = (aten.lift_fresh_copy.default, aten.lift_fresh.default, aten.detach_.default, aten.detach.default)
"""What tracing puts behind constants, and where gradients stop: the value of its argument."""

_BLOCKS = {"wrap_with_set_grad_enabled": 1, "wrap_with_autocast": 4}
"""Ops that run a block of the graph as it stands, and how many arguments come before the block."""


def functional(exported: ExportedProgram, *, again: bool = True) -> tuple[ExportedProgram, fx.Graph]:
    """The functional graph, and the exported program whose signature it has.

    ATen ops that are functional stay whole, though ATen could take them apart (linear, silu, softmax). Raises
    NeedsTracing where nodes cannot be taken one by one, unless it may be traced `again`.
    """
    try:
        return exported, _Functional(exported).graph
    except NeedsTracing as reason:
        if not again:
            raise
        _log.info("the export is traced again to be functional: %s", reason)
        traced = exported.run_decompositions({})
        return traced, traced.graph


class NeedsTracing(Exception):
    """Why nodes cannot be taken one by one."""


class _Functional:
    """The graph being made. `made` has what stands for each exported node: a node, or a list of them."""

    def __init__(self, exported: ExportedProgram) -> None:
        self.graph = fx.Graph()
        self.made: dict[fx.Node, Any] = {}
        self.sharing: dict[int, set[fx.Node]] = {}  # exported nodes by the storage that their values lie in
        self.sizes: dict[sympy.Expr, fx.Node] = {}
        self.axes: dict[sympy.Expr, tuple[fx.Node, int]] = {}  # of the inputs, by their sizes
        vals = (node.meta.get("val") for node in exported.graph.nodes)
        mode = next((val.fake_mode for val in vals if isinstance(val, FakeTensor)), None)
        if mode is None:
            raise NeedsTracing("its nodes have no types")
        with mode, enable_python_dispatcher(), torch.no_grad():
            results = self._take(exported.graph_module)
        copied = self.graph.output(results)
        copied.meta = dict(exported.graph.output_node().meta)
        self.graph.eliminate_dead_code()

    def _take(self, module: fx.GraphModule) -> Any:
        """Make an exported graph's nodes, but for placeholders that are made. Gives what stands for its results."""
        for node in module.graph.nodes:
            if node.op == "output":
                return self._now(node.args[0])
            if node in self.made or (node.op == "get_attr" and isinstance(_attribute(module, node), fx.GraphModule)):
                continue
            self.made[node] = self._make(module, node)
            val = node.meta.get("val")
            if isinstance(val, Tensor):
                self.sharing.setdefault(_storage(val), set()).add(node)
        raise AssertionError("a graph has an output")

    def _now(self, argument: Any) -> Any:
        return fx.map_arg(argument, self.made.__getitem__)

    def _make(self, module: fx.GraphModule, node: fx.Node) -> Any:
        target = node.target
        if target is operator.getitem and not isinstance(made := self._now(node.args[0]), fx.Node):
            return made[node.args[1]]
        if target in _SAME:
            return self._now(node.args[0])
        if isinstance(target, HigherOrderOperator):
            return self._inline(module, node, str(target))
        if isinstance(target, OpOverload) and target._schema.is_mutable:
            return self._write(node, target)
        if isinstance(target, OpOverload) and _leaves_open(target):
            return self._run(node, target)
        copied = self.graph.node_copy(node, self.made.__getitem__)
        self._know_size(copied)
        return copied

    def _inline(self, module: fx.GraphModule, node: fx.Node, name: str) -> Any:
        skipped = _BLOCKS.get(name)
        if skipped is None:
            raise NeedsTracing(f"{node.name} is {name}")
        if name == "wrap_with_autocast" and node.args[2]:
            raise NeedsTracing(f"{node.name} computes under autocast")
        block, *given = node.args[skipped:]
        assert isinstance(block, fx.Node)
        body = _attribute(module, block)
        for each in body.graph.nodes:  # of an earlier call
            self.made.pop(each, None)
        inputs = [each for each in body.graph.nodes if each.op == "placeholder"]
        self.made.update(zip(inputs, map(self._now, given), strict=True))
        return self._take(body)

    def _write(self, node: fx.Node, op: OpOverload) -> Any:
        """x.add_(y) as x.add(y), where nobody sees the old x: it is neither an input nor seen through another value."""
        written = node.args[0]
        name = op._schema.name.removeprefix("aten::")
        functional = getattr(getattr(aten, name.removesuffix("_"), None), op._overloadname, None)
        if not isinstance(written, fx.Node) or not name.endswith("_") or functional is None:
            raise NeedsTracing(f"{node.name} ({op}) writes in place")
        before = self.made[written]
        seen = self.sharing[_storage(written.meta["val"])]
        later = written.target is operator.getitem and not self.made.keys() >= written.args[0].users.keys()  # type: ignore[union-attr]
        if before.op != "call_function" or later or any(self.made[each] is not before for each in seen):
            raise NeedsTracing(f"{node.name} ({op}) writes what is seen elsewhere, too")
        made = self._run(node, functional)
        if not same_type(made.meta["val"], before.meta["val"]):
            raise NeedsTracing(f"{node.name} ({op}) converts what it writes")
        self.made.update(dict.fromkeys(seen, made))
        return made

    def _run(self, node: fx.Node, op: OpOverload) -> Any:
        """What ATen makes of an op on the values of its arguments, as nodes."""
        args, kwargs = self._now((node.args, node.kwargs))
        with _Noted(self, node) as noted:
            result = op(*fx.map_arg(args, _val), **fx.map_arg(kwargs, _val))
        return pytree.tree_map_only(Tensor, noted.node_of, result)

    # ------------------------------------------------------------ sizes

    def _know_size(self, node: fx.Node) -> None:
        val = node.meta.get("val")
        if isinstance(val, torch.SymInt):
            self.sizes.setdefault(val.node.expr, node)
        elif node.op == "placeholder" and isinstance(val, Tensor):
            for axis, size in enumerate(val.shape):
                if isinstance(size, torch.SymInt):
                    self.axes.setdefault(size.node.expr, (node, axis))

    def size(self, size: torch.SymInt, node: fx.Node) -> fx.Node | int:
        """A node of a symbolic size, which `node` needs."""
        expression = size.node.expr
        if expression.is_Integer:
            return int(expression)
        if expression not in self.sizes:
            last = next(iter(reversed(self.graph.nodes)))
            known = {}
            for symbol in sorted(expression.free_symbols, key=str):
                if symbol not in self.sizes and symbol not in self.axes:
                    raise NeedsTracing(f"the size {symbol} is one that tensors say")
                if symbol not in self.sizes:
                    self.sizes[symbol] = self.graph.call_function(aten.sym_size.int, self.axes[symbol])
                known[symbol] = fx.Proxy(self.sizes[symbol])
            made = sympy_interp(PythonReferenceAnalysis, known, expression).node
            while last is not made:
                last = last.next
                assert callable(last.target)
                last.meta = {**node.meta, "val": last.target(*fx.map_arg(last.args, _val))}
            self.sizes[expression] = made
        return self.sizes[expression]


class _Noted(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes the ops that run, in place of `node`."""

    def __init__(self, program: _Functional, node: fx.Node) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.program, self.node = program, node
        self.known: dict[int, tuple[fx.Node, Tensor]] = {}  # by the identity of a value, which is kept
        for source in node.all_input_nodes:
            for made in pytree.tree_leaves(program.made[source]):
                if isinstance(made, fx.Node) and isinstance(made.meta.get("val"), Tensor):
                    self.known[id(_val(made))] = made, _val(made)

    def node_of(self, tensor: Tensor) -> fx.Node:
        """The node whose value a tensor is."""
        if id(tensor) not in self.known:
            raise NeedsTracing(f"{self.node.name} reads a tensor that no node gives")
        return self.known[id(tensor)][0]

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if not any(isinstance(each, Tensor) for each in pytree.tree_leaves(result)):
            return result  # a size or a stride
        if func._schema.is_mutable:
            raise NeedsTracing(f"{self.node.name} ({self.node.target}) writes in place")
        if func in _SAME:
            self.known[id(result)] = self.node_of(args[0]), result
            return result
        graph = self.program.graph
        read = pytree.tree_map_only(Tensor, self.node_of, (args, kwargs or {}))
        args, kwargs = pytree.tree_map_only(torch.SymInt, lambda size: self.program.size(size, self.node), read)
        call = graph.call_function(func, args, kwargs, name=func._schema.name.removeprefix("aten::"))
        self._describe(call, result)
        if not isinstance(result, Tensor):
            for place, each in enumerate(result):
                self._describe(graph.call_function(operator.getitem, (call, place)), each)
        return result

    def _describe(self, node: fx.Node, value: Any) -> None:
        node.meta = {**self.node.meta, "val": value}
        if isinstance(value, Tensor):
            self.known[id(value)] = node, value


def _leaves_open(op: OpOverload) -> bool:
    """Whether an op takes itself apart, and the parts say whether its result is an alias of an argument."""
    composite = torch._C.DispatchKey.CompositeImplicitAutograd
    apart = torch._C._dispatch_has_kernel_for_dispatch_key(str(op._name), composite) or composite in op.py_kernels
    alias = any(each.alias_info is not None for each in op._schema.arguments)
    return apart and (alias or torch.Tag.maybe_aliasing_or_mutating in op.tags)


def _attribute(module: fx.GraphModule, node: fx.Node) -> Any:
    return getattr(module, str(node.target), None)


def _val(node: fx.Node) -> Any:
    return node.meta["val"]


def _storage(tensor: Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)
