"""LoRA adapters (Hu et al., 2021), as the library peft writes them: merged into the weights of their base model."""

from __future__ import annotations

import logging
import re
from collections import defaultdict
from collections.abc import Mapping

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from burnish.frontend import empty_model
from burnish.frontend.adapter import CONFIG, TENSORS, Adapter
from burnish.frontend.low_rank import LowRank
from burnish.frontend.safetensors_folder import read_file
from burnish.ir.errors import WeightError
from burnish.ir.quantization import Widened
from burnish.ir.weights import Cast, Weight

_log = logging.getLogger(__name__)

_PREFIX = "base_model.model."
_PART = re.compile(
    r"(?P<module>.+)\.(?P<part>lora_A|lora_B|lora_embedding_A|lora_embedding_B|lora_magnitude_vector)"
    r"(\.weight|\.(?P<bias>bias))?"
)


def merged(
    adapter: Adapter, model: PreTrainedModel, weights: Mapping[str, Weight], trust: bool
) -> tuple[PreTrainedModel, dict[str, Weight]]:
    """The model and its weights with the adapter's products added; untied where an adapter unties them.

    Raises WeightError for a tensor of the adapter that has no place in the model, or not the shape that it needs.
    """
    file = adapter.folder / TENSORS
    parts: dict[str, dict[str, Weight]] = defaultdict(dict)
    found = dict(weights)
    changed: set[str] = set()
    for full, (weight, _) in read_file(file).items():
        name = full.removeprefix(_PREFIX).replace(".base_layer.", ".").replace(".modules_to_save.", ".")
        part = _PART.fullmatch(name)
        if part is not None:
            parts[part["module"]][part["part"] + (".bias" if part["bias"] else "")] = weight
            continue
        _check_place(adapter, full, name, weight, weights)
        found[name] = Cast(weight, torch.float32)
        changed.add(name)
    if not parts and not changed:
        raise WeightError(f"{file} has no tensors")
    for module, tensors in parts.items():
        if bias := tensors.pop("lora_B.bias", None):
            _add_bias(adapter, module, bias, tensors, found)
        name = f"{module}.weight"
        found[name] = _added(adapter, model, module, tensors, found)
        changed.add(name)
    _log.info("%s: the adapter changes %d weights of %s", adapter.folder, len(changed), adapter.base)
    if integers := [name for name in changed if isinstance(weights[name], Widened)]:
        _log.warning("%s: %d weights with an adapter become floats, such as %s", file, len(integers), integers[0])
    return _untied(model, changed, adapter, trust), found


def _check_place(adapter: Adapter, full: str, name: str, weight: Weight, weights: Mapping[str, Weight]) -> None:
    file = adapter.folder / TENSORS
    if name not in weights:
        raise WeightError(f"{file}: the tensor {full!r} has no place in the model of {adapter.base}")
    if weight.shape != weights[name].shape:
        more = ": its vocabulary was changed, which peft's merge_and_unload() keeps" if "embed" in name else ""
        raise WeightError(
            f"{file}: the tensor {full!r} is {list(weight.shape)}, and {list(weights[name].shape)} is expected by the "
            f"model of {adapter.base}{more}"
        )


def _added(
    adapter: Adapter, model: PreTrainedModel, module: str, tensors: Mapping[str, Weight], weights: Mapping[str, Weight]
) -> Weight:
    """The weight of a module with the product of its factors."""
    file = adapter.folder / TENSORS
    kind = dict(model.named_modules()).get(module)
    if not isinstance(kind, nn.Linear | Conv1D | nn.Embedding) or f"{module}.weight" not in weights:
        what = "is not in" if kind is None else f"is a {type(kind).__name__} in"
        raise WeightError(
            f"{file}: {module}, which it has {', '.join(tensors)} for, {what} the model of {adapter.base}"
        )
    prefix = "lora_embedding_" if isinstance(kind, nn.Embedding) else "lora_"
    weight = weights[f"{module}.weight"]
    turned = not isinstance(kind, nn.Linear)  # stored as [in, out]
    outputs, inputs = reversed(weight.shape) if turned else weight.shape
    down, up, magnitude = tensors.get(f"{prefix}A"), tensors.get(f"{prefix}B"), tensors.get("lora_magnitude_vector")
    known = {f"{prefix}A", f"{prefix}B", "lora_magnitude_vector"}
    if down is None or up is None or not known >= tensors.keys():
        raise WeightError(f"{file}: {module} has {', '.join(tensors)}, and {prefix}A and {prefix}B are needed")
    if len(down.shape) != 2 or down.shape[1] != inputs or up.shape != (outputs, down.shape[0]):
        raise WeightError(
            f"{file}: the factors of {module} are {list(up.shape)} and {list(down.shape)}, and [{outputs}, rank] and "
            f"[rank, {inputs}] are expected"
        )
    if bool(adapter.config.get("use_dora")) != (magnitude is not None):
        raise WeightError(f"{file}: use_dora in {CONFIG} does not agree with the tensors of {module}")
    if magnitude is not None and (isinstance(kind, nn.Embedding) or magnitude.shape != (outputs,)):
        raise WeightError(f"{file}: the magnitudes of {module} are {list(magnitude.shape)}, which are not merged")
    scale = adapter.scale(module, down.shape[0])
    inside = weight.source if isinstance(weight, Cast) else weight  # where the base has its numbers: back to those
    made = LowRank(inside, down, up, scale, turned, magnitude)
    return Cast(made, weight.dtype) if inside is not weight else made


def _add_bias(
    adapter: Adapter, module: str, bias: Weight, tensors: Mapping[str, Weight], weights: dict[str, Weight]
) -> None:
    """Add the bias that the second factor of a module has to the module's own."""
    name = f"{module}.bias"
    down = tensors.get("lora_A")
    if name not in weights or down is None or bias.shape != weights[name].shape:
        raise WeightError(f"{adapter.folder / TENSORS}: {module} has a lora_B.bias, and the model no bias to add it to")
    weights[name] = LowRank.of_bias(weights[name], bias, adapter.scale(module, down.shape[0]))


def _untied(model: PreTrainedModel, changed: set[str], adapter: Adapter, trust: bool) -> PreTrainedModel:
    """A model with weights of their own where a changed one was tied to others, which stay what they were."""

    def tied() -> list[str]:
        found = empty_model.tensors(model).values()
        return [name for _, names in found for name in names if len(names) > 1 and changed & set(names)]

    if not tied():
        return model
    model.config.tie_word_embeddings = False
    generation = model.generation_config
    model = empty_model.build(model.config, adapter.base, len(changed), trust)
    model.generation_config = generation
    if left := tied():
        raise WeightError(f"{adapter.folder}: the adapter changes one of {' and '.join(left)}, which are one weight")
    return model
