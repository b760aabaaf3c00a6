"""Small modules that spell one thing, captured and rewritten, for the tests of the rules."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, fx, nn

from burnish.frontend.capture import capture
from burnish.ir.edit import remove_dead
from burnish.ir.interpreter import run
from burnish.ir.program import Program
from burnish.ir.text import node_text, symbol_names
from burnish.passes.base import Log, Pass
from burnish.passes.pipeline import check
from burnish.passes.raise_.clean import Clean

WIDTH, VOCABULARY = 8, 31


class Spelled(nn.Module):
    """Embedding, then `body`, a function of the module and x[batch, tokens, WIDTH]."""

    def __init__(self, body: Callable[[Spelled, Tensor], Tensor]) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.body = body
        self.embed = nn.Embedding(VOCABULARY, WIDTH)
        self.weight = nn.Parameter(torch.randn(WIDTH))
        self.one = nn.Parameter(torch.full((1,), 0.7))
        self.bias = nn.Parameter(torch.randn(WIDTH))
        self.gate, self.up = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)
        self.convolution = nn.Conv1d(WIDTH, WIDTH, 3, padding=2, groups=WIDTH)

    def forward(self, ids: Tensor) -> Tensor:
        return self.body(self, self.embed(ids))


Body = Callable[[Spelled, Tensor], Tensor]


def captured(bodies: Mapping[str, Body]) -> dict[str, Program]:
    """Each body as a program of its own; all are captured at once, since that is what takes time."""

    def all_of_them(module: Spelled, x: Tensor) -> Tensor:
        return torch.cat([body(module, x) for body in bodies.values()], dim=-1)

    whole = capture(Spelled(all_of_them), max_length=32)
    joined = whole.output.args[0][0]
    return {name: _with_output(whole, part.name) for name, part in zip(bodies, joined.args[0], strict=True)}


def _with_output(program: Program, name: str) -> Program:
    """A copy of `program` that gives the value of the node `name`."""
    copy = program.copy()
    node = next(node for node in copy.graph.nodes if node.name == name)
    copy.output.args = ((node,),)
    remove_dead(copy)
    return copy


def spelled_all(bodies: Mapping[str, Body]) -> dict[str, Program]:
    """Each body as a cleaned program of its own."""
    return {name: Clean().run(program, Log()) for name, program in captured(bodies).items()}


def spelled(body: Body) -> Program:
    """`body` as a cleaned program."""
    return spelled_all({"": body})[""]


def rewritten(program: Program, by: Pass) -> tuple[Program, Log]:
    """What a pass makes of a copy of `program`, checked, with the same numbers."""
    log = Log()
    after = by.run(program.copy(), log)
    check(after, by.name)
    for length in (1, 7):
        tokens = torch.arange(2 * length).reshape(2, length) % VOCABULARY
        expected, found = run(program, [tokens])[0], run(after, [tokens])[0]
        torch.testing.assert_close(found, expected, rtol=2e-6, atol=2e-6)
    return after, log


def text_of(program: Program) -> str:
    """The ops on tensors as text, one a line, numbered: export's own names differ between versions of torch."""
    symbols = symbol_names(program)
    nodes = [n for n in program.graph.nodes if n.op == "call_function" and isinstance(n.meta["val"], Tensor)]
    numbers = {node.name: f"%{number}" for number, node in enumerate(nodes)}
    numbers |= {n.name: symbols.get(str(n.meta["val"]), "size") for n in program.graph.nodes if _is_size(n)}
    lines = [node_text(node, symbols).split("  # ")[0] for node in nodes]
    return "\n".join(re.sub(r"%(\w+)", lambda found: numbers.get(found[1], found[0]), line) for line in lines)


def _is_size(node: fx.Node) -> bool:
    return isinstance(node.meta.get("val"), torch.SymInt)


def ops_of(program: Program) -> list[str]:
    """The names of the ops on tensors, in order, without the embedding in front."""
    return [line.split(" = ")[1].split("(")[0] for line in text_of(program).splitlines()][1:]


def texts(log: Log) -> list[str]:
    """What the log says was rewritten."""
    return [entry.text for entry in log.rewrites]
