"""Rotary frequencies that depend on how long the text is, fixed for one length.

"dynamic" and "longrope" choose them by the longest position seen. A model that is compiled for up to n tokens has
those for n.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

_log = logging.getLogger(__name__)


def exact_limit(model: nn.Module) -> int | None:
    """The most tokens up to which longrope's frequencies are the same ones; None where there are no others."""
    found = [_original_length(module, layer_type) for module, layer_type, kind in _scaled(model) if kind == "longrope"]
    return min(found, default=None)


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
    if kind == "longrope" and length is not None and length > (original := _original_length(module, layer_type)):
        options = {} if layer_type is None else {"layer_type": layer_type}
        frequencies, _ = ROPE_INIT_FUNCTIONS[kind](module.config, torch.device("cpu"), seq_len=length, **options)
        _log.warning(
            "longrope is fixed to its frequencies for more than %d tokens: shorter texts get them too, while "
            "transformers changes them at that length (compile with max_length=%d for the others)",
            original,
            original,
        )
    module._buffers[f"{prefix}inv_freq"] = frequencies
