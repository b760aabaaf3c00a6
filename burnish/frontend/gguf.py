"""`.gguf` files: the model of transformers that one describes, its weights read from the file when they are used."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from transformers import PreTrainedModel

from burnish.frontend import empty_model
from burnish.frontend.hugging_face import capture_model, source, tokenizer_data
from burnish.frontend.rotary_scaling import Context
from burnish.frontend.source import Source
from burnish.ir.errors import BurnishError, InvalidModelError, UsageError, WeightError
from burnish.ir.weights import Weight

if TYPE_CHECKING:
    from burnish.frontend.gguf_file import GGUFFile
    from burnish.frontend.gguf_models import Architecture


def read_gguf(
    path: Path | str, *, max_length: int | None = None, tokenizer: Any = None, context: Context | None = None
) -> Source:
    """Read the model in a GGUF file, or in several of which it is one.

    `tokenizer`: one of transformers to use instead of the file's own.

    Raises:
        InvalidModelError: the file is not GGUF, or of an architecture or with settings that are not known.
        WeightError: the file is truncated; a tensor is missing, of a wrong shape, or none of the model's.
        UsageError: the package gguf is missing, or `max_length` is not to be had.
    """
    if importlib.util.find_spec("gguf") is None:
        raise UsageError(f"reading {path} takes the package gguf: pip install 'burnish[gguf]'")
    from burnish.frontend.gguf_file import open_gguf
    from burnish.frontend.gguf_tokenizer import read_tokenizer

    file = open_gguf(Path(path))
    model, weights = model_of(file)
    program = capture_model(model, max_length=max_length, weights=weights, context=context)
    tokens = tokenizer_data(tokenizer) if tokenizer is not None else read_tokenizer(file)
    result = source(model, program, name=file.name, tokenizer=tokens)
    result.generation.update(_end_of_text(file))
    return result


def model_of(file: GGUFFile) -> tuple[PreTrainedModel, dict[str, Weight]]:
    """The model of `file`, whose parameters have no values, and its weights by all of their names.

    For the errors see `read_gguf`.
    """
    from burnish.frontend.gguf_facts import Facts
    from burnish.frontend.gguf_models import ARCHITECTURES, REFUSED, config_of

    name = file.metadata.get("general.architecture")
    if name in REFUSED:
        raise InvalidModelError(f"{file.path}: the architecture {name!r} is not read: {REFUSED[name]}")
    if name not in ARCHITECTURES:
        raise InvalidModelError(
            f"{file.path}: the architecture is {name!r}; those that are read: {', '.join(sorted(ARCHITECTURES))}. "
            "A model that transformers knows can be compiled from its folder with config.json and safetensors."
        )
    facts = Facts(file, name)
    try:
        config = config_of(facts)
    except BurnishError:
        raise
    except Exception as error:  # configurations check themselves in many ways
        raise InvalidModelError(f"{file.path}: its metadata are none of the architecture {name!r}: {error}") from error
    model = empty_model.build(config, file.path, len(file.tensors))
    weights = _weights(file, ARCHITECTURES[name], name, model)
    facts.check_understood()
    return model, weights


def _weights(file: GGUFFile, architecture: Architecture, name: str, model: PreTrainedModel) -> dict[str, Weight]:
    """Each weight of the model by all of its names. Takes the factors of the rotary frequencies into the model."""
    from burnish.frontend.dequantize import weight_of
    from burnish.frontend.gguf_rope import FACTORS, ROPE_FACTORS
    from burnish.frontend.gguf_tensors import weights_of

    found, unread = weights_of(file, name, model, architecture.made, architecture.changes)
    unread -= architecture.unused(model.config)
    if FACTORS["long_factor"] in unread:
        unread -= set(FACTORS.values())  # the configuration has them
    rotary = getattr(model.get_decoder(), "rotary_emb", None)
    if ROPE_FACTORS in unread and hasattr(rotary, "inv_freq"):  # of llama 3.1 and later
        unread.discard(ROPE_FACTORS)
        _divide_frequencies(rotary, weight_of(file.tensors[ROPE_FACTORS]).materialize(), file.path)
    if unread:
        shown = ", ".join(sorted(unread)[:5]) + (", ..." if len(unread) > 5 else "")
        raise WeightError(
            f"{file.path}: {type(model).__name__} has no place for {len(unread)} tensors ({shown}): what the file "
            "computes is not what would be compiled"
        )
    return found


def _divide_frequencies(rotary: Any, factors: torch.Tensor, path: Path) -> None:
    if factors.shape != rotary.inv_freq.shape:
        raise WeightError(
            f"{path}: the tensor 'rope_freqs.weight' is {list(factors.shape)}, and {list(rotary.inv_freq.shape)} "
            "is expected"
        )
    rotary.inv_freq = rotary.inv_freq / factors


def _end_of_text(file: GGUFFile) -> dict[str, Any]:
    """The tokens after which there is no more: the end of the text, of a turn and of a message, by id or by name."""
    from burnish.frontend.gguf_tokenizer import ends_of_turns

    keys = ("eos", "eot", "eom")
    ids = [file.metadata[name] for key in keys if (name := f"tokenizer.ggml.{key}_token_id") in file.metadata]
    found = list(dict.fromkeys([*ids, *ends_of_turns(file)]))
    return {"eos_token_id": found} if found else {}
