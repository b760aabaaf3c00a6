"""Linears take in what stands around them: which operations are left, which are left alone, that the numbers hold."""

from __future__ import annotations

import re

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from burnish.frontend import read
from burnish.frontend.capture import capture
from burnish.ir.interpreter import run
from burnish.ir.program import Program
from burnish.ir.text import call_text
from burnish.ir.trace import Trace
from burnish.passes.base import Log
from burnish.passes.fuse.linears import FuseLinears
from burnish.passes.pipeline import run_passes
from burnish.passes.pipelines import fuse_for_gpu, make_incremental
from burnish.passes.raise_.activation import RAISE_ACTIVATIONS
from burnish.passes.raise_.canonicalize import Canonicalize
from burnish.passes.raise_.clean import Clean
from burnish.passes.raise_.norm import RAISE_NORMS
from burnish.passes.verify import Verifier, relative_difference
from tests.tolerances import assert_near
from tests.zoo.configs import build

WIDTH, VOCABULARY = 8, 13


class Model(nn.Module):
    """Embedding and head; what stands between differs."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(VOCABULARY, WIDTH)
        self.norm = nn.RMSNorm(WIDTH, eps=1e-6)
        self.layer_norm = nn.LayerNorm(WIDTH)
        self.a, self.b = nn.Linear(WIDTH, 12, bias=False), nn.Linear(WIDTH, 12, bias=False)
        self.biased, self.down = nn.Linear(WIDTH, WIDTH), nn.Linear(12, WIDTH)
        self.head = nn.Linear(WIDTH, VOCABULARY, bias=False)

    def mix(self, x: Tensor) -> Tensor:
        raise NotImplementedError

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(self.mix(self.embed(ids)))


class Gated(Model):
    def mix(self, x: Tensor) -> Tensor:
        normed = self.norm(x)
        return x + self.down(F.silu(self.a(normed)) * self.b(normed))


class Activated(Model):
    def mix(self, x: Tensor) -> Tensor:
        return x + F.gelu(self.biased(self.layer_norm(x)), approximate="tanh")


class Capped(Model):
    def forward(self, ids: Tensor) -> Tensor:
        return 30.0 * torch.tanh(self.head(self.norm(self.embed(ids))) / 30.0)


class Scaled(Model):
    def mix(self, x: Tensor) -> Tensor:
        return x + self.biased(x) * 0.25


class ReadTwice(Model):
    """The norm, and the linear, are read by something else, too."""

    def mix(self, x: Tensor) -> Tensor:
        normed = self.norm(x)
        y = self.biased(normed)
        return normed + F.silu(y) + y


class OfDifferentValues(Model):
    def mix(self, x: Tensor) -> Tensor:
        return x + self.down(F.silu(self.a(self.norm(x))) * self.b(x))


class Broadcast(Model):
    """The product is repeated for the sum: no residual of its shape."""

    def mix(self, x: Tensor) -> Tensor:
        return x + self.biased(self.embed.weight[:1])


def fused(module: nn.Module) -> tuple[Program, Program, Log]:
    torch.manual_seed(0)
    program = Canonicalize().run(Clean().run(capture(module.eval(), max_length=32), Log()), Log())
    program = RAISE_ACTIVATIONS.run(RAISE_NORMS.run(program, Log()), Log())
    log = Log()
    return program, FuseLinears().run(program.copy(), log), log


def calls(program: Program) -> list[str]:
    """What the nodes compute; %fused is the linear before, whatever its number."""
    texts = [call_text(node) for node in program.graph.nodes if node.op == "call_function"]
    return [re.sub(r"%fused_linear_default(_\d+)?", "%fused", text).removeprefix("burnish.") for text in texts]


@pytest.mark.parametrize(
    ("module", "left"),
    [
        (
            Gated(),
            [
                "fused_linear(%embedding, @\"a|b.weight\", None, @norm.weight, None, None, norm='rms', eps=1e-06, "
                "activation='silu', gated=True)",
                "fused_linear(%fused, @down.weight, @down.bias, None, None, %embedding)",
                "fused_linear(%fused, @head.weight, None, None, None, None)",
            ],
        ),
        (
            Activated(),
            [
                "fused_linear(%embedding, @biased.weight, @biased.bias, @layer_norm.weight, @layer_norm.bias, "
                "%embedding, norm='layer', eps=1e-05, activation='gelu_tanh')",
                "fused_linear(%fused, @head.weight, None, None, None, None)",
            ],
        ),
        (
            Capped(),
            [
                "fused_linear(%embedding, @head.weight, None, @norm.weight, None, None, norm='rms', eps=1e-06, "
                "softcap=30.0)"
            ],
        ),
        (
            Scaled(),
            [
                "fused_linear(%embedding, @biased.weight, @biased.bias, None, None, %embedding, scale=0.25)",
                "fused_linear(%fused, @head.weight, None, None, None, None)",
            ],
        ),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else "",
)
def test_it_fires_and_the_numbers_hold(module: nn.Module, left: list[str]) -> None:
    before, after, log = fused(module)
    assert calls(after) == ["aten.embedding(@embed.weight, %tokens)", *left]
    assert not log.refusals
    _same_numbers(before, after)


@pytest.mark.parametrize(
    ("module", "kept", "reasons"),
    [
        (
            ReadTwice(),
            ["rms_norm(%embedding, @norm.weight, 1e-06)", "aten.silu(%fused)", "aten.add.Tensor(%add, %fused)"],
            ["a norm that is read by add too is computed once, by itself"],
        ),
        (
            OfDifferentValues(),
            ["gated_activation(%fused, %fused, 'silu')"],
            ["gate and up are not projections of one value"],
        ),
        (Broadcast(), ["aten.add.Tensor(%embedding, %fused)"], []),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else "",
)
def test_it_leaves_alone_what_would_be_computed_twice(module: nn.Module, kept: list[str], reasons: list[str]) -> None:
    before, after, log = fused(module)
    assert set(kept) <= set(calls(after))
    assert [entry.text for entry in log.refusals] == reasons
    _same_numbers(before, after)


def _same_numbers(before: Program, after: Program) -> None:
    for shape in ((1, 1), (2, 5)):
        ids = torch.randint(VOCABULARY, shape)
        assert_near(run(after, [ids])[0], run(before, [ids])[0])


@pytest.mark.parametrize("model_type", ["llama", "gpt2", "gemma2", "cohere", "mixtral"])
def test_a_whole_model_keeps_its_numbers_at_every_stop(model_type: str) -> None:
    captured = read(build(model_type)).program
    step = run_passes(captured, make_incremental(), Trace())
    trace = Trace()
    run_passes(step, fuse_for_gpu(), trace, verifier=Verifier(step))
    (record,) = (record for record in trace.passes if record.name == "fuse-linears")
    assert len(record.rewrites) >= 7
    verifier = Verifier(step)
    for fuel in range(1, sum(len(record.rewrites) for record in trace.passes), 4):
        stopped = run_passes(step, fuse_for_gpu(), Trace(), fuel=fuel)
        for found, expected in zip(verifier.logits(stopped), verifier.logits(step), strict=True):
            assert float(relative_difference(found, expected).max()) < 1e-4, fuel
