"""Modules that nobody wrote, compiled in drawn ways: what they give is eager's, or they are refused with the reason.

`make fuzz` draws for an hour. A failure prints its case, which is all that is needed to see it again:
`examine(Case(...))`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import pytest
import torch

from burnish.ir import traits
from burnish.ir.labels import Labels
from burnish.passes.analyses import masks
from tests.fuzz.attention import LEAKING, Attention, Term
from tests.fuzz.cases import Case, Outcome, Pipeline, WrongAnswer, counted, examine, smallest
from tests.fuzz.draw import drawn
from tests.fuzz.modules import LEAKS, Block, Convolution, Leak, Mixer, Model, Scan, Shift

EXAMPLES = 200
PARTS = 4


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.slow("a quarter of 200 drawn cases")
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("part", range(PARTS))
def test_drawn_modules_compiled_in_drawn_ways_give_what_eager_does(part: int) -> None:
    outcomes: Counter[Outcome] = Counter()
    for case in drawn(part, EXAMPLES // PARTS):
        try:
            outcomes[examine(case)] += 1
        except AssertionError as error:
            raise AssertionError(f"{error}\n{smallest(case, error)!r}") from error
    print(counted(outcomes))
    matched = sum(count for outcome, count in outcomes.items() if outcome.kind == "matched")
    assert matched > EXAMPLES // PARTS // 3, counted(outcomes)  # or what is drawn says little


def alone(*mixers: Mixer, longest: int = 40, verify: bool = False) -> Case:
    return Case(Model((Block(mixers),)), longest, verify=verify)


@pytest.mark.parametrize("kind", LEAKS)
def test_each_leak_is_refused(kind: str) -> None:
    assert examine(alone(Leak(kind))).kind == "refused, as it has to be"


NUMBERS = {"later blocks": (4, 5), "later token": (30, 2), "prefix": (20,), "ahead": (2,), "ahead from": (35,)}


@pytest.mark.parametrize("kind", LEAKING)
def test_each_mask_with_a_leak_is_refused(kind: str) -> None:
    assert examine(alone(Attention(terms=(Term(kind, NUMBERS[kind]),)))).kind == "refused, as it has to be"


# ---------------------------------------------------------------- faults that are planted are found


def test_a_mask_that_is_read_wrongly_is_found_and_shrunk(monkeypatch: pytest.MonkeyPatch) -> None:
    """A window that is one too wide, in a model with much beside it."""
    kind = masks._Look.kind

    def wider(look: masks._Look) -> tuple[str, int]:
        name, extent = kind(look)
        return name, extent + (name == "window")

    monkeypatch.setattr(masks._Look, "kind", wider)
    window = Attention(terms=(Term("window", (9,)),), positions="ones")
    case = Case(Model((Block((Shift(2), window), residual="add"), Block((Scan(),)))), 40, verify=False)
    with pytest.raises(WrongAnswer, match="gives other logits than eager") as fault:
        examine(case)
    small = smallest(case, fault.value)
    assert small.model == Model((Block((Attention(terms=(Term("window", (9,)),)),)),))


def test_what_is_taken_for_pointwise_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """A product over the tokens so far whose op is said to keep them apart."""

    def apart(labels: Labels, node: torch.fx.Node) -> object:
        return labels.of(node.args[0])

    monkeypatch.setitem(traits.TRAITS, torch.ops.aten.cumprod.default, traits.Traits(apart))  # type: ignore[arg-type]
    with pytest.raises(WrongAnswer, match="reference gives other logits than eager"):
        examine(alone(Scan("product")), "reference")
    with pytest.raises(WrongAnswer, match="VerificationError"):
        examine(alone(Scan("product"), verify=True), "reference")


def test_a_leak_that_is_let_through_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def apart(labels: Labels, node: torch.fx.Node) -> object:
        return labels.of(node.args[0])

    monkeypatch.setitem(traits.TRAITS, torch.ops.aten.flip.default, traits.Traits(apart))  # type: ignore[arg-type]
    with pytest.raises(WrongAnswer, match="it was compiled"):
        examine(alone(Leak("flipped rows")))


def test_a_pass_that_is_left_out_is_told() -> None:
    without = Pipeline("onnxruntime", without=("raise-convolutions",))
    assert examine(Case(alone(Convolution(3)).model, 40, without)).kind == "refused, with passes left out"
