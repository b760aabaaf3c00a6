"""Two of each four weights are zero: which, where not, and what it does to a model."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import burnish
from burnish.frontend import read
from burnish.ir.errors import UsageError
from burnish.ir.program import Program
from burnish.ir.trace import Trace
from burnish.passes.pipeline import run_passes
from burnish.passes.pipelines import raise_operations
from burnish.passes.transforms.calibration import calibration_of
from burnish.passes.transforms.quality import measure
from burnish.passes.transforms.sparsify import Sparsify, two_of_four

VOCABULARY = 31
TEXT = calibration_of(
    [int(each) for each in torch.randint(0, VOCABULARY, (9 * 64,), generator=torch.Generator().manual_seed(1))], 64
)


class FeedForward(nn.Module):
    """Channels of the first product's input differ by a factor of a hundred."""

    def __init__(self, size: int = 16) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.table = nn.Embedding(VOCABULARY, size)
        self.table.weight.data *= torch.logspace(-1, 1, size)[torch.randperm(size)]
        self.up = nn.Linear(size, 2 * size)
        self.odd = nn.Linear(2 * size, 6)
        self.down = nn.Linear(6, size)
        self.head = nn.Linear(size, VOCABULARY)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.table(ids)
        return self.head(x + self.down(torch.relu(self.odd(torch.relu(self.up(x))))))


def raised() -> Program:
    return run_passes(read(FeedForward(), max_length=64).program, raise_operations(), Trace())


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 5), st.integers(1, 6), st.integers(0, 9))
def test_the_two_greater_of_each_four_stay(rows: int, groups: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    weight, norms = torch.randn(rows, 4 * groups, generator=generator), torch.rand(4 * groups, generator=generator)
    sparse = two_of_four(weight, norms).unflatten(1, (-1, 4))
    assert ((sparse != 0).sum(-1) == 2).all()
    scores = (weight.abs() * norms).unflatten(1, (-1, 4))
    kept = torch.where(sparse != 0, scores, torch.inf).amin(-1)
    gone = torch.where(sparse == 0, scores, -torch.inf).amax(-1)
    assert (kept >= gone).all()
    assert torch.equal(sparse[sparse != 0], weight.unflatten(1, (-1, 4))[sparse != 0])


def test_it_fires_and_stays_away() -> None:
    trace = Trace()
    program = run_passes(raised(), [Sparsify()], trace)
    assert [entry.where.split(" in ")[1].split()[0].rstrip(",") for entry in trace.passes[-1].rewrites] == ["up", "odd"]
    assert [entry.text for entry in trace.passes[-1].refusals] == [
        "its rows of 6 are no whole groups of 4",
        "it gives the logits, which suffer most",
    ]
    zeros = {name: float((weight.materialize() == 0).float().mean()) for name, weight in program.weights.items()}
    assert {name: share for name, share in zeros.items() if share} == {"up.weight.2_4": 0.5, "odd.weight.2_4": 0.5}


def test_activations_say_better_than_weights_what_matters() -> None:
    original = raised()
    both = [
        run_passes(original, [Sparsify(method=method, calibration=TEXT)], Trace())  # type: ignore[arg-type]
        for method in ("magnitude", "wanda")
    ]
    _, magnitude, wanda = measure([original, *both], TEXT.held_out)
    assert wanda.divergence < magnitude.divergence


def test_a_whole_model_and_what_cannot_be_done() -> None:
    ids = TEXT.tokens.flatten().tolist() * 2
    with burnish.compile(FeedForward(), transforms=[Sparsify()], calibration=ids, max_length=64) as compiled:
        original, sparse = compiled.trace.quality
        assert sparse.divergence > 0
        assert sparse.parameters == original.parameters  # stored dense
    for wrong, message in (
        (Sparsify("1:4"), "no pattern '1:4'"),  # type: ignore[arg-type]
        (Sparsify(method="guess"), "no method 'guess'"),  # type: ignore[arg-type]
        (Sparsify(method="wanda"), "needs calibration text"),
    ):
        with pytest.raises(UsageError, match=message):
            run_passes(raised(), [wrong], Trace())
