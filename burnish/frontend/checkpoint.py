"""The checkpoint in a folder: a model of transformers, and each of its weights by name, read where it lies."""

from __future__ import annotations

import logging
from pathlib import Path

import torch
from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig, PreTrainedConfig
from transformers import PreTrainedModel as Model
from transformers.conversion_mapping import get_model_conversion_mapping

from burnish.frontend import empty_model, quantized
from burnish.frontend.conversions import converted
from burnish.frontend.own_code import not_trusted, own_code
from burnish.frontend.safetensors_folder import Tensors, read_tensors
from burnish.ir.errors import InvalidModelError, WeightError
from burnish.ir.weights import Cast, Stored, Weight

_log = logging.getLogger(__name__)

_READ = (torch.float32, torch.float16, torch.bfloat16, torch.float64)  # of what is computed with in another dtype


def read_checkpoint(folder: Path, trust: bool) -> tuple[Model, dict[str, Weight] | None]:
    """The model, whose parameters have no values, and its weights by all of their names.

    Where the tensors are not the model's each under its name, transformers loads them: its parameters have values, and
    there are no weights. `trust`: run the code in the folder. For the errors see `burnish.frontend.folder.read_folder`.
    """
    foreign = [] if trust else own_code(folder)
    config = _read_config(folder, trust)
    if foreign and type(config) not in AutoModelForCausalLM._model_mapping:
        raise InvalidModelError(not_trusted(folder, foreign))
    told = getattr(config, "quantization_config", None) or getattr(config, "quantization", None)
    settings = quantized.settings_of(told, folder)
    if settings is not None:
        quantized.check_method(settings, folder)
        for name in ("quantization_config", "quantization"):
            config.__dict__.pop(name, None)  # so that transformers makes plain linears
    stored = read_tensors(folder)
    if settings is not None:
        stored = quantized.read(settings, stored, folder)
    model = empty_model.build(config, folder, len(stored), trust)
    if (tied := _tied_that_differ(model, stored)) is not None:  # transformers does not tie them then
        _log.warning("%s: its configuration ties %s, which differ: they are not tied", folder, tied)
        config.tie_word_embeddings = False
        model = empty_model.build(config, folder, len(stored), trust)
        if _tied_that_differ(model, stored) is not None:
            raise WeightError(f"{folder}: {type(model).__name__} ties {tied}, and they differ")
    reason = _why_not_by_name(model, stored)
    if reason is not None and settings is not None:
        stored = converted(model, stored, folder)
    elif reason is not None:
        _log.info("%s is loaded into memory by transformers: %s", folder, reason)
        return _load(folder, trust), None
    weights = _by_name(model, stored, folder)
    if (folder / "generation_config.json").is_file():
        model.generation_config = GenerationConfig.from_pretrained(folder, local_files_only=True)
    return model, weights


def _read_config(folder: Path, trust: bool) -> PreTrainedConfig:
    if not (folder / "config.json").is_file():
        raise InvalidModelError(
            f"{folder} has no config.json: a folder as transformers' save_pretrained writes it is needed"
        )
    try:
        config: PreTrainedConfig = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=trust)
    except Exception as error:  # configurations check themselves in many ways
        if not trust and (code := own_code(folder)):
            raise InvalidModelError(not_trusted(folder, code)) from error
        raise InvalidModelError(
            f"{folder / 'config.json'} is no configuration that transformers knows: {error}"
        ) from error
    return config


def _tied_that_differ(model: Model, stored: Tensors) -> str | None:
    """The names of two tensors of different values that are one weight of the model."""
    for _, aliases in empty_model.tensors(model).values():
        given = [alias for alias in aliases if alias in stored]
        for other in given[1:]:
            if not torch.equal(stored[given[0]][0].materialize(), stored[other][0].materialize()):
                return f"{given[0]!r} and {other!r}"
    return None


def _why_not_by_name(model: Model, stored: Tensors) -> str | None:
    """Why the tensors are not simply the model's, each under its name; None if they are."""
    found = empty_model.tensors(model)
    missing = [first for first, (_, aliases) in found.items() if not any(alias in stored for alias in aliases)]
    claimed = {alias for _, aliases in found.values() for alias in aliases}
    if missing and (others := sorted(stored.keys() - claimed)):
        return f"its tensors have other names ({others[0]!r}; {missing[0]!r} is not among them)"
    for conversion in get_model_conversion_mapping(model):
        for name in stored:
            if name in claimed and conversion.rename_source_key(name) != (name, None):
                return f"transformers converts its tensor {name!r}"
    return None


def _by_name(model: Model, stored: Tensors, folder: Path) -> dict[str, Weight]:
    """Each weight of the model by all of its names, in the dtype that the model has it in."""
    found: dict[str, Weight] = {}
    narrow: set[str] = set()
    unread = set(stored)
    for first, (tensor, aliases) in empty_model.tensors(model).items():
        name = next((alias for alias in aliases if alias in stored), None)
        if name is None:
            raise WeightError(
                f"{folder} has no tensor {first!r}: {type(model).__name__} needs it, of shape {list(tensor.shape)}. "
                "The folder is not complete, or its config.json is another model's."
            )
        unread.difference_update(aliases)
        weight, file = stored[name]
        if weight.shape != tuple(tensor.shape):
            raise WeightError(
                f"{file}: the tensor {name!r} is {list(weight.shape)}, and {list(tensor.shape)} is expected for "
                f"{type(model).__name__} by {folder / 'config.json'}"
            )
        if weight.dtype != tensor.dtype:
            if weight.dtype not in _READ:
                raise WeightError(
                    f"{file}: the tensor {name!r} is of {str(weight.dtype).removeprefix('torch.')}, which stands for "
                    "something else by scales that are not read: checkpoints in float32, float16 or bfloat16 are read"
                )
            narrow.add(str(weight.dtype).removeprefix("torch."))
            weight = Cast(weight, tensor.dtype)
        found.update(dict.fromkeys(aliases, weight))
    for name in sorted(unread):  # zeros, mostly, of quantized linears
        module, _, last = name.rpartition(".")
        if last == "bias" and f"{module}.weight" in found and bool(stored[name][0].materialize().any()):
            raise WeightError(f"{stored[name][1]}: {type(model).__name__} has no place for the tensor {name!r}")
    if narrow:
        _log.info("%s: weights in %s are computed with in float32", folder, ", ".join(sorted(narrow)))
    if unread:
        _log.info("%s: %d tensors are none of %s's: %s", folder, len(unread), type(model).__name__, sorted(unread)[:5])
    return found


def _load(folder: Path, trust: bool) -> Model:
    """The model as transformers loads it, with all of its weights."""
    try:
        model, info = AutoModelForCausalLM.from_pretrained(
            folder,
            local_files_only=True,
            trust_remote_code=trust,
            dtype="auto",
            use_safetensors=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,
        )
    except (ValueError, RuntimeError, KeyError, OSError) as error:
        raise WeightError(f"transformers cannot load the weights in {folder}: {error}") from error
    for name, found, expected in sorted(info["mismatched_keys"]):
        raise WeightError(f"{folder}: the tensor {name!r} is {list(found)}, and {list(expected)} is expected")
    if missing := sorted(info["missing_keys"]):
        shape = list(dict(model.state_dict())[missing[0]].shape)
        raise WeightError(
            f"{folder} has no tensor {missing[0]!r}: {type(model).__name__} needs it, of shape {shape} "
            f"({len(missing)} are missing). The folder is not complete, or its config.json is another model's."
        )
    assert isinstance(model, Model)
    return model.eval()


def in_memory(model: Model) -> dict[str, Weight]:
    """The weights of a model that has values, by all of their names, in float32 where they are floats."""
    found: dict[str, Weight] = {}
    for tensor, aliases in empty_model.tensors(model).values():
        weight: Weight = Stored(tensor.detach())
        weight = Cast(weight, torch.float32) if tensor.dtype in (torch.float16, torch.bfloat16) else weight
        found.update(dict.fromkeys(aliases, weight))
    return found
