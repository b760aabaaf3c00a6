"""Forms for all tensors of a program, chosen together.

The candidates come from the program itself: each permute may be carried out where it stands, or not at all, and then
what is in front of it or behind it works in its order, as far as that reaches; and from the backend's table. Each is a
label for the whole graph. `labelling` chooses among them for each op by itself: what a conversion moves against what
the ops cost in each layout.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx

from burnish.ir.cost import CostCounter
from burnish.ir.edit import Editor
from burnish.ir.program import Program, operands, value
from burnish.ir.turns import Order, turned
from burnish.ir.weights import Permute
from burnish.passes.layout.labelling import Edge, Problem, solve
from burnish.passes.layout.orders import Get, Plan, frame, identity, inverse, moves, plan, working
from burnish.passes.layout.tables import CHANNELS_LAST, Form, Other, Table

aten = torch.ops.aten
_CHANGED = 0.5  # bytes that a change of an op has to save
_ROUNDS = 2  # of proposals that stand in each other's way


@dataclass(frozen=True)
class Conversion:
    """A tensor that is brought into another form for somebody who reads it."""

    tensor: fx.Node
    after: Form


@dataclass
class Layouts:
    """The choice of forms for a program's ops, and what it costs."""

    program: Program
    table: Table
    forms: dict[fx.Node, Form] = field(default_factory=dict)  # in which each op works, where it is not as written
    proposals: list[dict[fx.Node, Form]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._counter = CostCounter(self.program)
        self._plans: dict[tuple[fx.Node, Order], Plan | None] = {}
        self._nodes = [node for node in self.program.graph.nodes if node.op in ("call_function", "output")]
        self._bytes: dict[fx.Node, int] = {}
        self._written: dict[fx.Node, Form] = {}
        self._given: dict[tuple[fx.Node, Form], Form | None] = {}
        self._read: dict[tuple[fx.Node, Form], dict[fx.Node, Form]] = {}

    # ------------------------------------------------------------ what ops need

    def written(self, node: fx.Node) -> Form:
        """The form in which an op works if nothing is changed."""
        if node not in self._written:
            self._written[node] = self._as_written(node)
        return self._written[node]

    def _as_written(self, node: fx.Node) -> Form:
        rank = frame(node)
        if rank is None:
            rank = value(node).dim() if isinstance(node.meta.get("val"), Tensor) else 0
        return Form(identity(rank), node.target in self.table.only_blocks)

    def other(self, node: fx.Node) -> Other | None:
        """The other order in which an op can work by this backend."""
        found = self.table.others.get(node.target)
        return found if found is not None and value(node).dim() == len(found.order) else None

    def plan(self, node: fx.Node, order: Order) -> Plan | None:
        """How an op works in an order, by this backend."""
        key = node, order
        if key not in self._plans:
            other = self.other(node)
            between_them = other is not None and order == other.order
            self._plans[key] = _between_permutes(node, other) if other and between_them else plan(node, order)
        return self._plans[key]

    def gives(self, node: fx.Node, form: Form) -> Form | None:
        """The form of an op's result; None if it gives no tensor, or cannot work in `form`."""
        if (node, form) not in self._given:
            self._given[node, form] = self._gives(node, form)
        return self._given[node, form]

    def _gives(self, node: fx.Node, form: Form) -> Form | None:
        if not isinstance(node.meta.get("val"), Tensor):
            return None
        if form.order == identity(len(form.order)) and turned(node) is None:
            return Form(identity(value(node).dim()), form.blocked)
        made = self.plan(node, form.order)
        return None if made is None else Form(made.gives)

    def reads(self, node: fx.Node, form: Form) -> dict[fx.Node, Form]:
        """The forms in which an op reads its tensors."""
        if (node, form) not in self._read:
            self._read[node, form] = self._reads(node, form)
        return self._read[node, form]

    def _reads(self, node: fx.Node, form: Form) -> dict[fx.Node, Form]:
        if form.order == identity(len(form.order)):
            tensors = [each for each in node.all_input_nodes if isinstance(each.meta.get("val"), Tensor)]
            return {
                each: Form(identity(value(each).dim()), form.blocked and value(each).dim() == 4) for each in tensors
            }
        made = self.plan(node, form.order)
        assert made is not None
        return {each: Form(order) for each, order in made.reads.items()}

    def bytes_of(self, node: fx.Node) -> int:
        """Bytes of a tensor, read and written; nothing for weights, which are stored as they are read."""
        if node not in self._bytes:
            size = 0 if node.op == "get_attr" else 2 * self._counter.bytes_of(node.meta["val"])
            self._bytes[node] = size
        return self._bytes[node]

    def cost(self, node: fx.Node, form: Form) -> float:
        """What an op costs in a form, in bytes, beside what it costs in all."""
        changed = (
            _CHANGED if form != self.written(node) and not form.blocked else 0.0
        )  # of two that are alike, as it is
        other = self.other(node)
        if other is None or form.order == other.order:
            return changed
        moved = sum(map(self.bytes_of, (*_tensors(node)[: other.operands], node))) / 2
        return changed + other.written * moved

    # ------------------------------------------------------------ the choice

    def propose(self) -> None:
        """Fill `proposals`: ops by the form in which they would work."""
        turns = [node for node in self._nodes if (turned(node) or ()) != identity(len(turned(node) or ()))]
        self._propose([(node, other.order) for node in self._nodes if (other := self.other(node)) is not None])
        self._propose([(node, turned(node) or ()) for node in reversed(turns)])
        self._propose([(node, identity(len(turned(node) or ()))) for node in turns])
        blocked = [node for node in self._nodes if node.op != "output" and self.table.blocks(node)]
        if blocked:
            self.proposals.append({node: Form(identity(4), True) for node in blocked})

    def _propose(self, seeds: list[tuple[fx.Node, Order]]) -> None:
        for _ in range(_ROUNDS):
            if not seeds:
                return
            found = self._spread(seeds)
            if found:
                self.proposals.append({node: Form(order) for node, order in found.items()})
            seeds = [(node, order) for node, order in seeds if found.get(node) != order]

    def _spread(self, seeds: Iterable[tuple[fx.Node, Order]]) -> dict[fx.Node, Order]:
        """Seeds, and what can work in the orders of its neighbours, and so on."""
        found: dict[fx.Node, Order] = {}
        for seed in seeds:  # the first goes as far as it can
            queue = [seed]
            for node, order in queue:  # grows as it is walked
                if node in found or (made := self.plan(node, order)) is None:
                    continue
                found[node] = order
                if order == identity(len(order)) and turned(node) is None:
                    continue
                for operand, wanted in made.reads.items():
                    if wanted != identity(len(wanted)) and (before := self._working(operand, wanted)) is not None:
                        queue.append((operand, before))
                if made.gives != identity(len(made.gives)):
                    queue += [(user, made.gives) for user in node.users if self._takes(user, node, made.gives)]
        return found

    def _working(self, node: fx.Node, gives: Order) -> Order | None:
        other = self.other(node)
        if other is not None:
            return gives if gives == other.order else None
        return working(node, gives)

    def _takes(self, user: fx.Node, node: fx.Node, order: Order) -> bool:
        made = self.plan(user, order) if user.op == "call_function" and isinstance(user.meta["val"], Tensor) else None
        return made is not None and made.reads.get(node) == order

    def as_it_is(self) -> dict[fx.Node, Form]:
        """The forms that ops have if the program stays as it is: blocks, and orders by the permutes around an op.

        A backend that has its own blocks goes on with them as long as all that an op reads lies in them.
        """
        found: dict[fx.Node, Form] = {}
        in_blocks: set[fx.Node] = set()
        for node in self._nodes:
            images = [each for each in _tensors(node) if value(each).dim() == 4 and each.op != "get_attr"]
            if node.target in self.table.only_blocks:
                in_blocks.add(node)
            elif images and in_blocks.issuperset(images):
                if node.op != "output" and self.table.blocks(node):
                    in_blocks.add(node)
                    found[node] = Form(identity(4), True)
                elif turned(node) == CHANNELS_LAST:
                    found[node] = Form(CHANNELS_LAST)  # it goes there at once
            other = self.other(node)
            around = [turned(each) for each in _tensors(node)[: other.operands]] if other else []
            if other and all(turn is not None and inverse(turn) == other.order for turn in around):
                found[node] = Form(other.order)
                found |= {user: Form(other.order) for user in node.users if turned(user) is not None}
        return found

    def total(self) -> float:
        """What `forms` cost in bytes."""
        ops = sum(cost for node in self._nodes if (cost := self.cost(node, self.form(node))) > _CHANGED)
        return ops + sum(self.conversions().values())

    def choose(self) -> None:
        """Fill `forms` with what costs least: as it is, one proposal wherever it is possible, or what cuts find.

        A tensor that several read in another form is converted once, which edges between two nodes cannot say: they
        say it as if each reader converted it, and as if each paid for its share.
        """
        self.propose()
        labels = [self._labels(node) for node in self._nodes]
        labellings = [solve(self._problem(labels, shared))[: len(labels)] for shared in (False, True)]
        labellings += [[label] * len(labels) for label in range(len(self.proposals) + 1)]
        self.forms = best = self.as_it_is()
        least = self.total()
        for labelling in labellings:
            chosen = zip(self._nodes, labels, labelling, strict=True)
            self.forms = {node: forms[label] for node, forms, label in chosen if forms[label] != self.written(node)}
            if (total := self.total()) < least - _CHANGED:
                least, best = total, self.forms
        self.forms = best

    def _labels(self, node: fx.Node) -> list[Form]:
        """The forms that a node would have as it is, and by each of the proposals."""
        written = self.written(node)
        forms = [each.get(node, written) for each in self.proposals]
        return [written, *(form if form.blocked or not written.blocked else written for form in forms)]

    def _problem(self, labels: Sequence[Sequence[Form]], shared: bool) -> Problem:
        """The choice as a labelling; its last node stands for all inputs, which lie as they are written."""
        places = {node: place for place, node in enumerate(self._nodes)}
        costs = [[self.cost(node, form) for form in forms] for node, forms in zip(self._nodes, labels, strict=True)]
        count = len(self.proposals) + 1
        edges: list[Edge] = []
        for node, forms in zip(self._nodes, labels, strict=True):
            for operand in _tensors(node):
                share = 1 / len(operand.users) if shared else 1.0
                sources = labels[places[operand]] if operand in places else [None] * count
                matrix = tuple(
                    tuple(share * self._pair(operand, one, node, other) for other in forms) for one in sources
                )
                if any(any(row) for row in matrix):
                    edges.append(Edge(places.get(operand, len(costs)), places[node], matrix))
        return Problem([*costs, [0.0] * count], edges)

    def _pair(self, operand: fx.Node, source: Form | None, node: fx.Node, form: Form) -> float:
        """What it costs to read a tensor that is made in one form for an op in another."""
        given = Form(identity(value(operand).dim())) if source is None else self.gives(operand, source)
        wanted = self.reads(node, form).get(operand)
        if given is None or wanted is None or given == wanted:
            return 0.0
        if given.blocked == wanted.blocked and not moves(given.order, wanted.order, value(operand).shape):
            return 0.0
        return self.table.converts(given, wanted, node) * self.bytes_of(operand)

    # ------------------------------------------------------------ what is left

    def form(self, node: fx.Node) -> Form:
        """The form that an op works in."""
        return self.forms.get(node) or self.written(node)

    def conversions(self) -> dict[Conversion, float]:
        """The conversions that are left, each once however many read it, and what each costs in bytes."""
        found: dict[Conversion, float] = {}
        for node in self._nodes:
            for operand, wanted in self.reads(node, self.form(node)).items():
                source = self.form(operand) if operand.op == "call_function" else None
                cost = self._pair(operand, source, node, self.form(node))
                if cost:
                    found[Conversion(operand, wanted)] = cost
        return found

    def otherwise(self, node: fx.Node) -> tuple[Form, float] | None:
        """The best other form for one op alone, the rest as it is, and how many bytes more that would cost."""
        current = self.form(node)
        others = {form for each in self.proposals if (form := each.get(node)) is not None} | {self.written(node)}
        costs = [(self._around(node, form), form) for form in others if form != current]
        if not costs:
            return None
        cost, form = min(costs, key=lambda each: (each[0], str(each[1])))
        return form, cost - self._around(node, current)

    def _around(self, node: fx.Node, form: Form) -> float:
        total = self.cost(node, form)
        for operand in self.reads(node, form):
            total += self._pair(operand, self.form(operand) if operand.op == "call_function" else None, node, form)
        for user in node.users:
            total += self._pair(node, form, user, self.form(user))
        return total


def _tensors(node: fx.Node) -> list[fx.Node]:
    return [each for each in node.all_input_nodes if isinstance(each.meta.get("val"), Tensor)]


def _between_permutes(node: fx.Node, other: Other) -> Plan | None:
    """An op in its other order, between permutes that its backend does not carry out."""
    turned_ones = list(dict.fromkeys(_tensors(node)[: other.operands]))
    if any(value(each).dim() != len(other.order) for each in turned_ones):
        return None
    back, order = list(inverse(other.order)), list(other.order)
    rest = {each: identity(value(each).dim()) for each in _tensors(node) if each not in turned_ones}

    def emit(editor: Editor, get: Get) -> fx.Node:
        given = {each: get(each) for each in rest}
        for each in turned_ones:
            lies = get(each)
            if lies.target is aten.permute.default and operands(lies)[1] == order:  # that of another such op
                given[each] = operands(lies)[0]
            else:
                given[each] = editor.call(aten.permute.default, lies, back, like=node)
        if other.weight and (weight := node.args[1]) in rest and weight.op == "get_attr":  # type: ignore[union-attr]
            given[weight] = _stored(editor, weight, order, back)  # type: ignore[index,arg-type]
        args, kwargs = fx.map_arg((node.args, node.kwargs), lambda each: given.get(each, each))
        named: Any = kwargs
        made = editor.call(node.target, *args, like=node, **named)
        return editor.call(aten.permute.default, made, order, like=node)

    return Plan({**dict.fromkeys(turned_ones, other.order), **rest}, other.order, emit)


def _stored(editor: Editor, weight: fx.Node, order: list[int], back: list[int]) -> fx.Node:
    """A weight that is stored with its axes in an order, as it is written: a view."""
    name = f"{weight.target}.{''.join(map(str, order))}"
    known = next((node for node in editor.graph.nodes if node.op == "get_attr" and node.target == name), None)
    if known is None:
        known = editor.weight(name, Permute(editor.program.weights[str(weight.target)], tuple(order)))
    return editor.call(aten.permute.default, known, back, like=weight)
