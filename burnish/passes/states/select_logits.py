"""Logits for the tokens that are asked for, not for all: a prompt's other logits are never computed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import fx

from burnish.ir.edit import Editor
from burnish.ir.infer import infer
from burnish.ir.labels import AxisLabel
from burnish.ir.program import Program
from burnish.ir.shapes import shape_expressions
from burnish.ir.signature import LOGITS_INDEX
from burnish.ir.symbols import symbolic_size
from burnish.passes.analyses.axis_labels import AxisLabels
from burnish.passes.base import Effect, Log

aten = torch.ops.aten


@dataclass(frozen=True)
class SelectLogits:
    """A new input, logits_index[kept], picks tokens in front of the head."""

    name: ClassVar[str] = "select-logits"
    effect: ClassVar[Effect] = Effect.EXACT
    atomic: ClassVar[bool] = True

    def run(self, program: Program, log: Log) -> Program:
        """Pick tokens as early as one value holds all that the logits need of them, in place."""
        labels = AxisLabels(program)
        editor = Editor(program)
        kept = symbolic_size(editor.mode.shape_env, "logits_index", 3)
        with editor.mode:
            index = editor.input(LOGITS_INDEX, torch.empty(kept, dtype=LOGITS_INDEX.dtype), program.tokens)
        logits = program.results["logits"]
        if labels.of(logits) != AxisLabel(1):
            raise labels.mixes(logits, "gives logits that do not have the {} on their second axis")
        chain = _chain(logits, labels)
        start = chain[-1]
        label = labels.of(start)
        assert label is not None
        with editor.after(start):
            picked = editor.call(aten.index_select.default, start, label.axis, index, like=start)
        start.replace_all_uses_with(picked, delete_user_cb=lambda user: user in chain or user is program.output)
        if start is logits:
            program.give({**program.results, "logits": picked}, program.new_states)
        for node in reversed(chain[:-1]):
            infer(node, editor.mode)
        log.rewrite(start, f"tokens picked here, {len(chain) - 1} ops in front of the logits run on these alone")
        symbols = {**program.details.get("symbols", {}), str(kept): "kept"}
        program.details = {**program.details, "symbols": symbols}
        return program


def _chain(logits: fx.Node, labels: AxisLabels) -> list[fx.Node]:
    """From the logits backwards, the values that alone carry the tokens.

    It ends at an op that needs a token's neighbours, and at one that names the number of tokens.
    """
    chain, mixing = [logits], set(labels.mixing)
    while True:
        node = chain[-1]
        if node.op != "call_function" or node in mixing:
            return chain
        inputs = [argument for argument in node.all_input_nodes if labels.of(argument) is not None]
        others = [a for a in node.all_input_nodes if isinstance(a.meta.get("val"), torch.SymInt)]
        if len(inputs) != 1 or others:
            return chain
        label = labels.of(inputs[0])
        if label is None or label.inner != 1 or inputs[0].op != "call_function":
            return chain
        if shape_expressions(inputs[0])[label.axis] != labels.symbol:
            return chain
        chain.append(inputs[0])
