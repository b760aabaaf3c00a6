"""WHERE: a part of a program, by module, node, op or line of source, as a user types it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import fx

from burnish.ir.errors import UsageError
from burnish.ir.program import origin
from burnish.ir.similar import did_you_mean
from burnish.ir.text import target_text

_MOST_LISTED = 30


@dataclass(frozen=True)
class Site:
    """A node and its place in the user's source."""

    node: str
    op: str
    module: str = ""
    module_type: str = ""
    source: str = ""  # "modeling_llama.py:174"
    code: str = ""

    @classmethod
    def of(cls, node: fx.Node) -> Site:
        """The site of a node."""
        place = origin(node)
        source = f"{place.file.replace(chr(92), '/').rsplit('/', 1)[-1]}:{place.line}" if place.file else ""
        return cls(node.name, target_text(node), place.module, place.module_type, source, place.code)

    def __str__(self) -> str:
        text = self.node if self.node == self.op else f"{self.node} ({self.op})"
        if self.module:
            text += f" in {self.module}"
        if self.module_type:
            text += f" ({self.module_type})"
        if self.source:
            text += f", {self.source}"
        return f"{text}: `{self.code}`" if self.code else text


@dataclass(frozen=True)
class Where:
    """Sites whose module path has `text` in it (whole names, `*` for any one), or whose node, op or line it is."""

    text: str

    def holds(self, site: Site) -> bool:
        """Whether the site is there."""
        wanted = self.text.replace("::", ".")
        if site.node == wanted or any(fnmatchcase(name, wanted) for name in _op_names(site.op)):
            return True
        if site.source and (site.source == wanted or self.text.replace("\\", "/").endswith(f"/{site.source}")):
            return True
        parts, path = wanted.split("."), site.module.split(".")
        places = range(len(path) - len(parts) + 1)
        return any(all(map(fnmatchcase, path[place:], parts)) for place in places)

    def require(self, sites: Sequence[Site], when: str) -> None:
        """Raise UsageError, with what there is, if none of the sites is there; `when` says which program is meant."""
        if any(self.holds(site) for site in sites):
            return
        near = did_you_mean(self.text, _names(sites))
        modules = list(dict.fromkeys(_starred(site.module) for site in sites if site.module))
        more = f" and {len(modules) - _MOST_LISTED} more" if len(modules) > _MOST_LISTED else ""
        raise UsageError(
            f"nothing is at {self.text!r} {when}{near}. WHERE is a module or part of its path (`*` for any one name), "
            f"an op, a node or file:line. The modules are {', '.join(modules[:_MOST_LISTED])}{more}"
        )


def op_name(target: Any) -> str:
    """An op as programs print it: `aten.linear`, `getitem`."""
    return str(target).removesuffix(".default") if isinstance(target, torch._ops.OpOverload) else target.__name__


def _op_names(op: str) -> tuple[str, ...]:
    """`aten.mul.Tensor` as it may be called: so, `aten.mul`, or `mul`."""
    parts = op.split(".")
    return (op, ".".join(parts[:2]), parts[1]) if len(parts) > 1 else (op,)


def _starred(path: str) -> str:
    return re.sub(r"(?<![^.])[0-9]+(?![^.])", "*", path)


def _names(sites: Sequence[Site]) -> Iterable[str]:
    """All that the sites may be called by."""
    for site in sites:
        for path in (site.module, _starred(site.module)):
            parts = path.split(".")
            yield from (".".join(parts[start:]) for start in range(len(parts)))
        yield from _op_names(site.op)
        yield from (site.source, site.node)
