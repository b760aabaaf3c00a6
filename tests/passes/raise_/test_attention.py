"""Attention is raised from its own spelling, and left alone where it is none."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from burnish.frontend.capture import capture
from burnish.ir.errors import BurnishError, NotCausalError, UnsupportedError
from burnish.ir.interpreter import run
from burnish.ir.program import Program
from burnish.ir.text import node_text
from burnish.passes.analyses import mask_reading, masks
from burnish.passes.analyses.position_blocks import PositionBlocks
from burnish.passes.base import Log
from burnish.passes.raise_.attention import RaiseAttention
from burnish.passes.raise_.canonicalize import Canonicalize
from burnish.passes.raise_.clean import Clean


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


class ScaledOnEitherSide(Attention):
    """The scale's root on queries and on keys, as torch's own formula has it."""

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        k, v = (x[:, :, None].expand(-1, -1, 2, -1, -1).reshape(x.shape[0], 4, -1, 4) for x in (k, v))
        scores = (q @ (k.mT * 0.5)).masked_fill(~causal(q.shape[2]), float("-inf"))
        return torch.ops.aten._safe_softmax(scores, -1) @ v


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


class ZerosForTheBlind(Attention):
    """As attentions are defined where a row may be all padding: what sees nothing gives zeros."""

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        seen = causal(q.shape[2])[None, None]
        weights = torch.where(seen, q @ k.mT * 0.5, float("-inf")).softmax(-1)
        return torch.where(~seen.any(-1, keepdim=True), torch.zeros_like(weights), weights) @ v


class ZerosForTheBlindByBias(Attention):
    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        bias = torch.where(causal(q.shape[2]), 0.0, float("-inf"))[None, None]
        weights = (q @ k.mT * 0.5 + bias).softmax(-1)
        blind = bias.amax(-1, keepdim=True) == float("-inf")
        return torch.where(blind, torch.zeros_like(weights), weights) @ v


class ZerosForOthers(ZerosForTheBlind):
    """For those that see one token, too."""

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        seen = causal(q.shape[2])[None, None]
        weights = torch.where(seen, q @ k.mT * 0.5, float("-inf")).softmax(-1)
        return torch.where(~seen.tril(-1).any(-1, keepdim=True), torch.zeros_like(weights), weights) @ v


class Strided(Attention):
    """Each token sees every third one before it: causal, with no closed form."""

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        i = torch.arange(q.shape[2])
        seen = (i[:, None] >= i) & ((i[:, None] - i) % 3 == 0)
        return F.scaled_dot_product_attention(q, k, v, attn_mask=seen)


class Masked(Attention):
    """sdpa with a mask that is computed from queries [t, 1] and keys [1, t] and from buffers."""

    def __init__(self, mask: Callable[[Masked, Tensor, Tensor], Tensor], **buffers: Tensor) -> None:
        super().__init__()
        self.mask = mask
        for name, value in buffers.items():
            self.register_buffer(name, value)

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        i = torch.arange(q.shape[2])
        return F.scaled_dot_product_attention(q, k, v, attn_mask=self.mask(self, i[:, None], i[None, :]))


class ShiftedBesideSinks(WithSinks):
    """What is added to all scores is seen by a sink."""

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        scores = (q @ k.mT + 2.0).masked_fill(~causal(q.shape[2]), float("-inf"))
        sinks = self.sinks.view(1, -1, 1, 1).expand(q.shape[0], -1, q.shape[2], 1)
        return torch.cat([scores, sinks], dim=-1).softmax(-1)[..., :-1] @ v


class ShiftedAndScaledBySinks(WithSinks):
    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        scores = (q @ k.mT + 2.0).masked_fill(~causal(q.shape[2]), float("-inf"))
        scale = (torch.logsumexp(scores, dim=-1) - self.sinks.view(1, -1, 1)).sigmoid()
        return scores.softmax(-1) @ v * scale.unsqueeze(-1)


class ShiftedUnderSoftCap(Attention):
    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        scores = 3.0 * torch.tanh((q @ k.mT + 2.0) / 3.0)
        return scores.masked_fill(~causal(q.shape[2]), float("-inf")).softmax(-1) @ v


class LessTheLargestOfEachKey(Attention):
    """The largest of a column is not the same for a row."""

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        scores = q @ k.mT
        scores = (scores - scores.amax(-2, keepdim=True)).masked_fill(~causal(q.shape[2]), float("-inf"))
        return scores.softmax(-1) @ v


class MaskedByData(Attention):
    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        scores = (q @ k.mT + v.sum(-1).unsqueeze(-2)).masked_fill(~causal(q.shape[2]), float("-inf"))
        return scores.softmax(-1) @ v


class OverFeatures(Attention):
    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return (q * k).softmax(-1) * v


def prepared(module: nn.Module, max_length: int) -> Program:
    torch.manual_seed(0)
    return Canonicalize().run(Clean().run(capture(module.eval(), max_length=max_length), Log()), Log())


def raised(module: nn.Module, max_length: int = 64) -> tuple[Program, Program, Log]:
    captured = prepared(module, max_length)
    log = Log()
    return captured, RaiseAttention().run(captured.copy(), log), log


def ops(program: Program, name: str) -> list[str]:
    return [node_text(node, {}) for node in program.graph.nodes if str(node.target).startswith(name)]


@pytest.mark.parametrize(
    ("module", "told", "options"),
    [
        (Repeated(2), "4 query heads, 2 KV heads, mask causal", "scale=0.5, mask='causal'"),
        (ScaledOnEitherSide(2), "4 query heads, 2 KV heads, mask causal", "scale=0.5, mask='causal'"),
        (Interleaved(2), "4 query heads, 2 KV heads, mask causal", "scale=0.5, mask='causal'"),
        (SoftCapped(), "mask causal, with softcap", "scale=0.25, mask='causal', softcap=3.0"),
        (Multiplied(), "4 query heads, 4 KV heads, mask causal", "scale=0.5, mask='causal'"),
        (MergedHeads(), "4 query heads, 4 KV heads, mask causal", "scale=0.5, mask='causal'"),
        (WithSinks(), "mask causal, with sinks", "sinks=@sinks"),
        (ScaledBySinks(), "mask causal, with sinks", "sinks=@sinks"),
        (ZerosForTheBlind(), "mask causal", "scale=0.5, mask='causal'"),
        (ZerosForTheBlindByBias(), "mask causal", "scale=0.5, mask='causal'"),
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


def test_it_leaves_alone_zeros_for_what_sees_something() -> None:
    _, program, log = raised(ZerosForOthers())
    assert ops(program, "aten.softmax")
    (refusal,) = log.refusals
    assert "stands between the softmax and the product with the values" in refusal.text


def test_it_leaves_alone_a_softmax_over_features() -> None:
    _, program, log = raised(OverFeatures())
    assert ops(program, "aten.softmax")
    assert not log.rewrites
    assert not log.refusals


@pytest.mark.parametrize(
    ("module", "reason"),
    [
        (ShiftedBesideSinks(), "scores are shifted beside their sinks"),
        (ShiftedAndScaledBySinks(), "scores are shifted beside their sinks"),
        (ShiftedUnderSoftCap(), "a soft cap over scores that are masked or shifted"),
        (LessTheLargestOfEachKey(), "what is added to the scores depends on the input's data"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else "",
)
def test_it_leaves_alone_what_a_softmax_would_see(module: nn.Module, reason: str) -> None:
    _, program, log = raised(module)
    assert ops(program, "aten.softmax")
    assert [entry.text.split(" (at ")[0] for entry in log.refusals] == [reason]


# ---------------------------------------------------------------- masks by their values as far as the longest sequence

M = 250
NEAR = torch.where(torch.arange(M) < 120, 0.0, float("-inf"))
TABLE = torch.ones(M + 1, M + 1, dtype=torch.bool).tril()  # one longer: an export does not hold for exactly as many
HEADS = torch.tensor([0.5, 0.25, 0.125, 0.0625]).view(4, 1, 1)


def edited(query: int, key: int, visible: bool) -> Tensor:
    table = TABLE.clone()
    table[query, key] = visible
    return table


def corner(self: Masked, i: Tensor, j: Tensor) -> Tensor:
    table: Tensor = self.table[: i.shape[0], : i.shape[0]]  # type: ignore[index, assignment]
    return table


CAUSAL_MASKS: dict[str, tuple[Masked, str]] = {
    "window of blocks": (Masked(lambda m, i, j: (j <= i) & (i // 16 - j // 16 < 8)), "none, with bias"),
    "window in a buffer": (Masked(lambda m, i, j: (j <= i) & (i - j < m.w), w=torch.tensor(120)), "window of 120"),
    "window in a vector": (Masked(lambda m, i, j: (j <= i) & (i - j < m.w[0]), w=torch.tensor([120])), "window of 120"),
    "table of distances": (
        Masked(lambda m, i, j: m.near[(i - j).clamp(min=0)].masked_fill(j > i, -1e4), near=NEAR),
        "window of 120",
    ),
    "far enough decayed": (Masked(lambda m, i, j: (j <= i) & (torch.exp(-0.05 * (i - j)) > 0.002)), "window of 125"),
    "longer window": (Masked(lambda m, i, j: (j <= i) & (i - j < 400)), "causal"),
    "segments": (Masked(lambda m, i, j: (j <= i) & (m.s[i] == m.s[j]), s=torch.arange(M) // 100), "chunk of 100"),
    "uneven segments": (
        Masked(lambda m, i, j: (j <= i) & (m.s[i] == m.s[j]), s=(torch.arange(M) // 130 + torch.arange(M) // 200)),
        "none, with bias",
    ),
    "floats": (Masked(lambda m, i, j: -1e4 * ((j > i) | (i - j >= 150)).float()), "window of 150"),
    "logic": (Masked(lambda m, i, j: ~((j > i).logical_or(i - j >= 150))), "window of 150"),
    "by head": (Masked(lambda m, i, j: (j <= i) & (i - j < m.w), w=(400 * HEADS).long()), "none, with bias"),
    "long period": (Masked(lambda m, i, j: (j <= i) & ((j % 97 != 50) | (i == j))), "none, with bias"),
    "table": (Masked(corner, table=TABLE), "causal"),
    "one row of a table": (Masked(corner, table=edited(171, 3, visible=False)), "none, with bias"),
    "last row of a table": (Masked(corner, table=edited(M - 1, 7, visible=False)), "none, with bias"),
    "beyond the last row": (Masked(corner, table=edited(M, 7, visible=False)), "causal"),
    "slopes": (Masked(lambda m, i, j: (HEADS * (j - i)).masked_fill(j > i, float("-inf"))), "causal, with slopes"),
    "bent slopes": (
        Masked(lambda m, i, j: (HEADS * (j - i).clamp(min=-140)).masked_fill(j > i, float("-inf"))),
        "causal, with bias",
    ),
}


@pytest.mark.parametrize("name", CAUSAL_MASKS)
def test_a_mask_is_what_it_is_at_the_longest_sequence(name: str) -> None:
    module, told = CAUSAL_MASKS[name]
    captured, program, log = raised(module, M)
    assert [entry.text.partition("mask ")[2] for entry in log.rewrites] == [told]
    assert not log.notes
    for length in (1, 119, 131, M):
        ids = torch.randint(23, (2, length))
        torch.testing.assert_close(run(program, [ids])[0], run(captured, [ids])[0], rtol=1e-4, atol=1e-5)


LATER_MASKS: dict[str, Masked] = {
    "far out": Masked(lambda m, i, j: (j <= i) | ((j // 16) % 8 == 7)),
    "prefix": Masked(lambda m, i, j: (j <= i) | (j < 130)),
    "one entry of a table": Masked(corner, table=edited(171, 180, visible=True)),
    "one entry at the end": Masked(corner, table=edited(M - 2, M - 1, visible=True)),
    "weakly": Masked(lambda m, i, j: -8000.0 * (j > i)),
}


@pytest.mark.parametrize("name", LATER_MASKS)
def test_a_mask_that_shows_a_later_token_anywhere_is_told(name: str) -> None:
    _, _, log = raised(LATER_MASKS[name], M)
    (entry,) = log.rewrites
    assert "not causal: a token sees later ones" in entry.text


@pytest.mark.parametrize(
    ("mask", "reason"),
    [
        (lambda m, i, j: j < i, "its mask hides all tokens from token 0"),
        (lambda m, i, j: (j <= i) & (i != 200), "its mask hides all tokens from token 200"),
        (lambda m, i, j: (j <= i) & (i - j < i.shape[0] - 100), "it depends on how many tokens follow"),
        (lambda m, i, j: (j <= i) & (i - j < i.shape[0] // 2 + 1), "it depends on how many tokens follow"),
        (lambda m, i, j: (i - j - 200).float().log() * 0.0, "adds NaN or infinity"),
    ],
)
def test_a_mask_that_no_step_could_keep_is_refused_by_line(mask: Callable[..., Tensor], reason: str) -> None:
    with pytest.raises(UnsupportedError, match=reason) as refusal:
        raised(Masked(mask), M)
    assert f"{Path(__file__).name}:" in str(refusal.value)


def test_sequences_of_a_batch_that_are_masked_differently_are_refused() -> None:
    class ByRow(Attention):
        def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            i, row = torch.arange(q.shape[2]), torch.arange(q.shape[0]).view(-1, 1, 1, 1)
            seen = (i <= i[:, None]) & (i[:, None] - i < 150 - row)
            return F.scaled_dot_product_attention(q, k, v, attn_mask=seen)

    _, program, log = raised(ByRow(), M)
    assert [entry.text for entry in log.refusals] == ["the mask differs between the rows of a batch"]
    assert ops(program, "aten.scaled_dot_product_attention")


def test_equal_masks_of_layers_are_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    class Twice(Attention):
        """Each layer computes its mask from a buffer of its own."""

        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("first", TABLE.clone())
            self.register_buffer("second", TABLE.clone())

        def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            for table in (self.first, self.second):
                q = F.scaled_dot_product_attention(q, k, v, attn_mask=table[: q.shape[2], : q.shape[2]])  # type: ignore[index]
            return q

    read = []
    monkeypatch.setattr(mask_reading, "classify", lambda *args: read.append(args) or masks.classify(*args))  # type: ignore[func-returns-value]
    _, program, _ = raised(Twice(), M)
    assert len(ops(program, "burnish.attention.default")) == 2
    assert len(read) == 1


# ---------------------------------------------------------------- masks too long to look at all their rows


@pytest.mark.parametrize("name", CAUSAL_MASKS)
def test_blocks_of_rows_tell_what_the_whole_mask_does(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same masks where nothing that is tokens x tokens may be held."""
    monkeypatch.setattr(mask_reading, "PositionBlocks", partial(PositionBlocks, small=0, whole=0))
    monkeypatch.setattr(masks, "_BLOCK", 2000)
    module, told = CAUSAL_MASKS[name]
    _, _, log = raised(module, M)
    assert [entry.text.partition("mask ")[2] for entry in log.rewrites] == [told]


LONG = 40_000


@pytest.mark.parametrize(
    ("mask", "told"),
    [
        (lambda m, i, j: j <= i, "causal"),
        (lambda m, i, j: (j <= i) & (i - j < m.size), "window of 5000"),
        (lambda m, i, j: (j <= i) & (i // m.size == j // m.size), "chunk of 5000"),
        (lambda m, i, j: (HEADS * (j - i)).masked_fill(j > i, float("-inf")), "causal, with slopes"),
    ],
)
def test_a_long_mask_is_checked_where_it_turns_and_says_so(mask: Callable[..., Tensor], told: str) -> None:
    program = prepared(Masked(mask, size=torch.tensor(5000)), 64)
    program.interface = replace(program.signature, max_length=LONG)
    log = Log()
    RaiseAttention().run(program, log)
    assert [entry.text.partition("mask ")[2] for entry in log.rewrites] == [told]
    (note,) = log.notes
    assert re.search(r"was checked on [\d,]+ of its 40,000 rows", note)
    assert "the others were not looked at" in note


SEGMENTS = (torch.arange(LONG) >= 11_111).long()
LATE = torch.zeros(LONG, dtype=torch.bool)
LATE[23_456] = True


@pytest.mark.parametrize(
    "mask",
    [
        lambda m, i, j: (j <= i) & (i - j < torch.where(i < 20_000, 5000, 9000)),
        lambda m, i, j: (j <= i) & (m.segments[i] == m.segments[j]),
        lambda m, i, j: (j <= i) & ~(m.late[i] & (j == 5)),
        lambda m, i, j: (j <= i) & (i - j < 5000) | ((j == 0) & (i < 7000)),
    ],
)
def test_a_long_mask_without_a_closed_form_is_refused(mask: Callable[..., Tensor]) -> None:
    program = prepared(Masked(mask, segments=SEGMENTS, late=LATE), 64)
    program.interface = replace(program.signature, max_length=LONG)
    with pytest.raises(UnsupportedError, match=r"no closed form.*smaller max_length"):
        RaiseAttention().run(program, Log())


def test_a_long_mask_is_checked_along_keys_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """One pair is hidden, in a row that none of those looked at is."""
    monkeypatch.setattr(mask_reading, "_turns", lambda bias: set())
    program = prepared(Masked(lambda m, i, j: (j <= i) & (i + 100_000 * j != 23_456)), 64)
    program.interface = replace(program.signature, max_length=LONG)
    with pytest.raises(UnsupportedError, match="no closed form"):
        RaiseAttention().run(program, Log())


@pytest.mark.parametrize(
    "mask",
    [lambda m, i, j: (j <= i) | (j < 130), lambda m, i, j: (j <= i) | (m.late[i] & (j == 30_000))],
)
def test_a_long_mask_that_shows_later_tokens_is_refused(mask: Callable[..., Tensor]) -> None:
    program = prepared(Masked(mask, late=LATE), 64)
    program.interface = replace(program.signature, max_length=LONG)
    with pytest.raises(NotCausalError, match=r"lets token .* attend to token") as refusal:
        RaiseAttention().run(program, Log())
    assert f"{Path(__file__).name}:" in str(refusal.value)


# ---------------------------------------------------------------- masks that nobody thought of

_NUMBERS = st.integers(1, 130)
_TERMS = st.recursive(
    st.sampled_from(["i", "j"]),
    lambda inner: st.one_of(
        st.builds("({} // {})".format, inner, _NUMBERS),
        st.builds("({} % {})".format, inner, _NUMBERS),
        st.builds("({} {} {})".format, inner, st.sampled_from("+-*"), inner),
        st.builds("({} {} {})".format, inner, st.sampled_from("+-"), _NUMBERS),
    ),
    max_leaves=3,
)
_COMPARISONS = st.builds("({} {} {})".format, _TERMS, st.sampled_from(["<", "<=", "==", "!=", ">"]), _TERMS | _NUMBERS)
_MASKS = st.recursive(
    _COMPARISONS, lambda inner: st.builds("({} {} {})".format, inner, st.sampled_from("&|"), inner), max_leaves=3
)


@settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))
@given(_MASKS, st.booleans(), st.integers(0, 2**16))
def test_a_random_mask_is_right_or_refused(text: str, causal_too: bool, seed: int) -> None:
    mask = f"(j <= i) & ({text}) | (i == j)" if causal_too else f"{text} | (i == j)"
    module = Masked(eval(f"lambda m, i, j: ({mask}) | (i + j < 0)"))
    try:
        captured, program, log = raised(module, 140)
    except BurnishError:
        return
    for length in (1, 2, 17, 99, 140):
        ids = torch.randint(23, (2, length), generator=torch.Generator().manual_seed(seed))
        torch.testing.assert_close(run(program, [ids])[0], run(captured, [ids])[0], rtol=1e-4, atol=1e-5)
    i = torch.arange(140)
    later = bool((module.mask(module, i[:, None], i[None, :]) & (i > i[:, None])).any())
    assert any("not causal" in entry.text for entry in log.rewrites) == later


def _name_of(program: Program, target: str) -> str:
    return next(node.name for node in program.graph.nodes if str(node.target).startswith(target))
