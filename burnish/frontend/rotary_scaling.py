"""Rotary frequencies that depend on how long the text is, fixed for one length.

"longrope" has one set for texts of up to so many tokens and one for longer ones, and "dynamic" stretches them beyond
what the model was made for. A model that is compiled for up to n tokens has those for n, unless it is told the side.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import nn
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from burnish.frontend.limits import check_length
from burnish.ir.errors import UsageError

_log = logging.getLogger(__name__)

Context = Literal["short", "long"]


@dataclass(frozen=True)
class Lengths:
    """For which texts a model is compiled."""

    max_length: int | None  # as asked for, or what the side takes; None: the model's own limit
    limit: int | None  # how many tokens the model takes
    longer_than: int = 0  # texts of at most so many tokens are computed otherwise by the model itself


def chosen(model: nn.Module, max_length: int | None, context: Context | None, limit: int | None) -> Lengths:
    """For which side of the length where its frequencies change, if there is one, `model` is compiled.

    Raises UsageError for a side that it does not have, or that `max_length` is not on, or a length that it does not
    take: `limit` tokens are the most, but where frequencies stretch.
    """
    if context not in (None, *get_args(Context)):
        raise UsageError(f"context is 'short' or 'long', not {context!r}")
    kinds = {kind for *_, kind in _scaled(model)}
    if not kinds and context is not None:
        raise UsageError(
            f"context={context!r}: the model's rotary frequencies are the same for texts of any length, so that it has "
            "no such sides: leave context out"
        )
    if "longrope" not in kinds:
        return _stretched(max_length, context, limit)
    check_length(max_length, limit)
    change = min(_original_length(module, layer_type) for module, layer_type, kind in _scaled(model) if "long" in kind)
    if context == "short" and max_length is not None and max_length > change:
        raise UsageError(
            f"context='short' is for texts of up to {change} tokens, and max_length is {max_length}: ask for fewer, or "
            "for context='long'"
        )
    if context == "long" and max_length is not None and max_length <= change:
        raise UsageError(
            f"context='long' is for texts of more than {change} tokens, and max_length is {max_length}: ask for more, "
            "or for context='short'"
        )
    if context == "long" or (max_length is not None and max_length > change):
        _log.warning(
            "longrope is fixed to its frequencies for more than %d tokens: shorter texts get them too, while "
            "transformers changes them at that length (context='short' has the others)",
            change,
        )
        return Lengths(max_length, limit, change)
    if max_length is None and context is None:
        _log.warning(
            "compiled for %d tokens, where longrope changes its frequencies (context='long' has those of longer texts)",
            change,
        )
    return Lengths(max_length or change, limit)


def _stretched(max_length: int | None, context: Context | None, limit: int | None) -> Lengths:
    """The same where frequencies change with each token beyond the limit, or not at all."""
    if context != "long":
        check_length(max_length, limit)
        return Lengths(max_length, limit)
    if max_length is None or limit is None or max_length <= limit:
        raise UsageError(
            f"context='long' is for texts of more than {limit} tokens, which the model was made for, and its "
            "frequencies depend on how many: say max_length="
        )
    _log.warning(
        "the frequencies are fixed to those of texts of %d tokens: shorter ones get them too (context='short' has "
        "those of up to %d)",
        max_length,
        limit,
    )
    return Lengths(max_length, max_length, max_length - 1)


@contextmanager
def fixed(model: nn.Module, length: int | None) -> Iterator[None]:
    """`model` with the frequencies that it has at `length` tokens, whatever the text, for a while."""
    modules = {id(module): (module, dict(vars(module)), dict(module._buffers)) for module, *_ in _scaled(model)}
    try:
        for module, layer_type, kind in list(_scaled(model)):
            _fix(module, layer_type, kind, length)
        for module, *_ in modules.values():
            kinds = module.rope_type
            module.rope_type = "default" if isinstance(kinds, str) else dict.fromkeys(kinds, "default")
        yield
    finally:
        for module, attributes, buffers in modules.values():
            vars(module).clear()
            vars(module).update(attributes)
            module._buffers.clear()
            module._buffers.update(buffers)


def _scaled(model: nn.Module) -> Iterator[tuple[Any, str | None, str]]:
    """Each rotary embedding whose frequencies depend on the length: module, layer type if it has several, kind."""
    for module in model.modules():
        kinds = getattr(module, "rope_type", None)
        by_layer: Mapping[str | None, Any] = kinds if isinstance(kinds, Mapping) else {None: kinds}
        for layer_type, kind in by_layer.items():
            if isinstance(kind, str) and ("dynamic" in kind or kind == "longrope"):
                yield module, layer_type, kind


def _original_length(module: Any, layer_type: str | None) -> int:
    parameters = module.config.rope_parameters
    return int((parameters if layer_type is None else parameters[layer_type])["original_max_position_embeddings"])


def _fix(module: Any, layer_type: str | None, kind: str, length: int | None) -> None:
    prefix = "" if layer_type is None else f"{layer_type}_"
    frequencies = getattr(module, f"{prefix}original_inv_freq")  # a model that was used may have others now
    change = _original_length(module, layer_type) if kind == "longrope" else module.config.max_position_embeddings
    if length is not None and length > change:
        options = {} if layer_type is None else {"layer_type": layer_type}
        frequencies, _ = ROPE_INIT_FUNCTIONS[kind](module.config, torch.device("cpu"), seq_len=length, **options)
    module._buffers[f"{prefix}inv_freq"] = frequencies
