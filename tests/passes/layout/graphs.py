"""Small graphs with permutes, captured, and rewritten by a pass with the same numbers."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor, fx, nn

from burnish.frontend.graph_capture import capture_graph
from burnish.ir.cost import CostCounter
from burnish.ir.edit import Editor
from burnish.ir.interpreter import run_by_name
from burnish.ir.program import Program
from burnish.ir.text import node_text, symbol_names
from burnish.ir.turns import turned
from burnish.passes.base import Log, Pass
from burnish.passes.check import check
from burnish.passes.layout.orders import identity, moves
from burnish.passes.raise_.clean import Clean


class Calls(nn.Module):
    """A function of x and the module's layers."""

    def __init__(self, function: Callable[..., Any], *layers: nn.Module) -> None:
        super().__init__()
        self.function, self.layers = function, nn.ModuleList(layers)

    def forward(self, x: Tensor) -> Any:
        return self.function(x, *self.layers)


def graph(function: Callable[..., Any], shape: tuple[int, ...], *layers: nn.Module, shapes: Any = None) -> Program:
    """A function of x, of `shape`, as a clean program."""
    torch.manual_seed(0)
    program = capture_graph(Calls(function, *layers).eval(), (torch.randn(shape),), shapes)
    return Clean().run(program, Log())


@cache
def _empty(shape: tuple[int, ...]) -> Program:
    return graph(lambda x: x * 1.5, shape)


def of_calls(shape: tuple[int, ...], build: Callable[[Editor, Any], list[Any]]) -> Program:
    """A program that gives all that `build` makes of its input, by an editor: no capture for each."""
    program = _empty(shape).copy()
    editor = Editor(program)
    with editor.before(program.output):
        made = build(editor, program.placeholders[0])
    program.give({f"output_{place}": each for place, each in enumerate(made)}, [])
    return program


def rewritten(program: Program, by: Pass) -> tuple[Program, Log]:
    """What a pass makes of a copy of `program`, checked, with the same numbers."""
    log = Log()
    after = by.run(program.copy(), log)
    check(after, by.name)
    generator = torch.Generator().manual_seed(1)
    sizes = [int(size) if isinstance(size, int) else 3 for size in program.placeholders[0].meta["val"].shape]
    inputs = {program.placeholders[0].name: torch.randn(sizes, generator=generator)}
    wanted, found = (run_by_name(each, inputs, each.interface.outputs) for each in (program, after))
    for name, tensor in wanted.items():
        torch.testing.assert_close(found[name], tensor, rtol=1e-5, atol=1e-5)
    return after, log


def text_of(program: Program) -> str:
    """The ops on tensors as text, one a line, numbered."""
    symbols = symbol_names(program)
    nodes = [n for n in program.graph.nodes if n.op == "call_function" and isinstance(n.meta["val"], Tensor)]
    numbers = {node.name: f"%{place}" for place, node in enumerate(nodes)}
    lines = [node_text(node, symbols).split("  # ")[0] for node in nodes]
    return "\n".join(re.sub(r"%(\w+)", lambda found: numbers.get(found[1], found[0]), line) for line in lines)


def permutes(program: Program) -> list[fx.Node]:
    """The ops of a program that give the axes of a tensor in another order, and move elements by that."""
    turns = [node for node in program.graph.nodes if turned(node) is not None]
    return [node for node in turns if moves(identity(rank_of(node)), turned(node), node.args[0].meta["val"].shape)]


def rank_of(node: fx.Node) -> int:
    return node.meta["val"].dim()


def moved(program: Program) -> int:
    """The bytes that a program's permutes give."""
    counter = CostCounter(program)
    return sum(counter.bytes_of(node.meta["val"]) for node in permutes(program))
