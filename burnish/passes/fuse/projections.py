"""What leads to an attention over caches in one operation: norm, the three projections, rotary embedding, writes.

For targets that have it as one kernel: queries, keys and values are made, turned and stored while they are in
registers.
"""

from __future__ import annotations

import operator
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, fx

from burnish.ir.arguments import argument
from burnish.ir.edit import Editor, remove_dead
from burnish.ir.fused_ops import fused_ops
from burnish.ir.ops import burnish_ops
from burnish.ir.program import Program, operands
from burnish.ir.quantization import kind_of
from burnish.ir.shapes import is_batch, is_sequence
from burnish.ir.weights import Concat, Rows, Weight
from burnish.passes.analyses.head_rows import Heads, NoHeads, Rotary, heads_of
from burnish.passes.base import Effect, Log
from burnish.passes.fuse.pack_linears import packed_name

aten = torch.ops.aten

_NORMS = {burnish_ops.rms_norm.default, aten.layer_norm.default}


@dataclass(frozen=True)
class FuseProjections:
    """norm, linear x 3, rotary, cache_write x 2 -> burnish::attention_projection."""

    name: ClassVar[str] = "fuse-projections"
    effect: ClassVar[Effect] = Effect.REASSOCIATES
    atomic: ClassVar[bool] = False

    def run(self, program: Program, log: Log) -> Program:
        """Fuse what leads to each attention of a step program, in place."""
        editor = Editor(program)
        for node in list(program.graph.nodes):
            if node.target is burnish_ops.attention.default:
                try:
                    told = _fuse(program, editor, node)
                except NoHeads as miss:
                    log.refuse(node, str(miss))
                else:
                    log.rewrite(node, told)
        remove_dead(program)
        return program


def _fuse(program: Program, editor: Editor, attention: fx.Node) -> str:
    query, key_write, value_write = operands(attention)[:3]
    for write in (key_write, value_write):
        if write.target is not burnish_ops.cache_write.default or write.args[3] != 2:
            raise NoHeads("keys or values are not read from a cache of its own", write)
    key_state, new_key, position, _ = operands(key_write)
    value_state, new_value, also, _ = operands(value_write)
    if also is not position:
        raise NoHeads("keys and values are written at different positions", value_write)
    if key_state.meta["val"].shape[-1] != value_state.meta["val"].shape[-1]:
        raise NoHeads("keys and values have heads of different sizes", value_state)
    parts = [heads_of(program, end) for end in (query, new_key, new_value)]
    _check_readers(parts, {attention, key_write, value_write})
    _check_tables(program, parts[0].rotary)
    if parts[0].linear.meta["val"].dim() != 3:
        raise NoHeads("rows and tokens share an axis", parts[0].linear)
    if len({part.tokens_first for part in parts}) > 1:
        raise NoHeads("queries, keys and values have rows and tokens in different orders", attention)
    linears, order = _rows(parts)
    if len({kind_of(program.weights[program.weight_of(operands(linear)[1])]) for linear in linears}) > 1:
        raise NoHeads("queries, keys and values have weights of different precision", attention)
    options: dict[str, Any] = {"heads": int(query.meta["val"].shape[1]), **_head_options(parts, attention)}
    x, norm_weight, norm_bias, norm_options = _norm(linears[0])
    weight = _packed(program, editor, [operands(linear)[1] for linear in linears], order)
    biases = [bias for linear in linears if (bias := _bias(linear)) is not None]
    bias = _packed(program, editor, biases, order) if biases else None
    first, second, _ = parts
    with editor.before(attention):
        x = _by_rows(program, editor, x, first.tokens_first, attention)
        cos, sin = _tables(editor, first.rotary)
        fused = editor.call(
            fused_ops.attention_projection.default,
            *(x, weight, key_state, value_state, position, bias, norm_weight, norm_bias),
            *(first.norm, second.norm, cos, sin),
            like=attention,
            **options,
            **norm_options,
        )
        results = [editor.call(operator.getitem, fused, index, like=attention) for index in range(3)]
    for old, new in zip((query, key_write, value_write), results, strict=True):
        editor.replace(old, new)
    attention.kwargs = {**attention.kwargs, "scale": argument(attention, "scale") * first.scale}
    steps = [*(["norm"] if norm_options else []), "projections", *(["rotary embedding"] if first.rotary else [])]
    return f"{', '.join(steps)} and cache writes in one"


def _by_rows(program: Program, editor: Editor, x: fx.Node, tokens_first: bool, attention: fx.Node) -> fx.Node:
    """What is projected as [B, S, K], wherever its tokens stand."""
    if tokens_first and x.target is aten.transpose.int and {int(axis) % 3 for axis in operands(x)[1:]} == {0, 1}:
        source: fx.Node = operands(x)[0]
        return source
    return editor.call(aten.transpose.int, x, 0, 1, like=attention) if tokens_first else x


def _check_readers(parts: list[Heads], ends: set[fx.Node]) -> None:
    """NoHeads if anything on the way is read by something else, too: it would have to be computed twice."""
    within = ends.union(*(part.nodes for part in parts))
    for part in parts:
        for node in part.nodes:
            if not within.issuperset(node.users):
                raise NoHeads("a projection is read by something else, too", node)


def _check_tables(program: Program, rotary: Rotary | None) -> None:
    """NoHeads if tables have their rows and tokens in another order than [B, S]."""
    for table in () if rotary is None else (rotary.cos, rotary.sin):
        assert rotary is not None
        first, second = (size for axis, size in enumerate(table.meta["val"].shape[:3]) if axis != rotary.head_axis)
        if is_sequence(program, first) or is_batch(program, second):
            raise NoHeads("rotary tables have tokens first", table)


def _rows(parts: list[Heads]) -> tuple[list[fx.Node], Tensor]:
    """The linears, and the rows of all of their weights in the order of queries, keys and values."""
    linears = list(dict.fromkeys(part.linear for part in parts))
    x = operands(linears[0])[0]
    starts: dict[fx.Node, int] = {}
    total = 0
    for linear in linears:
        if operands(linear)[0] is not x:
            raise NoHeads("queries, keys and values are projections of different values", linear)
        for read in (operands(linear)[1], _bias(linear)):
            if read is not None and read.op != "get_attr":
                raise NoHeads("a projection's weight is computed in the graph", read)
        if (_bias(linear) is None) != (_bias(linears[0]) is None):
            raise NoHeads("some projections have a bias and some have none", linear)
        starts[linear] = total
        total += int(linear.meta["val"].shape[-1])
    return linears, torch.cat([part.rows.flatten() + starts[part.linear] for part in parts])


def _bias(linear: fx.Node) -> fx.Node | None:
    bias: fx.Node | None = argument(linear, "bias")
    return bias


def _head_options(parts: list[Heads], attention: fx.Node) -> dict[str, Any]:
    first, second, third = parts
    if second.scale != 1.0 or third.scale != 1.0:
        raise NoHeads("keys or values are scaled", attention)
    if first.rotary != second.rotary or third.rotary is not None:
        raise NoHeads("queries and keys are not turned alike, and values not at all", attention)
    if third.norm is not None or (first.norm is not None and second.norm is not None and first.eps != second.eps):
        raise NoHeads("there are other norms of heads than of queries and keys with one epsilon", attention)
    options: dict[str, Any] = {}
    if first.norm is not None or second.norm is not None:
        options["head_eps"] = first.eps if first.norm is not None else second.eps
    if first.rotary is not None and first.rotary.interleaved:
        options["interleaved"] = True
    return options


def _norm(linear: fx.Node) -> tuple[fx.Node, Any, Any, dict[str, Any]]:
    """What a linear reads, or the norm of: if linears alone read that, each of which can take it in."""
    x: fx.Node = operands(linear)[0]
    takers = [user for user in x.users if user.target is aten.linear.default and user.args[0] is x]
    if x.target not in _NORMS or len(takers) != len(x.users):
        return x, None, None, {}
    if x.target is burnish_ops.rms_norm.default:
        source, weight, eps = operands(x)
        return source, weight, None, {"norm": "rms", "eps": eps}
    given: tuple[Any, ...] = (*x.args, *(None, None, 1e-5)[len(x.args) - 2 :])
    if len(given[1]) != 1:
        return x, None, None, {}
    return given[0], given[2], given[3], {"norm": "layer", "eps": given[4]}


def _tables(editor: Editor, rotary: Rotary | None) -> list[fx.Node | None]:
    """The rotary tables as [B, S, R]; made once for all layers."""
    if rotary is None:
        return [None, None]
    found: list[fx.Node | None] = []
    for table in (rotary.cos, rotary.sin):
        known = [user for user in table.users if user.target is aten.squeeze.dim and user.args[1] == rotary.head_axis]
        if not known:
            with editor.after(table):
                known = [editor.call(aten.squeeze.dim, table, rotary.head_axis, like=table)]
        found.append(known[0])
    return found


def _packed(program: Program, editor: Editor, nodes: list[fx.Node], order: Tensor) -> fx.Node:
    """One weight that has the rows of several, joined, in another order."""
    names = [str(node.target) for node in nodes]
    joined: Weight = program.weights[names[0]]
    if len(names) > 1:
        joined = Concat(tuple(program.weights[name] for name in names))
    if torch.equal(order, torch.arange(joined.shape[0])):
        return nodes[0] if len(nodes) == 1 else editor.weight(packed_name(names), joined)
    return editor.weight(f"{packed_name(names)}.by_heads", Rows(joined, order))
