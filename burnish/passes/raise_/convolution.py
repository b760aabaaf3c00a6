"""Convolutions that see no later token become `burnish::causal_conv1d`, and moved tokens `burnish::shift`."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from burnish.ir.arguments import argument, arguments
from burnish.ir.edit import Editor
from burnish.ir.ops import burnish_ops
from burnish.ir.program import Program, value
from burnish.ir.shapes import is_sequence
from burnish.passes.analyses.movement import MOVEMENTS, moved_inputs
from burnish.passes.rules import Rules
from burnish.rewrite.engine import Lookalike, Refusal, Rule
from burnish.rewrite.matching import Match
from burnish.rewrite.pattern import Argument, Variable, either
from burnish.rewrite.words import cat, conv1d, conv1d_by_name, linear, pad, slice_of, to, zeros

aten = torch.ops.aten

x, first, weight = Variable("x"), Variable("first tokens"), Variable("weight")
axis, start, end, amounts = Argument("axis"), Argument("start"), Argument("end"), Argument("amounts")
bias, stride, dilation, groups = Argument("bias"), Argument("stride"), Argument("dilation"), Argument("groups")
padding = Argument("padding")


# ---------------------------------------------------------------- tokens moved

_led = cat([first, x], axis)
_padded = pad(x, amounts)


def _shift(editor: Editor, match: Match, axis: int, amount: int) -> fx.Node:
    return editor.call(burnish_ops.shift.default, match.node(x), axis, amount, like=match.root)


def _require_all_tokens(program: Program, axis: int, *nodes: fx.Node) -> None:
    """Lookalike unless `axis` of each node's value has one entry a token."""
    for node in nodes:
        size = value(node).shape[axis]
        if not is_sequence(program, size):
            raise Lookalike(f"its axis {axis} has size {size}, not one entry a token", node)


def _from_padding(editor: Editor, match: Match) -> fx.Node:
    """pad(x, [.., n, -n]), or pad(x, [.., n, 0]) cut off behind the last token."""
    pads = _padded_axis(match.node(_padded))
    where, before, behind = pads
    root = match.root
    _require_all_tokens(editor.program, where, match.node(x), root)
    if root is not match.node(_padded):
        _require_cut_behind(match, where)
    elif behind > 0 > before:
        raise Refusal(f"it moves tokens {behind} places towards the first: a token would see later ones", root)
    if before <= 0:
        raise Lookalike("no zeros come before the first token", match.node(_padded))
    return _shift(editor, match, where, before)


def _padded_axis(node: fx.Node) -> tuple[int, int, int]:
    """The one axis that is padded with zeros, and by how much before and behind; Lookalike if it is otherwise."""
    given = arguments(node)
    if given.get("mode", "constant") != "constant" or given["value"] not in (None, 0):
        raise Lookalike("it is not padded with zeros", node)
    pads = given["pad"]
    pairs = [(pads[index], pads[index + 1]) for index in range(0, len(pads), 2)]
    padded = [index for index, pair in enumerate(pairs) if pair != (0, 0)]
    if len(padded) != 1 or not all(isinstance(amount, int) for amount in pairs[padded[0]]):
        raise Lookalike("it is not padded along one axis by plain numbers", node)
    before, behind = pairs[padded[0]]
    return value(node).dim() - 1 - padded[0], int(before), int(behind)


def _require_cut_behind(match: Match, where: int) -> None:
    """Lookalike unless the root, or the slice in it, keeps the first elements of axis `where`."""
    if match[axis] % value(match.root).dim() != where or match[start] not in (None, 0):
        raise Lookalike("the slice keeps something else than the first tokens", match.root)


def _from_join(editor: Editor, match: Match) -> fx.Node:
    """cat(zeros, x) cut off behind the last token, or cat(zeros, x cut off before it)."""
    program, root = editor.program, match.root
    where = match[_joined_axis] % value(root).dim()
    count = value(match.node(first)).shape[where]
    _require_all_tokens(program, where, match.node(x), root)
    _require_cut_behind(match, where)
    if not isinstance(count, int):
        raise Lookalike(f"{count} entries stand before the first token, not a plain number", match.node(first))
    if not _is_zeros(program, match.node(first)):
        raise Refusal("what stands before the first token is not zeros", match.node(first))
    return _shift(editor, match, where, count)


_joined_axis = Argument("joined axis")
_cut = slice_of(x, axis, start, end)


def _is_zeros(program: Program, node: fx.Node) -> bool:
    """Whether the node's value is zeros, provably."""
    if node.target in zeros.targets:
        return bool(arguments(node).get("fill_value", 0) == 0)
    if node.op == "get_attr":
        return not bool(program.weights[str(node.target)].materialize().any())
    if node.target in linear.targets:
        return argument(node, "bias") is None and _is_zeros(program, argument(node, "input"))
    if node.target in MOVEMENTS or node.target in to.targets:
        return all(_is_zeros(program, each) for each in moved_inputs(node))
    return False


# ---------------------------------------------------------------- convolutions

_convolution = conv1d(x, weight, bias, stride, padding, dilation, groups)
_padded_convolution = conv1d(_padded, weight, bias, stride, padding, dilation, groups)
weight_1, bias_1, stride_1 = Variable("inner weight"), Argument("inner bias"), Argument("inner stride")
dilation_1, groups_1 = Argument("inner dilation"), Argument("inner groups")
_inner = conv1d(_padded, weight_1, bias_1, stride_1, [0], dilation_1, groups_1)
_two_convolutions = conv1d(_inner, weight, bias, [1], [0], dilation, groups)
_led_convolution = conv1d(_led, weight, bias, stride, padding, dilation, groups)


def _reach(match: Match) -> int:
    """How many tokens the convolution spans beyond one."""
    return (int(value(match.node(weight)).shape[-1]) - 1) * int(match[dilation][0])


def _causal(editor: Editor, match: Match) -> fx.Node:
    if match[stride] != [1]:
        raise Refusal(f"a convolution over the tokens with stride {match[stride]}", match.root)
    return editor.call(
        burnish_ops.causal_conv1d.default,
        match.node(x),
        match.node(weight),
        match[bias],
        int(match[dilation][0]),
        int(match[groups]),
        like=match.root,
    )


def _require_over_tokens(program: Program, match: Match) -> None:
    source = match.node(x)
    if value(source).dim() != 3:
        raise Lookalike(
            f"a convolution over a value with {value(source).dim()} axes, not [batch, channels, tokens]", source
        )
    _require_all_tokens(program, 2, source)
    if _reach(match) == 0:
        raise Lookalike("a convolution over one token at a time, which needs no others", match.root)


def _from_cut(editor: Editor, match: Match) -> fx.Node:
    """A convolution padded on both sides and cut off behind the last token."""
    _require_all_tokens(editor.program, 2, match.root)
    _require_cut_behind(match, 2)
    if match[padding] != [_reach(match)]:
        raise _sees_later(match, int(match[padding][0]))
    return _causal(editor, match)


def _from_padded(editor: Editor, match: Match) -> fx.Node:
    """A convolution, not padded, of tokens with zeros in front."""
    padded, before, behind = _padded_axis(match.node(_padded))
    if padded != 2:
        raise Lookalike(f"axis {padded} is padded, not the tokens'", match.node(_padded))
    if behind == 0 and match[padding] == [0] and before > _reach(match):  # for the next one too: see `_from_two`
        raise Lookalike(f"{before} zeros stand before the first token, and it spans {_reach(match)} more", match.root)
    if behind != 0 or match[padding] != [0] or before != _reach(match):
        raise _sees_later(match, before)
    return _causal(editor, match)


def _from_two(editor: Editor, match: Match) -> fx.Node:
    """Two convolutions, one on the other, of tokens with zeros in front for both.

    Before the first token the inner one gives its bias, so that its bias seen through the outer one is a constant.
    """
    reach, inner_reach = _reach(match), (int(value(match.node(weight_1)).shape[-1]) - 1) * int(match[dilation_1][0])
    pads = _padded_axis(match.node(_padded))
    if pads != (2, reach + inner_reach, 0) or match[stride_1] != [1]:
        raise Lookalike(f"two convolutions in a row, but not {reach + inner_reach} zeros in front", match.root)
    root = match.root
    _require_all_tokens(editor.program, 2, match.node(x), root)
    inner = (match.node(weight_1), None, int(match[dilation_1][0]), int(match[groups_1]))
    inside = editor.call(burnish_ops.causal_conv1d.default, match.node(x), *inner, like=match.node(_inner))
    outer = (match.node(weight), _seen_bias(editor, match, reach), int(match[dilation][0]), int(match[groups]))
    return editor.call(burnish_ops.causal_conv1d.default, inside, *outer, like=root)


def _seen_bias(editor: Editor, match: Match, reach: int) -> fx.Node | None:
    """What two convolutions give of zeros: the outer one's bias, and the inner one's seen through the outer one."""
    found: fx.Node | None = match[bias]
    if match[bias_1] is None:
        return found
    channels = int(value(match[bias_1]).shape[0])
    seen = editor.call(aten.reshape.default, match[bias_1], [1, channels, 1], like=match.root)
    seen = editor.call(aten.expand.default, seen, [1, channels, reach + 1], like=match.root)
    outer = (match.node(weight), found, [1], [0], match[dilation], match[groups])
    return editor.call(
        aten.reshape.default, editor.call(aten.conv1d.default, seen, *outer, like=match.root), [-1], like=match.root
    )


def _from_led(editor: Editor, match: Match) -> fx.Node:
    """A convolution, not padded, of tokens behind a tensor of zeros."""
    zeros = match.node(first)
    if match[axis] % 3 != 2 or match[padding] != [0] or value(zeros).shape[2] != _reach(match):
        raise Lookalike(f"what is joined is not {_reach(match)} tokens before the first", zeros)
    if not _is_zeros(editor.program, zeros):
        raise Refusal("what stands before the first token is not zeros", zeros)
    return _causal(editor, match)


def _refuse(editor: Editor, match: Match) -> fx.Node:
    """A convolution that none of the causal spellings was made of."""
    is_cut = match.root.users and all(user.target in slice_of.targets for user in match.root.users)
    if match[padding] == [_reach(match)] and is_cut:
        raise Lookalike("it is cut off behind, so that the slices have the word", match.root)
    raise _sees_later(match, match[padding][0] if isinstance(match[padding], list) else match[padding])


def _sees_later(match: Match, ahead: Any) -> Refusal:
    return Refusal(
        f"a convolution over {_reach(match) + 1} tokens with padding {ahead} is not causal: that would take "
        f"{_reach(match)} zeros before the first token and none behind the last",
        match.root,
    )


RAISE_CONVOLUTIONS = Rules(
    "raise-convolutions",
    (
        Rule("causal convolution, padded in front", _padded_convolution, _from_padded, _require_over_tokens),
        Rule("two causal convolutions, padded in front", _two_convolutions, _from_two),
        Rule("causal convolution behind zeros", _led_convolution, _from_led, _require_over_tokens),
        Rule(
            "causal convolution, cut off behind",
            slice_of(_convolution, axis, start, end),
            _from_cut,
            _require_over_tokens,
        ),
        Rule("convolution over the tokens", _convolution, _refuse, _require_over_tokens),
        Rule(
            "convolution over the tokens",
            conv1d_by_name(x, weight, bias, stride, padding, dilation, groups),
            _refuse,
            _require_over_tokens,
        ),
        Rule("shift by padding", either(_padded, slice_of(_padded, axis, start, end)), _from_padding),
        Rule(
            "shift by joining zeros",
            either(cat([first, _cut], _joined_axis), slice_of(cat([first, x], _joined_axis), axis, start, end)),
            _from_join,
        ),
    ),
)
