"""A step program as others run it: pasts in and presents out in place of memory that is written, no logits left out.

What is one operation for kernels of our own is spelled in those that it stands for: a program of any backend for CPUs
becomes one of ATen and of the plain ops of `burnish.ir.ops`. Names are those of `burnish.ir.past_present`.
"""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import fx

from burnish.export.unfused import UNFUSED
from burnish.ir.arguments import arguments
from burnish.ir.code_ops import code_ops
from burnish.ir.edit import remove_dead
from burnish.ir.errors import UnsupportedError
from burnish.ir.infer import infer
from burnish.ir.ops import burnish_ops
from burnish.ir.origin import Origin
from burnish.ir.past_present import (
    ATTENTION_MASK,
    BATCH_SIZE,
    INPUT_IDS,
    LOGITS,
    PAST_LENGTH,
    POSITION,
    SEQUENCE_LENGTH,
    state_names,
)
from burnish.ir.program import Program, Stage, describe, operands, origin
from burnish.ir.signature import Input, Interface
from burnish.ir.states import State, StateKind
from burnish.ir.symbols import TypedGraph
from burnish.ir.torch_types import torch_dtype
from burnish.ir.weights import Rows, Weight

aten = torch.ops.aten

_GROWS = (StateKind.CACHE, StateKind.RING)
_ATTENTIONS = (burnish_ops.attention.default, code_ops.coded_attention.default)
_END = 2**63 - 1
_NOWHERE = 2**31  # a position that no table has


def outward(program: Program) -> Program:
    """A program of the stage GRAPH that is given pasts and gives presents, of a step program, which need not be typed.

    UnsupportedError, with the node, for what has no such form.
    """
    return Outward(program).run()


class Outward:
    """The translation of one program."""

    def __init__(self, program: Program) -> None:
        self.given = program
        self.made = TypedGraph()
        self.nodes: dict[fx.Node, Any] = {}  # tuples of nodes for what gives several
        self.states = {state.name: state for state in program.states}
        self.grown: dict[str, fx.Node] = {}  # caches with the new tokens
        self.read: dict[Any, fx.Node] = {}  # weights by what they are made of
        self.sizes: dict[int, fx.Node] = {}  # of the new tokens, by axis
        self.inputs: list[tuple[str, Input]] = []
        self.position: fx.Node | None = None
        self.positions: fx.Node | None = None  # of each new token, where there is a mask
        self.slots: tuple[fx.Node, fx.Node] | None = None  # for attentions: see `seen_by`
        self.counts: tuple[fx.Node, fx.Node] | None = None

    def run(self) -> Program:
        """The program as others run it."""
        self._declare()
        for node in self.given.graph.nodes:
            if node.op == "get_attr":
                self.nodes[node] = self.weight(str(node.target), self.given.weights[str(node.target)], node.target)
            elif node.op == "call_function":
                self.like = node
                self.nodes[node] = self._translated(node)
        outputs = self.given.outputs
        results = {LOGITS: outputs[LOGITS]}
        results |= {present: outputs[name] for name, (_, present) in state_names(list(self.states)).items()}
        interface = Interface(
            tuple(each for _, each in self.inputs), tuple(results), tuple(name for name, _ in self.inputs)
        )
        nodes = [self.mapped(node) for node in results.values()]
        made = self.made.program(*nodes, signature=interface, stage=Stage.GRAPH)
        remove_dead(made)
        self._forget_unread(made)
        return made

    def _forget_unread(self, made: Program) -> None:
        """No position is asked for that nothing reads."""
        kept = []
        for placeholder, (name, declared) in zip(made.placeholders, self.inputs, strict=True):
            if name == POSITION and not placeholder.users:
                made.graph.erase_node(placeholder)
            else:
                kept.append((name, declared))
        names = tuple(name for name, _ in kept)
        made.interface = Interface(tuple(each for _, each in kept), made.interface.outputs, names)

    # ------------------------------------------------------------ inputs

    def _declare(self) -> None:
        """The inputs, and what is known of positions."""
        self.like = self.given.tokens
        made, growing = self.made, [state for state in self.given.states if state.kind in _GROWS]
        batch, new = made.size(BATCH_SIZE, 3), made.size(SEQUENCE_LENGTH, 5)
        tokens = self._input(INPUT_IDS, (BATCH_SIZE, SEQUENCE_LENGTH), (batch, new), torch.int64)
        self.nodes[self.given.tokens] = tokens
        total = made.size(PAST_LENGTH, 7) + new if growing else None
        mask = None
        if total is not None and self._can_mask():
            axes = (BATCH_SIZE, f"{PAST_LENGTH} + {SEQUENCE_LENGTH}")
            mask = self._input(ATTENTION_MASK, axes, (batch, total), torch.int64)
        elif total is None:
            self.position = self._input(POSITION, (BATCH_SIZE,), (batch,), torch.int64)
        names = state_names(list(self.states))
        for state, node in zip(self.given.states, self.given.state_inputs, strict=True):
            named = state_axes(state)
            shape = [made.sizes[size] if isinstance(size, str) else size for size in named]
            self.nodes[node] = self._input(names[state.name][0], named, shape, torch_dtype(past_dtype(state)))
        if mask is not None:
            self._read_mask(mask, growing[0])
        elif growing:
            self.position = self._length_of_rows(self._length(growing[0]))

    def _input(self, name: str, axes: tuple[int | str, ...], shape: Any, dtype: torch.dtype) -> fx.Node:
        identifier = "".join(letter if letter.isalnum() else "_" for letter in name)
        node = self.made.input(identifier, shape, dtype)
        node.meta["origin"] = Origin()
        self.inputs.append((name, Input(node.name, axes, str(dtype).removeprefix("torch."))))
        return node

    def _can_mask(self) -> bool:
        """Whether all that mixes tokens can leave some out: attentions, over keys that are all remembered by token."""
        if any(state.kind not in _GROWS for state in self.given.states):
            return False
        for node in self.given.graph.nodes:
            if node.target is burnish_ops.attention_bias.default:  # its columns are slots, not positions
                return False
            if node.target in _ATTENTIONS and arguments(node)["mask"] == "none":
                return False
        return True

    def _length(self, state: State) -> fx.Node:
        """How many tokens came before, of a row without padding."""
        return self.call(aten.sym_size.int, self.mapped(self.given.inputs[state.name]), state.axis)

    def _read_mask(self, mask: fx.Node, state: State) -> None:
        """Positions count the tokens that are no padding; slots count all, of which padding is none that is seen.

        What asks which token came first asks for slots, and any can be masked. What asks how far apart two are (by
        windows, chunks, slopes) takes a row's new tokens for neighbours, from the first that is no padding: if some are
        masked in between, the position of each is one that no table has, which ONNX Runtime refuses.
        """
        past, total = self._length(state), self.call(aten.sym_size.int, mask, 1)
        new = self.call(aten.slice.Tensor, mask, 1, past, _END)
        counted = self.call(aten.cumsum.default, mask, 1)
        every = self.call(aten.arange.start, 1, self.call(operator.add, total, 1))
        self.slots = self._length_of_rows(past), self._hidden(every, mask)
        places = self.call(aten.slice.Tensor, self.call(aten.sub.Tensor, counted, 1), 1, past, _END)
        self.positions = self.call(aten.clamp.default, places, 0)
        if all(self._asks_for_slots(node) for node in self.given.graph.nodes if node.target in _ATTENTIONS):
            return
        before = self.call(aten.sum.dim_IntList, self.call(aten.slice.Tensor, mask, 1, 0, past), [1])
        first = self.call(aten.argmax.default, new, 1)
        self.counts = self.call(aten.sub.Tensor, before, first), self._hidden(counted, mask)
        steps = self.call(aten.arange.default, self.size(1))
        last = self.call(aten.amax.default, self.call(aten.mul.Tensor, new, steps), [1])
        seen = self.call(aten.clamp.default, self.call(aten.sum.dim_IntList, new, [1]), 1)
        gap = self.call(aten.sub.Tensor, self.call(aten.sub.Tensor, last, first), self.call(aten.sub.Tensor, seen, 1))
        far = self.call(aten.unsqueeze.default, self.call(aten.mul.Tensor, gap, _NOWHERE), 1)
        if any(node.target is burnish_ops.positions.default for node in self.given.graph.nodes):
            self.positions = self.call(aten.add.Tensor, self.positions, far)
        else:
            tokens = self.nodes[self.given.tokens]
            self.nodes[self.given.tokens] = self.call(aten.add.Tensor, tokens, far)

    def _hidden(self, counted: fx.Node, mask: fx.Node) -> fx.Node:
        """What counts tokens from 1 on, from 0 on; -1 for padding."""
        return self.call(aten.sub.Tensor, self.call(aten.mul.Tensor, counted, mask), 1)

    def _length_of_rows(self, past: fx.Node) -> fx.Node:
        return self.call(aten.full.default, [self.size(0)], past, dtype=torch.int64)

    @staticmethod
    def _asks_for_slots(attention: fx.Node) -> bool:
        a = arguments(attention)
        return a["mask"] == "causal" and a["slopes"] is None

    def seen_by(self, attention: fx.Node) -> tuple[fx.Node | None, fx.Node | None]:
        """The positions of the first new token of each row, and of all keys, for an attention."""
        if self.slots is None or self.counts is None:
            return self.slots or (self.position, None)
        return self.slots if self._asks_for_slots(attention) else self.counts

    # ------------------------------------------------------------ nodes

    def call(self, target: Any, *args: Any, name: str | None = None, **kwargs: Any) -> fx.Node:
        """A new node, typed, with the origin of the one that is being translated."""
        node = self.made.graph.create_node("call_function", target, args, kwargs, name=name)
        node.meta["origin"] = origin(self.like)
        infer(node, self.made.mode)
        return node

    def size(self, axis: int) -> fx.Node:
        """How many rows there are (0), or new tokens (1)."""
        if axis not in self.sizes:
            self.sizes[axis] = self.call(aten.sym_size.int, self.nodes[self.given.tokens], axis)
        return self.sizes[axis]

    def weight(self, name: str, weight: Weight, key: Any) -> fx.Node:
        """What reads a weight; the same for the same key."""
        if key not in self.read:
            self.read[key] = self.made.read(self.made.weights.add(name, weight))
            self.read[key].meta["origin"] = Origin()
        return self.read[key]

    def rows(self, node: fx.Node | None, order: torch.Tensor, name: str) -> fx.Node | None:
        """The same weight with its rows in another order."""
        if node is None:
            return None
        if node.op != "get_attr":
            raise UnsupportedError(f"{describe(self.like)} reads a weight that is computed")
        return self.weight(name, Rows(self.made.weights[str(node.target)], order), ("rows", node.target, name))

    def mapped(self, node: fx.Node) -> fx.Node:
        """What a node became. UnsupportedError where it is none by itself."""
        found = self.nodes.get(node)
        if isinstance(found, fx.Node):
            return found
        if node.op == "placeholder":
            raise UnsupportedError(f"the input {node.name} is read in a way that has no form as ONNX for others")
        raise UnsupportedError(f"{describe(node)} is read as one value, and is none")

    def _translated(self, node: fx.Node) -> Any:
        translate = _TRANSLATIONS.get(node.target)
        if translate is not None:
            return translate(self, arguments(node), node)
        if node.target is operator.getitem and isinstance(self.nodes.get(operands(node)[0]), tuple):
            return self.nodes[operands(node)[0]][node.args[1]]
        for read in node.all_input_nodes:
            state = self.states.get(read.name) if read.op == "placeholder" else None
            if state is not None and state.kind in _GROWS:
                return self._reads_cache(node, state)
        args, kwargs = fx.map_arg((node.args, node.kwargs), self.mapped)
        return self.call(node.target, *args, name=node.name, **kwargs)

    def _reads_cache(self, node: fx.Node, state: State) -> fx.Node:
        """A ring and the new tokens behind it are all tokens here: what has left the window is masked."""
        placeholder = self.given.inputs[state.name]
        if node.target is aten.cat.default:
            parts, *axis = operands(node)
            if len(parts) == 2 and parts[0] is placeholder and (axis or [0])[0] == state.axis:
                return self.written(placeholder, self.mapped(parts[1]), state.axis)
        raise UnsupportedError(f"{describe(node)} reads the state {state.name} as it was, which no exported model has")

    def written(self, placeholder: fx.Node, new: fx.Node, axis: int) -> fx.Node:
        """A cache with the new tokens behind those that it has."""
        name = placeholder.name
        if placeholder.op != "placeholder" or name not in self.states:
            raise UnsupportedError(f"{describe(self.like)} writes to what is no state")
        if name not in self.grown:
            past, state = self.mapped(placeholder), self.states[name]
            for dtype in (state.dtype, past.meta["val"].dtype):  # what is remembered in less is rounded so here, too
                if new.meta["val"].dtype != dtype:
                    new = self.call(aten._to_copy.default, new, dtype=dtype)
            self.grown[name] = self.call(aten.cat.default, [past, new], axis)
        return self.grown[name]

    def maybe(self, node: fx.Node | None) -> fx.Node | None:
        """What a node became, if there is one."""
        return None if node is None else self.mapped(node)


def state_axes(state: State) -> tuple[int | str, ...]:
    """A state as a past: its shape by the names of its sizes."""
    grows = state.kind in _GROWS
    return tuple(
        BATCH_SIZE if axis == 0 else PAST_LENGTH if grows and axis == state.axis else size
        for axis, size in enumerate(state.shape)
    )


def past_dtype(state: State) -> str:
    """The dtype of a state as a past: floats are float32, which is what ONNX Runtime attends to."""
    return "float32" if state.dtype_name in ("bfloat16", "float16") else state.dtype_name


# ---------------------------------------------------------------- what the steps of our runtime have


def _write(o: Outward, a: dict[str, Any], node: fx.Node) -> fx.Node:
    return o.written(a["state"], o.mapped(a["new"]), a["axis"] % len(o.states[a["state"].name].shape))


def _positions(o: Outward, a: dict[str, Any], node: fx.Node) -> fx.Node:
    if o.positions is not None:
        return o.positions
    return o.call(burnish_ops.positions.default, o.mapped(a["tokens"]), o.position, name=node.name)


def _ring_positions(o: Outward, a: dict[str, Any], node: fx.Node) -> None:
    """Attentions know it of the mask, or of the slots: nothing else asks for it."""


def _selected(o: Outward, a: dict[str, Any], node: fx.Node) -> fx.Node:
    """Logits are given of all tokens."""
    if a["index"].op == "placeholder":
        return o.mapped(a["self"])
    return o.call(aten.index_select.default, o.mapped(a["self"]), a["dim"], o.mapped(a["index"]), name=node.name)


def _bias(o: Outward, a: dict[str, Any], node: fx.Node) -> fx.Node:
    args = (o.mapped(a["table"]), o.position, o.mapped(a["query"]), o.mapped(a["key"]))
    return o.call(burnish_ops.attention_bias.default, *args, name=node.name)


def _attention(o: Outward, a: dict[str, Any], node: fx.Node) -> fx.Node:
    if node.target is code_ops.coded_attention.default:
        key, value = (
            o.call(code_ops.from_codes.default, o.mapped(a[name]), o.mapped(a[f"{name}_scales"]))
            for name in ("key", "value")
        )
    else:
        key, value = o.mapped(a["key"]), o.mapped(a["value"])
    given = (o.maybe(a[name]) for name in ("bias", "sinks", "slopes"))
    options = {name: a[name] for name in ("scale", "mask", "extent", "softcap")}
    position, key_positions = o.seen_by(node)
    args = (o.mapped(a["query"]), key, value, position, *given, key_positions)
    return o.call(burnish_ops.attention.default, *args, name=node.name, **options)


_TRANSLATIONS: dict[Any, Any] = {
    burnish_ops.cache_write.default: _write,
    burnish_ops.ring_write.default: _write,
    burnish_ops.positions.default: _positions,
    burnish_ops.ring_positions.default: _ring_positions,
    burnish_ops.attention_bias.default: _bias,
    **dict.fromkeys(_ATTENTIONS, _attention),
    aten.index_select.default: _selected,
    **UNFUSED,
}
