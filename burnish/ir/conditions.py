"""Conditions on sizes by name, evaluated without running text: (batch % 2) == 0."""

from __future__ import annotations

import ast
import math
import operator
import re
from collections.abc import Callable, Mapping
from typing import Any

_OPERATORS: dict[type[ast.AST], Callable[..., Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
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
_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "max": max,
    "min": min,
    "math.trunc": math.trunc,
    "math.floor": math.floor,
    "math.ceil": math.ceil,
    "torch.sym_float": float,
    "torch.sym_int": int,
    "torch.sym_max": max,
    "torch.sym_min": min,
    # As sympy writes them.
    "Max": max,
    "Min": min,
    "Mod": operator.mod,
    "PythonMod": operator.mod,
    "FloorDiv": operator.floordiv,
    "IntTrueDiv": operator.truediv,
    "FloatTrueDiv": operator.truediv,
    "ToFloat": float,
    "TruncToInt": math.trunc,
    "FloorToInt": math.floor,
    "CeilToInt": math.ceil,
}


class UnreadCondition(Exception):
    """It is of something else than sizes, or says it otherwise."""


def holds(condition: str, sizes: Mapping[str, int]) -> bool:
    """Whether a condition is true of sizes by name. Raises UnreadCondition."""
    try:
        return bool(_value(ast.parse(condition, mode="eval").body, sizes))
    except (KeyError, SyntaxError, ValueError, RecursionError, ArithmeticError, TypeError) as error:
        raise UnreadCondition(condition) from error


def number(expression: str, sizes: Mapping[str, int]) -> int:
    """What an expression of sizes by name is, "2*batch + 1". Raises UnreadCondition."""
    try:
        return int(_value(ast.parse(expression, mode="eval").body, sizes))
    except (KeyError, SyntaxError, ValueError, RecursionError, ArithmeticError, TypeError) as error:
        raise UnreadCondition(expression) from error


def names(expression: str, name: str) -> bool:
    """Whether an expression is of a size of that name."""
    return re.search(rf"\b{re.escape(name)}\b", expression) is not None


def solved(expression: str, name: str, value: int) -> int | None:
    """Which size of that name makes a linear expression of it alone that value, "2*half + 1"; None if no number does.

    Raises UnreadCondition for an expression of other sizes, too.
    """
    begin = number(expression, {name: 0})
    slope = number(expression, {name: 1}) - begin
    found = (value - begin) // slope if slope else 0
    return found if number(expression, {name: found}) == value else None


def _value(node: ast.expr, names: Mapping[str, int]) -> Any:
    match node:
        case ast.Constant(value=int() | bool() | float()):
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
        case ast.Call(func=ast.Name() | ast.Attribute() as function, args=arguments, keywords=[]) if arguments:
            return _FUNCTIONS[ast.unparse(function)](*(_value(each, names) for each in arguments))
    raise UnreadCondition(ast.unparse(node))
