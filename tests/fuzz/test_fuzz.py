"""Modules that nobody wrote, compiled in drawn ways: what they give is eager's, or they are refused with the reason.

`make fuzz` draws for an hour. A failure prints its case, which is all that is needed to see it again:
`examine(Case(...))`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import pytest
import torch
from hypothesis import HealthCheck, Phase, given, note, seed, settings

from tests.fuzz.cases import Case, Outcome, counted, examine
from tests.fuzz.draw import cases

EXAMPLES = 200
PARTS = 4  # one test each: processes that share the machine share them


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.timeout(1200)
@pytest.mark.parametrize("part", range(PARTS))
def test_drawn_modules_compiled_in_drawn_ways_give_what_eager_does(part: int) -> None:
    outcomes: Counter[Outcome] = Counter()

    @seed(part)
    @settings(
        max_examples=EXAMPLES // PARTS,
        deadline=None,
        database=None,
        phases=[Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
    )
    @given(cases())
    def each(case: Case) -> None:
        note(repr(case))
        outcomes[examine(case)] += 1

    each()
    print(counted(outcomes))
    compiled = sum(count for outcome, count in outcomes.items() if outcome.kind == "matched")
    assert compiled > sum(outcomes.values()) // 2, counted(outcomes)
