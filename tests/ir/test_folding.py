"""Folded text says exactly what the lines said: it is unfolded again here and compared."""

from __future__ import annotations

import re
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from burnish.ir.folding import NUMBER, READ, Folding, Line, find_repeats

Plain = tuple[str, tuple[int, ...]]  # a line's text with its numbers, and which lines it reads


def layer(number: int, carried: int, start: int, constant: int | None = None) -> list[Line]:
    """Three lines: a norm, an attention that may read `constant`, a residual sum. The sum is `start + 2`."""
    reads = (start,) if constant is None else (start, constant)
    marks = " ".join(READ for _ in reads)
    return [
        Line(f": norm({READ}) layers.{NUMBER}", (number,), (carried,), "norm", f"layers.{number}"),
        Line(f": attention({marks}) layers.{NUMBER}", (number,), reads, "attention", f"layers.{number}"),
        Line(f": add({READ}, {READ})", (), (carried, start + 1), "add", f"layers.{number}"),
    ]


def model(layers: int, constants: list[int | None] | None = None) -> list[Line]:
    """An embedding, two masks, layers, a head. `constants` says for each layer which mask it reads."""
    lines = [Line(": embed()", name="embed"), Line(": mask(a)", name="mask"), Line(": mask(b)", name="mask")]
    carried = 0
    for number in range(layers):
        lines += layer(number, carried, len(lines), (constants or [None] * layers)[number])
        carried = len(lines) - 1
    return [*lines, Line(f": head({READ})", (), (carried,), "head")]


def plain(lines: list[Line]) -> list[Plain]:
    """The lines with their numbers in place."""
    texts = []
    for line in lines:
        numbers = iter(line.numbers)
        texts.append((re.sub(NUMBER, lambda _, numbers=numbers: str(next(numbers)), line.template), line.reads))
    return texts


def unfold(text: list[str]) -> list[Plain]:
    """What folded text says, read as its docstring says that it is to be read."""
    found: list[Plain] = []
    meaning: dict[str, int] = {}
    earlier: dict[str, int] = {}  # the name of one iteration: "x[3]"

    def read(line: str, star: str, iteration: int) -> None:
        name, body = line.split(":", 1)
        body = re.sub(r"\[\*\+(\d+)\]", lambda found: str(int(star) + int(found[1])), body).replace("*", star)
        body = re.sub(r"\[(\d+)\+(\d+)i\]", lambda found: str(int(found[1]) + int(found[2]) * iteration), body)
        names = re.findall(r"%([a-z_0-9]+(?:\[\d+\])?)", body)
        reads = tuple(earlier[name] if "[" in name else meaning[name] for name in names)
        found.append((": " + re.sub(r"%[a-z_0-9]+(\[\d+\])?", READ, body).strip(), reads))
        meaning[name[1:]] = len(found) - 1
        earlier[f"{name[1:]}[{star}]"] = len(found) - 1

    index = 0
    while index < len(text):
        header = re.match(r"repeat (\d+) times(?:, \* = (\d+) … \d+(?: by (\d+))?)?", text[index])
        if header is None:
            read(text[index], "", 0)
            index += 1
            continue
        for name, entry in re.findall(r"; first %([a-z_0-9]+) = %([a-z_0-9]+(?:\[\d+\])?)", text[index]):
            meaning[name] = earlier[entry] if "[" in entry else meaning[entry]
        end = index + 1
        while end < len(text) and text[end].startswith("  "):
            end += 1
        for iteration in range(int(header[1])):
            star = int(header[2] or 0) + iteration * int(header[3] or 1)
            for line in text[index + 1 : end]:
                read(line.strip(), str(star), iteration)
        index = end
    return found


def test_layers_are_printed_once() -> None:
    assert Folding.of(model(30)).render() == [
        "%embed: embed()",
        "%mask: mask(a)",
        "%mask_1: mask(b)",
        "repeat 30 times, * = 0 … 29; first %add = %embed:",
        "  %norm: norm(%add) layers.*",
        "  %attention: attention(%norm) layers.*",
        "  %add: add(%add, %attention)",
        "%head: head(%add)",
    ]


def test_two_layers_and_thirty_differ_in_their_counts_alone() -> None:
    two, thirty = Folding.of(model(2)).render(), Folding.of(model(30)).render()
    assert [line for line in two if "repeat" not in line] == [line for line in thirty if "repeat" not in line]


def test_a_pattern_of_windows_is_folded_by_its_period() -> None:
    masks: list[int | None] = [1, 1, 2] * 4
    text = Folding.of(model(12, masks)).render()
    assert "repeat 4 times, * = 0 … 9 by 3; first %add_2 = %embed:" in text
    assert "  %attention_1: attention(%norm_1 %mask) layers.[*+1]" in text
    assert "  %attention_2: attention(%norm_2 %mask_1) layers.[*+2]" in text
    assert len(text) == 3 + 1 + 9 + 1


def test_a_layer_that_differs_stands_apart() -> None:
    text = Folding.of(model(6, [1, 1, 1, 2, 1, 1])).render()
    assert [line for line in text if line.startswith("repeat")] == [
        "repeat 3 times, * = 0 … 2; first %add = %embed:",
        "repeat 2 times, * = 4 … 5; first %add_2 = %add_1:",
    ]
    assert "%attention_1: attention(%norm_1 %mask_1) layers.3" in text


def test_two_interleaved_chains_are_folded_in_pairs() -> None:
    lines = [Line(": embed()", name="embed")]
    outputs = [0, 0]
    for number in range(6):
        lines += layer(number, outputs[-2], len(lines))
        outputs.append(len(lines) - 1)
    assert [(repeat.period, repeat.count) for repeat in find_repeats(lines)] == [(6, 3)]
    assert unfold(Folding.of(lines).render()) == plain(lines)


def test_names_that_count_from_elsewhere_and_by_other_steps() -> None:
    template = f"weight @layers.{NUMBER}.k state_{NUMBER} table_{NUMBER}"
    lines = [Line(template, (i + 1, 2 * i, 7), layer=f"layers.{i + 1}") for i in range(5)]
    assert Folding.of(lines).render() == ["repeat 5 times, * = 1 … 5:", "  weight @layers.*.k state_[0+2i] table_7"]


def test_results_name_each_iteration() -> None:
    folding = Folding.of(model(5))
    assert folding.render_list([18, *(4 + 3 * i for i in range(5))]) == ["%head", "(%attention[*]) for * = 0 … 4"]
    assert folding.render_list([4, 10, "%tokens"]) == ["(%attention[*]) for * = 0 … 2 by 2", "%tokens"]
    assert folding.render_list([7, 4]) == ["%attention[1]", "%attention[0]"]


@pytest.mark.parametrize("count", [1, 2])
def test_short_lists_of_unlike_names_are_left_alone(count: int) -> None:
    lines = [Line(": add(a)", name="add"), Line(": add(a)", name="add")][:count]
    assert find_repeats(lines) == []


def test_folding_three_thousand_lines_costs_little() -> None:
    masks: list[int | None] = [1, 1, 1, 1, 1, 2]
    lines = model(1000, (masks * 167)[:1000])
    started = time.process_time()
    text = Folding.of(lines).render()
    assert time.process_time() - started < 0.3
    assert len(text) < 40


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_unfolding_gives_the_lines_back(data: st.DataObject) -> None:
    """Models of random layers: of random shape, some odd ones, some that read what they should not."""
    lines = [Line(": input()", name="input") for _ in range(2)]
    kinds = data.draw(st.lists(st.lists(st.sampled_from("abc"), min_size=1, max_size=4), min_size=1, max_size=2))
    carried = 0
    for number in range(data.draw(st.integers(1, 9))):
        kind = kinds[number % len(kinds)]
        start = len(lines)
        for position, op in enumerate(kind):
            own = len(lines) - 1 if position else carried
            other = data.draw(st.integers(0, len(lines) - 1)) if data.draw(st.integers(0, 9)) == 0 else own
            named = number if data.draw(st.integers(0, 9)) else data.draw(st.integers(0, 12))
            text = f": {op}({READ}, {READ}) layer.{NUMBER}"
            lines.append(Line(text, (named,), (own, other), op, f"layer.{number}"))
        carried = len(lines) - 1 if data.draw(st.integers(0, 9)) else start
    assert unfold(Folding.of(lines).render()) == plain(lines)
