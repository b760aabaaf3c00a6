"""The page on the Python API, from signatures and docstrings: docs/api.md."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Iterator
from typing import Any

import burnish
from burnish.runtime.generation import Generation
from burnish.runtime.session import Session

GIVEN = (Session, Generation)
"""What functions of the package give, and nobody makes."""

INTRODUCTION = """# The Python API

All that `import burnish` names; `dir(burnish)` lists it. What stands here changes only with a line in
[CHANGELOG.md](../CHANGELOG.md). Modules below `burnish.` may change with any version, but for
[passes of your own](changing-the-model.md). Errors are subclasses of `burnish.BurnishError`:
[what bad input says](errors.md).
"""


def page() -> str:
    """All of it."""
    names = [(f"burnish.{name}", getattr(burnish, name)) for name in burnish.__all__ if name != "__version__"]
    given = [(each.__name__, each) for each in GIVEN]
    parts = [part for name, value in [*names, *given] for part in described(name, value)]
    return "\n".join([INTRODUCTION, *parts])


def described(name: str, value: Any) -> Iterator[str]:
    """A function; or a class with what it offers."""
    yield f"## {name}\n"
    if name == "burnish.CompiledModel" or value in GIVEN or is_error(value):
        yield text_of(value)
    else:
        yield f"```python\n{name}{signature(value)}\n```\n\n{text_of(value)}"
    if not inspect.isclass(value) or is_error(value):
        return
    if dataclasses.is_dataclass(value) and value in GIVEN:
        for field in dataclasses.fields(value):
            yield f"- `{field.name}: {field.type}`"
        yield ""
    for member, found in inspect.getmembers(value):
        if member.startswith("_") and member != "__call__":
            continue
        if isinstance(found, property):
            yield f"**`{member}`** {text_of(found.fget)}"
        elif inspect.isfunction(found) and member != "run":
            title = f"{name.rpartition('.')[2]}.{member}"
            yield f"### {title}\n\n```python\n{member}{signature(found)}\n```\n\n{text_of(found)}"


def is_error(value: Any) -> bool:
    """Whether it is a class of errors."""
    return inspect.isclass(value) and issubclass(value, Exception)


def signature(value: Any) -> str:
    """With each argument on a line of its own where there are many."""
    found = inspect.signature(value)
    parameters = [each for each in found.parameters.values() if each.name != "self"]
    text = str(found.replace(parameters=parameters)).replace("'", "")
    if len(text) <= 100:
        return text
    lines = [str(each).replace("'", "") for each in parameters]
    first = next((at for at, each in enumerate(parameters) if each.kind is each.KEYWORD_ONLY), None)
    if first is not None and not any(each.kind is each.VAR_POSITIONAL for each in parameters):
        lines.insert(first, "*")
    gives = "" if found.return_annotation is found.empty else f" -> {found.return_annotation}".replace("'", "")
    return "(\n" + "".join(f"    {line},\n" for line in lines) + f"){gives}"


def text_of(value: Any) -> str:
    """A docstring: its sections' entries as a list."""
    lines, section = [], False
    for line in (inspect.getdoc(value) or "").split("\n"):
        if line.strip() in ("Args:", "Raises:", "Returns:"):
            lines += [f"*{line.strip()}*", ""]
            section = True
        elif not line.startswith("    ") or not section:
            section = section and not line.strip()
            lines.append(line)
        elif line.startswith("        "):
            lines.append(f"  {line.strip()}")
        else:
            head, _, rest = line.strip().partition(": ")
            lines.append(f"- `{head}`: {rest}")
    return "\n".join(lines) + "\n"
