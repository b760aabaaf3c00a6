"""What a change costs on text: perplexity, and how far the next-token distribution is from the original's."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx

from burnish.ir.ops import burnish_ops
from burnish.ir.program import Program
from burnish.ir.weights import Weight
from burnish.passes.transforms.stream import Stream

_TOKENS = 128  # whose distributions are compared at a time


@dataclass(frozen=True)
class Quality:
    """A program on held-out text, next to the original."""

    perplexity: float  # exp of the mean negative log-likelihood of each next token
    divergence: float  # mean Kullback-Leibler divergence of its next-token distributions from the original's, nats
    agreement: float  # share of tokens after which both think the same one likeliest
    tokens: int  # that were predicted


def measure(programs: Sequence[Program], tokens: Tensor) -> list[Quality]:
    """The quality of each of several whole programs on tokens[windows, length]; the first is the original."""
    # A window at a time: the logits of every program are in memory together, and no other values are as large.
    weights: dict[Weight, Tensor] = {}
    streams = [at_the_end(program, tokens, rows=1, weights=weights) for program in programs]
    sums = torch.zeros(len(programs), 3, dtype=torch.float64)
    ends = [stream.each(logits_node(stream.program), keep=False) for stream in streams]
    for window in tokens:
        logits = [next(end)[0] for end in ends]
        for start in range(0, len(window) - 1, _TOKENS):
            following = window[start + 1 :][:_TOKENS]
            sums += torch.stack(compared([each[start:][: len(following)] for each in logits], following))
        del logits  # before the next window's are there
    return summed(sums, tokens[:, 1:].numel())


def summed(sums: Tensor, count: int) -> list[Quality]:
    """The qualities that sums [programs, 3] of what `compared` gives over `count` tokens stand for."""
    means = (sums / count).tolist()
    return [Quality(math.exp(loss), far, same, count) for loss, far, same in means]


def compared(logits: Sequence[Tensor], following: Tensor) -> list[Tensor]:
    """Of each one's logits [tokens, vocabulary] the sums [3] over tokens: loss, divergence, agreement.

    The first one's are the original's. `following`: the tokens that came, int64[tokens].
    """
    original = F.log_softmax(logits[0].float(), dim=-1)
    likeliest, shares = original.argmax(-1), original.exp()
    # A token that the original rules out adds nothing: 0 * log 0. Few models have any.
    ruled_out = original.isneginf() if bool(original.isneginf().any()) else None
    found = []
    for each in logits:
        own = F.log_softmax(each.float(), dim=-1) if each is not logits[0] else original
        loss = F.nll_loss(own, following, reduction="sum")
        terms = shares * (original - own)
        if ruled_out is not None:
            terms.masked_fill_(ruled_out, 0.0)
        same = (own.argmax(-1) == likeliest).sum()
        found.append(torch.stack([loss.double(), terms.sum().double(), same.double()]))
    return found


def at_the_end(program: Program, tokens: Tensor, **options: Any) -> Stream:
    """A stream over tokens[windows, length] at the last attention, a layer's weights in memory at a time."""
    stream = Stream(program, tokens, **options)
    for node in program.graph.nodes:
        if node.target is burnish_ops.attention.default:
            stream.advance(node)
    return stream


def logits_node(program: Program) -> fx.Node:
    """What gives the logits [batch, sequence, vocabulary] of a whole program."""
    return program.results["logits"]
