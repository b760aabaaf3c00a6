"""One line of a program's text: names, types, literals and calls. Read sign by sign; nothing of it is evaluated."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from burnish.ir.errors import ParseError
from burnish.ir.origin import NOTHING, SEPARATOR, Origin

if TYPE_CHECKING:
    from burnish.ir.torch_types import Dtype

PLAIN_NAME = re.compile(r"[\w./-]+", re.ASCII)
"""A name of a weight that needs no quotes."""

_WORDS: dict[str, Any] = {
    **{"None": None, "True": True, "False": False},
    **{"inf": float("inf"), "-inf": float("-inf"), "nan": float("nan")},
}

_NODE = re.compile(r"%(\w+)", re.ASCII)
_INTEGER = re.compile(r"-?[0-9]+(?![\w.+-])")
_FLOAT = re.compile(r"-?[0-9]+(?:\.[0-9]+)?(?:e[+-]?[0-9]+)?(?![\w.])")
_STRING = re.compile(r"'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\"")
_WORD = re.compile(r"device\(type='cpu'\)|-?[A-Za-z_][\w.]*", re.ASCII)
_KEYWORD = re.compile(r"([A-Za-z_]\w*)=", re.ASCII)
_TARGET = re.compile(r"[A-Za-z_][\w.]*(?=\()", re.ASCII)
_DEPTH = 32  # of lists in lists: arguments have two


@dataclass
class Reader:
    """A place in a line. What it reads, it moves past; `ParseError` says what was expected where something else is."""

    text: str
    line: int  # its number, from 1
    place: int = 0

    def error(self, expected: str) -> ParseError:
        """The error of this place."""
        rest = self.text[self.place :]
        found = f"found {rest[:40] + ('…' if len(rest) > 40 else '')!r}" if rest else "the line ends"
        return ParseError(f"line {self.line}, column {self.place + 1}: expected {expected}, {found}")

    def wrong(self, what: str) -> ParseError:
        """The error of a line that can be read and is wrong."""
        return ParseError(f"line {self.line}: {what}")

    def skip(self, sign: str) -> bool:
        """Move past `sign` if it is here."""
        here = self.text.startswith(sign, self.place)
        self.place += len(sign) if here else 0
        return here

    def expect(self, sign: str) -> None:
        """Move past `sign`."""
        if not self.skip(sign):
            raise self.error(repr(sign))

    def match(self, pattern: re.Pattern[str], expected: str) -> re.Match[str]:
        """Move past what matches."""
        found = pattern.match(self.text, self.place)
        if found is None:
            raise self.error(expected)
        self.place = found.end()
        return found

    def end(self) -> None:
        """The line ends here."""
        if self.place != len(self.text):
            raise self.error("the end of the line")

    def number(self, digits: str) -> int:
        """A whole number that was read, of at most 64 bits: nothing that is counted needs more."""
        if len(digits) > 20 or int(digits) >= 2**63:
            raise self.wrong(f"{digits[:20]}{'…' if len(digits) > 20 else ''} is too large a number")
        return int(digits)

    def node(self) -> str:
        """`%name`."""
        return self.match(_NODE, "a node, as in %x")[1]

    def weight(self) -> str:
        """`@name` or `@"odd name"`."""
        self.expect("@")
        if self.text.startswith('"', self.place):
            return self._quoted()
        return self.match(PLAIN_NAME, "the name of a weight")[0]

    def _quoted(self) -> str:
        try:
            found, self.place = json.JSONDecoder().raw_decode(self.text, self.place)
        except json.JSONDecodeError:
            raise self.error("a string in double quotes") from None
        return str(found)

    def dtype(self) -> Dtype:
        """`f32`."""
        from burnish.ir.constants import dtype_of

        start = self.place
        found = dtype_of(self.match(_WORD, "a dtype, as in f32")[0])
        if found is None:
            self.place = start
            raise self.error("a dtype, as in f32")
        return found

    def shape(self) -> list[int | str]:
        """`[batch, 3]`."""
        self.expect("[")
        sizes: list[int | str] = []
        while not self.skip("]"):
            if sizes:
                self.expect(", ")
            size = self.match(re.compile(r"\w+"), "a size")[0]
            sizes.append(self.number(size) if size.isdecimal() else size)
        return sizes

    def kind(self) -> str:
        """The type of a node, up to ` = `."""
        return self.match(re.compile(r".+?(?= = )"), "a type, then ' = '")[0]

    def call(self, resolve: Callable[[str], Any]) -> tuple[str, tuple[Any, ...], dict[str, Any]]:
        """`aten.add(%x, 1, alpha=2)`; `resolve` gives the node for `%x` and `@weight`."""
        target = self.match(_TARGET, "a call, as in aten.add(%x, 1)")[0]
        self.expect("(")
        args: list[Any] = []
        kwargs: dict[str, Any] = {}
        while not self.skip(")"):
            if args or kwargs:
                self.expect(", ")
            keyword = _KEYWORD.match(self.text, self.place)
            if keyword is None:
                if kwargs:
                    raise self.error("an argument with its name, as in alpha=2")
                args.append(self.argument(resolve))
                continue
            if keyword[1] in kwargs:
                raise self.error("another name: this argument is given twice")
            self.place = keyword.end()
            kwargs[keyword[1]] = self.argument(resolve)
        return target, tuple(args), kwargs

    def argument(self, resolve: Callable[[str], Any], depth: int = 0) -> Any:
        """A node, a weight, a literal, a dtype, or a list of these; `depth` says in how many lists it is."""
        start = self.place
        if self.text.startswith(("%", "@"), start):
            name = f"%{self.node()}" if self.text[start] == "%" else f"@{self.weight()}"
            return resolve(name)
        if self.skip("["):
            if depth >= _DEPTH:
                raise self.wrong(f"lists in more than {_DEPTH} lists")
            items: list[Any] = []
            while not self.skip("]"):
                if items:
                    self.expect(", ")
                items.append(self.argument(resolve, depth + 1))
            return items
        for pattern, read in ((_INTEGER, int), (_FLOAT, float), (_STRING, ast.literal_eval)):
            found = pattern.match(self.text, start)
            if found is not None:
                self.place = found.end()
                try:
                    return read(found[0])
                except (ValueError, SyntaxError):
                    break  # a string with a wrong escape, a number of too many digits
        self.place = start
        word = self.match(_WORD, "an argument")[0]
        known = _WORDS[word] if word in _WORDS else self.constant(word)
        if known is None and word != "None":
            self.place = start
            raise self.error("an argument: a node, a number, a string, None, True, a dtype, cpu's device or a list")
        return known

    def constant(self, word: str) -> Any:
        """What another bare word stands for, PyTorch's own constants; None if it is none that an argument can be."""
        from burnish.ir.constants import constant

        return constant(word)

    def origin(self) -> Origin:
        """The rest of the line: nothing, or `  # module | type | file:line | code`."""
        if not self.skip("  # "):
            self.end()
            return Origin()
        fields = ["", "", "", ""]
        for index in range(4):
            fields[index] = self._field(last=index == 3)
            if self.place == len(self.text):
                break
            self.expect(SEPARATOR)
        self.end()
        module, kind, source, code = fields
        file, _, number = source.rpartition(":")
        if source and not (file and number.isdecimal()):
            raise self.wrong(f"{source!r} is no file with a line, as in model.py:12")
        return Origin(module, kind, file, self.number(number or "0"), code)

    def _field(self, last: bool) -> str:
        if self.text.startswith('"', self.place):
            return self._quoted()
        end = -1 if last else self.text.find(SEPARATOR, self.place)
        start, self.place = self.place, len(self.text) if end < 0 else end
        found = self.text[start : self.place]
        return "" if found == NOTHING else found
