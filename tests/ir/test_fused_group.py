"""Bodies of fused groups: what they say, what is wrong with them, and what they read."""

from __future__ import annotations

import pytest
import torch

from burnish.ir.errors import ParseError
from burnish.ir.fused_group import parse_group
from burnish.ir.ops import burnish_ops

BODY = """\
input %x: f32[2, 6]
size %rows: size batch
%exp: f32[2, 6] = aten.exp(%x)
%reshape: f32[2, 2, 3] = aten.reshape(%exp, [%rows, 2, 3])  # layers.*.mlp | MLP | model.py:3 | "x | y"
%sum: f32[2, 2] = aten.sum.dim_IntList(%reshape, [-1])
return [%exp, %sum]"""


def test_the_reference_runs_the_lines() -> None:
    x = torch.randn(2, 6)
    exp, total = burnish_ops.fused_elementwise([x], [2], body=BODY)
    assert torch.equal(exp, x.exp())
    assert torch.equal(total, x.exp().reshape(2, 2, 3).sum(-1))


def test_a_line_knows_what_it_reads_and_where_it_is_from() -> None:
    group = parse_group(BODY)
    assert (group.inputs, group.sizes, group.results) == (("x",), ("rows",), ("exp", "sum"))
    reshape = group.steps[1]
    assert reshape.reads() == ["exp", "rows"]
    assert (reshape.origin.module, reshape.origin.line, reshape.origin.code) == ("layers.*.mlp", 3, "x | y")


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("aten.exp(", "aten.linear(", "line 3: 'aten.linear' cannot be part of a fused group"),
        ("aten.exp(", "aten.exp_(", "line 3: 'aten.exp_' cannot be part of a fused group"),
        ("aten.exp(%x", "aten.exp(%y", "line 3: %y is read, and no line before has it"),
        ("aten.exp(%x", "aten.exp(@x", "line 3: @x is read, and no line before has it"),
        ("%sum:", "%exp:", "line 5: there are two values named 'exp'"),
        ("return [%exp, %sum]", "", "has no line that begins with 'return'"),
        ("return [%exp, %sum]", "return [%x]", "line 6: what is returned has to be computed"),
        ("return [%exp, %sum]", "return [1]", "line 6: what is returned has to be a list of values"),
        ("return [%exp, %sum]", "return []", "line 6: what is returned has to be a list of values"),
        ("size %rows", "return [%x]\nsize %rows", "line 2: what is returned has to be computed"),
        ("%sum]", "%sum]\n%y: f32[1] = aten.exp(%x)", "line 7: nothing can follow"),
        ("input %x: f32[2, 6]\n", "", "line 2: %x is read, and no line before has it"),
    ],
)
def test_what_is_wrong_is_said_with_its_line(old: str, new: str, said: str) -> None:
    assert old in BODY
    with pytest.raises(ParseError) as error:
        parse_group(BODY.replace(old, new))
    assert said in str(error.value)


def test_values_have_to_be_given_for_all_inputs() -> None:
    with pytest.raises(ParseError, match="takes 1 inputs and 1 sizes, not 1 and 0"):
        burnish_ops.fused_elementwise([torch.ones(2, 6)], [], body=BODY)
