"""Models of transformers without values: what is traced when the values are in a file."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers import AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel
from transformers.initialization import no_init_weights

from burnish.ir.errors import InvalidModelError


def build(config: PreTrainedConfig, place: object) -> PreTrainedModel:
    """The causal language model of `config`, in float32 on the CPU, tied as the configuration says.

    Its parameters are allocated and never written, so they take no memory, and their values mean nothing; its buffers
    have values. Raises InvalidModelError, naming `place`, if there is no such model.
    """
    try:
        with no_init_weights():
            model = AutoModelForCausalLM.from_config(config, dtype=torch.float32, trust_remote_code=False)
    except (ValueError, TypeError, KeyError, AttributeError, ImportError, ZeroDivisionError, RuntimeError) as error:
        raise InvalidModelError(
            f"{place}: transformers cannot build a causal language model of the type "
            f"{config.model_type!r} from this configuration: {error}"
        ) from error
    assert isinstance(model, PreTrainedModel)
    _fill_buffers(model, model)
    model.tie_weights()
    return model.eval()


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
