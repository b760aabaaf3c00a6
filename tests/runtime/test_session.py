"""Sessions: however the tokens are fed, the logits are those of the whole sequence at once."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from burnish.ir.errors import InvalidInputError, UsageError
from burnish.ir.states import State, StateKind
from burnish.runtime import session as sessions
from burnish.runtime.model import CompiledModel, load
from burnish.runtime.states import States
from burnish.runtime.torch_memory import ON_CPU
from tests.runtime.tiny import MAX_LENGTH, VOCABULARY, Tiny, save_tiny

Case = tuple[CompiledModel, Tiny]
CASES = [(StateKind.CACHE, "onnxruntime"), (StateKind.CACHE, "reference"), (StateKind.RING, "reference")]


@pytest.fixture(scope="module", params=CASES, ids=lambda case: f"{case[0].value}-{case[1]}")
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Case]:
    kind, backend = request.param
    path, made = save_tiny(tmp_path_factory.mktemp("session"), kind)
    with load(path, backend) as model:
        yield model, made


def random_ids(*shape: int) -> torch.Tensor:
    return torch.randint(0, VOCABULARY, shape)


def close(one: torch.Tensor, other: torch.Tensor) -> None:
    torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-4)


@settings(max_examples=8, deadline=None)
@given(batch=st.integers(1, 3), chunks=st.lists(st.integers(1, 30), min_size=1, max_size=5))
def test_any_chunks_are_the_whole(case: Case, batch: int, chunks: list[int]) -> None:
    model, made = case
    ids = random_ids(batch, sum(chunks))
    session = model.session(batch)
    parts = [session.append(part, every=True) for part in ids.split(chunks, dim=1)]
    close(torch.cat(parts, dim=1), made.whole(ids))
    assert session.lengths == [sum(chunks)] * batch
    assert session.tokens == ids.tolist()


def test_long_prompts_are_fed_in_chunks(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sessions, "CHUNK", 7)
    model, made = case
    ids = random_ids(2, 45)
    close(model(ids), made.whole(ids))
    close(model.session(2).append(ids), made.whole(ids)[:, -1:])


@settings(max_examples=8, deadline=None)
@given(lengths=st.lists(st.integers(1, 20), min_size=1, max_size=4), steps=st.integers(0, 6))
def test_rows_of_unequal_length_are_each_their_own(case: Case, lengths: list[int], steps: int) -> None:
    """Also where a row's prompt takes an odd number of steps, and the states that change places end in the other."""
    model, made = case
    rows = [random_ids(length).tolist() for length in lengths]
    session = model.session(len(rows))
    logits = session.append(rows)
    for step in range(steps + 1):
        for number, row in enumerate(rows):
            close(logits[number, 0], made.whole(torch.tensor([row]))[0, -1])
        if step < steps:
            new = random_ids(len(rows), 1)
            rows = [[*row, token] for row, token in zip(rows, new[:, 0].tolist(), strict=True)]
            logits = session.append(new)
    assert session.tokens == rows


def test_unequal_chunks_between_steps(case: Case) -> None:
    model, made = case
    session = model.session(2)
    rows: list[list[int]] = [[], []]
    for counts in ((3, 8), (1, 1), (6, 1), (2, 2), (1, 9)):
        new = [random_ids(count).tolist() for count in counts]
        rows = [row + more for row, more in zip(rows, new, strict=True)]
        logits = session.append(new)
        for number, row in enumerate(rows):
            close(logits[number, 0], made.whole(torch.tensor([row]))[0, -1])


def test_room_grows_up_to_the_longest_text(case: Case) -> None:
    model, made = case
    ids = random_ids(1, MAX_LENGTH)
    session = model.session()
    assert session.capacity == 64
    session.append(ids[:, :60])
    for place in range(60, MAX_LENGTH):
        logits = session.append(ids[:, place : place + 1])
    close(logits, made.whole(ids)[:, -1:])
    assert session.capacity == MAX_LENGTH
    with pytest.raises(InvalidInputError, match=f"1 tokens behind the {MAX_LENGTH} it has.*at most {MAX_LENGTH}"):
        session.append(random_ids(1, 1))


@settings(max_examples=8, deadline=None)
@given(length=st.integers(1, 25), back=st.integers(0, 25), again=st.integers(1, 10))
def test_after_a_rewind_it_is_as_if_never_fed(case: Case, length: int, back: int, again: int) -> None:
    model, made = case
    kept = max(0, length - back)
    ids, other = random_ids(2, length), random_ids(2, again)
    session = model.session(2)
    session.append(ids)
    session.rewind(kept)
    assert session.lengths == [kept, kept]
    logits = session.append(other, every=True)
    close(logits, made.whole(torch.cat([ids[:, :kept], other], dim=1))[:, kept:])


def test_one_row_rewinds_alone(case: Case) -> None:
    model, made = case
    session = model.session(3)
    rows = [random_ids(length).tolist() for length in (9, 12, 4)]
    session.append(rows)
    session.rewind(5, row=1)
    session.rewind(0, row=2)
    assert session.lengths == [9, 5, 0]
    new = [random_ids(count).tolist() for count in (1, 2, 3)]
    logits = session.append(new)
    for number, row in enumerate((rows[0] + new[0], rows[1][:5] + new[1], new[2])):
        close(logits[number, 0], made.whole(torch.tensor([row]))[0, -1])


def test_rewinding_all_leaves_shorter_rows(case: Case) -> None:
    model, _ = case
    session = model.session(2)
    session.append([[1, 2, 3], [4]])
    session.rewind(2)
    assert session.tokens == [[1, 2], [4]]


def test_after_a_reset_it_is_new(case: Case) -> None:
    model, made = case
    session = model.session(2)
    session.append(random_ids(2, 30))
    session.reset()
    ids = random_ids(2, 8)
    close(session.append(ids, every=True), made.whole(ids))


def test_a_row_that_waits_goes_on_unharmed_in_the_others(case: Case) -> None:
    """`step` with inactive rows: the active ones are right, whatever the inactive ones do meanwhile."""
    model, made = case
    session = model.session(2)
    long, short = random_ids(MAX_LENGTH).tolist(), random_ids(3).tolist()
    session.append([long, short])
    for _ in range(70):  # the short row outgrows its room, the long one stays at the model's limit
        token = random_ids(1).tolist()
        logits = session.step([0, *token], active=[False, True])
        short += token
    close(logits[1, 0], made.whole(torch.tensor([short]))[0, -1])
    assert session.lengths == [MAX_LENGTH, 73]


def test_what_append_gives_stays(case: Case) -> None:
    model, made = case
    session = model.session()
    ids = random_ids(1, 5)
    session.append(ids[:, :3])
    fourth = session.append(ids[:, 3:4])
    session.append(ids[:, 4:])
    close(fourth[0, 0], made.whole(ids)[0, 3])


@pytest.mark.parametrize(
    ("ids", "says"),
    [
        (torch.zeros(1, 3), r"integers, not torch\.float32"),
        (torch.zeros(3, dtype=torch.int64), r"\[batch, tokens\], not of shape \[3\]"),
        (torch.zeros(1, 3, 1, dtype=torch.int64), r"not of shape \[1, 3, 1\]"),
        (torch.zeros(1, 0, dtype=torch.int64), "row 0 is empty"),
        (torch.zeros(0, 3, dtype=torch.int64), "no row"),
        (torch.zeros(2, 3, dtype=torch.int64), "has 1 rows, and ids were given for 2"),
        (torch.tensor([[1, 2, VOCABULARY]]), f"row 0 has the id {VOCABULARY} at place 2: .* 0 to {VOCABULARY - 1}"),
        (torch.tensor([[1, -1]]), "row 0 has the id -1 at place 1"),
        (torch.zeros(1, MAX_LENGTH + 1, dtype=torch.int64), f"{MAX_LENGTH + 1} tokens.*at most {MAX_LENGTH}"),
        ([[1, "a"]], "'a' at place 1: token ids are integers, not str"),
        ([[1.0]], "not float"),
        ([[True]], "not bool"),
        ([[]], "row 0 is empty"),
        ([], "no row"),
        ([1, 2], r"a list for each row, \[\[1, 2, 3\]\] for one, and not 1"),
        (5, "a list for each row, .* not 5"),
        (None, "a list for each row, .* not None"),
        ([[1], None], "a list for each row, .* not None"),
    ],
)
def test_bad_ids_are_refused_before_anything_runs(case: Case, ids: object, says: str) -> None:
    session = case[0].session()
    with pytest.raises(InvalidInputError, match=says):
        session.append(ids)  # type: ignore[arg-type]
    assert session.lengths == [0]


def test_other_misuse_is_refused(case: Case) -> None:
    model, _ = case
    session = model.session(2)
    session.append([[1, 2, 3], [4]])
    with pytest.raises(InvalidInputError, match="rows of equal length"):
        session.append([[1], [2, 3]], every=True)
    with pytest.raises(InvalidInputError, match="no row 2"):
        session.rewind(0, row=2)
    with pytest.raises(InvalidInputError, match="length 4: there are 3"):
        session.rewind(4)
    with pytest.raises(InvalidInputError, match="length 2: there are 1"):
        session.rewind(2, row=1)
    with pytest.raises(InvalidInputError, match="at least one row"):
        model.session(0)
    for number in (1.5, "1", None):
        with pytest.raises(InvalidInputError, match="batch is an integer, not"):
            model.session(number)  # type: ignore[arg-type]
        with pytest.raises(InvalidInputError, match="capacity is an integer, not"):
            model.session(1, number)  # type: ignore[arg-type]
    with pytest.raises(InvalidInputError, match="a list of one token for each row, not 3"):
        session.step(3)  # type: ignore[arg-type]
    for tokens, active in (([1], None), ([1, 2, 3], None), ([1, 2], [True])):
        with pytest.raises(InvalidInputError, match="one token for each of 2 rows"):
            session.step(tokens, active)
    for unknown in (VOCABULARY, -1, 2**70):
        with pytest.raises(InvalidInputError, match=f"row 1 has the id {unknown} at place 1: the model knows"):
            session.step([1, unknown])
    session.append([[1] * (MAX_LENGTH - 3), [1]])
    with pytest.raises(InvalidInputError, match=f"at most {MAX_LENGTH} tokens, and an active row has them"):
        session.step([1, 2])
    session.step([1, 2], active=[False, True])
    assert session.lengths == [MAX_LENGTH, 3]


def test_all_logits_are_those_of_the_session_that_is_asked(case: Case) -> None:
    model, _ = case
    one, other = model.session(), model.session()
    with pytest.raises(UsageError, match="no step"):
        one.logits()
    one.step([1], wanted="ids")
    expected = one.logits().clone()
    other.step([2], wanted="top")
    assert torch.equal(one.logits(), expected)
    assert not torch.equal(other.logits(), expected)


def test_caches_take_memory_as_they_fill() -> None:
    spec = State("cache", StateKind.CACHE, ("batch", 4, "capacity", 64), "bfloat16", 2)
    states = States.allocate([spec], 2, 100, ON_CPU)
    assert states.past[0] is states.present[0]
    assert states.past[0].shape == (2, 4, 100, 64)
    assert states.past[0].dtype == torch.bfloat16
    assert states.past[0].data_ptr() % 64 == 0
    assert states.nbytes == 2 * 4 * 100 * 64 * 2
    assert not states.past[0].any()


@pytest.mark.parametrize("in_place", [False, True])
@pytest.mark.parametrize("steps", [1, 2])
def test_a_row_that_begins_at_an_odd_place_is_still_one_that_kernels_can_read(in_place: bool, steps: int) -> None:
    """Windows of a single id take 8 bytes a row, and kernels are compiled for places that are multiples of 16."""
    window = State("window", StateKind.WINDOW, ("batch", 1), "int64", 1)
    cache = State("cache", StateKind.CACHE, ("batch", "capacity", 3), "float32", 1)
    states = States.allocate([window, cache], 3, 5, ON_CPU, in_place=in_place)
    row = states.row(1)
    assert all(tensor.data_ptr() % 16 == 0 for tensor in (*row.past, *row.present))
    for step in range(steps):
        row.present[0].fill_(40 + step)
        row.present[1][:, step] = 1.0
        row.advance()
    states.accept(1, row)
    assert states.past[0].flatten().tolist() == [0, 39 + steps, 0]
    assert states.past[1].sum(dim=(1, 2)).tolist() == [0.0, 3.0 * steps, 0.0]


def test_rows_become_copies_of_others(case: Case) -> None:
    """Of every kind of state, in place and more or fewer of them, with unequal rows."""
    model, made = case
    rows = [random_ids(length).tolist() for length in (3, 9, 14)]
    session = model.session(3)
    session.append(rows)
    for chosen in ([2, 0, 1], [0, 0, 2], [1, 1, 0, 2, 2], [4, 3, 0], [1], [0, 0, 0, 0]):
        session.select(chosen)
        rows = [list(rows[row]) for row in chosen]
        assert session.tokens == rows
        assert session.batch == len(chosen)
        for _ in range(2):
            new = random_ids(len(rows)).tolist()
            rows = [[*row, token] for row, token in zip(rows, new, strict=True)]
            logits = session.step(new).clone()
            for number, row in enumerate(rows):
                close(logits[number, 0], made.whole(torch.tensor([row]))[0, -1])
    session.rewind(2)
    close(session.append([[5]] * 4)[1, 0], made.whole(torch.tensor([[*rows[1][:2], 5]]))[0, -1])
    for wrong in ([], [4], [-1]):
        with pytest.raises(InvalidInputError, match="the session has rows 0 to 3"):
            session.select(wrong)


def test_one_row_is_fed_alone(case: Case) -> None:
    model, made = case
    session = model.session(2)
    rows = [random_ids(3).tolist(), random_ids(70).tolist()]
    for row, ids in enumerate(rows):
        found = session.feed_row(row, ids, every=True).tensor
        close(found, made.whole(torch.tensor([ids])))
    assert session.tokens == rows
    close(session.append([[1], [1]])[0, 0], made.whole(torch.tensor([[*rows[0], 1]]))[0, -1])
    with pytest.raises(InvalidInputError, match="rows 0 to 1, and no row 2"):
        session.feed_row(2, [1])
