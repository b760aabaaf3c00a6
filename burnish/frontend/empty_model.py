"""Models of transformers without values: what is traced when the values are in a file."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from transformers import AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel
from transformers.initialization import no_init_weights

from burnish.ir.errors import InvalidModelError

_LAYERS = 1000  # that are made without asking how many tensors there are


def build(config: PreTrainedConfig, place: object, stored: int, trust_remote_code: bool = False) -> PreTrainedModel:
    """The causal language model of `config`, in float32 on the CPU, tied as the configuration says.

    `stored` is the number of tensors that there are for it: a number of layers that is wrong is told before they are
    made, which for some number takes for ever.

    Its parameters are allocated and never written, so they take no memory, and their values mean nothing; its buffers
    have values. Raises InvalidModelError, naming `place`, if there is no such model.
    """
    for name, count in _layers(config):
        if count > max(stored, _LAYERS):
            raise InvalidModelError(
                f"{place}: the configuration says {name}={count}, and there are {stored} tensors in all: the number is "
                "wrong, or the model is not complete"
            )
    try:
        with no_init_weights():
            model = AutoModelForCausalLM.from_config(config, dtype=torch.float32, trust_remote_code=trust_remote_code)
    except Exception as error:  # of code that somebody trusts, too
        raise InvalidModelError(
            f"{place}: transformers cannot build a causal language model of the type "
            f"{config.model_type!r} from this configuration: {error}"
        ) from error
    assert isinstance(model, PreTrainedModel)
    _fill_buffers(model, model)
    model.tie_weights()
    return model.eval()


def _layers(config: PreTrainedConfig) -> Iterator[tuple[str, int]]:
    """What a configuration, and those in it, say of numbers of layers."""
    for name, value in vars(config).items():
        if isinstance(value, PreTrainedConfig):
            yield from _layers(value)
        elif "layer" in name and isinstance(value, int):
            yield name, value


@torch.no_grad()
def _fill_buffers(module: nn.Module, owner: PreTrainedModel) -> None:
    """The buffers that no checkpoint has, as transformers fills them when it reads one.

    `owner` is the innermost model around `module`, which knows how.
    """
    owner = module if isinstance(module, PreTrainedModel) else owner
    if module._non_persistent_buffers_set:
        owner._init_weights(module)
    for child in module.children():
        _fill_buffers(child, owner)


def tensors(model: PreTrainedModel) -> dict[str, tuple[torch.Tensor, list[str]]]:
    """Each parameter and persistent buffer by its first name, with all names that it has (tied ones have several)."""
    names: dict[int, str] = {}
    found: dict[str, tuple[torch.Tensor, list[str]]] = {}
    state: dict[str, Any] = model.state_dict(keep_vars=True)
    for name, tensor in state.items():
        first = names.setdefault(id(tensor), name)
        found.setdefault(first, (tensor, []))[1].append(name)
    return found
