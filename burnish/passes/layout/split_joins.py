"""A convolution of joined channels is the sum of convolutions of the parts: the join is not made.

A join of what lies in blocks of channels with what does not has to leave the blocks, and a join in any layout is
written and read once more. The sum goes into the second convolution, which adds to what the first one gave. A norm over
the batch behind the convolution goes into the weights of both.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import fx

from burnish.ir.arguments import arguments
from burnish.ir.cost import CostCounter
from burnish.ir.edit import Editor, remove_dead
from burnish.ir.program import Program, operands, value
from burnish.ir.weights import NormedBias, NormedWeight, Part, Weight
from burnish.passes.base import Effect, Log

aten = torch.ops.aten
_FEWEST = 16  # channels of a part: with fewer, a convolution does not fill its vectors


@dataclass(frozen=True)
class SplitJoins:
    """conv(cat(a, b)) -> conv(a) + conv(b), where less is moved so."""

    name: ClassVar[str] = "split-joins"
    effect: ClassVar[Effect] = Effect.REASSOCIATES
    atomic: ClassVar[bool] = False

    def run(self, program: Program, log: Log) -> Program:
        """Rewrite `program`, in place."""
        editor, counter = Editor(program), CostCounter(program)
        for node in list(program.graph.nodes):
            if node.target is not aten.conv2d.default or operands(node)[0].target is not aten.cat.default:
                continue
            join = operands(node)[0]
            if reason := _obstacle(node, join, counter):
                log.refuse(node, reason)
                continue
            norm = _norm_behind(node)
            end = norm or node
            with editor.before(end):
                made = _split(editor, node, join, norm)
            editor.replace(end, made)
            parts = len(operands(join)[0])
            log.rewrite(
                node, f"the sum of convolutions of {parts} parts" + (", with the norm behind it" if norm else "")
            )
        remove_dead(program)
        return program


def _obstacle(node: fx.Node, join: fx.Node, counter: CostCounter) -> str:
    """Why a convolution is not split; empty if it is."""
    a, parts = arguments(node), operands(join)[0]
    if arguments(join)["dim"] % value(join).dim() != 1 or value(join).dim() != 4:
        return "what it reads is not joined along the channels"
    if a["groups"] != 1 or a["weight"].op != "get_attr" or (a["bias"] is not None and a["bias"].op != "get_attr"):
        return "it has groups, or weights that are computed"
    if len(join.users) > 1:
        return "others read the join, too"
    if any(not isinstance(value(each).shape[1], int) or value(each).shape[1] < _FEWEST for each in parts):
        return f"a part has fewer than {_FEWEST} channels"
    more = (len(parts) - 1) * counter.bytes_of(value(node))
    less = counter.bytes_of(value(join))
    return "" if more < less else f"{2 * more} bytes of sums would be moved in place of {2 * less} of the join"


def _norm_behind(node: fx.Node) -> fx.Node | None:
    """The norm over the batch, by stored statistics, that is all that reads a convolution."""
    users = list(node.users)
    if len(users) != 1 or users[0].target is not aten.batch_norm.default:
        return None
    a = arguments(users[0])
    stored = [a[name] for name in ("weight", "bias", "running_mean", "running_var")]
    whole = not a["training"] and a["running_mean"] is not None and a["running_var"] is not None
    return users[0] if whole and all(each is None or each.op == "get_attr" for each in stored) else None


def _split(editor: Editor, node: fx.Node, join: fx.Node, norm: fx.Node | None) -> fx.Node:
    """The sum of the convolutions of the parts, the last of which has the bias."""
    a = arguments(node)
    weights = editor.program.weights
    name = str(a["weight"].target)
    weight: Weight = weights[name]
    bias: Weight | None = None if a["bias"] is None else weights[str(a["bias"].target)]
    if norm is not None:
        n = arguments(norm)
        scale, shift, mean, variance = (
            None if n[each] is None else weights[str(n[each].target)]
            for each in ("weight", "bias", "running_mean", "running_var")
        )
        assert mean is not None
        assert variance is not None
        weight = NormedWeight(weight, scale, variance, float(n["eps"]))
        bias = NormedBias(bias, scale, shift, mean, variance, float(n["eps"]))
    rest: list[Any] = [a[each] for each in ("stride", "padding", "dilation")]
    parts, total, first = operands(join)[0], None, 0
    for place, part in enumerate(parts):
        size = int(value(part).shape[1])
        own = editor.weight(f"{name}.part{place}", Part(weight, 1, first, size))
        last = place == len(parts) - 1 and bias is not None
        added = editor.weight(f"{name}.bias", bias) if last and bias is not None else None
        made = editor.call(aten.conv2d.default, part, own, added, *rest, like=node)
        total = made if total is None else editor.call(aten.add.Tensor, total, made, like=node)
        first += size
    assert total is not None
    return total
