"""Operations that a target lacks, taken apart as PyTorch takes them apart."""

from __future__ import annotations

import operator
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, fx
from torch._decomp import decomposition_table
from torch._dispatch.python import enable_python_dispatcher
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._sympy.interp import sympy_interp
from torch.utils._sympy.reference import PythonReferenceAnalysis

from burnish.ir.edit import Editor, remove_dead
from burnish.ir.infer import infer
from burnish.ir.program import Program, origin
from burnish.ir.second_names import FIRST_NAMES
from burnish.passes.base import Effect, Log
from burnish.rewrite.engine import Refusal

aten = torch.ops.aten


def _attention_of_rows(editor: Editor, node: fx.Node) -> None:
    """scaled_dot_product_attention of [rows, tokens, width] as that of one text with so many heads."""
    with editor.before(node):
        operands = [editor.call(aten.unsqueeze.default, each, 0, like=node) for each in node.args[:3]]
        named: dict[str, Any] = dict(node.kwargs)
        attended = editor.call(node.target, *operands, *node.args[3:], like=node, **named)
        editor.replace(node, editor.call(aten.squeeze.dims, attended, [0], like=node))


@dataclass(frozen=True)
class Decompose:
    """`ops`: those to take apart, "aten.std.dim"."""

    ops: tuple[str, ...] = ()

    name: ClassVar[str] = "decompose"
    effect: ClassVar[Effect] = Effect.REASSOCIATES
    atomic: ClassVar[bool] = False

    def run(self, program: Program, log: Log) -> Program:
        """Take them apart in `program`, in place."""
        chosen = [node for node in program.graph.nodes if str(node.target) in self.ops and node.users]
        if not chosen:
            return program
        editor, table = Editor(program), {**decomposition_table, **torch.export.default_decompositions()}
        for node in chosen:
            if node.target is aten.scaled_dot_product_attention.default:  # composite: no mode would see it
                _attention_of_rows(editor, node)
                log.rewrite(node, "an attention of three axes has four")
                continue
            try:
                made = _Parts(editor, node).made_by(table)
            except Refusal as refusal:
                log.refuse(node, refusal.reason)
                continue
            log.rewrite(node, f"taken apart into {', '.join(made)}")
        remove_dead(program)
        return program


class _Parts(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes the operations that run in place of `node`."""

    def __init__(self, editor: Editor, node: fx.Node) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.editor, self.node = editor, node
        self.nodes: dict[int, tuple[fx.Node, Tensor]] = {}  # by the identity of a value, which is kept
        self.names: list[str] = []

    def made_by(self, table: Mapping[Any, Any]) -> list[str]:
        """Run what the op stands for; the names of the operations. Raises Refusal where it cannot be."""
        op: Any = self.node.target
        given = {each: self._value(each) for each in self.node.all_input_nodes}
        args, kwargs = fx.map_arg((self.node.args, self.node.kwargs), given.__getitem__)
        with self.editor.before(self.node), self.editor.mode, enable_python_dispatcher(), torch.no_grad(), self:
            try:
                found = table[op](*args, **kwargs) if op in table else op.decompose(*args, **kwargs)
            except Refusal:
                raise
            except Exception as error:  # whatever PyTorch's own decompositions raise
                raise Refusal(f"PyTorch cannot take {op} apart: {error}", self.node) from error
        if found is NotImplemented:
            raise Refusal(f"PyTorch does not take {op} apart", self.node)
        if isinstance(found, Tensor):
            self.node.replace_all_uses_with(self._node(found))
        else:
            parts = [None if each is None else self._node(each) for each in found]
            readers = list(self.node.users)
            if any(each.target is not operator.getitem or parts[each.args[1]] is None for each in readers):  # type: ignore[index]
                raise Refusal(f"a result of {op} is read that its parts do not give", self.node)
            for user in readers:
                user.replace_all_uses_with(parts[user.args[1]])  # type: ignore[index,arg-type]
        return self.names

    def _value(self, node: fx.Node) -> Any:
        """A fake value of its own for an argument: nodes that are alike share theirs."""
        val = node.meta["val"]
        if not isinstance(val, Tensor):
            return val
        with self.editor.mode:
            own = torch.empty_strided(val.shape, val.stride(), dtype=val.dtype, device=val.device)
        self.nodes[id(own)] = node, own
        return own

    def _node(self, value: Tensor) -> fx.Node:
        if id(value) not in self.nodes:
            raise Refusal(f"{self.node.target} reads a tensor that no node gives", self.node)
        return self.nodes[id(value)][0]

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        leaves = pytree.tree_leaves(result)
        if not any(isinstance(each, Tensor) for each in leaves):
            return result  # a size or a stride
        if func._schema.is_mutable:
            raise Refusal(f"{self.node.target} writes in place where it is taken apart ({func})", self.node)
        if func is torch.ops.prims.prod.default and len(args[1]) == 1:  # what an artifact can hold
            func, args, kwargs = aten.prod.dim_int, (args[0], args[1][0]), {}
        elif func.namespace == "prims" and len(args) == 1 and not kwargs:
            plain = getattr(aten, func._opname, None)
            func = getattr(plain, "default", func)
        if func.namespace == "prims":
            raise Refusal(f"PyTorch takes it apart into {func}, which an artifact cannot hold", self.node)
        read = pytree.tree_map_only(Tensor, self._node, (args, kwargs))
        args, kwargs = pytree.tree_map_only(torch.SymInt, self._size, read)
        call = self.editor.call(FIRST_NAMES.get(func, func), *args, like=self.node, **kwargs)
        self.names.append(str(func).removesuffix(".default"))
        if isinstance(result, Tensor):
            self.nodes[id(result)] = call, result
        else:
            for place, each in enumerate(result):
                if isinstance(each, Tensor):
                    item = self.editor.call(operator.getitem, call, place, like=self.node)
                    self.nodes[id(each)] = item, each
        return result

    def _size(self, size: torch.SymInt) -> fx.Node | int:
        """A node of a symbolic size."""
        expression = size.node.expr
        if expression.is_Integer:
            return int(expression)
        program, known = self.editor.program, {}
        for symbol in sorted(expression.free_symbols, key=str):
            place = next(
                (
                    (node, axis)
                    for node in program.placeholders
                    for axis, each in enumerate(node.meta["val"].shape)
                    if isinstance(each, torch.SymInt) and each.node.expr == symbol
                ),
                None,
            )
            if place is None:
                raise Refusal(
                    f"no input has the size {symbol}, which the parts of {self.node.target} ask for", self.node
                )
            known[symbol] = fx.Proxy(self.editor.call(aten.sym_size.int, *place, like=self.node))
        if expression.is_Symbol:
            found = known[expression].node
            assert isinstance(found, fx.Node)
            return found
        before = set(program.graph.nodes)
        made: fx.Node = sympy_interp(PythonReferenceAnalysis, known, expression).node
        for node in program.graph.nodes:
            if node not in before:
                node.meta["origin"] = origin(self.node)
                infer(node, self.editor.mode)
        return made
