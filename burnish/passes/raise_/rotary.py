"""Rotary embeddings in every spelling become `burnish::rotary`.

The arithmetic is found by pattern; how the elements are paired (halves or neighbours, by slices, chunks, strides or
stacks) is found by sending numbered elements through the graph.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, fx

from burnish.ir.edit import Editor
from burnish.ir.ops import burnish_ops
from burnish.ir.program import Program, value
from burnish.ir.shapes import is_batch, is_sequence, same_shape
from burnish.passes.analyses.movement import common_sources, concrete_shape, moved, numbered
from burnish.passes.rules import Rules
from burnish.rewrite.engine import Lookalike, Refusal, Rule
from burnish.rewrite.matching import Match
from burnish.rewrite.pattern import Argument, Variable, either, mul, neg
from burnish.rewrite.words import join, reshape, rotary, stack, view_as_complex, view_as_real

aten = torch.ops.aten

x, cos, sin, rotated = Variable("x"), Variable("cos"), Variable("sin"), Variable("rotated x")


# ---------------------------------------------------------------- x * cos + rotated(x) * sin

_sum, _difference = mul(x, cos) + mul(rotated, sin), mul(x, cos) - mul(rotated, sin)


def _from_rotated(editor: Editor, match: Match) -> fx.Node:
    """x * cos + rotated(x) * sin, if `rotated` is what its name says."""
    source = match.node(x)
    if concrete_shape(editor.program, source) != concrete_shape(editor.program, match.root):
        raise Lookalike("what would be turned has another shape than the result", source)
    found = _rotation(editor.program, source, match.node(rotated))
    if found is None:
        raise Lookalike(f"it is not {source.name} with its halves or neighbours exchanged", match.node(rotated))
    interleaved, sign = found
    if _difference in match:
        sign = -sign
    return _rotary(editor, match.root, source, match.node(cos), match.node(sin), interleaved, sign)


def _rotation(program: Program, source: fx.Node, target: fx.Node) -> tuple[bool, int] | None:
    """Whether `target` pairs neighbours of `source`, and 1, or -1 where it turns back; None if it is no rotation."""
    elements = numbered(program, source)
    sent = moved(program, [target], {source: elements}) if elements.shape[-1] % 2 == 0 else None
    if sent is None:
        return None
    first, second = elements.chunk(2, dim=-1)
    halves = torch.cat((-second, first), dim=-1)
    neighbours = torch.stack((-elements[..., 1::2], elements[..., ::2]), dim=-1).flatten(-2)
    for interleaved, expected in ((False, halves), (True, neighbours)):
        for sign in (1, -1):
            if torch.equal(sent[0], sign * expected):
                return interleaved, sign
    return None


def _rotary(
    editor: Editor, like: fx.Node, source: fx.Node, cos: fx.Node, sin: fx.Node, interleaved: bool, sign: int = 1
) -> fx.Node:
    size = value(source).shape[-1]
    for table in (cos, sin):
        if value(table).dim() == 0 or value(table).shape[-1] != size:
            raise Refusal(f"an angle for each of {size} elements was expected", table)
    if sign < 0:
        sin = _once(editor, aten.neg.default, sin, like=like)
    options = (True,) if interleaved else ()
    return editor.call(burnish_ops.rotary.default, source, cos, sin, *options, like=like)


def _once(editor: Editor, target: Any, first: fx.Node, *rest: Any, like: fx.Node) -> fx.Node:
    """A node that calls `target` right behind its first argument, or the one there is: layers share their tables."""
    arguments = (first, *rest)
    for user in first.users:
        if user.target is target and user.args == arguments and not user.kwargs and user < like:
            return user
    with editor.after(first):
        return editor.call(target, *arguments, like=like)


# ---------------------------------------------------------------- the two halves computed one by one

x1, x2 = Variable("x1"), Variable("x2")
_first = mul(x1, cos) - mul(x2, sin)
_second = mul(x2, cos) + mul(x1, sin)
_first_back = mul(x1, cos) + mul(x2, sin)
_second_back = either(mul(x2, cos) - mul(x1, sin), mul(x2, cos) + mul(x1, neg(sin)))


def _rejoined(first: Any, second: Any) -> Any:
    """Two parts in one tensor again."""
    parts = [first, second]
    return either(join(parts), reshape(stack(parts, Argument("dim")), Argument("shape")))


def _from_halves(editor: Editor, match: Match) -> fx.Node:
    back = _first_back in match
    parts = [match.node(_first_back if back else _first), match.node(_second_back if back else _second)]
    out = _pairing_out(editor.program, match.root, parts)
    found = _pairing_in(editor.program, match.root, [match.node(x1), match.node(x2)])
    if out is None:
        raise Lookalike("the two parts are joined neither as halves nor as neighbours", match.root)
    if found is None:
        raise Lookalike("it and the other part are not the halves or the neighbours of one value", match.node(x1))
    source, interleaved = found
    if interleaved is not out:  # neighbours come out as halves, or the other way round: in order first, then turned
        target = aten.stack.default if out else aten.cat.default
        source = editor.call(target, [match.node(x1), match.node(x2)], -1, like=match.root)
    source = _like_shape(editor, source, match.root)
    tables = [_both_halves(editor, match.node(each), out, match.root) for each in (cos, sin)]
    return _rotary(editor, match.root, source, tables[0], tables[1], out, -1 if back else 1)


def _both_halves(editor: Editor, table: fx.Node, interleaved: bool, like: fx.Node) -> fx.Node:
    """Angles for one half as angles for both."""
    if interleaved:
        return _once(editor, aten.repeat_interleave.self_int, table, 2, -1, like=like)
    for user in table.users:
        if user.target is aten.cat.default and user.args == ([table, table], -1) and user < like:
            return user
    with editor.after(table):
        return editor.call(aten.cat.default, [table, table], -1, like=like)


def _pairing_out(program: Program, root: fx.Node, parts: Sequence[fx.Node]) -> bool | None:
    """How `root` joins two parts: as neighbours (True), as halves (False), or otherwise."""
    first = numbered(program, parts[0])
    second = numbered(program, parts[1], first=first.numel() + 1)
    sent = moved(program, [root], {parts[0]: first, parts[1]: second})
    if sent is None:
        return None
    if _same(sent[0], torch.cat((first, second), dim=-1)):
        return False
    return True if _same(sent[0], torch.stack((first, second), dim=-1).flatten(-2)) else None


def _pairing_in(program: Program, root: fx.Node, parts: Sequence[fx.Node]) -> tuple[fx.Node, bool] | None:
    """What the two parts are parts of, and whether they are its neighbours rather than its halves.

    It has the shape of `root`, or can be reshaped to it.
    """
    shape = concrete_shape(program, root)
    sources = common_sources(program, parts)
    sources.sort(key=lambda node: concrete_shape(program, node) != shape)
    for source in sources:
        elements = numbered(program, source)
        if elements.numel() != torch.Size(shape).numel():
            continue
        sent = moved(program, parts, {source: elements})
        if sent is None:
            continue
        elements = elements.reshape(shape)
        first, second = elements.chunk(2, dim=-1)
        if torch.equal(sent[0], first) and torch.equal(sent[1], second):
            return source, False
        if torch.equal(sent[0], elements[..., ::2]) and torch.equal(sent[1], elements[..., 1::2]):
            return source, True
    return None


def _same(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and torch.equal(one, other)


def _like_shape(editor: Editor, source: fx.Node, root: fx.Node) -> fx.Node:
    """`source` in the shape of `root`."""
    program = editor.program
    if same_shape(value(source).shape, value(root).shape):
        return source
    sizes: list[Any] = []
    for size in value(root).shape:
        if is_batch(program, size):
            sizes.append(editor.call(aten.sym_size.int, program.tokens, 0, like=program.tokens))
        elif is_sequence(program, size):
            sizes.append(editor.call(aten.sym_size.int, program.tokens, 1, like=program.tokens))
        elif isinstance(size, int):
            sizes.append(size)
        else:
            raise Refusal(f"a size of {size} is neither the batch's nor the tokens'", root)
    return editor.call(aten.reshape.default, source, sizes, like=root)


# ---------------------------------------------------------------- complex numbers

pairs, turns = Variable("pairs"), Variable("turns")
_turned = view_as_real(mul(view_as_complex(pairs), turns))


def _from_complex(editor: Editor, match: Match) -> fx.Node:
    """view_as_real(view_as_complex(x) * turns): neighbours are the real and the imaginary part."""
    program, real = editor.program, match.node(_turned)
    elements = numbered(program, real)
    sent = moved(program, [match.root], {real: elements})
    if sent is None or not _same(sent[0], elements.flatten(-2)):
        raise Lookalike("real and imaginary parts do not become neighbours", match.root)
    source = _source_of_pairs(program, match.node(pairs), match.root)
    source = _like_shape(editor, source, match.root)
    angles = _once(editor, aten.view_as_real.default, match.node(turns), like=match.root)
    tables = []
    for index in (0, 1):
        half = _once(editor, aten.select.int, angles, -1, index, like=match.root)
        tables.append(_both_halves(editor, half, True, match.root))
    return _rotary(editor, match.root, source, tables[0], tables[1], True)


def _source_of_pairs(program: Program, pairs: fx.Node, root: fx.Node) -> fx.Node:
    """The node of the root's shape that `pairs` is a view of; `pairs` itself if there is none."""
    shape = concrete_shape(program, root)
    for source in common_sources(program, [pairs]):
        if concrete_shape(program, source) == shape:
            elements = numbered(program, source)
            sent = moved(program, [pairs], {source: elements})
            if sent is not None and torch.equal(sent[0].reshape(shape), elements):
                return source
    return pairs


# ---------------------------------------------------------------- the first elements only

part, rest, interleaved = Variable("turned part"), Variable("the rest"), Argument("interleaved")
_of_part = rotary(part, cos, sin, interleaved)


def _from_partial(editor: Editor, match: Match) -> fx.Node:
    """cat(rotary(x[..., :r]), x[..., r:])."""
    program = editor.program
    shape = concrete_shape(program, match.root)
    parts = [match.node(part), match.node(rest)]
    if value(parts[0]).shape[-1] != value(match.node(cos)).shape[-1]:
        raise Lookalike("it is not as long as its table of angles", parts[0])
    for source in common_sources(program, parts):
        if concrete_shape(program, source) != shape:
            continue
        elements = numbered(program, source)
        sent = moved(program, parts, {source: elements})
        if sent is not None and _same(torch.cat(sent, dim=-1), elements):
            options = (True,) if match[interleaved] else ()
            return editor.call(
                burnish_ops.rotary.default, source, match.node(cos), match.node(sin), *options, like=match.root
            )
    raise Lookalike("the part that is turned and the rest are not one value cut in two", match.root)


RAISE_ROTARY = Rules(
    "raise-rotary",
    (
        Rule("rotary embedding", either(_sum, _difference), _from_rotated),
        Rule("rotary embedding by halves", _rejoined(_first, _second), _from_halves),
        Rule("rotary embedding by halves, turned back", _rejoined(_first_back, _second_back), _from_halves),
        Rule(
            "rotary embedding by complex numbers",
            reshape(_turned, Argument("shape")),
            _from_complex,
        ),
        Rule("rotary embedding of the first elements", join([_of_part, rest]), _from_partial),
    ),
)
