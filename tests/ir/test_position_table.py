"""Tables of positions as formulas: any rows by themselves, in other dtypes, halved; what is no formula is refused."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from burnish.ir.errors import WeightError
from burnish.ir.position_table import PositionTable, cast, halves_of, position_table, stored_bytes
from burnish.ir.weights import Cast, Stored, Weight, nbytes

ROWS = 5000
FREQUENCIES = 1 / 10000 ** (torch.arange(0, 16, 2) / 16)


def body(*lines: str, vectors: int = 1) -> str:
    inputs = [f"input %vector_{number}: f32[8]" for number in range(vectors)]
    last = lines[-1].split(":")[0]
    return "\n".join(["input %positions: i64[rows]", *inputs, "size %rows: size rows", *lines, f"return [{last}]"])


ANGLES = (
    "%column: i64[rows, 1] = aten.unsqueeze(%positions, 1)",
    "%angles: f32[rows, 8] = aten.mul.Tensor(%column, %vector_0)",
)
COSINES = body(*ANGLES, "%twice: f32[rows, 16] = aten.cat([%angles, %angles], 1)", "%cos: f32 = aten.cos(%twice)")
NEIGHBOURS = body(
    *ANGLES,
    "%apart: f32 = aten.unsqueeze(%angles, 2)",
    "%spread: f32 = aten.expand(%apart, [-1, -1, 2])",
    "%twice: f32 = aten.reshape(%spread, [%rows, 16])",
    "%cos: f32 = aten.cos(%twice)",
)


def table(text: str = COSINES, rows: int = ROWS) -> PositionTable:
    return position_table(rows, text, (Stored(FREQUENCIES),))


def expected() -> Tensor:
    angles = torch.arange(ROWS)[:, None] * FREQUENCIES
    return torch.cat((angles, angles), 1).cos()


def test_every_row_is_the_same_bit_for_bit() -> None:
    made = table()
    assert (made.shape, made.dtype) == ((ROWS, 16), torch.float32)
    assert torch.equal(made.materialize(), expected())
    assert torch.equal(made.first(7), expected()[:7])
    assert torch.equal(torch.cat([block for _, block in made.blocks(ROWS)]), expected())


def test_rows_are_looked_up_without_a_table() -> None:
    positions = torch.tensor([[0, 4999, 3], [17, 17, 1023]])
    assert torch.equal(table().at(positions), expected()[positions])


def test_it_takes_the_room_of_its_vectors() -> None:
    assert stored_bytes(table()) == nbytes(Stored(FREQUENCIES)) == 32
    assert nbytes(table()) == ROWS * 16 * 4
    assert stored_bytes(Stored(FREQUENCIES)) == 32


@pytest.mark.parametrize("rows", [0, -1, ROWS + 1])
def test_there_are_no_other_rows(rows: int) -> None:
    with pytest.raises(WeightError, match="has no first"):
        table().first(rows)


@pytest.mark.parametrize(("text", "interleaved"), [(COSINES, False), (NEIGHBOURS, True)])
def test_equal_halves_are_told_on_every_row(text: str, interleaved: bool) -> None:
    made = table(text)
    assert made.has_equal_halves(interleaved)
    assert not made.has_equal_halves(not interleaved)
    half = made.half(interleaved)
    assert half.shape == (ROWS, 8)
    assert torch.equal(half.materialize(), expected()[:, :8])


def test_halves_that_part_in_the_last_rows_are_not_equal() -> None:
    late = body(
        *ANGLES,
        "%over: i64 = aten.sub.Tensor(%column, 4998)",
        "%late: i64 = aten.clamp_min(%over, 0)",
        "%other: f32 = aten.add.Tensor(%angles, %late)",
        "%both: f32 = aten.cat([%angles, %other], 1)",
    )
    assert not table(late).has_equal_halves(False)
    assert position_table(4999, late, (Stored(FREQUENCIES),)).has_equal_halves(False)


def test_rows_of_an_odd_size_have_no_halves() -> None:
    odd = table(body(*ANGLES, "%part: f32 = aten.slice.Tensor(%angles, 1, 0, 7)"))
    assert not odd.has_equal_halves(False)
    assert set(halves_of({"t": odd})) == {"t"}


def test_halves_have_names_of_their_own() -> None:
    assert set(halves_of({"t": table()})) == {"t", "t.first_half", "t.each_second"}
    with pytest.raises(WeightError, match=r"two tables of positions named 't\.first_half'"):
        halves_of({"t": table(), "t.first_half": table()})


def test_another_dtype_is_another_formula() -> None:
    narrow = cast(table(), torch.bfloat16)
    assert isinstance(narrow, PositionTable)
    assert (narrow.dtype, narrow.shape) == (torch.bfloat16, (ROWS, 16))
    assert torch.equal(narrow.materialize(), expected().bfloat16())
    assert isinstance(cast(Stored(FREQUENCIES), torch.bfloat16), Cast)


def test_rows_in_another_shape() -> None:
    assert torch.equal(table().with_rows([1, 16]).materialize(), expected()[:, None])


def test_equal_tables_are_known() -> None:
    made = table()
    assert made.same(table())
    assert not made.same(table(NEIGHBOURS))
    assert not made.same(table(rows=ROWS - 1))
    assert not made.same(position_table(ROWS, COSINES, (Stored(FREQUENCIES * 2),)))
    assert not made.same(Stored(expected()))


HUGE = 10**12
HOSTILE: dict[str, tuple[str, str]] = {
    "no text": ("", "cannot be read"),
    "another op": (body(*ANGLES, "%x: f32 = aten.rms_norm(%angles, [8])"), "cannot be part of"),
    "a reduction": (body(*ANGLES, "%x: f32 = aten.sum.dim_IntList(%angles, [1])"), "may not call aten.sum"),
    "a gather": (body(*ANGLES, "%x: f32 = burnish.lookup(%angles, %positions)"), "may not call burnish.lookup"),
    "lists": (body(*ANGLES, "%x: f32 = aten.split.Tensor(%angles, 1, 1)"), "may not call aten.split"),
    "a python function": (body(*ANGLES, "%x: f32 = getitem(%angles, 0)"), "may not call"),
    "a name that is not there": (body(*ANGLES, "%x: f32 = aten.cos(%other)"), "no line before has it"),
    "sizes that do not fit": (body(*ANGLES, "%x: f32 = aten.view(%angles, [%rows, 9])"), "does not fit its vectors"),
    "another number of vectors": (body(*ANGLES, "%x: f32 = aten.cos(%angles)", vectors=2), "takes positions, 1 vec"),
    "no row a position": (body("%x: f32 = aten.cos(%vector_0)"), "one row for each position"),
    "rows that grow": (
        body(*ANGLES, "%x: f32 = aten.unsqueeze(%positions, 0)", "%y: f32 = aten.expand(%x, [%rows, %rows])"),
        "depends on how many there are",
    ),
    "too wide": (
        body(
            *ANGLES,
            "%x: f32 = aten.unsqueeze(%angles, 2)",
            f"%y: f32 = aten.expand(%x, [-1, -1, {HUGE}])",
            "%z: f32 = aten.select.int(%y, 2, 0)",
        ),
        "elements for 2 rows",
    ),
    "too wide by broadcasting": (
        body(
            "%x: i64 = aten.expand(%positions, [1000000, %rows])",
            "%y: i64 = aten.permute(%x, [1, 0])",
            "%a: i64 = aten.unsqueeze(%y, 2)",
            "%b: i64 = aten.unsqueeze(%y, 1)",
            "%z: i64 = aten.add.Tensor(%a, %b)",
        ),
        "elements for 2 rows",
    ),
    "too wide by joining": (
        body(
            "%x: i64 = aten.expand(%positions, [1000000, %rows])",
            "%y: i64 = aten.permute(%x, [1, 0])",
            "%z: i64 = aten.cat([%y, %y], 1)",
        ),
        "elements for 2 rows",
    ),
    "wider than 64 bits can say": (
        body(
            "%x: f32 = aten.view(%vector_0, [8, 1, 1])",
            f"%y: f32 = aten.expand(%x, [8, {HUGE}, {HUGE}])",
            "%z: i64 = aten.cos(%positions)",
        ),
        "formula of a position table",
    ),
    "too many lines": (
        body(*ANGLES, *(f"%x{number}: f32 = aten.cos(%angles)" for number in range(63))),
        "has 65 lines",
    ),
    "too long": (body(*ANGLES, "%x: f32 = aten.cos(%angles)" + " " * 2**16), "characters"),
    "lists in lists": (body(*ANGLES, f"%x: f32 = aten.cat({'[' * 5000}"), "cannot be read"),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_what_is_no_formula_is_refused(what: str) -> None:
    text, says = HOSTILE[what]
    with pytest.raises(WeightError, match=says):
        table(text)


@pytest.mark.parametrize("rows", [0, -3, 10**9])
def test_a_number_of_rows_out_of_bounds_is_refused(rows: int) -> None:
    with pytest.raises(WeightError, match=r"a position table of .* rows"):
        table(rows=rows)


def test_a_vector_that_is_none_is_refused() -> None:
    large = Stored(torch.zeros(1).expand(2**22, 8))
    with pytest.raises(WeightError, match="elements for 2 rows"):
        position_table(ROWS, COSINES, (large,))


def test_nothing_is_computed_before_rows_are_asked_for() -> None:
    class Unread(Stored):
        def materialize(self) -> Tensor:
            raise AssertionError("read")

    unread: Weight = Unread(FREQUENCIES)
    assert position_table(ROWS, COSINES, (unread,)).half(False).shape == (ROWS, 8)
