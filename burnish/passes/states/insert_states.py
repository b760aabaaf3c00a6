"""The whole-sequence program becomes a step: what mixes tokens gets a state, all else runs on the new tokens alone."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import networkx
import torch
from torch import Tensor, fx

from burnish.ir.arguments import argument
from burnish.ir.code_ops import code_ops
from burnish.ir.dtypes import name_of
from burnish.ir.edit import Editor, remove_dead
from burnish.ir.errors import UnsupportedError
from burnish.ir.labels import Along
from burnish.ir.ops import burnish_ops
from burnish.ir.program import Program, Stage, describe, operands, origin, value
from burnish.ir.shapes import is_batch
from burnish.ir.signature import POSITION
from burnish.ir.states import BATCH, CAPACITY, State, StateKind
from burnish.ir.step_forms import END
from burnish.ir.symbols import symbolic_size
from burnish.ir.text import dtype_name
from burnish.ir.traits import state_descriptor
from burnish.passes.analyses.axis_labels import AxisLabels
from burnish.passes.analyses.remember import values_to_remember
from burnish.passes.base import Effect, Log

aten = torch.ops.aten


@dataclass(frozen=True)
class InsertStates:
    """tokens -> logits becomes tokens, position, states -> logits, states."""

    name: ClassVar[str] = "insert-states"
    effect: ClassVar[Effect] = Effect.REASSOCIATES
    atomic: ClassVar[bool] = True

    def run(self, program: Program, log: Log) -> Program:
        """Make `program` incremental, in place.

        NotCausalError, MixedRowsError or UnsupportedError if that cannot be proved right.
        """
        return _Inserter(program, log).run()


class _Inserter:
    def __init__(self, program: Program, log: Log) -> None:
        self.program = program
        self.log = log
        self.labels = AxisLabels(program)
        self.rows = AxisLabels(program, Along.ROWS, self.labels.positions)
        self.editor = Editor(program)
        self.states: list[State] = []
        self.results: list[fx.Node] = []
        self.batch = program.tokens.meta["val"].shape[0]
        self.capacity = symbolic_size(self.editor.mode.shape_env, "capacity", 37)
        self.position = self.editor.input(POSITION, self._fake((self.batch,), POSITION.dtype), program.tokens)
        self.last_input = program.placeholders[-1]

    def run(self) -> Program:
        self._remember_keys_and_values()
        for node in self.labels.mixing:
            form = state_descriptor(node).step
            if form is not None:
                readers = set(node.users)  # not those that the form adds
                with self.editor.before(node):
                    stepped, told = form(self, node)
                node.replace_all_uses_with(stepped, delete_user_cb=readers.__contains__)
                self.rows.labels[stepped] = self.rows.of(node)  # the next form may remember it
                self.log.rewrite(node, told)
        for node in self.program.graph.nodes:
            if node.target is burnish_ops.positions.default:
                node.args = (self.program.tokens, self.position)
        self.program.give(self.program.results, self.results)
        remove_dead(self.program)
        symbols = {**self.program.details.get("symbols", {}), str(self.capacity): "capacity"}
        details = {**self.program.details, "symbols": symbols}
        return replace(self.program, states=tuple(self.states), stage=Stage.INCREMENTAL, details=details)

    # ------------------------------------------------------------ types and inputs

    def _fake(self, shape: tuple[Any, ...], dtype: torch.dtype) -> Tensor:
        with self.editor.mode:
            return torch.empty(shape, dtype=dtype)

    def _add_state(self, like: fx.Node, name: str, kind: StateKind, shape: list[Any], axis: int) -> fx.Node:
        """A state and the placeholder that reads it. `shape` has the batch's and the capacity's symbols."""
        dtype = like.meta["val"].dtype
        sizes = [size for size in shape[1:] if size is not self.capacity]
        if not all(isinstance(size, int) for size in sizes):
            raise UnsupportedError(
                f"{describe(like)} has to be remembered from step to step, and its size is no plain number: {sizes}"
            )
        named: tuple[int | str, ...] = tuple(
            BATCH if index == 0 else CAPACITY if size is self.capacity else int(size)
            for index, size in enumerate(shape)
        )
        node = self.editor.placeholder(name, self._fake(tuple(shape), dtype), self.last_input)
        node.meta["origin"] = origin(like)
        self.last_input = node
        self.states.append(State(node.name, kind, named, name_of(dtype), axis, origin(like).module))
        return node

    # ------------------------------------------------------------ attention

    def _remember_keys_and_values(self) -> None:
        attentions = [node for node in self.labels.mixing if state_descriptor(node).all_tokens]
        if not attentions:
            return
        remembered = values_to_remember(self.program, self.labels)
        sources = {node: self._sources(node, remembered) for node in attentions}
        reach = self._reach(sources)
        everything: dict[tuple[fx.Node, int], fx.Node] = {}  # (value, window) -> the value for all tokens
        positions: dict[int, fx.Node] = {}
        names = self._names(attentions, remembered)
        for source, name in names.items():
            everything[source, reach[source]] = self._remember(source, name, reach[source])
        for node in attentions:
            known: list[fx.Node] = []
            size = reach[sources[node][0]]
            query, *asked = operands(node)[:3]
            for operand in asked:
                known.append(self._for_all(operand, size, everything))
            node.args = (query, *known, self.position, *node.args[4:])
            if size:
                if size not in positions:
                    with self.editor.after(self.last_input):
                        positions[size] = self.editor.call(
                            burnish_ops.ring_positions.default, self.program.tokens, self.position, size, like=node
                        )
                node.kwargs = {**node.kwargs, "key_positions": positions[size]}
            bias = node.kwargs.get("bias")
            if isinstance(bias, fx.Node):
                self._offset_bias(bias, known[0])
            self._order_after(node)

    def _sources(self, attention: fx.Node, remembered: list[fx.Node]) -> list[fx.Node]:
        """The remembered values that an attention's keys and values are made from."""
        keys, values = (self._made_from(operand, remembered) for operand in attention.args[1:3])
        return list(dict.fromkeys([*keys, *values]))

    def _made_from(self, operand: Any, remembered: list[fx.Node]) -> list[fx.Node]:
        chosen = set(remembered)
        found: dict[fx.Node, None] = {}
        stack = [operand]
        while stack:
            node = stack.pop()
            if node in chosen:
                found[node] = None
            else:
                stack.extend(argument for argument in node.all_input_nodes if self.labels.of(argument) is not None)
        return list(found)

    def _names(self, attentions: list[fx.Node], remembered: list[fx.Node]) -> dict[fx.Node, str]:
        """What to call each remembered value, by the attention that first asks for it: in that order, keys first."""
        names: dict[fx.Node, str] = {}
        for number, node in enumerate(attentions):
            keys, values = (self._made_from(operand, remembered) for operand in node.args[1:3])
            for source in [*keys, *values]:
                role = "latent" if source in keys and source in values else "key" if source in keys else "value"
                part = "_scale" if source.target is code_ops.code_scales.default else ""
                names.setdefault(source, f"{role}{part}_{number}")
        return names

    def _reach(self, sources: dict[fx.Node, list[fx.Node]]) -> dict[fx.Node, int]:
        """For each remembered value, how many of the last tokens are ever asked for; 0: all of them.

        What one attention reads is remembered alike, and so is what others read beside it.
        """
        together = networkx.Graph()
        for values in sources.values():
            networkx.add_path(together, values)
        reach: dict[fx.Node, int] = {}
        for group in networkx.connected_components(together):
            asked = [_extent(node) for node, values in sources.items() if not group.isdisjoint(values)]
            reach.update(dict.fromkeys(group, 0 if 0 in asked else max(asked)))
        return reach

    def _remember(self, value: fx.Node, name: str, window: int) -> fx.Node:
        """A state for `value`; the value for all tokens (or the window's and the new ones)."""
        label = self.labels.of(value)
        assert label is not None
        shape = list(value.meta["val"].shape)
        shape[label.axis] = window or self.capacity
        kind = StateKind.RING if window else StateKind.CACHE
        state = self._add_state(value, name, kind, shape, label.axis)
        with self.editor.after(value):
            write = burnish_ops.ring_write.default if window else burnish_ops.cache_write.default
            written = self.editor.call(write, state, value, self.position, label.axis, like=value)
            self.results.append(written)
            sizes = ", ".join(str(size) for size in self.states[-1].shape)
            self.log.rewrite(value, f"remembered: {kind.value} {dtype_name(self.states[-1].dtype)}[{sizes}]")
            if not window:
                return written
            return self.editor.call(aten.cat.default, [state, value], label.axis, like=value)

    def _for_all(self, node: fx.Node, window: int, everything: dict[tuple[fx.Node, int], fx.Node]) -> fx.Node:
        """`node` for all tokens: remembered, or computed again from what is."""
        if (node, window) in everything:
            return everything[node, window]
        if self.labels.of(node) is None:
            return node
        mapped: Any = fx.map_arg((node.args, node.kwargs), lambda each: self._for_all(each, window, everything))
        arguments, options = mapped
        with self.editor.after(node):
            again = self.editor.call(node.target, *self._resized(node, arguments), like=node, **options)
        everything[node, window] = again
        self.log.rewrite(node, "computed again for all tokens")
        return again

    def _resized(self, node: fx.Node, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
        """The arguments of a view with the number of tokens left for it to find."""
        if node.target in (aten.reshape.default, aten.view.default, aten.expand.default):
            sizes = [
                -1 if isinstance(size, fx.Node) and str(size.meta.get("val")) == self.program.sequence else size
                for size in arguments[1]
            ]
            return (arguments[0], sizes, *arguments[2:])
        return arguments

    def _order_after(self, node: fx.Node) -> None:
        """Move what `node` now reads in front of it, if it is behind."""
        seen: set[fx.Node] = set()
        for candidate in self.program.graph.nodes:
            if candidate is node:
                break
            seen.add(candidate)
        for read in node.all_input_nodes:
            if read not in seen:
                node.prepend(read)

    def _offset_bias(self, bias: fx.Node, keys: fx.Node) -> None:
        table, _, query, _ = bias.args
        bias.args = (table, self.position, query, keys)

    # ------------------------------------------------------------ for step forms

    def window(self, source: fx.Node, axis: int, size: int) -> fx.Node:
        """The last `size` values of `source` along `axis`, and then the new ones; the state moves on."""
        rows = self._rows_axis(source)
        x, along = self._exchanged(source, rows), {0: rows, rows: 0}.get(axis, axis)
        shape = list(value(x).shape)
        shape[along] = size
        state = self._add_state(x, f"window_{len(self.states)}", StateKind.WINDOW, shape, along)
        joined = self.editor.call(aten.cat.default, [state, x], along, like=source)
        self.results.append(self.editor.call(aten.slice.Tensor, joined, along, -size, END, like=source))
        return self._exchanged(joined, rows)

    def total(self, source: fx.Node, axis: int) -> fx.Node:
        """`source`, a running sum along `axis`, with the total of all earlier tokens added."""
        rows = self._rows_axis(source)
        with self.editor.after(source):
            x, along = self._exchanged(source, rows), {0: rows, rows: 0}.get(axis, axis)
            shape = list(value(x).shape)
            shape[along] = 1
            state = self._add_state(x, f"sum_{len(self.states)}", StateKind.ACCUMULATOR, shape, along)
            total = self.editor.call(aten.add.Tensor, x, state, like=source)
            self.results.append(self.editor.call(aten.slice.Tensor, total, along, -1, END, like=source))
            return self._exchanged(total, rows)

    def _rows_axis(self, node: fx.Node) -> int:
        """Where a value that is remembered has the rows of the batch, one entry each."""
        label = self.rows.of(node)
        if label is None or not is_batch(self.program, value(node).shape[label.axis]):
            shape = tuple(str(size) for size in value(node).shape)
            raise UnsupportedError(
                f"{describe(node)} has to be remembered from step to step, and none of the axes of its shape {shape} "
                "has one entry for each row of the batch"
            )
        return label.axis

    def _exchanged(self, node: fx.Node, axis: int) -> fx.Node:
        """`node` with its first axis and `axis` exchanged: states have rows first."""
        return node if axis == 0 else self.editor.call(aten.transpose.int, node, 0, axis, like=node)


def _extent(attention: fx.Node) -> int:
    """How many of the last tokens an attention sees; 0: all of them."""
    windowed = attention.kwargs.get("mask") in ("window", "chunk") and attention.kwargs.get("bias") is None
    return int(argument(attention, "extent")) if windowed else 0
