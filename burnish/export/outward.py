"""A step program as others run it: pasts in and presents out in place of memory that is written, no logits left out.

What is one operation for kernels of our own is spelled in those that it stands for: a program of any backend for CPUs
becomes one of ATen and of the plain ops of `burnish.ir.ops`. Names are those of `burnish.ir.past_present`.
"""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import fx

from burnish.ir.arguments import arguments
from burnish.ir.code_ops import code_ops
from burnish.ir.edit import remove_dead
from burnish.ir.errors import UnsupportedError
from burnish.ir.fused_ops import fused_ops
from burnish.ir.infer import infer
from burnish.ir.ops import burnish_ops
from burnish.ir.origin import Origin
from burnish.ir.panels import RowOrder, panel_ops, unpacked_shape
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
from burnish.ir.unpanelled import unpanelled
from burnish.ir.weights import Reshape, Rows, Weight

aten = torch.ops.aten

_GROWS = (StateKind.CACHE, StateKind.RING)
_ATTENTIONS = (burnish_ops.attention.default, code_ops.coded_attention.default)
_END = 2**63 - 1


def outward(program: Program) -> Program:
    """A program of the stage GRAPH that is given pasts and gives presents, of a step program, which need not be typed.

    UnsupportedError, with the node, for what has no such form.
    """
    return _Outward(program).run()


class _Outward:
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
        self.key_positions: fx.Node | None = None

    def run(self) -> Program:
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
        nodes = [self._mapped(node) for node in results.values()]
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
            if state.kind in _GROWS and state.dtype in (torch.bfloat16, torch.float16):
                raise UnsupportedError(
                    f"the cache {state.name} is {state.dtype_name}, and ONNX Runtime attends to float32: compile "
                    "the model without dtype="
                )
            named = state_axes(state)
            shape = [made.sizes[size] if isinstance(size, str) else size for size in named]
            self.nodes[node] = self._input(names[state.name][0], named, shape, state.dtype)
        if mask is not None:
            self._read_mask(mask, growing[0])
        elif growing:
            past = self._length(growing[0])
            self.position = self.call(
                aten.full.default,
                [
                    self.size(0),
                ],
                past,
                dtype=torch.int64,
            )

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
        return self.call(aten.sym_size.int, self._mapped(self.given.inputs[state.name]), state.axis)

    def _read_mask(self, mask: fx.Node, state: State) -> None:
        """Positions count the tokens that are no padding, which has negative ones as keys.

        Of a row's new tokens the first that is no padding is where its position says: padding in front has less.
        """
        past = self._length(state)
        before = self.call(aten.sum.dim_IntList, self.call(aten.slice.Tensor, mask, 1, 0, past), [1])
        padding = self.call(aten.argmax.default, self.call(aten.slice.Tensor, mask, 1, past, _END), 1)
        self.position = self.call(aten.sub.Tensor, before, padding)
        counted = self.call(aten.sub.Tensor, self.call(aten.cumsum.default, mask, 1), 1)
        hidden = self.call(aten.sub.Tensor, mask, 1)  # 0 for a token, -1 for padding
        seen = self.call(aten.mul.Tensor, counted, mask)
        self.key_positions = self.call(aten.add.Tensor, seen, hidden)

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

    def _mapped(self, node: fx.Node) -> fx.Node:
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
        args, kwargs = fx.map_arg((node.args, node.kwargs), self._mapped)
        return self.call(node.target, *args, name=node.name, **kwargs)

    def _reads_cache(self, node: fx.Node, state: State) -> fx.Node:
        """A ring and the new tokens behind it are all tokens here: what has left the window is masked."""
        placeholder = self.given.inputs[state.name]
        if node.target is aten.cat.default:
            parts, *axis = operands(node)
            if len(parts) == 2 and parts[0] is placeholder and (axis or [0])[0] == state.axis:
                return self.written(placeholder, self._mapped(parts[1]), state.axis)
        raise UnsupportedError(f"{describe(node)} reads the state {state.name} as it was, which no exported model has")

    def written(self, placeholder: fx.Node, new: fx.Node, axis: int) -> fx.Node:
        """A cache with the new tokens behind those that it has."""
        name = placeholder.name
        if placeholder.op != "placeholder" or name not in self.states:
            raise UnsupportedError(f"{describe(self.like)} writes to what is no state")
        if name not in self.grown:
            past = self._mapped(placeholder)
            self.grown[name] = self.call(aten.cat.default, [past, new], axis)
        return self.grown[name]

    def maybe(self, node: fx.Node | None) -> fx.Node | None:
        """What a node became, if there is one."""
        return None if node is None else self._mapped(node)


def state_axes(state: State) -> tuple[int | str, ...]:
    """A state as a past: its shape by the names of its sizes."""
    grows = state.kind in _GROWS
    return tuple(
        BATCH_SIZE if axis == 0 else PAST_LENGTH if grows and axis == state.axis else size
        for axis, size in enumerate(state.shape)
    )


# ---------------------------------------------------------------- what the steps of our runtime have


def _write(o: _Outward, a: dict[str, Any], node: fx.Node) -> fx.Node:
    return o.written(a["state"], o._mapped(a["new"]), a["axis"] % len(o.states[a["state"].name].shape))


def _positions(o: _Outward, a: dict[str, Any], node: fx.Node) -> fx.Node:
    return o.call(burnish_ops.positions.default, o._mapped(a["tokens"]), o.position, name=node.name)


def _ring_positions(o: _Outward, a: dict[str, Any], node: fx.Node) -> None:
    """Attentions know it of the mask, or of the slots: nothing else asks for it."""


def _selected(o: _Outward, a: dict[str, Any], node: fx.Node) -> fx.Node:
    """Logits are given of all tokens."""
    if a["index"].op == "placeholder":
        return o._mapped(a["self"])
    return o.call(aten.index_select.default, o._mapped(a["self"]), a["dim"], o._mapped(a["index"]), name=node.name)


def _bias(o: _Outward, a: dict[str, Any], node: fx.Node) -> fx.Node:
    args = (o._mapped(a["table"]), o.position, o._mapped(a["query"]), o._mapped(a["key"]))
    return o.call(burnish_ops.attention_bias.default, *args, name=node.name)


def _attention(o: _Outward, a: dict[str, Any], node: fx.Node) -> fx.Node:
    if node.target is code_ops.coded_attention.default:
        key, value = (
            o.call(code_ops.from_codes.default, o._mapped(a[name]), o._mapped(a[f"{name}_scales"]))
            for name in ("key", "value")
        )
    else:
        key, value = o._mapped(a["key"]), o._mapped(a["value"])
    given = (o.maybe(a[name]) for name in ("bias", "sinks", "slopes"))
    options = {name: a[name] for name in ("scale", "mask", "extent", "softcap")}
    args = (o._mapped(a["query"]), key, value, o.position, *given, o.key_positions)
    return o.call(burnish_ops.attention.default, *args, name=node.name, **options)


# ---------------------------------------------------------------- what our kernels have as one


def _weight(o: _Outward, a: dict[str, Any], node: fx.Node) -> fx.Node:
    stored, form, rows, size = str(a["panels"].target), a["form"], a["rows"], a["size"]
    order = RowOrder(a["head"], a["pairs"])
    found = unpanelled(o.given.weights[stored], form, rows, size, order)
    if a["experts"]:
        found = Reshape(found, unpacked_shape(rows, size, a["experts"]))
    return o.weight(stored.removesuffix(f".{form}"), found, (stored, form, rows, size, order, a["experts"]))


def _normalized(o: _Outward, a: dict[str, Any]) -> fx.Node:
    x = o._mapped(a["x"])
    if a["norm"] == "none":
        return x
    weight, bias = o.maybe(a["norm_weight"]), o.maybe(a["norm_bias"])
    if a["norm"] == "rms":
        return o.call(burnish_ops.rms_norm.default, x, weight, a["eps"])
    return o.call(aten.layer_norm.default, x, [int(x.meta["val"].shape[-1])], weight, bias, a["eps"])


def _split(o: _Outward, x: fx.Node, sizes: list[int]) -> list[fx.Node]:
    parts = o.call(aten.split_with_sizes.default, x, sizes, -1)
    return [o.call(operator.getitem, parts, place) for place in range(len(sizes))]


_ACTIVATIONS: dict[str, tuple[Any, dict[str, str]]] = {
    "silu": (aten.silu.default, {}),
    "relu": (aten.relu.default, {}),
    "sigmoid": (aten.sigmoid.default, {}),
    "gelu": (aten.gelu.default, {}),
    "gelu_tanh": (aten.gelu.default, {"approximate": "tanh"}),
}


def _fused_linear(o: _Outward, a: dict[str, Any], node: fx.Node) -> fx.Node:
    x, weight, bias = _normalized(o, a), o._mapped(a["weight"]), o.maybe(a["bias"])
    _check_floats(o, a)
    if a["gated"]:
        count = int(weight.meta["val"].shape[0])
        order = torch.arange(count).reshape(-1, 2).t().flatten()  # gates and ups take turns: each is together again
        names = [None if each is None else str(each.target).removesuffix(".interleaved") for each in (weight, bias)]
        weight = o.rows(weight, order, names[0] or "")  # type: ignore[assignment]
        bias = o.rows(bias, order, names[1] or "")
        both = o.call(aten.linear.default, x, weight, bias)
        gate, up = _split(o, both, [count // 2] * 2)
        y = o.call(burnish_ops.gated_activation.default, gate, up, a["activation"])
    else:
        y = o.call(aten.linear.default, x, weight, bias)
        if a["activation"] != "none":
            target, options = _ACTIVATIONS[a["activation"]]
            y = o.call(target, y, **options)
    if a["scale"] != 1.0:
        y = o.call(aten.mul.Tensor, y, a["scale"])
    if a["softcap"]:
        cap = a["softcap"]
        y = o.call(aten.mul.Tensor, o.call(aten.tanh.default, o.call(aten.div.Tensor, y, cap)), cap)
    return y if a["residual"] is None else o.call(aten.add.Tensor, o._mapped(a["residual"]), y)


def _check_floats(o: _Outward, a: dict[str, Any]) -> None:
    if a["scales"] is not None:
        raise UnsupportedError(
            f"{describe(o.like)} has weights as kernels for GPUs read them: compile for target='cpu'"
        )


def _projection(o: _Outward, a: dict[str, Any], node: fx.Node) -> tuple[fx.Node, fx.Node, fx.Node]:
    """See `burnish.ir.fused_ops.attention_projection`."""
    _check_floats(o, a)
    key_state, value_state = (a[name] for name in ("key_state", "value_state"))
    heads, (_, kv_heads, _, size) = a["heads"], o.states[key_state.name].shape
    assert isinstance(kv_heads, int)
    assert isinstance(size, int)
    y = o.call(aten.linear.default, _normalized(o, a), o._mapped(a["weight"]), o.maybe(a["bias"]))
    parts = _split(o, y, [heads * size, kv_heads * size, kv_heads * size])
    shapes = [[o.size(0), o.size(1), count, size] for count in (heads, kv_heads, kv_heads)]
    apart = [o.call(aten.reshape.default, part, shape) for part, shape in zip(parts, shapes, strict=True)]
    query, key, value = (o.call(aten.transpose.int, part, 1, 2) for part in apart)
    if a["query_norm"] is not None:
        query = o.call(burnish_ops.rms_norm.default, query, o._mapped(a["query_norm"]), a["head_eps"])
    if a["key_norm"] is not None:
        key = o.call(burnish_ops.rms_norm.default, key, o._mapped(a["key_norm"]), a["head_eps"])
    if a["cos"] is not None:
        cos, sin = (o.call(aten.unsqueeze.default, o._mapped(a[name]), 1) for name in ("cos", "sin"))
        query, key = (o.call(burnish_ops.rotary.default, each, cos, sin, a["interleaved"]) for each in (query, key))
    return query, o.written(key_state, key, 2), o.written(value_state, value, 2)


_TRANSLATIONS: dict[Any, Any] = {
    burnish_ops.cache_write.default: _write,
    burnish_ops.ring_write.default: _write,
    burnish_ops.positions.default: _positions,
    burnish_ops.ring_positions.default: _ring_positions,
    burnish_ops.attention_bias.default: _bias,
    **dict.fromkeys(_ATTENTIONS, _attention),
    aten.index_select.default: _selected,
    panel_ops.from_panels.default: _weight,
    fused_ops.fused_linear.default: _fused_linear,
    fused_ops.attention_projection.default: _projection,
}
