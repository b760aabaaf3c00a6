"""The numeric checks: each pass by its before and after, the step program by the program as captured."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, fx

from burnish.ir.code_ops import CODES, unrounded
from burnish.ir.errors import InvalidModelError, VerificationError
from burnish.ir.interpreter import run_by_name
from burnish.ir.position_table import PositionTable
from burnish.ir.program import Program, describe
from burnish.ir.signature import LOGITS_INDEX, POSITION, TOKENS
from burnish.ir.trace import Verification
from burnish.ir.weights import Stored, Weight, Weights, nbytes
from burnish.passes.base import Effect, Pass
from burnish.runtime.executor import Step

# Of the largest logit, in float32. EXACT passes move and merge values; a compiler of kernels may still round otherwise
# for another layout of the same numbers.
TOLERANCES = {Effect.EXACT: 1e-5, Effect.REASSOCIATES: 1e-4}
_EVALUATED_BYTES = 2**30
_MASKED = 65504.0  # float16's largest number: no logit, but what stands for -inf
# Rows and tokens: one token, one row, and rows long enough for windows and chunks of small models to end.
SHAPES = ((1, 1), (2, 9), (1, 40))
# Longer windows than these are checked by rows in which they end, up to so many tokens: that is quadratic.
_LONGEST = 1100

Watch = Callable[[fx.Node, Any], None]


def run_step(step: Program, tokens: Tensor, pieces: list[int], capacity: int, watch: Watch | None = None) -> Tensor:
    """The logits [batch, sum(pieces), vocabulary] of a step program fed `tokens` in `pieces`, node by node."""
    rows = tokens.shape[0]
    states = step.first_states(rows, capacity)
    position = torch.zeros(rows, dtype=torch.int64)
    logits: list[Tensor] = []
    start = 0
    for count in pieces:
        fed = Step(tokens[:, start : start + count], position, torch.arange(count))
        states = run_by_name(step, fed.inputs | states, watch=watch)
        logits.append(states.pop("logits"))
        position = position + count
        start += count
    return torch.cat(logits, dim=1)


def logits_of(program: Program, tokens: Tensor, watch: Watch | None = None) -> Tensor:
    """The logits [batch, length, vocabulary] of a program of any stage: whole, or in ragged pieces if it has states.

    Caches in 8 bits are not rounded here.
    """
    length = tokens.shape[1]
    with unrounded():
        if POSITION in program.signature.inputs:
            wide = [
                replace(state, dtype_name="float32") if state.dtype in CODES.values() else state
                for state in program.states
            ]
            return run_step(replace(program, states=tuple(wide)), tokens, ragged(length), length, watch)
        known = {TOKENS.name: tokens, LOGITS_INDEX.name: torch.arange(length)}
        given = {name: tensor for name, tensor in known.items() if name in program.inputs}
        return run_by_name(program, given, watch=watch)["logits"]


def random_tokens(program: Program, rows: int, length: int) -> Tensor:
    """Token ids [rows, length], the same in every compilation."""
    generator = torch.Generator().manual_seed(0)
    return torch.randint(program.signature.token_limit, (rows, length), generator=generator)


def relative_difference(found: Tensor, expected: Tensor) -> Tensor:
    """For each token [length], the largest difference of its logits, of the largest logit; NaN where either is NaN.

    Infinities that agree do not differ. Neither they nor what stands for them says how large logits are: models mask
    entries of their vocabulary with -inf or with the smallest number of a dtype.
    """
    sizes = expected.float().abs()
    largest = float(sizes.max()) if sizes.numel() else 0.0
    if not largest < _MASKED:  # also true for NaN
        told = sizes[sizes < _MASKED]
        largest = float(told.max()) if told.numel() else 0.0
    difference = torch.sub(found.float(), expected.float()).abs_()
    if not bool(difference.isfinite().all()):
        difference.masked_fill_(found == expected, 0.0)
    return difference.amax(dim=(0, 2)) / (largest or 1.0)  # logits of zero are compared as they are


def check_numbers(expected: Tensor) -> None:
    """InvalidModelError where logits of the model itself are not numbers: nothing could be compared with them."""
    wrong = expected.isnan().any(dim=2)
    if bool(wrong.any()):
        raise InvalidModelError(
            f"the model gives NaN for {int(wrong.sum())} of {wrong.numel()} random tokens, first at token "
            f"{int(wrong.any(dim=0).nonzero()[0])}, before any pass: its weights are damaged, or it divides by zero or "
            "masks all of a row. With verify=False it is compiled as it is"
        )


class Verifier:
    """Compares programs on the same random tokens. Logits are computed once a program, weights once in all."""

    def __init__(self, program: Program) -> None:
        longest = program.signature.max_length
        self.tokens = [random_tokens(program, rows, min(length, longest)) for rows, length in SHAPES]
        self._weights: dict[int, tuple[Weight, Weight]] = {}  # by id: the expression, kept alive, and its value
        self._evaluated = 0
        self._last: tuple[Program, list[Tensor]] | None = None

    @property
    def runs(self) -> str:
        """What is fed, in words."""
        return ", ".join(f"{tokens.shape[0]} x {tokens.shape[1]}" for tokens in self.tokens) + " tokens"

    def compare(self, before: Program, after: Program, each: Pass) -> Verification:
        """How far a pass moved the numbers; VerificationError beyond the tolerance of its effect.

        The program before and after run on the same tokens; one with states in ragged pieces.
        """
        tolerance = TOLERANCES[each.effect]
        self.lengthen(after)
        expected = self.logits(before)
        for one in expected:  # only as captured: a pass that made them was stopped
            check_numbers(one)
        found = self.logits(after)
        worst = 0.0
        for tokens, one, other in zip(self.tokens, found, expected, strict=True):
            difference = relative_difference(one, other)
            worst = max(worst, float(difference.max()))
            if not bool((difference <= tolerance).all()):  # also true for NaN
                first = int((~(difference <= tolerance)).nonzero()[0])
                raise VerificationError(
                    f"the pass {each.name} changes the numbers: relative difference {float(difference.max()):.2e} "
                    f"(allowed: {tolerance:.0e}) for {tokens.shape[0]} x {tokens.shape[1]} tokens, first at token "
                    f"{first}.{self.first_divergence(before, after, tokens, tolerance)}"
                )
        return Verification(worst, tolerance, self.runs)

    def lengthen(self, program: Program) -> bool:
        """Whether the attention windows of the program called for one more, longer, row of tokens."""
        extents = [int(node.kwargs.get("extent") or 0) for node in program.graph.nodes if node.op == "call_function"]
        longest = max(tokens.shape[1] for tokens in self.tokens)
        limit = min(_LONGEST, program.signature.max_length)
        wanted = max((extent + 9 for extent in extents if extent + 9 <= limit), default=0)
        if wanted <= longest:
            return False
        self.tokens.append(random_tokens(program, 1, wanted))
        self._last = None
        return True

    def logits(self, program: Program) -> list[Tensor]:
        """The program's logits for each of `tokens`."""
        if self._last is None or self._last[0] is not program:
            over = self.evaluated(program)
            self._last = (program, [logits_of(over, tokens) for tokens in self.tokens])
        return self._last[1]

    def first_divergence(self, before: Program, after: Program, tokens: Tensor, tolerance: float) -> str:
        """A sentence on the first node of both programs whose values part; nothing if the programs feed otherwise."""
        if before.states or after.states:
            return ""
        node = first_divergence(before, after, tokens, tolerance)
        return "" if node is None else f" The first value that differs is {describe(node)}"

    @staticmethod
    def fits(program: Program) -> bool:
        """Whether all weights of a program that are expressions can be evaluated once, and kept."""
        weights = [weight for weight in program.weights.values() if not isinstance(weight, Stored)]
        return sum(nbytes(weight) for weight in weights) <= _EVALUATED_BYTES

    def evaluated(self, program: Program) -> Program:
        """The program over weights that are evaluated already, as far as they fit in memory."""
        # The rows of tables are made as they are read.
        made = [weight for weight in program.weights.values() if not isinstance(weight, Stored | PositionTable)]
        new: list[Weight] = []
        for weight in {id(each): each for each in made}.values():
            if id(weight) not in self._weights and self._evaluated + nbytes(weight) <= _EVALUATED_BYTES:
                self._evaluated += nbytes(weight)
                new.append(weight)
        with ThreadPoolExecutor(torch.get_num_threads()) as pool:
            for weight, tensor in zip(new, pool.map(lambda each: each.materialize(), new), strict=True):
                self._weights[id(weight)] = (weight, Stored(tensor))
        names = {
            name: self._weights[id(each)][1] for name, each in program.weights.items() if id(each) in self._weights
        }
        return replace(program, weights=Weights({**program.weights, **names}))


def first_divergence(before: Program, after: Program, tokens: Tensor, tolerance: float) -> fx.Node | None:
    """The first node of `after` that has another value there than the node of its name and shape in `before`."""
    kept = {node.name for node in after.graph.nodes}
    values: dict[str, Tensor] = {}

    def keep(node: fx.Node, value: Any) -> None:
        if node.op == "call_function" and node.name in kept and isinstance(value, Tensor) and value.is_floating_point():
            values[node.name] = value

    logits_of(before, tokens, keep)
    found: list[fx.Node] = []

    def compare(node: fx.Node, value: Any) -> None:
        known = values.get(node.name)
        if found or known is None or known.shape != value.shape:
            return
        same = torch.isclose(value, known, rtol=0, atol=tolerance * max(1.0, _largest(known)), equal_nan=True)
        if not bool(same.all()):
            found.append(node)

    logits_of(after, tokens, compare)
    return found[0] if found else None


def _largest(values: Tensor) -> float:
    finite = values[values.isfinite()]
    return float(finite.abs().max()) if finite.numel() else 0.0


def ragged(length: int) -> list[int]:
    """Pieces that add up to `length`: a few tokens, one, one, the others."""
    pieces: list[int] = []
    for count in (9, 1, 1, length):  # each piece reads all weights: few of them, for models of many gigabytes
        left = length - sum(pieces)
        if left > 0:
            pieces.append(min(count, left))
    return pieces
