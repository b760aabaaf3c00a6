"""The smallest case found that still fails: parts are left out, options put back to their defaults, one at a time."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import MISSING, fields, is_dataclass, replace
from typing import Any, TypeVar

from tests.fuzz.modules import Block, Chain

T = TypeVar("T")


def simpler(made: Any) -> Iterator[Any]:
    """Descriptions that are a little simpler than one, the largest steps first."""
    if isinstance(made, Chain):
        yield made.first
        yield made.second
    if not is_dataclass(made):
        return
    for field in fields(made):
        held = getattr(made, field.name)
        if field.default is not MISSING and held != field.default:
            yield replace(made, **{field.name: field.default})  # type: ignore[type-var]
    for field in fields(made):
        held = getattr(made, field.name)
        if isinstance(held, tuple) and any(map(is_dataclass, held)):
            least = 1 if isinstance(made, Block) or field.name == "blocks" else 0
            for place in range(len(held) if len(held) > least else 0):
                yield replace(made, **{field.name: held[:place] + held[place + 1 :]})  # type: ignore[type-var]
            for place, each in enumerate(held):
                for other in simpler(each):
                    yield replace(made, **{field.name: (*held[:place], other, *held[place + 1 :])})  # type: ignore
        elif is_dataclass(held):
            for other in simpler(held):
                yield replace(made, **{field.name: other})  # type: ignore[type-var]


def shrink(made: T, fails: Callable[[T], bool], seconds: float = 60.0) -> T:
    """The simplest description that `fails`, as far as the time goes."""
    until = time.monotonic() + seconds
    tried: set[T] = set()
    going = True
    while going:
        going = False
        for other in simpler(made):
            if time.monotonic() > until:
                return made
            if other in tried:
                continue
            tried.add(other)
            if fails(other):
                made, going = other, True
                break
    return made
