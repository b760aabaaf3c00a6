"""Two programs' texts compared line by line, so that a size or a name that changed throughout is told once."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher

_CONTEXT = 3
# A number that changed the same way in so many lines is a size of the model, and no news in any of them.
_COMMON = 3
_REFERENCE = re.compile(r"%[\w.]+")
_SUFFIX = re.compile(r"_[0-9]+$")
_NUMBER = re.compile(r"(?<![\w.%@])[0-9]+(?:\.[0-9]+)?(?:e[+-]?[0-9]+)?(?![\w])")
_DEFINED = re.compile(r"\s*(%[\w.]+):")


@dataclass(frozen=True)
class Hunk:
    """Lines that changed and those around them, each behind "-", "+" or " "; and where they begin, counted from 1."""

    before: int
    after: int
    lines: tuple[str, ...]

    @property
    def heading(self) -> str:
        """`@@ -3,7 +3,9 @@`, as plain diff has it."""
        counts = Counter(line[0] for line in self.lines)
        return f"@@ -{self.before},{counts[' '] + counts['-']} +{self.after},{counts[' '] + counts['+']} @@"


@dataclass(frozen=True)
class TextDiff:
    """How one text became another. Lines that differ in `sizes`, or in the numbers of source lines, count as equal."""

    hunks: tuple[Hunk, ...]
    sizes: dict[tuple[str, str], int]  # a number, what it became, in how many lines
    added: int
    removed: int

    @property
    def same(self) -> bool:
        return not self.hunks and not self.sizes


def text_diff(before: str, after: str) -> TextDiff:
    """Compare the texts of two programs."""
    old, new = before.splitlines(), after.splitlines()
    matcher = SequenceMatcher(None, [_key(line) for line in old], [_key(line) for line in new], autojunk=False)
    blocks = matcher.get_opcodes()
    pairs = [(i1 + k, j1 + k) for tag, i1, i2, j1, _ in blocks if tag == "equal" for k in range(i2 - i1)]
    names = {_defined(old[i]): _defined(new[j]) for i, j in pairs}
    changes = {i: _changed(old[i], new[j], names) for i, j in pairs}
    counts = Counter(number for numbers in changes.values() for number in numbers or ())
    sizes = {number: count for number, count in counts.most_common() if count >= _COMMON}
    edits: list[tuple[int | None, int | None]] = []  # a line that stayed has both places
    for tag, i1, i2, j1, j2 in blocks:
        went: list[tuple[int | None, int | None]] = []
        came: list[tuple[int | None, int | None]] = []
        for k in range(max(i2 - i1, j2 - j1)):
            numbers = changes[i1 + k] if tag == "equal" else None
            if numbers is not None and numbers <= sizes.keys():
                edits += [*went, *came, (i1 + k, j1 + k)]
                went, came = [], []
                continue
            if i1 + k < i2:
                went.append((i1 + k, None))
            if j1 + k < j2:
                came.append((None, j1 + k))
        edits += [*went, *came]
    hunks = tuple(_hunks(edits, old, new))
    kinds = Counter(line[0] for hunk in hunks for line in hunk.lines)
    return TextDiff(hunks, sizes, kinds["+"], kinds["-"])


def _key(line: str) -> str:
    """What lines that may be the same have in common: all but the numbers, and those that make names unique."""
    code, _, source = _REFERENCE.sub(lambda found: _SUFFIX.sub("", found[0]), line).partition("  # ")
    return _NUMBER.sub("0", code) + re.sub("[0-9]+", "0", source)


def _defined(line: str) -> str:
    found = _DEFINED.match(line)
    return found[1] if found else ""


def _changed(old: str, new: str, names: dict[str, str]) -> frozenset[tuple[str, str]] | None:
    """The numbers in which two lines of one key differ, but for those of source lines; None if their reads differ."""
    old = _REFERENCE.sub(lambda found: names.get(found[0], found[0]), old)
    if old == new:
        return frozenset()
    old, new = (line.partition("  # ")[0] for line in (old, new))
    if _REFERENCE.findall(old) != _REFERENCE.findall(new):
        return None
    pairs = zip(_NUMBER.findall(old), _NUMBER.findall(new), strict=True)
    return frozenset(pair for pair in pairs if pair[0] != pair[1])


def _hunks(edits: Sequence[tuple[int | None, int | None]], old: Sequence[str], new: Sequence[str]) -> Iterator[Hunk]:
    """Runs of changes with what is around them; those that nearly touch are one."""
    changed = [place for place, (i, j) in enumerate(edits) if i is None or j is None]
    while changed:
        last = next(
            (k for k in range(len(changed) - 1) if changed[k + 1] - changed[k] > 2 * _CONTEXT), len(changed) - 1
        )
        start, end = max(changed[0] - _CONTEXT, 0), min(changed[last] + _CONTEXT + 1, len(edits))
        changed = changed[last + 1 :]
        part = edits[start:end]
        lines = tuple(
            f"-{old[i]}" if j is None and i is not None else f"{'+' if i is None else ' '}{new[j]}"  # type: ignore[index]
            for i, j in part
        )
        earlier = edits[:start]
        yield Hunk(1 + sum(i is not None for i, _ in earlier), 1 + sum(j is not None for _, j in earlier), lines)
