"""The body of a group: a few lines of a program's text, over a table of what they may call.

input %linear: f32[batch, sequence, 64]
size %sym_size: size batch
%tanh: f32[batch, sequence, 64] = aten.tanh(%linear)  # layers.*.mlp | MLP | model.py:31 | x = torch.tanh(x)
return [%tanh]
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from burnish.ir.errors import ParseError
from burnish.ir.origin import Origin
from burnish.ir.parse_line import Reader


@dataclass(frozen=True)
class Read:
    """An argument that is the value of an input, a size or an earlier step."""

    name: str


@dataclass(frozen=True)
class Step:
    """One operation of a body."""

    name: str
    type: str
    target: Any
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    origin: Origin
    text: str  # its line, without origin

    def reads(self) -> list[str]:
        """The names of the values that it reads, in order, each once."""
        found: dict[str, None] = {}
        self.arguments(lambda name: found.setdefault(name))
        return list(found)

    def arguments(self, value: Callable[[str], Any]) -> tuple[list[Any], dict[str, Any]]:
        """What it is called with, where what it reads has these values."""
        args = [_filled(each, value) for each in self.args]
        return args, {name: _filled(each, value) for name, each in self.kwargs.items()}


def _filled(argument: Any, value: Callable[[str], Any]) -> Any:
    if isinstance(argument, Read):
        return value(argument.name)
    if isinstance(argument, list):
        return [_filled(each, value) for each in argument]
    return argument


@dataclass(frozen=True)
class Group:
    """A body, parsed."""

    inputs: tuple[str, ...]
    sizes: tuple[str, ...]
    steps: tuple[Step, ...]
    results: tuple[str, ...]


def parse_body(body: str, ops: Mapping[str, Any], reader_of: type[Reader] = Reader) -> Group:
    """What a body says that calls `ops`, by name. Raises ParseError, with the number of its line."""
    names: dict[str, str] = {}  # what each is: "input", "size" or "step"
    steps: list[Step] = []
    results: tuple[str, ...] | None = None

    def resolve(name: str) -> Read:
        if name[0] == "@" or name[1:] not in names:
            raise reader.wrong(f"{name} is read, and no line before has it")
        return Read(name[1:])

    for number, line in enumerate(body.strip().split("\n"), start=1):
        reader = reader_of(line, number)
        if results is not None:
            raise reader.wrong("nothing can follow the line that begins with 'return'")
        if reader.skip("return "):
            found = reader.argument(resolve)
            reader.end()
            if not isinstance(found, list) or not found or not all(isinstance(each, Read) for each in found):
                raise reader.wrong("what is returned has to be a list of values")
            results = tuple(each.name for each in found)
            if any(names[name] != "step" for name in results):
                raise reader.wrong("what is returned has to be computed by a line of its own")
            continue
        what = next((word for word in ("input", "size") if reader.skip(f"{word} ")), "step")
        name = reader.node()
        reader.expect(": ")
        if name in names:
            raise reader.wrong(f"there are two values named {name!r}")
        if what == "step":
            steps.append(_step(reader, name, ops, resolve))
        names[name] = what
    if results is None:
        raise ParseError("the body of a fused group has no line that begins with 'return'")
    inputs, sizes = (tuple(name for name, kind in names.items() if kind == what) for what in ("input", "size"))
    if not inputs:
        raise ParseError("the body of a fused group has no line that begins with 'input'")
    return Group(inputs, sizes, tuple(steps), results)


def _step(reader: Reader, name: str, ops: Mapping[str, Any], resolve: Any) -> Step:
    kind = reader.kind()
    reader.expect(" = ")
    target, args, kwargs = reader.call(resolve)
    if target not in ops:
        raise reader.wrong(f"{target!r} cannot be part of a fused group")
    text = reader.text[: reader.place]
    return Step(name, kind, ops[target], args, kwargs, reader.origin(), text)


def given(group: Group, inputs: Sequence[Any], sizes: Sequence[Any]) -> dict[str, Any]:
    """What a group is given, by name. Raises ParseError where it takes more or fewer."""
    names = (*group.inputs, *group.sizes)
    if len(inputs) != len(group.inputs) or len(sizes) != len(group.sizes):
        raise ParseError(
            f"the body of a fused group takes {len(group.inputs)} inputs and {len(group.sizes)} sizes, not "
            f"{len(inputs)} and {len(sizes)}"
        )
    return dict(zip(names, (*inputs, *sizes), strict=True))
