"""A session: the states of a batch of rows, each of which remembers its own tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from burnish.ir.errors import InvalidInputError
from burnish.ir.signature import Signature
from burnish.ir.states import State
from burnish.runtime.executor import Executor, Step, StepResult, Wanted
from burnish.runtime.states import States
from burnish.runtime.token_ids import check_id, check_ids

if TYPE_CHECKING:  # for those alone who ask for tensors
    from numpy.typing import NDArray

    from burnish.ir.torch_types import Tensor
    from burnish.runtime.token_ids import Ids

CHUNK = 512  # tokens a prefill step: products of matrices gain nothing from more, and memory grows with it
SMALLEST_CAPACITY = 64


class Session:
    """Feeds tokens to a compiled model and keeps what it remembers of them.

    Rows may have different lengths. Tokens that all rows are given in equal number go through the model together;
    others row by row.
    """

    def __init__(
        self,
        executor: Executor,
        signature: Signature,
        specs: Sequence[State],
        batch: int = 1,
        capacity: int = 0,
    ) -> None:
        """`capacity`: the number of tokens to have room for at once; there is more as soon as it is needed."""
        for name, number in (("batch", batch), ("capacity", capacity)):
            if not isinstance(number, int | np.integer):
                raise InvalidInputError(f"{name} is an integer, not {number!r}")
        batch, capacity = int(batch), int(capacity)
        if batch < 1:
            raise InvalidInputError(f"a session has at least one row, not {batch}")
        self._executor = executor
        self._signature = signature
        self._specs = tuple(specs)
        self._states = States.allocate(
            self._specs, batch, self._rounded(max(capacity, 1)), executor.memory, executor.in_place
        )
        self._tokens: list[list[int]] = [[] for _ in range(batch)]
        self._make_inputs()

    def _make_inputs(self) -> None:
        """The inputs of a step of one token a row: always the same arrays, which need binding once."""
        self._position = np.array(self.lengths, np.int64)
        self._next = np.zeros((self.batch, 1), np.int64)
        self._first = np.zeros(1, np.int64)
        self._next_cells: memoryview = self._next.reshape(-1).data
        self._position_cells: memoryview = self._position.data

    @property
    def batch(self) -> int:
        """The number of rows."""
        return len(self._tokens)

    @property
    def capacity(self) -> int:
        """How many tokens a row can have before the states have to grow."""
        return self._states.capacity

    @property
    def lengths(self) -> list[int]:
        """How many tokens each row has."""
        return [len(row) for row in self._tokens]

    @property
    def tokens(self) -> list[list[int]]:
        """The tokens of each row, in order."""
        return [list(row) for row in self._tokens]

    @property
    def nbytes(self) -> int:
        """Bytes that the states take."""
        return self._states.nbytes

    def append(self, ids: Ids, every: bool = False, wanted: Wanted = "logits") -> Tensor:
        """Feed new tokens; logits of each row's last, [b, 1, vocabulary], or of `every` one, [b, n, vocabulary].

        With wanted="ids" the ids of the greatest logits instead, [b, 1] or [b, n], or what else `Wanted` names: of a
        GPU's results, these alone are copied to the CPU. `ids` is int64 [b, n], or a list of b lists of at least one
        id, of any lengths unless `every`. Raises InvalidInputError if they are not, or if an id is outside the
        vocabulary or a row would become too long.
        """
        return self._tensor(self.feed(ids, every, wanted))

    def feed(self, ids: Ids, every: bool = False, wanted: Wanted = "logits") -> StepResult:
        """`append`, without PyTorch."""
        rows = check_ids(ids, self._signature, self.lengths)
        if len(rows) != self.batch:
            raise InvalidInputError(f"the session has {self.batch} rows, and ids were given for {len(rows)}")
        even = len({len(row) for row in rows}) == 1
        if every and not even:
            raise InvalidInputError(f"{wanted} of every token need rows of equal length; feed unequal ones row by row")
        self._reserve(max(len(old) + len(new) for old, new in zip(self._tokens, rows, strict=True)))
        if even:
            results = self._feed(np.array(rows, np.int64), self._position, self._states, every, wanted)
        else:
            results = np.concatenate([self._feed_row(row, new, wanted) for row, new in enumerate(rows)])
        for row, new in enumerate(rows):
            self._tokens[row] += new
            self._position[row] += len(new)
        return StepResult(wanted, results)

    def feed_row(self, row: int, ids: Sequence[int], every: bool = False, wanted: Wanted = "logits") -> StepResult:
        """`feed` for one row alone: what is wanted of its last token, [1, 1, ...], or of every one, [1, n, ...]."""
        self._check_row(row)
        (new,) = check_ids([ids], self._signature, [len(self._tokens[row])])
        self._reserve(len(self._tokens[row]) + len(new))
        result = self._feed_row(row, new, wanted, every)
        self._tokens[row] += new
        self._position[row] += len(new)
        return StepResult(wanted, result)

    def step(self, tokens: Sequence[int], active: Sequence[bool] | None = None, wanted: Wanted = "logits") -> Tensor:
        """Feed one token a row: the inner step of generation. Gives what is `wanted`, of [b, 1] tokens.

        The result is overwritten by the next step. A row that is not `active` computes, and then
        forgets that it did: its length stays, its result means nothing, and further tokens for it do not either.
        """
        return self._tensor(self.advance(tokens, active, wanted))

    def advance(
        self, tokens: Sequence[int], active: Sequence[bool] | None = None, wanted: Wanted = "logits"
    ) -> StepResult:
        """`step`, without PyTorch."""
        if not isinstance(tokens, Sequence):
            raise InvalidInputError(f"a step takes a list of one token for each row, not {tokens!r}")
        if len(tokens) != self.batch or len(tokens if active is None else active) != self.batch:
            raise InvalidInputError(f"a step takes one token for each of {self.batch} rows, and so of which are active")
        longest, last = max(map(len, self._tokens)), self._signature.max_length - 1
        full = [] if longest <= last else [number for number, row in enumerate(self._tokens) if len(row) > last]
        if any(active is None or active[number] for number in full):
            raise InvalidInputError(f"the model was compiled for at most {last + 1} tokens, and an active row has them")
        for number, token in enumerate(tokens):
            check_id(token, number, len(self._tokens[number]), self._signature)
        self._reserve(1 + longest)
        for number, token in enumerate(tokens):
            self._next_cells[number] = token
            # A row that stopped at the model's limit has no further position: it computes at its last one.
            self._position_cells[number] = min(len(self._tokens[number]), last)
        result = self._executor.step(Step(self._next, self._position, self._first, wanted), self._states)
        for number, token in enumerate(tokens):
            if active is None or active[number]:
                self._tokens[number].append(token)
            self._position_cells[number] = len(self._tokens[number])
        return result

    def logits(self) -> Tensor:
        """All logits of the last `step`, [b, 1, vocabulary], whatever was wanted of it: overwritten by the next one.

        Raises UsageError where there was none.
        """
        return self._tensor(self.all_logits())

    def all_logits(self) -> StepResult:
        """`logits`, without PyTorch."""
        return self._executor.logits(self._states)

    def rewind(self, length: int, row: int | None = None) -> None:
        """Forget all but the first `length` tokens of `row`, or of every row that has more.

        Where the model remembers in caches only, this costs nothing; else the tokens that stay are fed again.
        """
        rows = range(self.batch) if row is None else [row]
        if row is not None:
            self._check_row(row)
        longest = max(len(self._tokens[number]) for number in rows)
        if not 0 <= length <= longest:
            raise InvalidInputError(f"cannot go back to length {length}: there are {longest} tokens")
        for number in rows:
            if length < len(self._tokens[number]):
                self._rewind_row(number, length)

    def select(self, rows: Sequence[int]) -> None:
        """Have these rows from now on: row i is what row rows[i] was, of which there may be several, or none."""
        for row in rows:
            self._check_row(row)
        if not rows:
            raise InvalidInputError(f"the session has rows 0 to {self.batch - 1}, and at least one stays")
        before = self.batch
        self._states = self._states.selected(rows, max(self.lengths))
        self._tokens = [list(self._tokens[row]) for row in rows]
        if len(rows) == before:
            self._position[:] = self.lengths
        else:
            self._make_inputs()

    def reset(self) -> None:
        """Forget all tokens."""
        self._states.clear()
        self._position[:] = 0
        self._tokens = [[] for _ in self._tokens]

    def _check_row(self, row: int) -> None:
        if not 0 <= row < self.batch:
            raise InvalidInputError(f"the session has rows 0 to {self.batch - 1}, and no row {row}")

    def _rewind_row(self, row: int, length: int) -> None:
        kept = self._tokens[row][:length]
        self._tokens[row] = kept
        self._position[row] = length
        if not all(spec.can_rewind for spec in self._specs):
            self._states.clear(row)
            self._position[row] = 0
            if kept:
                self._feed_row(row, kept, "ids")
            self._position[row] = length

    def _feed_row(self, row: int, ids: list[int], wanted: Wanted, every: bool = False) -> NDArray[Any]:
        """Feed one row alone; what is wanted of its last token, or of every one. The row's position stays."""
        states = self._states.row(row)
        result = self._feed(np.array([ids], np.int64), self._position[row : row + 1], states, every, wanted)
        self._states.accept(row, states)
        return result

    def _feed(
        self, tokens: NDArray[np.int64], position: NDArray[np.int64], states: States, every: bool, wanted: Wanted
    ) -> NDArray[Any]:
        """Feed tokens [b, n] in chunks; what is wanted of the last, or of every one, in memory of its own."""
        count = tokens.shape[1]
        parts: list[NDArray[Any]] = []
        for start in range(0, count, CHUNK):
            chunk = np.ascontiguousarray(tokens[:, start : start + CHUNK])
            size = chunk.shape[1]
            index = np.arange(size) if every else np.array([size - 1])
            result = self._executor.step(Step(chunk, position + start, index, wanted), states).array
            if every or start + size == count:
                parts.append(result.copy())  # the next step may overwrite it
        return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1)

    def _tensor(self, result: StepResult) -> Tensor:
        tensor = result.tensor
        return tensor.to(self._signature.logits_dtype) if result.kind == "logits" else tensor

    def _reserve(self, length: int) -> None:
        """Make room for rows of `length` tokens."""
        if length > self._states.capacity:
            self._states = self._states.grown(self._rounded(length))

    def _rounded(self, length: int) -> int:
        """The next power of two, so that growing token by token copies little; never more than the model's limit."""
        rounded = max(SMALLEST_CAPACITY, 1 << (length - 1).bit_length())
        return min(rounded, self._signature.max_length)
