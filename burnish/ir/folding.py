"""Repeated layers found in a list of lines, so that they can be printed once.

A line is a template with gaps: for the numbers in names (`model.layers.3.mlp`), and for the lines it reads
from. A run of lines is a repeat if it is the same templates over and over, each number grows by the same amount
each time, and each line reads from its own iteration, from the iteration before, or from one and the same line
ahead of the run. All of it is checked: what is printed once is what is there many times.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

NUMBER, READ = "\x00", "\x01"
# A repeat inside of one layer, or of none, is a layer with shared weights; or, if shorter than this, a coincidence.
_SHORTEST_IN_ONE_LAYER = 8

_Integers = NDArray[np.int64]
_Booleans = NDArray[np.bool_]


@dataclass(frozen=True)
class Line:
    """One line: `template` has a NUMBER or a READ mark for each entry of `numbers` and `reads`, in order."""

    template: str
    numbers: tuple[int, ...] = ()
    reads: tuple[int, ...] = ()  # indices of earlier lines
    name: str = ""  # what the line defines, before it is made unique
    layer: str = ""  # the layer it belongs to: what makes a short repeat more than a coincidence


@dataclass(frozen=True)
class Repeat:
    """Lines `start` to `end` are `count` iterations of `period` lines."""

    start: int
    period: int
    count: int

    @property
    def end(self) -> int:
        return self.start + self.period * self.count

    def place(self, index: int) -> tuple[int, int]:
        """The iteration that a line of the repeat is in, and its offset there."""
        return divmod(index - self.start, self.period)


def repeat_around(repeats: Sequence[Repeat], index: int) -> Repeat | None:
    """The repeat that has line `index`."""
    return next((repeat for repeat in repeats if repeat.start <= index < repeat.end), None)


def find_repeats(lines: Sequence[Line]) -> list[Repeat]:
    """The repeats among `lines`, in order, none overlapping; those that save the most lines are chosen first."""
    finder = _Finder(lines)
    found: list[Repeat] = []
    ranges = [(0, len(lines))]
    while ranges:
        low, high = ranges.pop()
        repeat = finder.best(low, high)
        if repeat is not None:
            found.append(repeat)
            ranges += [(low, repeat.start), (repeat.end, high)]
    return sorted(found, key=lambda repeat: repeat.start)


class _Finder:
    """The lines as arrays with a row each; short rows are padded with -1."""

    def __init__(self, lines: Sequence[Line]) -> None:
        self.lines = lines
        ids: dict[str, int] = {}
        self.templates = np.array([ids.setdefault(line.template, len(ids)) for line in lines], dtype=np.int64)
        self.numbers = _table([line.numbers for line in lines])
        self.reads = _table([line.reads for line in lines])
        begins = [i == 0 or line.layer != lines[i - 1].layer for i, line in enumerate(lines)]
        self.layer_begins = np.array(begins, dtype=np.bool_)

    def best(self, low: int, high: int) -> Repeat | None:
        """The repeat within [low, high) that saves the most lines; None if there is none."""
        templates = self.templates[low:high]
        candidates = []
        for period in range(1, (high - low) // 2 + 1):
            if np.count_nonzero(templates[:-period] == templates[period:]) >= period:
                repeat = self.longest(low, high, period)
                if repeat is not None:
                    candidates.append(repeat)
        candidates.sort(key=lambda repeat: (-(repeat.count - 1) * repeat.period, repeat.period))
        return next((repeat for repeat in candidates if self.is_sound(repeat)), None)

    def longest(self, low: int, high: int, period: int) -> Repeat | None:
        """The longest repeat of one period; one iteration less if it then begins where a layer begins."""
        first, second = slice(low, high - period), slice(low + period, high)
        same = self.templates[first] == self.templates[second]
        step = self.reads[second] - self.reads[first]
        growth = self.numbers[second] - self.numbers[first]
        steady = ((step == 0) | (step == period)).all(axis=1)
        # What the first iteration reads from ahead of the repeat, the second may read from the first.
        loose = same & (step >= 0).all(axis=1) & (growth >= 0).all(axis=1)
        strict = loose & steady
        strict[period:] &= (growth[period:] == growth[:-period]).all(axis=1)

        starts = np.arange(len(loose))
        following = np.append(_next_false(strict), np.full(period, len(strict)))[starts + period]
        until = np.maximum(following, starts + period)
        counts = np.where(_next_false(loose) >= starts + period, 1 + (until - starts) // period, 1)
        start = int(counts.argmax())
        at_layer = np.where(self.layer_begins[first], counts, 0)
        if at_layer.max() >= max(2, counts[start] - 1):
            start = int(at_layer.argmax())
        return Repeat(low + start, period, int(counts[start])) if counts[start] > 1 else None

    def is_sound(self, repeat: Repeat) -> bool:
        """Whether the repeat goes through layers and each of its reads has a kind."""
        one = self.lines[repeat.start : repeat.start + repeat.period]
        other = self.lines[repeat.start + repeat.period : repeat.start + 2 * repeat.period]
        in_one_layer = all(line.layer == later.layer for line, later in zip(one, other, strict=True))
        if in_one_layer and repeat.period < _SHORTEST_IN_ONE_LAYER:
            return False
        entries: dict[int, int] = {}
        for offset, line in enumerate(one):
            for slot in range(len(line.reads)):
                first = read_kind(self.lines, repeat, 0, offset, slot)
                kinds = {read_kind(self.lines, repeat, i, offset, slot) for i in range(1, repeat.count)}
                kind = kinds.pop()
                if kinds or kind is None or first is None:
                    return False
                if kind[0] == "carried":
                    # Printed like a variable that the iteration reads before it sets it anew.
                    is_read_first = kind[1] >= offset
                    if first[0] != "outer" or not is_read_first or entries.setdefault(kind[1], first[1]) != first[1]:
                        return False
                elif kind != first:
                    return False
        return True


def read_kind(lines: Sequence[Line], repeat: Repeat, iteration: int, offset: int, slot: int) -> tuple[str, int] | None:
    """Where a read of a repeat's line leads: ("local", offset), ("carried", offset), ("outer", line), or elsewhere."""
    read = lines[repeat.start + iteration * repeat.period + offset].reads[slot]
    if read < repeat.start:
        return "outer", read
    from_iteration, from_offset = repeat.place(read)
    if from_iteration == iteration:
        return "local", from_offset
    return ("carried", from_offset) if from_iteration == iteration - 1 else None


def _table(rows: Sequence[tuple[int, ...]]) -> _Integers:
    table = np.full((len(rows), max((len(row) for row in rows), default=0)), -1, dtype=np.int64)
    for index, row in enumerate(rows):
        table[index, : len(row)] = row
    return table


def _next_false(holds: _Booleans) -> _Integers:
    """For each index, the first index from it on where `holds` is false; the length if there is none."""
    marks = np.where(holds, len(holds), np.arange(len(holds)))
    return np.minimum.accumulate(marks[::-1])[::-1]


@dataclass(frozen=True)
class Counting:
    """How the numbers of one repeat print: `*` is the number that most of its names count by."""

    start: int
    step: int
    count: int

    @classmethod
    def of(cls, lines: Sequence[Line], repeat: Repeat) -> Counting:
        """Chosen so that as many as can be of the numbers that grow are a plain `*`."""
        grown: Counter[tuple[int, int]] = Counter()
        for index in range(repeat.start, repeat.start + repeat.period):
            for number, following in zip(lines[index].numbers, lines[index + repeat.period].numbers, strict=True):
                if following != number:
                    grown[following - number, number] += 1
        steps: Counter[int] = Counter()
        for (step, _), times in grown.items():
            steps[step] += times
        if not steps:
            return cls(0, 0, repeat.count)
        step = min(steps, key=lambda found: (-steps[found], found))
        return cls(min(number for found, number in grown if found == step), step, repeat.count)

    def number(self, first: int, second: int) -> str:
        """A number that is `first` in the first iteration and `second` in the next."""
        growth = second - first
        if growth == 0:
            return str(first)
        if growth == self.step:
            return "*" if first == self.start else f"[*+{first - self.start}]"
        return f"[{first}+{growth}i]"  # i counts the iterations from 0

    def at(self, iteration: int) -> int:
        """What `*` is in one iteration; the iteration's number if no name counts."""
        return self.start + (self.step or 1) * iteration

    def range(self) -> str:
        """`* = 0 … 29`."""
        by = f" by {self.step}" if self.step > 1 else ""
        return f"* = {self.start} … {self.at(self.count - 1)}{by}"

    def __str__(self) -> str:
        """`30 times, * = 0 … 29`."""
        return f"{self.count} times, {self.range()}" if self.step else f"{self.count} times"


@dataclass(frozen=True)
class Folding:
    """Lines, their repeats, and the name that each line's value goes by."""

    lines: Sequence[Line]
    repeats: Sequence[Repeat]
    names: Sequence[str]

    @classmethod
    def of(cls, lines: Sequence[Line]) -> Folding:
        """The lines folded. A name is unique; in a repeat it is the same in each iteration."""
        repeats = find_repeats(lines)
        names: list[str] = []
        taken: Counter[str] = Counter()
        for index, line in enumerate(lines):
            repeat = repeat_around(repeats, index)
            if repeat is not None and repeat.place(index)[0] > 0:
                names.append(names[index - repeat.period])
                continue
            names.append(f"{line.name}_{taken[line.name]}" if taken[line.name] else line.name)
            taken[line.name] += 1
        return cls(lines, repeats, names)

    def render(self) -> list[str]:
        """The text, each repeat once under a header that says how often.

        In a repeat's body, a name that is read before it is set is what the iteration before left, and the header
        says what the first iteration finds there. Below the repeat a name means the last iteration's.
        """
        text: list[str] = []
        index = 0
        while index < len(self.lines):
            repeat = repeat_around(self.repeats, index)
            if repeat is None:
                line = self.lines[index]
                reads = [self.reference(read) for read in line.reads]
                text.append(self.defined(index) + _filled(line.template, [str(n) for n in line.numbers], reads))
                index += 1
            else:
                text += self.render_repeat(repeat)
                index = repeat.end
        return text

    def render_repeat(self, repeat: Repeat) -> list[str]:
        """Header and body of one repeat."""
        counting = Counting.of(self.lines, repeat)
        entries: dict[str, str] = {}
        body = []
        for offset in range(repeat.period):
            index = repeat.start + offset
            line, following = self.lines[index], self.lines[index + repeat.period]
            reads = []
            for slot, read in enumerate(line.reads):
                kind = read_kind(self.lines, repeat, 1, offset, slot)
                assert kind is not None
                reads.append(self.reference(read) if kind[0] == "outer" else f"%{self.names[repeat.start + kind[1]]}")
                if kind[0] == "carried":
                    entries[reads[-1]] = self.reference(read)
            numbers = [counting.number(*pair) for pair in zip(line.numbers, following.numbers, strict=True)]
            body.append("  " + self.defined(index) + _filled(line.template, numbers, reads))
        first = "".join(f"; first {name} = {entry}" for name, entry in entries.items())
        return [f"repeat {counting}{first}:", *body]

    def render_list(self, items: Sequence[int | str]) -> list[str]:
        """A list of lines (by index) and texts, folded where it goes through a repeat's iterations:
        `%logits`, `(%key[*], %value[*]) for * = 0 … 29`.
        """
        lines = [Line(item) if isinstance(item, str) else self.item(item) for item in items]
        repeats = find_repeats(lines)
        text: list[str] = []
        index = 0
        while index < len(lines):
            repeat = repeat_around(repeats, index)
            if repeat is None:
                item = items[index]
                text.append(item if isinstance(item, str) else self.reference(item))
                index += 1
                continue
            counting = Counting.of(lines, repeat)
            parts = []
            for line, later in zip(
                lines[index:], lines[index + repeat.period : index + 2 * repeat.period], strict=False
            ):
                numbers = [counting.number(*pair) for pair in zip(line.numbers, later.numbers, strict=True)]
                parts.append(_filled(line.template, numbers, ()))
            text.append(f"({', '.join(parts)}) for {counting.range()}")
            index = repeat.end
        return text

    def item(self, index: int) -> Line:
        """A line of a list that names another line: `%x[3]`, or `%x` if that is in no repeat."""
        repeat = repeat_around(self.repeats, index)
        if repeat is None:
            return Line(f"%{self.names[index]}")
        number = Counting.of(self.lines, repeat).at(repeat.place(index)[0])
        return Line(f"%{self.names[index]}[{NUMBER}]", (number,), layer=str(number))

    def defined(self, index: int) -> str:
        return f"%{self.names[index]}" if self.lines[index].name else ""

    def reference(self, read: int) -> str:
        """A line as it is called outside of its repeat: `%x`, or, if it is not the last iteration's, `%x[3]`."""
        repeat = repeat_around(self.repeats, read)
        if repeat is None or repeat.place(read)[0] == repeat.count - 1:
            return f"%{self.names[read]}"
        return f"%{self.names[read]}[{Counting.of(self.lines, repeat).at(repeat.place(read)[0])}]"


def _filled(template: str, numbers: Sequence[str], reads: Sequence[str]) -> str:
    gaps = {NUMBER: iter(numbers), READ: iter(reads)}
    return re.sub(f"[{NUMBER}{READ}]", lambda mark: next(gaps[mark[0]]), template)
