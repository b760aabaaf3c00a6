"""A program rewritten so that each tensor lies as was chosen for it."""

from __future__ import annotations

import torch
from torch import fx

from burnish.ir.edit import Editor
from burnish.ir.program import Program, operands, value
from burnish.ir.sizes import size_text
from burnish.ir.turns import Order, turned
from burnish.ir.weights import Permute
from burnish.passes.base import Log
from burnish.passes.layout.layouts import Conversion, Layouts
from burnish.passes.layout.orders import between, identity, moves
from burnish.passes.layout.tables import Form, Table

aten = torch.ops.aten


def assign(program: Program, table: Table, log: Log) -> None:
    """Choose the forms of a program's tensors by a backend's table, and rewrite it to them, in place."""
    layouts = Layouts(program, table)
    layouts.forms = as_it_is = layouts.as_it_is()
    before = layouts.conversions()
    told_before = {node for node in program.graph.nodes if _is_read_as_it_lies(layouts, node)}
    layouts.choose()
    after = layouts.conversions()
    if before or after:
        log.note(f"conversions: {_summary(before)} before, {_summary(after)} after")
    told = [(each.tensor, _why_left(layouts, each)) for each in after if each.tensor.op == "call_function"]
    rewriter = _Rewriter(layouts, as_it_is, told_before)
    decided = {node: name for node in program.graph.nodes if (name := _name(layouts, node))}
    if layouts.forms != as_it_is:
        rewriter.run(log)
    for node, name in decided.items():
        rewriter.made.get(node, (node,))[0].meta["layout"] = name
    for node, text in told:
        log.refuse(node, text)


def _name(layouts: Layouts, node: fx.Node) -> str:
    """What the layout of an op's result is called; empty where there was nothing to decide."""
    if node.op != "call_function" or turned(node) is not None or layouts.otherwise(node) is None:
        return ""
    form = layouts.form(node)
    if form.blocked:
        return "blocks of channels"
    return "as written" if form.order == identity(len(form.order)) else str(list(form.order))


def _why_left(layouts: Layouts, conversion: Conversion) -> str:
    """Why a tensor is converted: who reads it otherwise than it lies, and what else that could do."""
    tensor, after = conversion.tensor, conversion.after
    reader = next(user for user in tensor.users if layouts.reads(user, layouts.form(user)).get(tensor) == after)
    who = "the output" if reader.op == "output" else f"{reader.name} ({reader.target})"
    text = f"converted, to lie {after} for {who}"
    other = layouts.otherwise(reader) if reader.op == "call_function" else None
    if other is None:
        return f"{text}, which works in nothing else"
    form, more = other
    return f"{text}: {_size(more)} more would be moved if that worked {form}"


def _summary(conversions: dict[Conversion, float]) -> str:
    return f"{len(conversions)} that move {_size(sum(conversions.values()))}"


def _size(bytes_moved: float) -> str:
    return size_text(max(int(bytes_moved), 0))


def _told(layouts: Layouts, node: fx.Node) -> str:
    """What is said of an op that is rewritten: its form, and what the best other one would cost."""
    if turned(node) is not None:
        as_it_lies = _is_read_as_it_lies(layouts, node)
        return "not carried out: who reads it works in the order that there is" if as_it_lies else ""
    other = layouts.otherwise(node)
    return f"{layouts.form(node)}" + (f": {_size(other[1])} more would be moved {other[0]}" if other else "")


def _is_read_as_it_lies(layouts: Layouts, node: fx.Node) -> bool:
    """Whether a permute is not carried out for somebody who reads it."""
    if turned(node) is None:
        return False
    given = layouts.gives(node, layouts.form(node))
    return any(layouts.reads(user, layouts.form(user)).get(node) == given for user in node.users)


class _Rewriter:
    def __init__(self, layouts: Layouts, as_it_is: dict[fx.Node, Form], cancelled: set[fx.Node]) -> None:
        """Of the forms that ops have without any change, and of permutes that are `cancelled` so, nothing is told."""
        self.layouts = layouts
        self.editor = Editor(layouts.program)
        changed = [node for node, form in layouts.forms.items() if form != as_it_is.get(node) and node.op != "output"]
        turns = [node for node in layouts.program.graph.nodes if turned(node) is not None]
        told = [node for node in (*turns, *changed) if node not in cancelled]
        self.texts = {node: _told(layouts, node) for node in dict.fromkeys(told)}
        self.made: dict[fx.Node, tuple[fx.Node, Order]] = {}  # what stands for each value, and the order of its axes
        self.ordered: dict[tuple[fx.Node, Order], fx.Node] = {}

    def run(self, log: Log) -> None:
        for node in list(self.layouts.program.graph.nodes):
            if node.op not in ("call_function", "output"):
                continue
            form = self.layouts.form(node)
            reads = self.layouts.reads(node, form)
            with self.editor.before(node):
                if turned(node) is None and form.order == identity(len(form.order)):
                    for operand, wanted in reads.items():
                        found = self.get(operand, wanted.order)
                        if found is not operand:
                            node.replace_input_with(operand, found)
                    continue
                self._make(node, form.order)
            if text := self.texts.get(node):
                log.rewrite(node, text)

    def _make(self, node: fx.Node, order: Order) -> None:
        """An op in another order than the one in which it is written; of a permute, what it reads."""
        made = self.layouts.plan(node, order)
        assert made is not None
        self.made[node] = made.emit(self.editor, lambda each: self.get(each, made.reads[each])), made.gives

    def get(self, node: fx.Node, order: Order) -> fx.Node:
        """The value of a node with its axes in an order."""
        new, lies = self.made.get(node, (node, identity(value(node).dim())))
        if lies == order:
            return new
        key = node, order
        if key not in self.ordered:
            self.ordered[key] = self._converted(node, new, lies, order)
        return self.ordered[key]

    def _converted(self, node: fx.Node, new: fx.Node, lies: Order, order: Order) -> fx.Node:
        if new.op == "get_attr":
            name = str(new.target)
            weight = Permute(self.layouts.program.weights[name], between(lies, order))
            return self.editor.weight(f"{name}.permuted", weight)
        if order == identity(len(order)) and turned(node) == between(lies, order):  # what it gives is what it gave
            node.replace_input_with(operands(node)[0], new)
            made = node
        else:
            made = self.editor.call(aten.permute.default, new, list(between(lies, order)), like=node)
        if self.layouts.table.views and moves(lies, order, value(node).shape):
            made = self.editor.call(aten.clone.default, made, like=node, memory_format=torch.contiguous_format)
        return made
