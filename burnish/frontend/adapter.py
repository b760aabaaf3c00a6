"""Folders with an adapter, as the library peft writes them: what kind it is, and of which model. Imports no PyTorch."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from burnish.hub import snapshot
from burnish.ir.errors import InvalidModelError, WeightError

CONFIG, TENSORS, _PICKLED = "adapter_config.json", "adapter_model.safetensors", "adapter_model.bin"
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
            raise WeightError(f"{self.folder}: the rank of {module} is {rank}, and {CONFIG} says {told}")
        if isinstance(alpha, bool) or not isinstance(alpha, int | float):
            raise InvalidModelError(f"{self.folder / CONFIG}: lora_alpha is {alpha!r}, not a number")
        return float(alpha / (rank**0.5 if self.config.get("use_rslora") else rank))


def adapter_in(folder: Path) -> Adapter | None:
    """The adapter in `folder`; None where there is none.

    Raises InvalidModelError, with the command that works, where it is none that can be merged, its base model is not at
    hand, or another model is beside it.
    """
    if not (folder / CONFIG).is_file():
        return None
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InvalidModelError(f"{folder / CONFIG} describes no adapter: {error}") from error
    if not isinstance(config, dict):
        raise InvalidModelError(f"{folder / CONFIG} describes no adapter: it is no table")
    _check_kind(folder, config)
    adapter = Adapter(folder, _base(folder, config), config)
    weights = [path.name for path in folder.glob("*") if re.match(r"(pytorch_)?model.*\.(safetensors|bin)$", path.name)]
    if weights and adapter.base.resolve() != folder.resolve():
        raise InvalidModelError(
            f"{folder} has a LoRA adapter of {config['base_model_name_or_path']} ({CONFIG}) and a model's own weights "
            f"({weights[0]}), and which is meant is not said. Where the weights have the adapter in them, move "
            f"{CONFIG} and {TENSORS} elsewhere; where they are to be merged into the base model, compile a folder "
            "that has those two files alone."
        )
    if not (folder / TENSORS).is_file():
        pickled = f", but {_PICKLED}: pickled weights can run code, and are not read" * (folder / _PICKLED).is_file()
        raise InvalidModelError(f"{folder} has a LoRA adapter's {CONFIG} and no {TENSORS}{pickled}")
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
            f"{folder} has a LoRA adapter, and {CONFIG} does not say of which model: give its folder or org/name "
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
            f"folder, or its org/name, as base_model_name_or_path into {CONFIG}"
        )
    return base


def _by_pattern(patterns: Any, module: str, otherwise: Any) -> Any:
    """The value of the first pattern that the end of a module's path matches."""
    for pattern, value in (patterns if isinstance(patterns, dict) else {}).items():
        try:
            if re.fullmatch(rf"(.*\.)?({pattern})", module):
                return value
        except re.error as error:
            raise InvalidModelError(f"{CONFIG}: {pattern!r} is no pattern of modules' names: {error}") from error
    return otherwise
