"""Folders with config.json and safetensors, as transformers writes them: weights stay in their files until used."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GenerationConfig, PreTrainedConfig
from transformers import PreTrainedModel as Model
from transformers.conversion_mapping import get_model_conversion_mapping

from burnish.frontend import empty_model
from burnish.frontend.hugging_face import capture_model, source, tokenizer_data
from burnish.frontend.rotary_scaling import Context
from burnish.frontend.safetensors_folder import read_tensors
from burnish.frontend.source import Source
from burnish.ir.errors import InvalidModelError, WeightError
from burnish.ir.weights import Cast, Weight
from burnish.runtime.tokenization import TokenizerData

_log = logging.getLogger(__name__)

_LOCAL: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "vocab.json", "spiece.model")

_READ = (torch.float32, torch.float16, torch.bfloat16, torch.float64)  # of what is computed with in another dtype

Tensors = dict[str, tuple[Weight, Path]]


def read_folder(
    path: Path | str, *, max_length: int | None = None, tokenizer: Any = None, context: Context | None = None
) -> Source:
    """Read the model in a folder. `tokenizer`: one of transformers to use instead of the folder's own.

    Raises:
        InvalidModelError: there is no config.json or no safetensors, or transformers does not know the model.
        WeightError: a file is missing or truncated, a tensor missing, of another shape than the model's, or of numbers
            that have scales.
    """
    folder = Path(path)
    config = _read_config(folder)
    stored = read_tensors(folder)
    model = empty_model.build(config, folder, len(stored))
    if (tied := _tied_that_differ(model, stored)) is not None:  # transformers does not tie them then
        _log.warning("%s: its configuration ties %s, which differ: they are not tied", folder, tied)
        config.tie_word_embeddings = False
        model = empty_model.build(config, folder, len(stored))
        if _tied_that_differ(model, stored) is not None:
            raise WeightError(f"{folder}: {type(model).__name__} ties {tied}, and they differ")
    reason = _why_not_by_name(model, stored)
    weights: dict[str, Weight] | None = None
    if reason is None:
        weights = _by_name(model, stored, folder)
        if (folder / "generation_config.json").is_file():
            model.generation_config = GenerationConfig.from_pretrained(folder, local_files_only=True)
    else:
        _log.info("%s is loaded into memory by transformers: %s", folder, reason)
        model = _load(folder)
    program = capture_model(model, max_length=max_length, weights=weights, context=context)
    tokens = tokenizer_data(tokenizer) if tokenizer is not None else _read_tokenizer(folder)
    return source(model, program, name=folder.resolve().name, tokenizer=tokens)


def _read_config(folder: Path) -> PreTrainedConfig:
    if not (folder / "config.json").is_file():
        raise InvalidModelError(
            f"{folder} has no config.json: a folder as transformers' save_pretrained writes it is needed"
        )
    try:
        config: PreTrainedConfig = AutoConfig.from_pretrained(folder, **_LOCAL)
    except Exception as error:  # configurations check themselves in many ways
        raise InvalidModelError(
            f"{folder / 'config.json'} is no configuration that transformers knows: {error}"
        ) from error
    method = getattr(config, "quantization_config", None)
    if method is not None:
        method = method.get("quant_method") if isinstance(method, dict) else getattr(method, "quant_method", method)
        raise InvalidModelError(
            f"{folder} is quantized ({method}): checkpoints in float32, float16 or bfloat16 are read"
        )
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
    if narrow:
        _log.info("%s: weights in %s are computed with in float32", folder, ", ".join(sorted(narrow)))
    if unread:
        _log.info("%s: %d tensors are none of %s's: %s", folder, len(unread), type(model).__name__, sorted(unread)[:5])
    return found


def _load(folder: Path) -> Model:
    """The model as transformers loads it, with all of its weights."""
    try:
        model, info = AutoModelForCausalLM.from_pretrained(
            folder, **_LOCAL, dtype="auto", use_safetensors=True, output_loading_info=True, ignore_mismatched_sizes=True
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


def _read_tokenizer(folder: Path) -> TokenizerData | None:
    if not any((folder / name).is_file() for name in _TOKENIZER_FILES):
        _log.info("%s has no tokenizer: the compiled model takes token ids", folder)
        return None
    try:
        return tokenizer_data(AutoTokenizer.from_pretrained(folder, **_LOCAL))
    except Exception as error:  # tokenizers fail in many ways, and a model without one is still one
        _log.warning("%s: its tokenizer cannot be read, so the compiled model takes token ids: %s", folder, error)
        return None
