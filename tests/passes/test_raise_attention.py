"""Attention is raised from its own spelling, and left alone where it is none."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from burnish.frontend.capture import capture
from burnish.ir.interpreter import run
from burnish.ir.program import Program
from burnish.ir.text import node_text
from burnish.passes.base import Log
from burnish.passes.canonicalize import Canonicalize
from burnish.passes.clean import Clean
from burnish.passes.raise_attention import RaiseAttention


class Attention(nn.Module):
    """Embedding, one attention written in `attend`, head."""

    def __init__(self, kv_heads: int = 4) -> None:
        super().__init__()
        self.kv_heads = kv_heads
        self.embed, self.head = nn.Embedding(23, 16), nn.Linear(16, 23)
        self.q, self.kv = nn.Linear(16, 16), nn.Linear(16, 2 * 4 * kv_heads)

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        raise NotImplementedError

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embed(ids)
        b, t, _ = x.shape
        q = self.q(x).view(b, t, 4, 4).transpose(1, 2)
        k, v = self.kv(x).view(b, t, 2, self.kv_heads, 4).permute(2, 0, 3, 1, 4).unbind(0)
        return self.head(self.attend(q, k, v).transpose(1, 2).reshape(b, t, -1))


def causal(length: int) -> Tensor:
    return torch.ones(length, length, dtype=torch.bool).tril()


class Repeated(Attention):
    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        k, v = (x[:, :, None].expand(-1, -1, 2, -1, -1).reshape(x.shape[0], 4, -1, 4) for x in (k, v))
        scores = (q @ k.transpose(2, 3)).masked_fill(~causal(q.shape[2]), float("-inf"))
        return (scores * 0.5).softmax(-1) @ v


class Interleaved(Attention):
    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        k, v = k.repeat_interleave(2, dim=1), v.repeat_interleave(2, dim=1)
        return F.scaled_dot_product_attention(q, k, v, attn_mask=causal(q.shape[2]))


class SoftCapped(Attention):
    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        scores = 3.0 * torch.tanh(q @ k.mT * 0.25 / 3.0)
        return (scores + torch.where(causal(q.shape[2]), 0.0, -1e9)).softmax(-1) @ v


class Multiplied(Attention):
    """The first GPT's mask: scores times a triangle of ones, plus a large negative number elsewhere."""

    hidden = -1e4

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        seen = causal(q.shape[2]).float()
        return ((q @ k.mT / 2) * seen + self.hidden * (1 - seen)).softmax(-1) @ v


class MultipliedAndSeen(Multiplied):
    """Scores that count as 0 are not hidden: a softmax gives them weight."""

    hidden = -1.0


class MergedHeads(Attention):
    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        b, h, t, d = q.shape
        q, k, v = (x.reshape(b * h, t, d) for x in (q, k, v))
        scores = torch.baddbmm(torch.where(causal(t), 0.0, float("-inf")).expand(b * h, t, t), q, k.mT, alpha=0.5)
        return torch.bmm(scores.softmax(-1), v).view(b, h, t, d)


class WithSinks(Attention):
    def __init__(self) -> None:
        super().__init__()
        self.sinks = nn.Parameter(torch.randn(4))

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        scores = (q @ k.mT / math.sqrt(4)).masked_fill(~causal(q.shape[2]), float("-inf"))
        sinks = self.sinks.view(1, -1, 1, 1).expand(q.shape[0], -1, q.shape[2], 1)
        return torch.cat([scores, sinks], dim=-1).softmax(-1)[..., :-1] @ v


class ScaledBySinks(WithSinks):
    """A sink by another spelling: softmax(scores) * sigmoid(logsumexp(scores) - sink)."""

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        scores = (q @ k.mT / math.sqrt(4)).masked_fill(~causal(q.shape[2]), float("-inf"))
        scale = (torch.logsumexp(scores, dim=-1) - self.sinks.view(1, -1, 1)).sigmoid()
        return scores.softmax(-1) @ v * scale.unsqueeze(-1)


class Strided(Attention):
    """Each token sees every third one before it: causal, with no closed form."""

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        i = torch.arange(q.shape[2])
        seen = (i[:, None] >= i) & ((i[:, None] - i) % 3 == 0)
        return F.scaled_dot_product_attention(q, k, v, attn_mask=seen)


class MaskedByData(Attention):
    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        scores = (q @ k.mT + v.sum(-1).unsqueeze(-2)).masked_fill(~causal(q.shape[2]), float("-inf"))
        return scores.softmax(-1) @ v


class OverFeatures(Attention):
    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return (q * k).softmax(-1) * v


def raised(module: nn.Module) -> tuple[Program, Program, Log]:
    torch.manual_seed(0)
    captured = Canonicalize().run(Clean().run(capture(module.eval(), max_length=64), Log()), Log())
    log = Log()
    return captured, RaiseAttention().run(captured.copy(), log), log


def ops(program: Program, name: str) -> list[str]:
    return [node_text(node, {}) for node in program.graph.nodes if str(node.target).startswith(name)]


@pytest.mark.parametrize(
    ("module", "told", "options"),
    [
        (Repeated(2), "4 query heads, 2 KV heads, mask causal", "scale=0.5, mask='causal'"),
        (Interleaved(2), "4 query heads, 2 KV heads, mask causal", "scale=0.5, mask='causal'"),
        (SoftCapped(), "mask causal, with softcap", "scale=0.25, mask='causal', softcap=3.0"),
        (Multiplied(), "4 query heads, 4 KV heads, mask causal", "scale=0.5, mask='causal'"),
        (MergedHeads(), "4 query heads, 4 KV heads, mask causal", "scale=0.5, mask='causal'"),
        (WithSinks(), "mask causal, with sinks", "sinks=@sinks"),
        (ScaledBySinks(), "mask causal, with sinks", "sinks=@sinks"),
        (Strided(), "mask none, with bias", "bias=%attention_bias"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else "",
)
def test_it_fires_and_the_numbers_hold(module: nn.Module, told: str, options: str) -> None:
    captured, program, log = raised(module)
    assert len(log.rewrites) == 1
    assert told in log.rewrites[0].text
    (line,) = ops(program, "burnish.attention.default")
    assert options in line
    assert not ops(program, "aten.softmax")
    assert not ops(program, "aten.scaled_dot_product_attention")
    for shape in ((1, 1), (2, 13), (3, 40)):
        ids = torch.randint(23, shape)
        torch.testing.assert_close(run(program, [ids])[0], run(captured, [ids])[0], rtol=1e-4, atol=1e-5)


def test_it_leaves_alone_what_depends_on_data_and_says_why() -> None:
    _, program, log = raised(MaskedByData())
    assert not ops(program, "burnish.attention")
    assert ops(program, "aten.softmax")
    (refusal,) = log.refusals
    node = _name_of(program, "aten.add")
    assert refusal.text.startswith(f"what is added to the scores depends on the input's data (at {node} (aten.add")
    assert "`scores = (q @ k.mT + v.sum" in refusal.text  # the line of source


def test_it_leaves_alone_scores_that_are_zero_and_not_hidden() -> None:
    _, program, log = raised(MultipliedAndSeen())
    assert ops(program, "aten.softmax")
    assert [entry.text for entry in log.refusals] == ["scores multiplied by 0 are seen as 0, not hidden"]


def test_it_leaves_alone_a_softmax_over_features() -> None:
    _, program, log = raised(OverFeatures())
    assert ops(program, "aten.softmax")
    assert not log.rewrites
    assert not log.refusals


def _name_of(program: Program, target: str) -> str:
    return next(node.name for node in program.graph.nodes if str(node.target).startswith(target))
