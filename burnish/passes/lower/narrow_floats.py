"""float32 becomes bfloat16 or float16: half the bytes of weights and caches, and the products of tensor cores."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import fx

from burnish.ir.dtypes import name_of
from burnish.ir.edit import Editor, remove_dead
from burnish.ir.infer import infer
from burnish.ir.position_table import cast
from burnish.ir.program import Program
from burnish.ir.weights import Cast
from burnish.passes.base import Effect, Log

aten = torch.ops.aten


@dataclass(frozen=True)
class NarrowFloats:
    """Weights, states and all that is computed from them in `dtype`; the logits stay float32.

    What the graph itself widens stays wide, until it meets a narrow value: the softmax of a router, for one. Kernels
    add up in float32 whatever the dtype.
    """

    dtype: torch.dtype  # bfloat16 or float16
    name: ClassVar[str] = "narrow-floats"
    effect: ClassVar[Effect] = Effect.LOSSY
    atomic: ClassVar[bool] = True

    def run(self, program: Program, log: Log) -> Program:
        """Change every float32 weight, state and value, in place."""
        editor = Editor(program)
        narrowed: dict[fx.Node, fx.Node] = {}  # wide values, by their narrow copies
        weights = self._narrow_weights(program, editor)
        self._narrow_states(program, editor)
        for node in list(program.graph.nodes):
            if node.op == "call_function":
                if _has_tensor(node.meta["val"]):
                    self._narrow_operands(node, editor, narrowed)
                infer(node, editor.mode)
        self._fix_outputs(program, editor)
        remove_dead(program)
        log.rewrite(program.output, f"{weights} weights and {len(program.states)} states became {_text(self.dtype)}")
        return program

    def _narrow_weights(self, program: Program, editor: Editor) -> int:
        count = 0
        names: dict[str, str] = {}
        for node in program.graph.nodes:
            if node.op != "get_attr" or node.meta["val"].dtype != torch.float32:
                continue
            name = str(node.target)
            if name not in names:
                weight = program.weights[name]
                source = weight.source if isinstance(weight, Cast) else weight
                names[name] = program.weights.add(
                    f"{name}.{_text(self.dtype)}", source if source.dtype == self.dtype else cast(weight, self.dtype)
                )
                count += 1
            node.target = names[name]
            self._narrow_value(node, editor)
        return count

    def _narrow_states(self, program: Program, editor: Editor) -> None:
        wide = {state.name for state in program.states if state.dtype == torch.float32}
        for node in program.placeholders:
            if node.name in wide:
                self._narrow_value(node, editor)
        program.states = tuple(
            replace(state, dtype_name=name_of(self.dtype)) if state.name in wide else state for state in program.states
        )

    def _narrow_value(self, node: fx.Node, editor: Editor) -> None:
        with editor.mode:
            node.meta["val"] = torch.empty_like(node.meta["val"], dtype=self.dtype)

    def _narrow_operands(self, node: fx.Node, editor: Editor, narrowed: dict[fx.Node, fx.Node]) -> None:
        """Of operands of both kinds, the wide ones become narrow."""
        kinds = {each: _dtype(each) for each in node.all_input_nodes}
        if self.dtype not in kinds.values():
            return
        for operand, kind in kinds.items():
            if kind is torch.float32:
                node.replace_input_with(operand, self._narrow(operand, editor, narrowed))

    def _narrow(self, operand: fx.Node, editor: Editor, narrowed: dict[fx.Node, fx.Node]) -> fx.Node:
        if operand not in narrowed:
            with editor.after(operand):
                narrowed[operand] = _cast(editor, operand, self.dtype)
        return narrowed[operand]

    def _fix_outputs(self, program: Program, editor: Editor) -> None:
        """Logits in their signature's dtype, states in their own."""

        def fixed(result: fx.Node, dtype: torch.dtype) -> fx.Node:
            if _dtype(result) == dtype:
                return result
            with editor.before(program.output):
                return _cast(editor, result, dtype)

        results = program.results
        logits = fixed(results["logits"], program.signature.logits_dtype)
        states = [fixed(new, state.dtype) for new, state in zip(program.new_states, program.states, strict=True)]
        program.give({**results, "logits": logits}, states)


def _cast(editor: Editor, node: fx.Node, dtype: torch.dtype) -> fx.Node:
    return editor.call(aten._to_copy.default, node, dtype=dtype, like=node)


def _dtype(node: fx.Node) -> torch.dtype | None:
    found = node.meta.get("val")
    return found.dtype if isinstance(found, torch.Tensor) else None


def _has_tensor(value: Any) -> bool:
    if isinstance(value, (tuple, list)):
        return any(_has_tensor(each) for each in value)
    return isinstance(value, torch.Tensor)


def _text(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
