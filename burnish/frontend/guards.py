"""What export noted of the sizes of its input, evaluated without running text: L['tokens'].size()[0] <= 8."""

from __future__ import annotations

import ast
import operator
import re
from collections.abc import Callable
from typing import Any

_SIZE = re.compile(r"L\['\w+'\]\.size\(\)\[(\d)\]")
_OPERATORS: dict[type[ast.AST], Callable[..., Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.USub: operator.neg,
    ast.Not: operator.not_,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
}


class UnreadGuard(Exception):
    """It is of something else than sizes, or says it otherwise."""


def holds(guard: str, sizes: tuple[int, int]) -> bool:
    """Whether a guard is true of an input of these sizes. Raises UnreadGuard."""
    text = _SIZE.sub(lambda match: f"size_{match[1]}", guard)
    try:
        return bool(_value(ast.parse(text, mode="eval").body, {"size_0": sizes[0], "size_1": sizes[1]}))
    except (KeyError, SyntaxError, ZeroDivisionError) as error:
        raise UnreadGuard(guard) from error


def _value(node: ast.expr, names: dict[str, int]) -> Any:
    match node:
        case ast.Constant(value=int() | bool()):
            return node.value
        case ast.Name():
            return names[node.id]
        case ast.UnaryOp():
            return _OPERATORS[type(node.op)](_value(node.operand, names))
        case ast.BinOp():
            return _OPERATORS[type(node.op)](_value(node.left, names), _value(node.right, names))
        case ast.BoolOp(op=ast.And()):
            return all(_value(each, names) for each in node.values)
        case ast.BoolOp(op=ast.Or()):
            return any(_value(each, names) for each in node.values)
        case ast.Compare():
            values = [_value(each, names) for each in (node.left, *node.comparators)]
            pairs = zip(node.ops, values[:-1], values[1:], strict=True)
            return all(_OPERATORS[type(op)](left, right) for op, left, right in pairs)
    raise UnreadGuard(ast.unparse(node))
