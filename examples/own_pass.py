"""A pass of one's own: a rule, run among burnish's passes, seen in the report, and found when it has a bug.

python examples/own_pass.py
"""

import torch
from torch import Tensor, fx, nn

import burnish
from burnish.frontend.capture import capture
from burnish.inspect.bisect import bisect, numbers_check
from burnish.ir.edit import Editor
from burnish.passes.base import Effect
from burnish.rewrite.engine import Rule
from burnish.rewrite.matching import Match
from burnish.rewrite.pattern import Number, Variable, mul

aten = torch.ops.aten
x, first, second = Variable("x"), Number("first"), Number("second")


def to_one_scaling(editor: Editor, match: Match) -> fx.Node:
    factor = match.number(first) * match.number(second)
    return editor.call(aten.mul.Tensor, match.node(x), factor, like=match.root)


def with_a_bug(editor: Editor, match: Match) -> fx.Node:
    factor = match.number(first) + match.number(second)
    return editor.call(aten.mul.Tensor, match.node(x), factor, like=match.root)


def passes(replace=to_one_scaling):
    """burnish's passes for CPUs, and one more behind those that clean: two scalings in a row become one."""
    own = burnish.Rules("join-scalings", (Rule("two scalings", mul(mul(x, first), second), replace),))
    assert own.effect is Effect.REASSOCIATES  # what it does to the numbers: it sets how far they may move
    default = burnish.default_passes()
    place = 1 + [each.name for each in default].index("canonicalize")
    return [*default[:place], own, *default[place:]]


class Model(nn.Module):
    """A language model that scales twice what it reads."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens, self.norm, self.head = nn.Embedding(64, 32), nn.LayerNorm(32), nn.Linear(32, 64)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.tokens(ids) * 3.0 * 0.5
        return self.head(self.norm(x.cumsum(1)) + x)


if __name__ == "__main__":
    torch.manual_seed(0)
    model = Model().eval()

    # Among the others: it is recorded and verified as they are.
    compiled = burnish.compile(model, max_length=64, passes=passes(), verify="full")
    (record,) = [each for each in compiled.trace.passes if each.name == "join-scalings"]
    print(record, f"difference {record.verification.difference:.0e}")
    print(record.rewrites[0].text, "at", record.rewrites[0].where)

    # With a bug in it nothing is compiled ...
    try:
        burnish.compile(model, max_length=64, passes=passes(with_a_bug))
    except burnish.BurnishError as error:
        print(type(error).__name__, "-", str(error).split(":")[0])

    # ... and the first bad rewrite has a name.
    captured = capture(model, max_length=64)
    culprit = bisect(captured, passes(with_a_bug), numbers_check(captured))
    print("the culprit:", culprit.pass_name, "-", culprit.rewrite.text, "at", culprit.rewrite.node)
