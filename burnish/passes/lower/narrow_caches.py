"""Keys and values are remembered in 16 bits: half the bytes of a cache, which attention reads whole for each token."""

from __future__ import annotations

import operator
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import fx

from burnish.ir.dtypes import name_of
from burnish.ir.edit import Editor
from burnish.ir.fused_ops import fused_ops
from burnish.ir.infer import infer
from burnish.ir.ops import burnish_ops
from burnish.ir.program import Program, operands, value
from burnish.passes.base import Effect, Log

aten = torch.ops.aten

_ATTENTION = burnish_ops.attention.default


@dataclass(frozen=True)
class NarrowCaches:
    """States that attentions alone read, as keys and values, in `dtype`; all that is computed stays float32.

    dtype: bfloat16 or float16.
    """

    dtype: torch.dtype
    name: ClassVar[str] = "narrow-caches"
    effect: ClassVar[Effect] = Effect.LOSSY
    atomic: ClassVar[bool] = False

    def run(self, program: Program, log: Log) -> Program:
        """Narrow, in place, the keys and values of each attention where both can be."""
        editor = Editor(program)
        attentions = [node for node in program.graph.nodes if node.target is _ATTENTION]
        reasons = {each: _obstacle(program, each) for attention in attentions for each in _remembered(attention)}
        spread = True
        while spread:  # a kernel reads both in one dtype
            spread = False
            for attention in attentions:
                key, value_ = _remembered(attention)
                for one, other in ((key, value_), (value_, key)):
                    if reasons[one] and not reasons[other]:
                        reasons[other], spread = f"what is read with it is float32: {reasons[one]}", True
        for attention in attentions:
            key, _ = _remembered(attention)
            if reasons[key]:
                log.refuse(attention, reasons[key])
        for node in [each for each, reason in reasons.items() if not reason]:
            state = self._narrow(program, editor, node)
            log.rewrite(node, f"{state.name} is remembered in {name_of(self.dtype)}")
        return program

    def _narrow(self, program: Program, editor: Editor, node: fx.Node) -> fx.Node:
        """Narrow the state that keys or values are, what is written to it, and what is read of it. Gives the state."""
        state = _state_of(program, node)
        assert state is not None
        with editor.mode:
            state.meta["val"] = torch.empty_like(value(state), dtype=self.dtype)
        program.states = tuple(
            replace(each, dtype_name=name_of(self.dtype)) if each.name == state.name else each
            for each in program.states
        )
        for user in list(state.users):
            if user.target is not fused_ops.attention_projection.default:
                new = operands(user)[0][1] if user.target is aten.cat.default else operands(user)[1]
                user.replace_input_with(new, self._cast(editor, new))
            infer(user, editor.mode)
        infer(node, editor.mode)
        return state

    def _cast(self, editor: Editor, new: fx.Node) -> fx.Node:
        """New keys or values in `dtype`: once for all that read them so."""
        known = [each for each in new.users if each.target is aten._to_copy.default and value(each).dtype == self.dtype]
        if known:
            return known[0]
        with editor.after(new):
            return editor.call(aten._to_copy.default, new, dtype=self.dtype, like=new)


def _remembered(attention: fx.Node) -> tuple[fx.Node, fx.Node]:
    key, value_ = operands(attention)[1:3]
    return key, value_


def _state_of(program: Program, node: fx.Node) -> fx.Node | None:
    """The state that keys or values are read of: written and read whole, or joined with the new ones."""
    found = None
    if node.target is burnish_ops.cache_write.default:
        found = operands(node)[0]
    elif node.target is operator.getitem:
        made, number = operands(node)
        if made.target is fused_ops.attention_projection.default:
            found = operands(made)[1 + number]  # it gives the queries first, and takes x and weight
    elif node.target is aten.cat.default and len(operands(node)[0]) == 2:
        found = operands(node)[0][0]
    names = {state.name for state in program.states}
    return found if isinstance(found, fx.Node) and found.op == "placeholder" and found.name in names else None


def _obstacle(program: Program, node: fx.Node) -> str:
    """Why keys or values cannot be remembered in 16 bits; nothing if they can."""
    state = _state_of(program, node)
    if state is None:
        return f"{node.name} is computed from what is remembered, and would be widened whole for each token"
    if value(state).dtype != torch.float32:
        return f"{state.name} is of {value(state).dtype}"
    readers = [user for user in node.users if user.target is not _ATTENTION and user is not program.output]
    others = [user for user in state.users if user is not node and user.target is not burnish_ops.ring_write.default]
    if node.target is operator.getitem:
        readers, others = readers, [user for user in others if user is not node.args[0]]
    for each in (*readers, *others):
        return f"{each.name} reads {state.name}, too"
    return ""
