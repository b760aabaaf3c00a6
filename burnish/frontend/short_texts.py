"""Whether a trace holds for texts shorter than the example that it was made with."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

import torch

from burnish.ir.errors import CaptureError
from burnish.ir.interpreter import run, without_assertions
from burnish.ir.program import Program
from burnish.ir.traits import is_random

_log = logging.getLogger(__name__)

SPECIAL = 3  # export takes sizes of 0 and 1 for special cases, and with them one more of what is cut off by one
_TOLERANCE = {torch.float32: 1e-3, torch.float16: 5e-2, torch.bfloat16: 2e-1}  # of the largest logit
_MOST = 64  # lengths that are run


def check_short_texts(
    program: Program,
    fewest: tuple[int, int],
    eager: Callable[[torch.Tensor], torch.Tensor] | None,
    others: Sequence[tuple[int, int]] = (),
) -> None:
    """CaptureError unless the trace gives the model's logits for the numbers of rows and tokens that export set apart.

    A forward that branches on a size is traced along the branch of the example, and export notes for which sizes that
    is: from `fewest` rows and tokens on. Those below, and 1 and 2 always, are run through the model itself, `eager`;
    without it (None) a trace is believed for those that export takes for special in any program. `others`: rows and
    tokens for which the forward may take another branch, too.
    """
    if eager is None:
        for sizes in others:
            raise _one_branch(" rows of ".join(map(str, sizes)) + " tokens", "rows, or of rows and tokens")
        for size, what in zip(fewest, ("rows", "tokens"), strict=True):
            if size > SPECIAL:
                raise _one_branch(size - 1, what)
        return
    if any(is_random(node.target) for node in program.graph.nodes):
        return  # is refused later, by line
    trace = without_assertions(program)
    generator = torch.Generator().manual_seed(0)
    rows, lengths = (range(1, max(SPECIAL, min(size, _MOST))) for size in fewest)
    longest = program.signature.max_length
    shapes = [*(((3, each), "tokens") for each in lengths), *(((each, 5), "rows") for each in rows)]
    for shape, what in [*shapes, *((each, "rows") for each in others)]:
        tokens = torch.randint(program.signature.token_limit, (shape[0], min(shape[1], longest)), generator=generator)
        try:
            with torch.no_grad():
                expected = eager(tokens)
        except Exception as error:  # whatever the model's own code may raise
            _log.warning("the model itself does not take %d rows of %d tokens: %s", *tokens.shape, error)
            continue
        (found, *_) = run(trace, [tokens])
        wanted = (*tokens.shape, found.shape[-1])
        if expected.shape != wanted:
            raise CaptureError(
                f"the forward gives logits {list(expected.shape)} for {shape[0]} rows of {shape[1]} tokens, and "
                f"{list(wanted)} is expected: leave axes of one as they are, which squeeze() does not"
            )
        difference = float((found.float() - expected.float()).abs().max())
        if difference > _TOLERANCE.get(expected.dtype, 1e-3) * float(expected.abs().max()):
            raise _one_branch(shape[1] if what == "tokens" else shape[0], what)


def _one_branch(size: int | str, what: str) -> CaptureError:
    return CaptureError(
        f"the forward branches on the number of {what}, and the trace has one branch, which is not that of {size}: say "
        "with tensor operations what differs (torch.where, masks of positions)"
    )
