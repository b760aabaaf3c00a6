"""How somebody's own module is called with token ids: what else its forward wants, and which axis has the tokens."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from burnish.frontend.exported import logits_of
from burnish.ir.errors import InvalidModelError

_log = logging.getLogger(__name__)

Call = Callable[[nn.Module, torch.Tensor], Any]


def _all_tokens(tokens: torch.Tensor) -> torch.Tensor:
    return torch.ones_like(tokens)


def _counted(tokens: torch.Tensor) -> torch.Tensor:
    return torch.arange(tokens.shape[1], device=tokens.device).unsqueeze(0).expand(tokens.shape[0], -1)


BOUND: dict[str, tuple[Callable[[torch.Tensor], torch.Tensor], str]] = {
    "attention_mask": (_all_tokens, "ones: no token is padding"),
    "position_ids": (_counted, "0, 1, 2, ..."),
}
"""Arguments beside the token ids whose values a text without padding settles, as transformers names them."""


def call_of(module: nn.Module) -> Call:
    """How a module is called with token ids [batch, sequence].

    Arguments that its forward demands beside them are bound, and told, where decoding settles their values. Raises
    InvalidModelError for others.
    """
    name = type(module).__name__
    try:
        parameters = list(inspect.signature(module.forward).parameters.values())
    except (TypeError, ValueError):  # its forward is no Python function
        parameters = []
    demanded = [
        each.name
        for each in parameters[1:]
        if each.default is each.empty and each.kind not in (each.VAR_POSITIONAL, each.VAR_KEYWORD)
    ]
    strange = [each for each in demanded if each not in BOUND]
    if strange:
        wanted = ", ".join(strange)
        raise InvalidModelError(
            f"{name}.forward demands {wanted} beside the token ids, and a text that is generated has nothing else to "
            f"give: compile a module around it that makes {'them' if strange[1:] else 'it'}, as\n"
            "    class LanguageModel(torch.nn.Module):\n"
            "        def __init__(self, model):\n"
            "            super().__init__()\n"
            "            self.model = model\n"
            "        def forward(self, tokens):\n"
            f"            return self.model(tokens, {', '.join(f'{each}=...' for each in strange)})"
        )
    for each in demanded:
        _log.warning("%s of %s.forward is given %s", each, name, BOUND[each][1])

    def call(module: nn.Module, tokens: torch.Tensor) -> Any:
        return module(tokens, **{each: BOUND[each][0](tokens) for each in demanded})

    return call


def tokens_first(call: Call) -> Call:
    """The same for modules that take token ids as [sequence, batch], and give logits so."""

    def transposed(module: nn.Module, tokens: torch.Tensor) -> Any:
        logits = logits_of(call(module, tokens.transpose(0, 1)))
        return logits.transpose(0, 1) if isinstance(logits, torch.Tensor) and logits.dim() > 1 else logits

    return transposed
