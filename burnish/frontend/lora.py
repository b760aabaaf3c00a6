"""LoRA adapters (Hu et al., 2021), as the library peft writes them: merged into the weights of their base model."""

from __future__ import annotations

import json
import logging
import re
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from burnish.frontend import empty_model
from burnish.frontend.low_rank import LowRank
from burnish.frontend.safetensors_folder import read_file
from burnish.hub import snapshot
from burnish.ir.errors import InvalidModelError, WeightError
from burnish.ir.quantization import Widened
from burnish.ir.weights import Cast, Weight

_log = logging.getLogger(__name__)

_CONFIG, _TENSORS, _PICKLED = "adapter_config.json", "adapter_model.safetensors", "adapter_model.bin"
_PREFIX = "base_model.model."
_PART = re.compile(
    r"(?P<module>.+)\.(?P<part>lora_A|lora_B|lora_embedding_A|lora_embedding_B|lora_magnitude_vector)"
    r"(\.weight|\.(?P<bias>bias))?"
)

# What an adapter's configuration may say, and is read here, or is of no meaning once it was trained.
_UNDERSTOOD = {
    *("peft_type", "base_model_name_or_path", "revision", "r", "lora_alpha", "use_rslora", "rank_pattern"),
    *("alpha_pattern", "use_dora", "lora_bias", "bias", "modules_to_save", "fan_in_fan_out", "init_lora_weights"),
    *("task_type", "inference_mode", "auto_mapping", "peft_version", "target_modules", "exclude_modules"),
    *("lora_dropout", "layers_to_transform", "layers_pattern", "megatron_core", "loftq_config", "eva_config"),
    *("corda_config", "lora_ga_config", "velora_config", "qalora_group_size", "runtime_config", "ensure_weight_tying"),
}
# Ways to begin that leave the base model's weights as they are; others change them, which files do not show.
_BEGUN = (True, False, None, "gaussian", "eva", "orthogonal")
_BY_PEFT = "Merge it by peft's merge_and_unload(), write that by save_pretrained(FOLDER), and compile FOLDER."


@dataclass(frozen=True)
class Adapter:
    """What a folder has of an adapter, and the folder of the model that it is for."""

    folder: Path
    base: Path
    config: Mapping[str, Any]

    def scale(self, module: str, rank: int) -> float:
        """What the product of a module's two factors is multiplied by."""
        told = _by_pattern(self.config.get("rank_pattern"), module, self.config.get("r", rank))
        alpha = _by_pattern(self.config.get("alpha_pattern"), module, self.config.get("lora_alpha"))
        if told != rank:
            raise WeightError(f"{self.folder}: the rank of {module} is {rank}, and {_CONFIG} says {told}")
        if isinstance(alpha, bool) or not isinstance(alpha, int | float):
            raise InvalidModelError(f"{self.folder / _CONFIG}: lora_alpha is {alpha!r}, not a number")
        return float(alpha / (rank**0.5 if self.config.get("use_rslora") else rank))


def adapter_in(folder: Path) -> Adapter | None:
    """The adapter in `folder`; None where there is none.

    Raises InvalidModelError, with the command that works, where it is none that can be merged, its base model is not at
    hand, or another model is beside it.
    """
    if not (folder / _CONFIG).is_file():
        return None
    try:
        config = json.loads((folder / _CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InvalidModelError(f"{folder / _CONFIG} describes no adapter: {error}") from error
    if not isinstance(config, dict):
        raise InvalidModelError(f"{folder / _CONFIG} describes no adapter: it is no table")
    _check_kind(folder, config)
    adapter = Adapter(folder, _base(folder, config), config)
    weights = [path.name for path in folder.glob("*") if re.match(r"(pytorch_)?model.*\.(safetensors|bin)$", path.name)]
    if weights and adapter.base.resolve() != folder.resolve():
        raise InvalidModelError(
            f"{folder} has a LoRA adapter of {config['base_model_name_or_path']} ({_CONFIG}) and a model's own weights "
            f"({weights[0]}), and which is meant is not said. Where the weights have the adapter in them, move "
            f"{_CONFIG} and {_TENSORS} elsewhere; where they are to be merged into the base model, compile a folder "
            "that has those two files alone."
        )
    if not (folder / _TENSORS).is_file():
        pickled = f", but {_PICKLED}: pickled weights can run code, and are not read" * (folder / _PICKLED).is_file()
        raise InvalidModelError(f"{folder} has a LoRA adapter's {_CONFIG} and no {_TENSORS}{pickled}")
    return adapter


def _check_kind(folder: Path, config: Mapping[str, Any]) -> None:
    kind = config.get("peft_type")
    if kind != "LORA":
        raise InvalidModelError(
            f"{folder} has an adapter of the type {kind!r}: those of the type 'LORA' are merged into their base model. "
            f"{_BY_PEFT}"
        )
    strange = {name: value for name, value in config.items() if name not in _UNDERSTOOD and value}
    if config.get("init_lora_weights") not in _BEGUN:
        strange["init_lora_weights"] = config["init_lora_weights"]
    if strange:
        told = ", ".join(f"{name}={value!r}" for name, value in strange.items())
        raise InvalidModelError(f"{folder}: the LoRA adapter has {told}, which is not merged here. {_BY_PEFT}")


def _base(folder: Path, config: Mapping[str, Any]) -> Path:
    """The folder of the model that an adapter is for."""
    name = config.get("base_model_name_or_path")
    if not isinstance(name, str) or not name:
        raise InvalidModelError(
            f"{folder} has a LoRA adapter, and {_CONFIG} does not say of which model: give its folder or org/name "
            "as base_model_name_or_path"
        )
    base: Path | None = Path(name)
    if not Path(name).is_dir():
        revision = config.get("revision")
        try:
            base = snapshot(f"{name}@{revision}" if isinstance(revision, str) and revision != "main" else name)
        except InvalidModelError as error:
            raise InvalidModelError(
                f"{folder} has a LoRA adapter, which is merged into its base model: {error}"
            ) from error
    if base is None or not (base / "config.json").is_file():
        raise InvalidModelError(
            f"{folder} has a LoRA adapter, which is merged into its base model {name}, and no model is there: give its "
            f"folder, or its org/name, as base_model_name_or_path into {_CONFIG}"
        )
    return base


def merged(
    adapter: Adapter, model: PreTrainedModel, weights: Mapping[str, Weight], trust: bool
) -> tuple[PreTrainedModel, dict[str, Weight]]:
    """The model and its weights with the adapter's products added; untied where an adapter unties them.

    Raises WeightError for a tensor of the adapter that has no place in the model, or not the shape that it needs.
    """
    file = adapter.folder / _TENSORS
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
    file = adapter.folder / _TENSORS
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
    file = adapter.folder / _TENSORS
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
        raise WeightError(f"{file}: use_dora in {_CONFIG} does not agree with the tensors of {module}")
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
        raise WeightError(
            f"{adapter.folder / _TENSORS}: {module} has a lora_B.bias, and the model no bias to add it to"
        )
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


def _by_pattern(patterns: Any, module: str, otherwise: Any) -> Any:
    """The value of the first pattern that the end of a module's path matches."""
    for pattern, value in (patterns or {}).items():
        if re.fullmatch(rf"(.*\.)?({pattern})", module):
            return value
    return otherwise
