"""Fewer heads of keys and values: multi-head attention to grouped-query or multi-query attention."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, fx

from burnish.ir.edit import Editor, remove_dead
from burnish.ir.errors import UsageError
from burnish.ir.ops import burnish_ops
from burnish.ir.program import Program, operands
from burnish.ir.weights import Stored
from burnish.passes.analyses.attention_block import AttentionBlock, attention_block
from burnish.passes.analyses.head_rows import Heads, NoHeads
from burnish.passes.base import Effect, Log
from burnish.passes.transforms.calibration import Calibration
from burnish.passes.transforms.heal import heal
from burnish.passes.transforms.merge_heads import Pairs, Projections, aligned, mean_pooled, pairs_of, partition
from burnish.passes.transforms.refit import nodes_between, refit
from burnish.passes.transforms.stream import Stream

aten = torch.ops.aten

_EXACT = 1e-9  # of the energy of keys and values: what float32 weights cannot tell from nothing
_STEPS = 100  # of refitting, a layer


@dataclass(frozen=True)
class ConvertToGQA:
    """Attentions with more than `kv_heads` heads of keys and values get that many; 1 is multi-query attention.

    "refit" aligns the heads of a group, merges them, and refits the attention's projections on calibration text so
    that its output changes least, layer by layer. "aligned" does without text, by the weights alone. "mean" takes the
    mean of neighbours (Ainslie et al., 2023). Heads that are the same up to what the model does not see are merged
    exactly, in any case. `heal`: so many steps of training the changed projections against the original's logits.
    """

    kv_heads: int
    method: Literal["refit", "aligned", "mean"] | None = None  # None: "refit" with calibration text, else "aligned"
    heal: int = 0
    calibration: Calibration | None = field(default=None, repr=False, compare=False)
    name: ClassVar[str] = "convert-to-gqa"
    effect: ClassVar[Effect] = Effect.LOSSY
    atomic: ClassVar[bool] = False
    place: ClassVar[int] = 0

    def check(self, calibrated: bool) -> None:
        """See `Transform.check`."""
        if self.kv_heads < 1:
            raise UsageError(f"an attention has at least one head of keys and values, not {self.kv_heads}")
        if self.method not in (None, "refit", "aligned", "mean"):
            raise UsageError(f"there is no method {self.method!r}: there are refit, aligned and mean")
        if not calibrated and self.method == "refit":
            raise UsageError(f"{self} needs calibration text: give calibration=, or method='aligned'")
        if not calibrated and self.heal:
            raise UsageError(f"{self} needs calibration text: give calibration=, or leave heal out")

    def run(self, program: Program, log: Log) -> Program:
        """Convert every attention, in place. Raises UsageError where the number of heads does not divide."""
        self.check(self.calibration is not None)
        blocks = self._blocks(program, log)
        method = self.method or ("aligned" if self.calibration is None else "refit")
        original = program.copy()
        converter = _Converter(program, original, self.kv_heads, method, self.calibration)
        for block in blocks:
            log.rewrite(block.attention, converter.convert(block))
        remove_dead(program)
        if self.heal and blocks:
            assert self.calibration is not None
            heal(program, original, converter.changed, self.calibration.tokens, self.heal)
        return program

    def _blocks(self, program: Program, log: Log) -> list[AttentionBlock]:
        attentions = [node for node in program.graph.nodes if node.target is burnish_ops.attention.default]
        if not attentions:
            raise UsageError("the model has no attention: there are no heads to merge")
        found = []
        for node in attentions:
            try:
                block = attention_block(program, node)
            except NoHeads as miss:
                log.refuse(node, str(miss))
                continue
            if block.kv_heads <= self.kv_heads:
                log.refuse(node, f"it has {block.kv_heads} heads of keys and values already")
            elif block.kv_heads % self.kv_heads:
                raise UsageError(
                    f"{block.kv_heads} heads of keys and values are no equal groups for {self.kv_heads}: "
                    f"{_divisors(block.kv_heads)} are possible"
                )
            else:
                found.append(block)
        return found


def _divisors(count: int) -> str:
    return ", ".join(str(number) for number in range(1, count) if count % number == 0)


class _Converter:
    """Converts one attention after the other, each seeing what those before it have become."""

    def __init__(
        self, program: Program, original: Program, kv_heads: int, method: str, calibration: Calibration | None
    ) -> None:
        self.program = program
        self.editor = Editor(program)
        self.kv_heads = kv_heads
        self.method = method
        self.changed: list[str] = []  # names of weights
        self._streams = None
        if calibration is not None and method != "mean":
            self._streams = (Stream(program, calibration.tokens), Stream(original, calibration.tokens))
            self._nodes = {node.name: node for node in original.graph.nodes}

    def convert(self, block: AttentionBlock) -> str:
        """Convert one attention; tells how."""
        block = replace(block, x=operands(block.query.linear)[0])  # where an earlier one's output was, its new one is
        weights = _weights_of(self.program, block)
        moment = torch.eye(weights.key.shape[-1], dtype=torch.float64)
        pairs = _pairs(block)
        movable = len(block.attention.args) == 3 and not {"sinks", "slopes", "bias"} & set(block.attention.kwargs)
        groups, lost = partition(weights, moment, self.kv_heads, pairs, movable)
        exact = lost < _EXACT
        inputs: list[Tensor] = []
        if self._streams is not None:
            inputs = self._streams[0].collect(block.x)
            if not exact:
                moment = _moment(inputs)
                groups, lost = partition(weights, moment, self.kv_heads, pairs, movable)
        if self.method == "mean" and not exact:
            size = block.kv_heads // self.kv_heads
            groups = [tuple(range(start, start + size)) for start in range(0, block.kv_heads, size)]
            merged = mean_pooled(weights, groups)
        else:
            merged = aligned(weights, moment, groups, pairs)
        output, nodes = self._rebuild(block, merged)
        told = f"{block.kv_heads} -> {self.kv_heads} heads of keys and values"
        if exact:
            return f"{told}, exactly: they are {self.kv_heads} up to maps that the model does not see"
        if self.method == "refit":
            self._refit(block, output, nodes, inputs)
        return told + ("" if self.method == "mean" else f", {100 * lost / 2:.1f}% of them lost before refitting")

    def _rebuild(self, block: AttentionBlock, merged: Projections) -> tuple[fx.Node, list[fx.Node]]:
        """The attention over the merged heads; the linear behind it, and all nodes from x to that, in order."""
        editor, attention = self.editor, block.attention
        options: dict[str, Any] = dict(attention.kwargs)
        with editor.before(attention):
            query = self._heads(block.query, merged.query, block.x)
            key = self._heads(block.key, merged.key, block.x)
            value = self._heads(block.value, merged.value, block.x)
            new = editor.call(
                burnish_ops.attention.default,
                query,
                key,
                value,
                *attention.args[3:],
                like=attention,
                **options,
            )
        editor.replace(attention, new)
        old = block.output
        bias = (*operands(old), None)[2]
        columns = merged.output.float()
        joined = torch.empty(columns.shape[0], block.columns.numel())
        joined[:, block.columns.flatten()] = columns.flatten(1)
        weight = self._weight(operands(old)[1], joined)
        if bias is not None:  # of its own: it is refit
            bias = self._weight(bias, self.program.weights[self.program.weight_of(bias)].materialize())
        with editor.before(old):
            output = editor.call(aten.linear.default, operands(old)[0], weight, bias, like=old)
        editor.replace(old, output)
        remove_dead(self.program)  # at once: what still reads x keeps its values in memory
        return output, nodes_between(block.x, output)

    def _heads(self, part: Heads, rows: Tensor, x: fx.Node) -> fx.Node:
        """A projection of x to heads [B, H, S, D], with the norm and the rotary embedding that `part` has."""
        editor, like = self.editor, part.linear
        heads, size = rows.shape[:2]
        old = operands(like)[1]
        weight = self._weight(old, rows[..., :-1].flatten(0, 1).float())
        bias = (*operands(like), None)[2]
        if bias is not None:
            bias = self._weight(bias, rows[..., -1].flatten().float())
        node = editor.call(aten.linear.default, x, weight, bias, like=like)
        node = editor.call(aten.unflatten.int, node, -1, [heads, size], like=like)
        if part.norm is not None:
            node = editor.call(burnish_ops.rms_norm.default, node, part.norm, part.eps, like=like)
        rotary = part.rotary
        if rotary is not None and rotary.head_axis == 2:
            node = editor.call(burnish_ops.rotary.default, node, rotary.cos, rotary.sin, rotary.interleaved, like=like)
        node = editor.call(aten.transpose.int, node, 1, 2, like=like)
        if rotary is not None and rotary.head_axis == 1:
            node = editor.call(burnish_ops.rotary.default, node, rotary.cos, rotary.sin, rotary.interleaved, like=like)
        return node

    def _weight(self, old: fx.Node, values: Tensor) -> fx.Node:
        name = self.program.weight_of(old)
        node = self.editor.weight(f"{name}.{self.kv_heads}_kv_heads", Stored(values.contiguous()))
        self.changed.append(self.program.weight_of(node))
        return node

    def _refit(self, block: AttentionBlock, output: fx.Node, nodes: Sequence[fx.Node], inputs: list[Tensor]) -> None:
        """Refit the projections towards what the original gives here."""
        assert self._streams is not None
        stream, original = self._streams
        targets = original.collect(self._nodes[block.output.name])
        within = {block.x, *nodes}
        reads = {read for node in nodes for read in node.all_input_nodes} - within
        own = {node for node in reads if node.op == "get_attr" and self.program.weight_of(node) in self.changed}
        weights = {node: self.program.weights[self.program.weight_of(node)].materialize() for node in own}
        order = [node for node in self.program.graph.nodes if node in own]
        weights = {node: weights[node] for node in order}
        constants: dict[fx.Node, Any] = {node: stream.shared(node) for node in reads - own}
        fitted = refit(nodes, weights, constants, block.x, inputs, targets, _STEPS)
        for node, values in fitted.items():
            name = self.program.weight_of(node)
            self.program.weights = self.program.weights.replaced(name, Stored(values))


def _weights_of(program: Program, block: AttentionBlock) -> Projections:
    """The weights of a block by heads, in float64, biases as the last column."""

    def rows(part: Heads) -> Tensor:
        weight, bias = (*operands(part.linear)[1:], None)[:2]
        values = program.weights[program.weight_of(weight)].materialize().double()
        last = torch.zeros(len(values), 1, dtype=torch.float64)
        if bias is not None:
            last = program.weights[program.weight_of(bias)].materialize().double().unsqueeze(1)
        return torch.cat([values, last], dim=1)[part.rows] * part.scale

    weight = program.weights[program.weight_of(operands(block.output)[1])].materialize().double()
    return Projections(rows(block.query), rows(block.key), rows(block.value), weight[:, block.columns])


def _pairs(block: AttentionBlock) -> Pairs | None:
    """How keys may be turned; None where they have norms, which would see it."""
    if block.key.norm is not None or block.query.norm is not None:
        return None
    size, rotary = int(block.key.rows.shape[1]), block.key.rotary
    if rotary is None:
        return pairs_of(size, 0, False)
    return pairs_of(size, int(rotary.cos.meta["val"].shape[-1]), rotary.interleaved)


def _moment(inputs: Sequence[Tensor]) -> Tensor:
    """The mean of x x^T over all tokens, x with a one at its end."""
    size = inputs[0].shape[-1] + 1
    total = torch.zeros(size, size, dtype=torch.float64)
    count = 0
    for each in inputs:
        x = each.flatten(0, -2)
        x = torch.cat([x, x.new_ones(len(x), 1)], dim=1)
        total += (x.T @ x).double()
        count += len(x)
    return total / count
