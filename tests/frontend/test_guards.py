"""What export noted of sizes, evaluated."""

from __future__ import annotations

import pytest

from burnish.frontend.guards import holds_for_tokens as holds
from burnish.ir.conditions import UnreadCondition

ROWS, TOKENS = "L['tokens'].size()[0]", "L['tokens'].size()[1]"


@pytest.mark.parametrize(
    ("guard", "true", "false"),
    [
        (f"{ROWS} <= 8", (8, 3), (9, 3)),
        (f"{TOKENS}*{ROWS} <= 60", (3, 20), (3, 21)),
        (f"{ROWS} != {TOKENS}", (3, 4), (4, 4)),
        (f"2 <= {ROWS} and {ROWS} < 4", (3, 1), (4, 1)),
        (f"not ({TOKENS} % 2 == 1) or -{ROWS} > -2", (1, 3), (2, 3)),
        (f"({TOKENS} // 4) - 1 >= 1 == True", (1, 8), (1, 7)),
        (f"{ROWS} == math.trunc(0.5*torch.sym_float({TOKENS}))", (4, 9), (4, 10)),
        (f"max({ROWS}, 2) / 4 == 0.5", (1, 9), (3, 10)),
    ],
)
def test_it_is_what_python_says(guard: str, true: tuple[int, int], false: tuple[int, int]) -> None:
    assert holds(guard, true)
    assert not holds(guard, false)


@pytest.mark.parametrize(
    "guard", ["open('x')", "L['self'].size > 1", f"{ROWS} ** 2 > 4", f"{ROWS} % 0 == 1", "1 +", f"math.exp({ROWS}) > 1"]
)
def test_nothing_else_is_run(guard: str) -> None:
    with pytest.raises(UnreadCondition):
        holds(guard, (1, 1))
