"""The models that mutants are tried on: exported once, with what eager PyTorch gives for them. Imports no burnish."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from tests.mutants import models
from tests.own_modules import bare, causal, masks, mixed_rows, not_causal
from tests.zoo.configs import build, vocabulary

PROMPTS = [[3, 1, 4, 1, 5, 9, 2, 6, 5], [7], [2, 7, 1, 8]]
NEW_TOKENS = 12


@dataclass(frozen=True)
class Case:
    """A model, how far it goes, and how it is compiled.

    `fused`: by the passes for GPUs, and run node by node: what no CPU backend does, and seconds faster than kernels.
    """

    name: str
    make: Callable[[], nn.Module]
    max_length: int = 63
    fused: bool = False


@dataclass(frozen=True)
class Example:
    """A case with its exported program and eager PyTorch's answers."""

    case: Case
    exported: ExportedProgram
    ids: Tensor  # int64[2, max_length]
    logits: Tensor  # float32[2, max_length, vocabulary]
    generated: list[list[int]]  # greedily, for each prompt by itself; empty for a model that is to be refused


def _own(*styles: type[nn.Module], **options: Any) -> list[Case]:
    return [Case(style.__name__, style, **options) for style in styles]


def _zoo(name: str, **options: Any) -> Case:
    return Case(name, lambda: build(name), **options)


def _fused(*cases: Case) -> list[Case]:
    return [Case(f"{case.name}-fused", case.make, case.max_length, fused=True) for case in cases]


_REFUSED = [
    *_own(*(style for style, _ in not_causal.REFUSED), *mixed_rows.MIXED[:8], *models.REFUSED),
    *_own(masks.LaterFarOut, max_length=masks.LENGTH),
]
_SMALL = _own(
    bare.ConvolutionBehindResidual,
    bare.TokensFirst,
    bare.TokenShift,
    bare.Branches,
    bare.LogitsOfTheTokenBefore,
    bare.CountsSoFar,
    causal.NanoGPT,
    causal.Einsum,
    causal.TrilBuffer,
    causal.AlibiByHand,
    causal.SlidingWindow,
    causal.SharedKey,
    causal.MultiHeadLatent,
    *models.MODELS,
)
_LONG = [
    *_own(masks.EightBlocks, masks.BentSlopes, max_length=masks.LENGTH),
    Case("LongText", causal.SlidingWindow, 600),  # more than a session feeds at once
]
_ZOO = {name: _zoo(name) for name in ("gemma3_text", "lfm2")}
_FUSED = _fused(*_own(causal.NanoGPT, bare.Branches), _ZOO["gemma3_text"])
# Those that are refused first: that is soon done.
CASES: dict[str, Case] = {case.name: case for case in [*_REFUSED, *_SMALL, *_LONG, *_ZOO.values(), *_FUSED]}


@torch.no_grad()
def example(case: Case, known: dict[str, Example]) -> Example:
    """Export the case's model, or take what was exported for the same model compiled in another way."""
    for other in known.values():
        if (other.case.make, other.case.max_length) == (case.make, case.max_length):
            return Example(case, other.exported, other.ids, other.logits, other.generated)
    torch.manual_seed(0)
    model = case.make().eval()
    called = _Logits(model)
    tokens = torch.zeros(3, 17, dtype=torch.int64)
    sizes = {"tokens": {0: Dim("batch"), 1: Dim("sequence", max=case.max_length)}}
    try:
        exported = torch.export.export(called, (tokens,), dynamic_shapes=sizes, strict=False)
    except torch._dynamo.exc.UserError:  # a length that is a branch of its own: burnish's capture retries so, too
        exported = torch.export.export(
            called,
            (tokens,),
            dynamic_shapes=sizes,
            strict=False,
            prefer_deferred_runtime_asserts_over_guards=True,
        )
    exported = exported.run_decompositions({})
    # What burnish asks for first, and what takes the most time of all: here once, not in each fork.
    vars(exported)["run_decompositions"] = lambda table: exported
    count = vocabulary(model) if hasattr(model, "config") else causal.VOCABULARY  # type: ignore[arg-type]
    generator = torch.Generator().manual_seed(7)
    ids = torch.randint(count, (2, case.max_length), generator=generator)
    refused = case in _REFUSED
    generated = [] if refused else [_greedy(called, prompt) for prompt in PROMPTS]
    return Example(case, exported, ids, called(ids).float(), generated)


class _Logits(nn.Module):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.options = {"use_cache": False} if hasattr(model, "config") else {}

    def forward(self, tokens: Tensor) -> Tensor:
        result = self.model(tokens, **self.options)
        logits: Tensor = result if isinstance(result, Tensor) else result.logits
        return logits


def _greedy(model: nn.Module, prompt: list[int]) -> list[int]:
    tokens = list(prompt)
    for _ in range(NEW_TOKENS):
        tokens.append(int(model(torch.tensor([tokens]))[0, -1].argmax()))
    return tokens[len(prompt) :]
