"""Mutants of a module's source, one small change each, made by a walk over its syntax tree."""

from __future__ import annotations

import ast
import copy
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path

ROOT = Path(__file__).parents[2]

_FLIPPED: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
}
_OTHER: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Add,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult,
    ast.Mod: ast.FloorDiv,
    ast.Pow: ast.Mult,
    ast.BitOr: ast.BitAnd,
    ast.BitAnd: ast.BitOr,
}
_NAMES = {"min": "max", "max": "min", "any": "all", "all": "any", "sorted": "list", "amax": "amin", "amin": "amax"}
# What only says something: a mutant of it changes no answer.
_TELLS = {"rewrite", "note", "mixes", "refuse", "info", "warning", "debug", "describe", "NoMatch", "UnsupportedError"}
_TELLS |= {"dataclass", "lru_cache"}


@dataclass(frozen=True)
class Mutant:
    """A change of one file, and of others where one is not enough; `make` gives it in words, and the changed files."""

    file: str  # relative to the repository
    function: str  # qualified name, or that of an edit by hand; empty outside functions
    first: int  # lines of the statement that changes
    last: int
    number: int
    make: Callable[[], tuple[str, dict[str, str]]] = field(compare=False, repr=False)

    @property
    def name(self) -> str:
        place = self.file.removeprefix("burnish/").removesuffix(".py")
        return f"{place}:{self.first}:{self.function or 'module'}:{self.number}"

    @cached_property
    def _made(self) -> tuple[str, dict[str, str]]:
        return self.make()

    @property
    def what(self) -> str:
        return self._made[0]

    @property
    def sources(self) -> dict[str, str]:
        """The text of each changed file."""
        return self._made[1]


def mutants_of(file: str) -> list[Mutant]:
    """All mutants of a file, in the order of its lines."""
    text = (ROOT / file).read_text(encoding="utf-8")

    def made(change: _Change) -> tuple[str, dict[str, str]]:
        tree = ast.parse(text)
        what = change(tree)
        return what, {file: ast.unparse(ast.fix_missing_locations(tree))}

    return [
        Mutant(file, place.function, place.first, place.last, number, partial(made, change))
        for number, (place, change) in enumerate(_changes(ast.parse(text)))
    ]


def sample(mutants: list[Mutant], count: int, seed: int) -> list[Mutant]:
    """At most `count` of the mutants, drawn so that each function has its share, in order."""
    draw = random.Random(f"{seed} {mutants[0].file if mutants else ''}")
    by_function: dict[str, list[Mutant]] = {}
    for mutant in mutants:
        by_function.setdefault(mutant.function, []).append(mutant)
    for group in by_function.values():
        draw.shuffle(group)
    chosen: list[Mutant] = []
    while len(chosen) < min(count, len(mutants)):
        groups = [group for group in by_function.values() if group]
        draw.shuffle(groups)
        chosen += [group.pop() for group in groups[: count - len(chosen)]]
    return sorted(chosen, key=lambda mutant: mutant.number)


# ---------------------------------------------------------------- the walk


@dataclass(frozen=True)
class _Place:
    function: str
    first: int
    last: int


class _Change:
    """A change of the node that a walk of the same source meets as the `number`th one."""

    def __init__(self, number: int, kind: str, argument: int = 0) -> None:
        self.number, self.kind, self.argument = number, kind, argument

    def __call__(self, tree: ast.AST) -> str:
        node = list(ast.walk(tree))[self.number]
        parents = {child: parent for parent in ast.walk(tree) for child in ast.iter_child_nodes(parent)}
        before = ast.unparse(node)
        new = getattr(self, f"_{self.kind}")(copy.deepcopy(node))
        _replace(parents[node], node, new)
        after = "" if isinstance(new, ast.Pass) else ast.unparse(new)
        return f"{self.kind}: {_brief(before)} -> {_brief(after) or 'nothing'}"

    def _compare(self, node: ast.Compare) -> ast.expr:
        node.ops[self.argument] = _FLIPPED[type(node.ops[self.argument])]()
        return node

    def _number(self, node: ast.Constant) -> ast.expr:
        return ast.Constant(node.value + 1)  # type: ignore[operator]

    def _truth(self, node: ast.Constant) -> ast.expr:
        return ast.Constant(not node.value)

    def _operator(self, node: ast.BinOp) -> ast.expr:
        node.op = _OTHER[type(node.op)]()
        return node

    def _swapped(self, node: ast.BinOp) -> ast.expr:
        node.left, node.right = node.right, node.left
        return node

    def _negative(self, node: ast.UnaryOp) -> ast.expr:
        return node.operand

    def _both(self, node: ast.BoolOp) -> ast.expr:
        node.op = ast.Or() if isinstance(node.op, ast.And) else ast.And()
        return node

    def _operand(self, node: ast.BoolOp) -> ast.expr:
        del node.values[self.argument]
        return node.values[0] if len(node.values) == 1 else node

    def _branch(self, node: ast.IfExp) -> ast.expr:
        return node.body if self.argument else node.orelse

    def _arguments(self, node: ast.Call) -> ast.expr:
        place = self.argument
        node.args[place], node.args[place + 1] = node.args[place + 1], node.args[place]
        return node

    def _keyword(self, node: ast.Call) -> ast.expr:
        del node.keywords[self.argument]
        return node

    def _element(self, node: ast.Set | ast.List | ast.Tuple) -> ast.expr:
        del node.elts[self.argument]
        return node

    def _entry(self, node: ast.Dict) -> ast.expr:
        del node.keys[self.argument], node.values[self.argument]
        return node

    def _called(self, node: ast.Name) -> ast.expr:
        return ast.Name(_NAMES[node.id], ast.Load())

    def _statement(self, node: ast.stmt) -> ast.stmt:
        return ast.Pass()

    def _guard(self, node: ast.If) -> ast.stmt:
        node.test = ast.Constant(False)
        return node


def _changes(tree: ast.Module) -> Iterator[tuple[_Place, _Change]]:
    """Each change that can be made to a tree, in the order of lines, with where it is."""
    numbers = {node: number for number, node in enumerate(ast.walk(tree))}
    found: list[tuple[_Place, _Change]] = []

    def visit(node: ast.AST, function: str, statement: ast.stmt | None) -> None:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            if any(ast.unparse(base) in ("Protocol", "Exception") for base in getattr(node, "bases", [])):
                return
            function = f"{function}.{node.name}" if function else node.name
        if isinstance(node, ast.stmt):
            statement = node
        if _says_only(node):
            return
        for kind, argument in _kinds(node, function):
            assert statement is not None
            last = statement.end_lineno or statement.lineno
            if isinstance(statement, ast.If | ast.For | ast.While | ast.With | ast.FunctionDef | ast.ClassDef):
                last = max(statement.lineno, statement.body[0].lineno - 1)
            found.append((_Place(function, statement.lineno, last), _Change(numbers[node], kind, argument)))
        for name, child in _children(node):
            if name not in ("annotation", "returns", "type_comment"):
                visit(child, function, statement)

    visit(tree, "", None)
    return iter(sorted(found, key=lambda each: (each[0].first, each[1].number, each[1].argument)))


def _children(node: ast.AST) -> Iterator[tuple[str, ast.AST]]:
    for name, value in ast.iter_fields(node):
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.AST):
                yield name, child


def _says_only(node: ast.AST) -> bool:
    """Texts, messages, imports, assertions: what no answer depends on."""
    if isinstance(node, ast.JoinedStr | ast.Raise | ast.Assert | ast.Import | ast.ImportFrom):
        return True
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
        return True
    if isinstance(node, ast.AnnAssign) and node.value is None:
        return True
    called = node.func if isinstance(node, ast.Call) else None
    return getattr(called, "attr", getattr(called, "id", "")) in _TELLS


def _kinds(node: ast.AST, function: str) -> Iterator[tuple[str, int]]:
    """What can be changed at a node itself."""
    if isinstance(node, ast.Compare):
        yield from (("compare", place) for place, each in enumerate(node.ops) if type(each) in _FLIPPED)
    elif isinstance(node, ast.Constant):
        if isinstance(node.value, bool):
            yield "truth", 0
        elif isinstance(node.value, int | float):
            yield "number", 0
    elif isinstance(node, ast.BinOp) and type(node.op) in _OTHER and not isinstance(node.left, ast.JoinedStr):
        yield "operator", 0
        if isinstance(node.op, ast.Sub | ast.Div | ast.FloorDiv | ast.Mod):
            yield "swapped", 0
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub | ast.Not):
        yield "negative", 0
    elif isinstance(node, ast.BoolOp):
        yield "both", 0
        yield from (("operand", place) for place in range(len(node.values)))
    elif isinstance(node, ast.IfExp):
        yield "branch", 0
        yield "branch", 1
    elif isinstance(node, ast.Call):
        plain = getattr(node.func, "id", "") not in ("isinstance", "getattr", "zip", "cast", "field")
        if plain and not any(isinstance(each, ast.Starred) for each in node.args):
            yield from (("arguments", place) for place in range(len(node.args) - 1))
        yield from (
            ("keyword", place) for place, each in enumerate(node.keywords) if each.arg not in (None, "like", "strict")
        )
    elif isinstance(node, ast.Set | ast.List | ast.Tuple) and isinstance(getattr(node, "ctx", ast.Load()), ast.Load):
        if len(node.elts) > 1:
            yield from (("element", place) for place in range(len(node.elts)))
    elif isinstance(node, ast.Dict):
        yield from (("entry", place) for place, key in enumerate(node.keys) if key is not None)
    elif isinstance(node, ast.Name) and node.id in _NAMES and isinstance(node.ctx, ast.Load):
        yield "called", 0
    elif isinstance(node, ast.AugAssign) or (isinstance(node, ast.Expr) and isinstance(node.value, ast.Call)):
        if function and not _says_only(getattr(node, "value", node)):
            yield "statement", 0
    elif isinstance(node, ast.Assign) and function and not isinstance(node.targets[0], ast.Name | ast.Tuple):
        yield "statement", 0
    elif isinstance(node, ast.If) and not node.orelse:
        yield "guard", 0


def _replace(parent: ast.AST, old: ast.AST, new: ast.AST) -> None:
    for name, value in ast.iter_fields(parent):
        if value is old:
            setattr(parent, name, new)
        elif isinstance(value, list) and any(each is old for each in value):
            value[next(place for place, each in enumerate(value) if each is old)] = new


def _brief(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= 70 else f"{line[:67]}..."
