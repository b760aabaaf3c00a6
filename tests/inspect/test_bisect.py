"""Faults planted in single rewrites, one after the other: each is named exactly."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from burnish.frontend import read
from burnish.inspect.bisect import Culprit, bisect, numbers_check
from burnish.ir.edit import Editor
from burnish.ir.errors import InvalidProgramError, UsageError
from burnish.ir.ops import burnish_ops
from burnish.ir.program import Program, origin
from burnish.ir.trace import Trace
from burnish.ir.weights import Concat, Permute, Weights
from burnish.passes.analyses.attention_match import Match
from burnish.passes.analyses.mask_reading import MaskReader
from burnish.passes.analyses.masks import Mask
from burnish.passes.base import Effect, Log, Pass
from burnish.passes.pipeline import run_passes
from burnish.passes.pipelines import default_passes
from tests.own_modules.causal import VOCABULARY, WIDTH
from tests.zoo.configs import build

aten = torch.ops.aten
Fault = Callable[[Program, list[fx.Node]], None]


@dataclass
class Planted:
    """Where a fault went."""

    node: str = ""
    number: int = 0


@dataclass(frozen=True)
class Faulty:
    """`inner`, but `fault` is done to what its first rewrite at `where` made: at that rewrite, and to no other."""

    inner: Pass
    fault: Fault
    where: Callable[[fx.Node, str], bool]
    planted: Planted = field(default_factory=Planted)
    effect: ClassVar[Effect] = Effect.REASSOCIATES

    @property
    def name(self) -> str:
        return self.inner.name

    @property
    def atomic(self) -> bool:
        return self.inner.atomic

    def run(self, program: Program, log: Log) -> Program:
        report, done = log.rewrite, False

        def rewrite(node: fx.Node, text: str) -> None:
            nonlocal done
            if not done and self.where(node, text):
                done = True
                self.planted.node, self.planted.number = node.name, len(log.rewrites) + 1
                self.fault(program, list(program.made))
            report(node, text)

        log.rewrite = rewrite  # type: ignore[method-assign]
        return self.inner.run(program, log)


def made(nodes: list[fx.Node], target: Any) -> fx.Node:
    return next(node for node in nodes if node.target is target)


def swap_operands(program: Program, nodes: list[fx.Node]) -> None:
    node = made(nodes, burnish_ops.gated_activation.default)
    node.args = (node.args[1], node.args[0], *node.args[2:])


def shift_features(program: Program, nodes: list[fx.Node]) -> None:
    node = made(nodes, burnish_ops.shift.default)
    node.args = (node.args[0], 2, *node.args[2:])


def scale_scores(program: Program, nodes: list[fx.Node]) -> None:
    node = made(nodes, burnish_ops.attention.default)
    node.kwargs = {**node.kwargs, "scale": node.kwargs["scale"] * 1.25}  # type: ignore[operator]


def rotate_later(program: Program, nodes: list[fx.Node]) -> None:
    node = made(nodes, burnish_ops.rotary.default)
    editor = Editor(program)
    with editor.before(node):
        late = [editor.call(aten.roll.default, each, [1], [-2], like=node) for each in node.args[1:3]]  # type: ignore[arg-type]
    node.args = (node.args[0], *late, *node.args[3:])


def transpose_weight(program: Program, nodes: list[fx.Node]) -> None:
    node = next(node for node in nodes if node.op == "get_attr")
    packed = program.weights[str(node.target)]
    assert isinstance(packed, Concat)
    first, *others = packed.parts
    assert first.shape[0] == first.shape[1]
    program.weights = Weights({**program.weights, str(node.target): Concat((Permute(first, (1, 0)), *others))})


def write_one_slot_early(program: Program, nodes: list[fx.Node]) -> None:
    node = made(nodes, burnish_ops.cache_write.default)
    state, value, position, axis = node.args
    editor = Editor(program)
    with editor.before(node):
        early = editor.call(aten.sub.Tensor, position, 1, like=node)
        slot = editor.call(aten.clamp_min.default, early, 0, like=node)
    node.args = (state, value, slot, axis)


def drop_residual(program: Program, nodes: list[fx.Node]) -> None:
    add = next(
        node
        for node in program.graph.nodes
        if node.target is aten.add.Tensor and origin(node).module == "model.layers.1" and len(node.args) == 2
    )
    add.replace_all_uses_with(add.args[1])  # type: ignore[arg-type]


class Shifted(nn.Module):
    """Each token sees the one before it, as RWKV's do."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(VOCABULARY, WIDTH)
        self.layers = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(3))
        self.head = nn.Linear(WIDTH, VOCABULARY)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embed(ids)
        for layer in self.layers:
            x = x + layer(F.pad(x, (0, 0, 1, -1)))
        return self.head(x)


def in_layer(number: int, kind: str = "") -> Callable[[fx.Node, str], bool]:
    return lambda node, text: f"layers.{number}." in origin(node).module + "." and kind in text


FAULTS: dict[str, tuple[Any, str, Fault, Callable[[fx.Node, str], bool]]] = {
    "a swapped operand in a rule": ("llama", "raise-activations", swap_operands, in_layer(1)),
    "a wrong axis": (Shifted, "raise-convolutions", shift_features, lambda node, text: True),
    "a stale cache slot": ("llama", "insert-states", write_one_slot_early, lambda node, text: "transpose" in node.name),
    "a wrong scale": ("gemma2", "raise-attention", scale_scores, in_layer(1)),
    "a dropped residual": ("llama", "clean", drop_residual, in_layer(1)),
    "a transposed weight": ("opt", "pack-linears", transpose_weight, in_layer(1)),
    "rotary at the wrong offset": ("llama", "raise-rotary", rotate_later, in_layer(1)),
}


def captured(model: Any) -> Program:
    torch.manual_seed(0)
    return read(build(model) if isinstance(model, str) else model().eval()).program


def with_fault(name: str) -> tuple[Program, list[Pass], Faulty]:
    model, pass_name, fault, where = FAULTS[name]
    passes = default_passes("onnxruntime" if pass_name == "pack-linears" else "native")
    place = next(place for place, each in enumerate(passes) if each.name == pass_name)
    faulty = Faulty(passes[place], fault, where)
    return captured(model), [*passes[:place], faulty, *passes[place + 1 :]], faulty


@pytest.mark.parametrize("name", FAULTS)
def test_a_planted_fault_is_named_exactly(name: str) -> None:
    program, passes, faulty = with_fault(name)
    found = bisect(program, passes, numbers_check(program))
    assert found is not None
    assert (found.pass_name, found.rewrite.node) == (faulty.name, faulty.planted.node)
    assert faulty.planted.node in found.rewrite.where
    assert found.difference
    _check_effort(found)


def test_a_mask_that_is_off_by_one_is_named_exactly(monkeypatch: pytest.MonkeyPatch) -> None:
    """In the code itself: windows are taken for one token wider than they are."""

    def wider(reader: MaskReader, match: Match, heads: int) -> Mask:
        mask = read_mask(reader, match, heads)
        return replace(mask, extent=mask.extent + 1) if mask.kind == "window" else mask

    read_mask = MaskReader.read
    monkeypatch.setattr(MaskReader, "read", wider)
    program = captured("gemma2")  # whose layers have a window, none, ...
    found = bisect(program, default_passes(), numbers_check(program))
    assert found is not None
    assert found.pass_name == "raise-attention"
    assert "mask window of 9" in found.rewrite.text
    assert "layers.0.self_attn" in found.rewrite.where
    assert "modeling_gemma2.py" in found.rewrite.where
    _check_effort(found)


def test_a_rewrite_that_breaks_a_rule_of_the_language_is_named_too() -> None:
    def forget_type(program: Program, nodes: list[fx.Node]) -> None:
        del made(nodes, burnish_ops.gated_activation.default).meta["val"]

    program = captured("llama")
    passes = default_passes()
    place = next(place for place, each in enumerate(passes) if each.name == "raise-activations")
    faulty = Faulty(passes[place], forget_type, in_layer(1))
    passes[place] = faulty
    with pytest.raises(InvalidProgramError, match="has no type"):
        run_passes(program, passes, Trace())
    found = bisect(program, passes, numbers_check(program))
    assert found is not None
    assert (found.pass_name, found.rewrite.node) == ("raise-activations", faulty.planted.node)
    assert "has no type" in found.reason


def test_without_a_fault_there_is_nothing_to_name() -> None:
    program = captured("llama")
    assert bisect(program, default_passes(), numbers_check(program)) is None


def _check_effort(found: Culprit) -> None:
    assert 1 <= found.place <= found.of
    assert found.checks <= found.of.bit_length() + 5


def test_a_check_that_fails_before_any_pass_blames_none() -> None:
    captured = read(build("llama")).program
    with pytest.raises(UsageError, match="fails for the program as captured, before any pass: always"):
        bisect(captured, default_passes(), lambda program: "always")
