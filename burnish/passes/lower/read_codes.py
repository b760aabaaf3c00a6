"""Attention reads keys and values as the codes that are remembered: what they stand for is never written to memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import fx

from burnish.ir.code_ops import code_ops
from burnish.ir.edit import Editor, remove_dead
from burnish.ir.ops import burnish_ops
from burnish.ir.program import Program, operands, value
from burnish.passes.base import Effect, Log


@dataclass(frozen=True)
class ReadCodes:
    """attention(query, from_codes(key, scales), from_codes(value, scales)) -> coded_attention(...)."""

    name: ClassVar[str] = "read-codes"
    effect: ClassVar[Effect] = Effect.REASSOCIATES
    atomic: ClassVar[bool] = False

    def run(self, program: Program, log: Log) -> Program:
        """Rewrite, in place, each attention whose keys and values are both of codes."""
        editor = Editor(program)
        for node in [each for each in program.graph.nodes if each.target is burnish_ops.attention.default]:
            query, key, values, *rest = operands(node)
            codes = [each for each in (key, values) if each.target is code_ops.from_codes.default]
            if not codes:
                continue
            reason = _obstacle(codes)
            if reason:
                log.refuse(node, reason)
                continue
            with editor.before(node):
                arguments = (query, *operands(key)[:2], *operands(values)[:2], *rest)
                new = editor.call(code_ops.coded_attention.default, *arguments, like=node, **node.kwargs)
            editor.replace(node, new)
            log.rewrite(new, f"reads codes of {value(operands(key)[0]).dtype}")
        remove_dead(program)
        return program


def _obstacle(codes: list[fx.Node]) -> str:
    """Why keys and values, of which these are of codes, are not read as such; nothing if they are."""
    if len(codes) == 1:
        return f"{codes[0].name} is of codes, and what is read with it is of floats"
    if len({value(operands(each)[0]).dtype for each in codes}) > 1:
        return "keys and values are of different codes"
    kinds = {
        tuple(isinstance(size, int) and size == 1 for size in value(operands(each)[1]).shape[2:]) for each in codes
    }
    if kinds not in ({(False, True)}, {(True, False)}) or any(value(operands(each)[1]).dim() != 4 for each in codes):
        return "its scales are neither those of tokens and heads nor those of channels"
    return ""
