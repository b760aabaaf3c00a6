"""Where chat templates run: jinja2's sandbox, which keeps them from what is not theirs, with an end to what they take.

A template's time ends at every turn of a loop, call, filter and test; what it makes, texts, lists, numbers, has a
largest size, known before it is made. The functions that it can call, of templates and of Python's texts, are listed:
those that chats need.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import wraps
from typing import Any

import jinja2
from jinja2 import nodes
from jinja2.filters import do_format, do_indent, do_round, make_attrgetter
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace
from jinja2.visitor import NodeTransformer

SECONDS = 2.0  # of the thread's own processor time: the templates of large models take some thousandths of one
_SIZE = 1 << 20  # characters and elements of one value, and SHARE times as many as the messages have
_SHARE = 16
_OFTEN = 256  # times as much in all
_DEPTH = 64  # of lists in lists
_WIDTH = 1000  # of what is padded or indented
_BITS = 4096  # of a number

_FILTERS = (
    "abs capitalize count d default dictsort e escape first float format groupby indent int items join last length "
    "list lower map max min reject rejectattr replace reverse round safe select selectattr sort string title tojson "
    "trim unique upper"
)
_METHODS = {
    str: (
        "capitalize casefold count endswith find format index isalnum isalpha isdecimal isdigit islower isnumeric "
        "isspace istitle isupper join lower lstrip partition removeprefix removesuffix replace rfind rindex rpartition "
        "rsplit rstrip split splitlines startswith strip swapcase title upper"
    ),
    dict: "copy get items keys values",
    list: "copy count index",
    tuple: "count index",
    int: "",
    float: "",
    bytes: "",
}
_TOO_LONG = "it makes a text or a list that is too long"
_WIDE = re.compile(r"%[^a-zA-Z%]*(?:\*|\d{4})|:[^{}]*(?:\{|\d{4})")  # a field of a format, by % or by {}


class LimitError(jinja2.TemplateRuntimeError):
    """A template takes more than it may."""


@dataclass
class _Limits:
    until: float  # of this thread's processor time
    size: int
    made: int = 0  # characters and elements, so far

    def make(self, size: int) -> None:
        self.made += size
        if self.made > _OFTEN * self.size:
            raise LimitError("it makes texts and lists that are too long together")


_LIMITS: ContextVar[_Limits] = ContextVar("burnish limits of a template")


@contextmanager
def limits(given: Any = None) -> Iterator[None]:
    """While it is open, this thread's templates may take what suits the data that they are given."""
    token = _LIMITS.set(_Limits(time.thread_time() + SECONDS, _SIZE + _SHARE * _size(given, None)))
    try:
        yield
    finally:
        _LIMITS.reset(token)


class BoundedEnvironment(ImmutableSandboxedEnvironment):
    """See above. Compile and run its templates within `limits`."""

    intercepted_binops = frozenset({"+", "*", "**", "%"})

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        own: dict[str, Callable[..., Any]] = {
            "format": _format,
            "indent": _indent,
            "join": _join,
            "replace": _replace,
            "round": _round,
            "tojson": _to_json,
        }
        self.filters = {name: _bounded({**self.filters, **own}[name]) for name in _FILTERS.split()}
        self.filters |= {"_made": made, "_counted": counted, "_joined": self.concat}
        self.tests = {name: _bounded(test) for name, test in self.tests.items()}
        del self.globals["lipsum"]
        self.globals["namespace"] = _Namespace

    def concat(self, parts: Iterable[Any]) -> str:
        """The text that parts are: of a template, a macro, a block; and of `~`."""
        texts, size = [], 0
        for part in parts:
            texts.append(str(part))
            size += len(texts[-1])
            _refuse_over(_LIMITS.get().size, size)
        _LIMITS.get().make(size)
        return "".join(texts)

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        """Of what Python's own types can do, what is listed."""
        kind = next((kind for kind in _METHODS if isinstance(obj, kind)), None)
        return super().is_safe_attribute(obj, attr, value) and (kind is None or attr in _METHODS[kind].split())

    def call(self, context: Context, function: Any, /, *args: Any, **kwargs: Any) -> Any:
        """Call a function, a macro or a method."""
        _tick()
        text, name = getattr(function, "__self__", None), getattr(function, "__name__", "")
        if isinstance(text, str) and name == "join" and len(args) == 1:
            return _join(self, args[0], text)
        if isinstance(text, str) and name == "replace":
            return _replace(text, *args, **kwargs)
        return made(super().call(context, function, *args, **kwargs))

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        """What fills in a text at its {}."""
        fill = super().wrap_str_format(value)
        if fill is None:
            return None

        def checked(*args: Any, **kwargs: Any) -> str:
            _check_format(value.__self__, "{", [*args, *kwargs.values()])
            return fill(*args, **kwargs)

        return checked

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """Compute a sum, a product, a power, or a text by `%`."""
        _tick()
        if operator == "%" and isinstance(left, str):
            _check_format(left, "%", right)
        elif operator == "*":
            _check_product(left, right)
        elif operator == "**" and isinstance(left, int) and isinstance(right, int):
            _check_bits(left.bit_length() * abs(right))
        return made(super().call_binop(context, operator, left, right))

    def _generate(
        self, source: nodes.Template, name: str | None, filename: str | None, defer_init: bool = False
    ) -> str:
        return super()._generate(_Checked().visit(source), name, filename, defer_init)


class _Checked(NodeTransformer):
    """Puts the checks where jinja2 asks nobody: at loops, at lists and the like that are written down, and at `~`."""

    def visit_For(self, node: nodes.For) -> nodes.Node:
        if node.recursive:
            raise jinja2.TemplateSyntaxError("a loop that calls itself is not run", node.lineno)
        self.generic_visit(node)
        node.iter = _filtered(node.iter, "_counted")
        return node

    def visit_List(self, node: nodes.List) -> nodes.Node:
        return _filtered(self.generic_visit(node), "_made")

    def visit_Dict(self, node: nodes.Dict) -> nodes.Node:
        return _filtered(self.generic_visit(node), "_made")

    def visit_Tuple(self, node: nodes.Tuple) -> nodes.Node:
        self.generic_visit(node)
        return _filtered(node, "_made") if node.ctx == "load" else node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:
        self.generic_visit(node)
        return _filtered(nodes.List(node.nodes, lineno=node.lineno), "_joined")


def _filtered(node: nodes.Node, name: str) -> nodes.Filter:
    return nodes.Filter(node, name, [], [], None, None, lineno=node.lineno)


class _Namespace(Namespace):
    """What `{% set ns.x = ... %}` writes to; it can hold itself, so its text tells nothing of what it holds."""

    def __repr__(self) -> str:
        return "<namespace>"


# ---------------------------------------------------------------- limits


def _tick() -> None:
    if time.thread_time() > _LIMITS.get().until:
        raise LimitError(f"it runs for more than {SECONDS:g} s")


def _size(value: Any, most: int | None) -> int:
    """Characters and elements in data. Raises LimitError where there are more than `most`."""
    found, waiting = 0, [(value, 0)]
    while waiting:
        item, depth = waiting.pop()
        sized = isinstance(item, str | list | tuple | dict)
        found += len(item) + 1 if sized else 1
        if most is not None and (found > most or depth > _DEPTH):
            raise LimitError(_TOO_LONG)
        if isinstance(item, dict):
            waiting += [(each, depth + 1) for pair in item.items() for each in pair]
        elif isinstance(item, list | tuple):
            waiting += [(each, depth + 1) for each in item]
    return found


def made(value: Any) -> Any:
    """A value that a template made, if it is not too large; of an iterator, each."""
    if isinstance(value, str | list | tuple | dict):
        known = _LIMITS.get()
        known.make(_size(value, known.size))
    elif isinstance(value, Iterator):
        return counted(value)
    return value


def counted(values: Iterable[Any]) -> Iterator[Any]:
    """The values, as long as there is time."""
    for value in values:
        _tick()
        yield value


def _bounded(function: Any) -> Callable[..., Any]:
    """A filter or a test within the limits."""

    @wraps(function)
    def run(*args: Any, **kwargs: Any) -> Any:
        _tick()
        return made(function(*args, **kwargs))

    return run


def _refuse_over(most: int, size: int) -> None:
    if size > most:
        raise LimitError(_TOO_LONG)


def _check_bits(bits: int) -> None:
    if bits > _BITS:
        raise LimitError("it makes a number that is too large")


def _check_product(left: Any, right: Any) -> None:
    if isinstance(left, int) and isinstance(right, int):
        _check_bits(left.bit_length() + right.bit_length())
    for several, count in ((left, right), (right, left)):
        if isinstance(several, str | list | tuple) and isinstance(count, int):
            most = _LIMITS.get().size
            _refuse_over(most, _size(several, most) * count)


def _check_format(text: str, mark: str, values: Any) -> None:
    """Of a text that is filled in at each `mark`."""
    if _WIDE.search(text):
        raise LimitError("it pads a text to a width that is too large")
    most = _LIMITS.get().size
    _refuse_over(most, text.count(mark) * _size(values, most))


# ---------------------------------------------------------------- filters in place of jinja2's


def _format(text: str, *args: Any, **kwargs: Any) -> str:
    _check_format(text, "%", [*args, *kwargs.values()])
    return do_format(text, *args, **kwargs)


def _indent(text: str, width: int | str = 4, *args: Any, **kwargs: Any) -> str:
    wide = len(width) if isinstance(width, str) else _narrow(width)
    _refuse_over(_LIMITS.get().size, len(text) + (text.count("\n") + 1) * wide)
    return do_indent(text, width, *args, **kwargs)


@jinja2.pass_environment
def _join(
    environment: jinja2.Environment, values: Iterable[Any], d: str = "", attribute: str | int | None = None
) -> str:
    if attribute is not None:
        values = map(make_attrgetter(environment, attribute), values)
    parts = (part for value in counted(values) for part in (d, value))
    next(parts, None)  # the one ahead of all
    return environment.concat(parts)


def _replace(text: str, old: str, new: str, count: int | None = None) -> str:
    text, old, new = str(text), str(old), str(new)
    _refuse_over(_LIMITS.get().size, len(text) + text.count(old) * len(new))
    return text.replace(old, new, -1 if count is None else count)


def _round(value: float, precision: int = 0, *args: Any, **kwargs: Any) -> float:
    return do_round(value, _narrow(precision), *args, **kwargs)


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """JSON without the HTML escapes of jinja2's own filter."""
    _size(value, _LIMITS.get().size)
    indent = indent if indent is None or isinstance(indent, str) else _narrow(indent)
    encoder = json.JSONEncoder(ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)
    parts, size = [], 0
    for part in encoder.iterencode(value):
        parts.append(part)
        size += len(part)
        _refuse_over(_LIMITS.get().size, size)
    return "".join(parts)


def _narrow(width: int) -> int:
    """A width, or a number of digits, if it is one."""
    if width > _WIDTH:
        raise LimitError(f"it pads a text by {width}, which is too much")
    return width
