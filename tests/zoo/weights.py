"""Random weights at which a wrong mask, a dropped bias or a forgotten scale shows in the logits."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

_GAIN = 1.5  # of projections: attention scores of order 1 to 3, so that the softmax is far from uniform
_SPREAD = 0.25  # of what is constant when a model is made: norm weights, biases, sinks
_LOGITS = 3.0  # the standard deviation of logits that each model is brought to

# Leaves of state-space and recurrent layers whose initial values keep the recurrence stable: only shaken.
_SHAKEN = ("A_log", "dt_bias", "D", "time_decay", "time_first", "recurrent_param", "A_dt_log")


@torch.no_grad()
def randomise(model: nn.Module, vocabulary: int, seed: int) -> None:
    """Replace all parameters, and buffers that training would move, by seeded random values."""
    generator = torch.Generator().manual_seed(seed)
    modules = dict(model.named_modules())
    for name, parameter in model.named_parameters():
        path, _, leaf = name.rpartition(".")
        parameter.copy_(_values(modules[path], leaf, parameter, generator))
    for name, buffer in model.named_buffers():
        path, _, leaf = name.rpartition(".")
        kept = leaf not in modules[path]._non_persistent_buffers_set
        if kept and buffer.is_floating_point() and buffer.numel() > 1 and not buffer.any():
            buffer.copy_(_normal(buffer, _SPREAD, generator))  # such as the routers' correction of loads
    _scale_logits(model, vocabulary, seed)


def _values(module: nn.Module, leaf: str, old: Tensor, generator: torch.Generator) -> Tensor:
    if leaf in _SHAKEN:
        return old + _normal(old, 0.1, generator)
    if old.dim() < 2 or bool((old == old.flatten()[0]).all()):  # biases of gates keep the time scales they start with
        return old + _normal(old, _SPREAD, generator)
    if isinstance(module, nn.Embedding):
        return _normal(old, 0.5, generator)
    return _normal(old, _GAIN / math.sqrt(_fan_in(module, old)), generator)


def _fan_in(module: nn.Module, weight: Tensor) -> int:
    if isinstance(module, nn.Conv1d | nn.Conv2d):
        return weight[0].numel()
    if type(module).__name__ == "Conv1D":  # GPT-2's, which is stored [in, out]
        return weight.shape[0]
    return weight.shape[-1]


def _normal(like: Tensor, std: float, generator: torch.Generator) -> Tensor:
    return (torch.randn(like.shape, generator=generator) * std).to(like.dtype)


def _scale_logits(model: nn.Module, vocabulary: int, seed: int) -> None:
    """Scale the output projection so that logits are of order 1 to 10; tied weights are left, as inputs use them."""
    head = model.get_output_embeddings()  # type: ignore[operator]
    if head is None or getattr(head, "weight", None) is None:
        return
    if head.weight is getattr(model.get_input_embeddings(), "weight", None):  # type: ignore[operator]
        return
    tokens = torch.randint(vocabulary, (2, 24), generator=torch.Generator().manual_seed(seed))
    spread = float(model(tokens, use_cache=False).logits.std())
    if math.isfinite(spread) and spread > 0:
        head.weight.mul_(min(_LOGITS / spread, 20.0))
