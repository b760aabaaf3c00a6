"""A pass is its spelling: `narrow-floats{dtype=bfloat16}`, both ways. What differs from a default is said."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Mapping
from dataclasses import Field, fields, is_dataclass, replace
from typing import Any

import torch

from burnish.ir.errors import UsageError
from burnish.ir.similar import did_you_mean
from burnish.passes.base import Pass

_SPELLED = re.compile(r"\s*([A-Za-z][\w.-]*)\s*(?:\{(.*)\})?\s*", re.DOTALL)


def spelled(each: Pass) -> str:
    """A pass as text: its name, and in braces those of its options that are not the defaults."""
    options = ",".join(f"{name}={text}" for name, text in options_of(each).items())
    return f"{each.name}{{{options}}}" if options else each.name


def options_of(each: Pass) -> dict[str, str]:
    """The options of a pass that are not the defaults, as text: its fields, but for those not shown in its repr."""
    return {
        field.name: _text(getattr(each, field.name))
        for field in _options(each)
        if getattr(each, field.name) != field.default
    }


def _options(each: Pass) -> list[Field[Any]]:
    """The fields that text can say: plain values, dtypes, and lists of these."""
    found: tuple[Field[Any], ...] = fields(each) if is_dataclass(each) else ()
    return [field for field in found if field.repr and field.name != "name" and _is_plain(getattr(each, field.name))]


def _is_plain(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, str | int | float | bool | torch.dtype)


def _text(value: Any) -> str:
    if isinstance(value, list | tuple):
        return f"[{','.join(_text(item) for item in value)}]"
    if isinstance(value, torch.dtype):
        return str(value).removeprefix("torch.")
    if isinstance(value, str):
        return value if re.fullmatch(r"[A-Za-z][\w.:-]*", value) and value not in _CONSTANTS else repr(value)
    return repr(value)


_CONSTANTS = {"None", "True", "False"}


def read_pass(text: str, known: Iterable[Pass]) -> Pass:
    """The pass that `text` spells, one of `known` with the options that it gives.

    Raises UsageError for a pass or an option that there is not, and for a value that is none.
    """
    by_name = {each.name: each for each in known}
    match = _SPELLED.fullmatch(text)
    if match is None:
        raise UsageError(
            f"{text!r} spells no pass: write its name, and options in braces: narrow-floats{{dtype=float16}}"
        )
    name, body = match[1], match[2] or ""
    if name not in by_name:
        raise UsageError(f"there is no pass {name!r}{did_you_mean(name, by_name)}: the passes are {', '.join(by_name)}")
    found: Any = by_name[name]
    options = {field.name: field for field in _options(found)}
    given: dict[str, Any] = {}
    for part in _parts(body):
        option, equals, value = part.partition("=")
        if option not in options or not equals:
            has = ", ".join(options) or "none"
            raise UsageError(f"the pass {name} has no option {option!r}{did_you_mean(option, options)}: it has {has}")
        given[option] = _value(value, options[option])
    try:
        read: Pass = replace(found, **given)
    except (TypeError, ValueError) as error:
        raise UsageError(f"{text!r} spells no pass: {error}") from error
    return read


def read_passes(text: str, known: Iterable[Pass]) -> list[Pass]:
    """Several, with commas between them."""
    known = list(known)
    return [read_pass(part, known) for part in _parts(text)]


def _parts(text: str) -> list[str]:
    """What stands between commas that are in no brackets."""
    found, depth, start = [], 0, 0
    for place, character in enumerate(text):
        depth += (character in "[{(") - (character in "]})")
        if character == "," and depth == 0:
            found.append(text[start:place])
            start = place + 1
    return [part.strip() for part in [*found, text[start:]] if part.strip()]


def _value(text: str, field: Field[Any]) -> Any:
    text = text.strip()
    if text.startswith("[") and text.endswith("]"):
        return tuple(_value(part, field) for part in _parts(text[1:-1]))
    dtype = getattr(torch, text, None) if text.isidentifier() else None
    if isinstance(dtype, torch.dtype) and "dtype" in str(field.type):
        return dtype
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def without(passes: Iterable[Pass], skipped: Iterable[str], until: str | None = None) -> list[Pass]:
    """`passes` without those of the names `skipped`, and without all behind the last of the name `until`.

    Raises UsageError for a name that none has.
    """
    found = list(passes)
    names: Mapping[str, None] = dict.fromkeys(each.name for each in found)
    for name in [*skipped, *([] if until is None else [until])]:
        if name not in names:
            raise UsageError(f"there is no pass {name!r}{did_you_mean(name, names)}: the passes are {', '.join(names)}")
    if until is not None:
        found = found[: 1 + max(place for place, each in enumerate(found) if each.name == until)]
    return [each for each in found if each.name not in set(skipped)]
