"""The check at the end: the step program, fed in pieces, against the program as captured, fed whole."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from burnish.ir.errors import VerificationError
from burnish.ir.interpreter import run
from burnish.ir.program import Program
from burnish.ir.weights import Stored, Weight, Weights, nbytes

_EVALUATED_BYTES = 2**30
_TOLERANCE = 1e-4  # of the largest logit, in float32


def run_step(step: Program, tokens: Tensor, pieces: list[int], capacity: int) -> Tensor:
    """The logits [batch, sum(pieces), vocabulary] of a step program fed `tokens` in `pieces`, node by node."""
    rows = tokens.shape[0]
    states = [state.allocate(rows, capacity) for state in step.states]
    position = torch.zeros(rows, dtype=torch.int64)
    logits: list[Tensor] = []
    start = 0
    for count in pieces:
        given = {
            "tokens": tokens[:, start : start + count],
            "position": position,
            "logits_index": torch.arange(count),
        }
        given.update({state.name: tensor for state, tensor in zip(step.states, states, strict=True)})
        out, *states = run(step, [given[node.name] for node in step.placeholders])
        logits.append(out)
        position = position + count
        start += count
    return torch.cat(logits, dim=1)


def verify_step(captured: Program, step: Program, length: int = 24) -> float:
    """The largest difference between the two, relative to the largest logit; VerificationError beyond the tolerance.

    Two rows of random tokens (one seed for all compilations), whole and in ragged pieces with single tokens among them.
    """
    length = min(length, step.signature.max_length)
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(step.signature.token_limit, (2, length), generator=generator)
    captured, step = _evaluated_once(captured, step)
    (expected, *_) = run(captured, [tokens])
    pieces = _ragged(length)
    found = run_step(step, tokens, pieces, length)
    scale = max(1.0, float(expected.abs().max()))
    difference = (found.float() - expected.float()).abs().amax(dim=(0, 2)) / scale
    worst = float(difference.max())
    if not worst <= _TOLERANCE:  # also true for NaN
        first = int((~(difference <= _TOLERANCE)).nonzero()[0])
        raise VerificationError(
            f"the incremental program gives other logits than the model: relative difference {worst:.2e} (allowed: "
            f"{_TOLERANCE:.0e}), first at token {first} of {length} fed in pieces of {pieces}. This is a bug in "
            "burnish; please report it with the model's configuration"
        )
    return worst


def _evaluated_once(*programs: Program) -> list[Program]:
    """The programs over weights that are evaluated already, where all of these fit in memory; else as they are.

    A weight that is an expression (dequantized, cast) is evaluated each time that it is read: five times here.
    """
    expressions: dict[int, Weight] = {}
    for program in programs:
        expressions.update({id(each): each for each in program.weights.values() if not isinstance(each, Stored)})
    if sum(nbytes(weight) for weight in expressions.values()) > _EVALUATED_BYTES:
        return list(programs)
    values: dict[int, Weight] = {key: Stored(weight.materialize()) for key, weight in expressions.items()}
    return [
        replace(program, weights=Weights({name: values.get(id(each), each) for name, each in program.weights.items()}))
        for program in programs
    ]


def _ragged(length: int) -> list[int]:
    """Pieces that add up to `length`: a few tokens, one, one, the others."""
    pieces: list[int] = []
    for count in (9, 1, 1, length):  # each piece reads all weights: few of them, for models of many gigabytes
        left = length - sum(pieces)
        if left > 0:
            pieces.append(min(count, left))
    return pieces
