"""The whole-sequence program becomes a step: what mixes tokens gets a state, all else runs on the new tokens alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import networkx
import torch
from torch import Tensor, fx
from torch._dynamo.source import ConstantSource

from burnish.ir.code_ops import code_ops
from burnish.ir.edit import Editor, remove_dead
from burnish.ir.ops import burnish_ops
from burnish.ir.program import Program, Stage, origin
from burnish.ir.states import BATCH, CAPACITY, State, StateKind
from burnish.ir.text import dtype_name
from burnish.passes.analyses.remember import values_to_remember
from burnish.passes.analyses.token_axis import TokenAxes
from burnish.passes.base import Effect, Log

aten = torch.ops.aten
_END = 2**63 - 1


@dataclass(frozen=True)
class InsertStates:
    """tokens -> logits becomes tokens, position, states -> logits, states."""

    name: ClassVar[str] = "insert-states"
    effect: ClassVar[Effect] = Effect.REASSOCIATES
    atomic: ClassVar[bool] = True

    def run(self, program: Program, log: Log) -> Program:
        """Make `program` incremental, in place; NotCausalError or UnsupportedError if that cannot be proved right."""
        return _Inserter(program, log).run()


class _Inserter:
    def __init__(self, program: Program, log: Log) -> None:
        self.program = program
        self.log = log
        self.axes = TokenAxes(program)
        self.editor = Editor(program)
        self.states: list[State] = []
        self.results: list[fx.Node] = []
        self.batch = program.tokens.meta["val"].shape[0]
        self.capacity = self._symbol("capacity", 37)
        self.position = self.editor.placeholder("position", self._fake((self.batch,), torch.int64), program.tokens)
        self.last_input = program.placeholders[-1]

    def run(self) -> Program:
        self._remember_keys_and_values()
        for node in list(self.program.graph.nodes):
            rewrite = self._rewrites().get(node.target)
            if rewrite is not None:
                rewrite(node)
        output = self.program.output
        logits = output.args[0][0]  # type: ignore[index]
        output.args = ((logits, *self.results),)
        remove_dead(self.program)
        symbols = {**self.program.details.get("symbols", {}), str(self.capacity): "capacity"}
        details = {**self.program.details, "symbols": symbols}
        return replace(self.program, states=tuple(self.states), stage=Stage.INCREMENTAL, details=details)

    def _rewrites(self) -> dict[Any, Callable[[fx.Node], None]]:
        return {
            burnish_ops.positions.default: self._offset_positions,
            burnish_ops.causal_conv1d.default: self._convolution,
            burnish_ops.shift.default: self._shift,
            aten.cumsum.default: self._running_sum,
        }

    # ------------------------------------------------------------ types and inputs

    def _symbol(self, name: str, hint: int) -> torch.SymInt:
        """A new size that can be anything."""
        fake = self.editor.mode.from_tensor(torch.empty(hint), static_shapes=False, source=ConstantSource(name))
        size = fake.shape[0]
        assert isinstance(size, torch.SymInt)
        return size

    def _fake(self, shape: tuple[Any, ...], dtype: torch.dtype) -> Tensor:
        with self.editor.mode:
            return torch.empty(shape, dtype=dtype)

    def _add_state(self, like: fx.Node, name: str, kind: StateKind, shape: list[Any], axis: int) -> fx.Node:
        """A state and the placeholder that reads it. `shape` has the batch's and the capacity's symbols."""
        dtype = like.meta["val"].dtype
        named: tuple[int | str, ...] = tuple(
            BATCH if index == 0 else CAPACITY if size is self.capacity else int(size)
            for index, size in enumerate(shape)
        )
        node = self.editor.placeholder(name, self._fake(tuple(shape), dtype), self.last_input)
        node.meta["origin"] = origin(like)
        self.last_input = node
        self.states.append(State(node.name, kind, named, dtype, axis, origin(like).module))
        return node

    # ------------------------------------------------------------ attention

    def _remember_keys_and_values(self) -> None:
        attentions = [n for n in self.program.graph.nodes if n.target is burnish_ops.attention.default]
        if not attentions:
            return
        wanted = list(dict.fromkeys(operand for node in attentions for operand in node.args[1:3]))
        remembered = values_to_remember(self.program, self.axes, wanted)
        sources = {node: self._sources(node, remembered) for node in attentions}
        reach = self._reach(sources)
        everything: dict[tuple[fx.Node, int], fx.Node] = {}  # (value, window) -> the value for all tokens
        positions: dict[int, fx.Node] = {}
        names = self._names(attentions, remembered)
        for value, name in names.items():
            everything[value, reach[value]] = self._remember(value, name, reach[value])
        for node in attentions:
            operands: list[fx.Node] = []
            size = reach[sources[node][0]]
            for operand in node.args[1:3]:
                operands.append(self._for_all(operand, size, everything))
            arguments: list[Any] = [node.args[0], *operands, self.position, *node.args[4:]]
            node.args = tuple(arguments)
            if size:
                if size not in positions:
                    with self.editor.after(self.last_input):
                        positions[size] = self.editor.call(
                            burnish_ops.ring_positions.default, self.program.tokens, self.position, size, like=node
                        )
                node.kwargs = {**node.kwargs, "key_positions": positions[size]}
            bias = node.kwargs.get("bias")
            if isinstance(bias, fx.Node):
                self._offset_bias(bias, operands[0])
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
                stack.extend(argument for argument in node.all_input_nodes if self.axes.of(argument) is not None)
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
        label = self.axes.of(value)
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
        if self.axes.of(node) is None:
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
        for argument in node.all_input_nodes:
            if argument not in seen:
                node.prepend(argument)

    def _offset_bias(self, bias: fx.Node, keys: fx.Node) -> None:
        table, _, query, _ = bias.args
        bias.args = (table, self.position, query, keys)

    # ------------------------------------------------------------ the others

    def _offset_positions(self, node: fx.Node) -> None:
        node.args = (self.program.tokens, self.position)

    def _window(self, node: fx.Node, axis: int, size: int) -> fx.Node:
        """The last `size` tokens of `node` and then the new ones; the state moves on."""
        shape = list(node.meta["val"].shape)
        shape[axis] = size
        state = self._add_state(node, f"window_{len(self.states)}", StateKind.WINDOW, shape, axis)
        joined = self.editor.call(aten.cat.default, [state, node], axis, like=node)
        self.results.append(self.editor.call(aten.slice.Tensor, joined, axis, -size, _END, like=node))
        return joined

    def _convolution(self, node: fx.Node) -> None:
        x, weight, bias, dilation, groups = node.args
        assert isinstance(x, fx.Node)
        assert isinstance(weight, fx.Node)
        size = (int(weight.meta["val"].shape[-1]) - 1) * int(dilation)  # type: ignore[arg-type]
        with self.editor.before(node):
            joined = self._window(x, 2, size) if size else x
            out = self.editor.call(aten.conv1d.default, joined, weight, bias, [1], [0], [dilation], groups, like=node)
        self.log.rewrite(node, f"convolution over a window of {size} remembered tokens")
        self.editor.replace(node, out)

    def _shift(self, node: fx.Node) -> None:
        x, axis, amount = node.args
        assert isinstance(x, fx.Node)
        with self.editor.before(node):
            joined = self._window(x, int(axis), int(amount))  # type: ignore[arg-type]
            out = self.editor.call(aten.slice.Tensor, joined, axis, 0, -int(amount), like=node)  # type: ignore[arg-type]
        self.log.rewrite(node, f"shift by {amount}")
        self.editor.replace(node, out)

    def _running_sum(self, node: fx.Node) -> None:
        label = self.axes.of(node)
        if label is None or label.axis != int(node.args[1]) % node.meta["val"].dim():  # type: ignore[arg-type]
            return
        shape = list(node.meta["val"].shape)
        shape[label.axis] = 1
        state = self._add_state(node, f"sum_{len(self.states)}", StateKind.ACCUMULATOR, shape, label.axis)
        with self.editor.before(node.next):
            total = self.editor.call(aten.add.Tensor, node, state, like=node)
            self.results.append(self.editor.call(aten.slice.Tensor, total, label.axis, -1, _END, like=node))
        node.replace_all_uses_with(total, delete_user_cb=lambda user: user is not total)
        self.log.rewrite(node, "running sum with its total remembered")


def _extent(attention: fx.Node) -> int:
    """How many of the last tokens an attention sees; 0: all of them."""
    windowed = attention.kwargs.get("mask") in ("window", "chunk") and attention.kwargs.get("bias") is None
    return int(attention.kwargs["extent"]) if windowed else 0  # type: ignore[arg-type]
