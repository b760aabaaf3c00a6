"""Models of transformers as `Program`s.

The trace is of transformers' own code with its plain ("eager") attention, which says what the model means: the others
drop soft caps and cannot express sinks.
"""

from __future__ import annotations

import importlib.metadata
import inspect
import json
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoTokenizer, GenerationConfig, PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from burnish.frontend import experts, rotary_scaling
from burnish.frontend.capture import capture
from burnish.frontend.limits import declared_limit
from burnish.frontend.source import Source
from burnish.ir.errors import InvalidModelError, UsageError
from burnish.ir.program import Program
from burnish.ir.weights import Weight
from burnish.runtime.options import keep_defaults
from burnish.runtime.tokenization import TokenizerData

_log = logging.getLogger(__name__)

_SENTENCEPIECE = ("tokenizer.model", "spiece.model")


def read_model(
    model: PreTrainedModel,
    *,
    max_length: int | None = None,
    tokenizer: Any = None,
    context: rotary_scaling.Context | None = None,
) -> Source:
    """A model in memory, which is left as it was."""
    program = capture_model(model, max_length=max_length, context=context)
    return source(model, program, name=model_name(model), tokenizer=tokenizer_data(tokenizer))


def source(model: PreTrainedModel, program: Program, *, name: str, tokenizer: TokenizerData | None) -> Source:
    """The program with what else the model says of itself."""
    return Source(
        program=program,
        name=name,
        tokenizer=tokenizer,
        generation=generation_defaults(model),
        config=json.loads(model.config.to_json_string()),
    )


def capture_model(
    model: PreTrainedModel,
    *,
    max_length: int | None = None,
    weights: Mapping[str, Weight] | None = None,
    context: rotary_scaling.Context | None = None,
) -> Program:
    """The program of a model. For the arguments and errors see `burnish.frontend.capture.capture`.

    context: for which side of the length where rotary frequencies change; None: for that of `max_length`.
    """
    lengths = rotary_scaling.chosen(model, max_length, context, declared_limit(model))
    has_cache = "use_cache" in inspect.signature(model.forward).parameters
    options = {"use_cache": False} if has_cache or hasattr(model.config, "use_cache") else {}

    def call(module: nn.Module, tokens: torch.Tensor) -> Any:
        return module(input_ids=tokens, **options)

    with _plain(model), rotary_scaling.fixed(model, lengths.max_length or lengths.limit):
        program = capture(model, max_length=lengths.max_length, call=call, weights=weights, limit=lengths.limit)
    return replace(program, interface=replace(program.signature, longer_than=lengths.longer_than))


@contextmanager
def _plain(model: PreTrainedModel) -> Iterator[None]:
    """`model` with plain attention, and experts that can be traced, for a while."""
    configs: dict[int, PreTrainedConfig] = {}
    for module in model.modules():
        config = getattr(module, "config", None)
        if isinstance(config, PreTrainedConfig):
            configs[id(config)] = config
    names = ("_attn_implementation_internal", "_experts_implementation_internal")
    before = [(config, name, getattr(config, name)) for config in configs.values() for name in names]
    try:
        with experts.registered():
            for config, name, _ in before:
                setattr(config, name, "eager" if name.startswith("_attn") else experts.IMPLEMENTATION)
            yield
    finally:
        for config, name, value in before:
            setattr(config, name, value)


def model_name(model: PreTrainedModel) -> str:
    """What a model is called: the last part of where it comes from, else its type."""
    path = str(getattr(model.config, "name_or_path", "") or "").rstrip("/\\")
    return path.replace("\\", "/").rsplit("/", 1)[-1] or model.config.model_type or type(model).__name__


def generation_defaults(model: PreTrainedModel) -> dict[str, Any]:
    """The model's own generation defaults that burnish knows."""
    config = getattr(model, "generation_config", None)
    return keep_defaults(config.to_dict()) if isinstance(config, GenerationConfig) else {}


def tokenizer_data(tokenizer: Any) -> TokenizerData | None:
    """A tokenizer of transformers, or the folder of one, as data; None for None.

    Raises InvalidModelError for one that has no `tokenizers.Tokenizer` inside, and for a folder without one.
    """
    if isinstance(tokenizer, str | Path):
        tokenizer = _read_tokenizer(Path(tokenizer))
    if tokenizer is None or isinstance(tokenizer, TokenizerData):
        return tokenizer
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if not isinstance(tokenizer, PreTrainedTokenizerBase) or backend is None:
        raise InvalidModelError(
            f"the tokenizer is a {type(tokenizer).__name__}: a tokenizer of transformers is needed that has a "
            "tokenizer.json (one of the tokenizers library inside)"
        )
    template = tokenizer.chat_template
    if isinstance(template, Mapping):
        template = template.get("default")
    special = {name: token for name, token in tokenizer.special_tokens_map.items() if isinstance(token, str)}
    return TokenizerData(backend.to_str(), template, special)


def check_packages(folder: Path) -> None:
    """UsageError where a tokenizer is SentencePiece's model alone, and a package is missing that reads one."""
    model = next((name for name in _SENTENCEPIECE if (folder / name).is_file()), None)
    if model is None or (folder / "tokenizer.json").is_file():
        return
    missing = [name for name in ("sentencepiece", "protobuf") if not _is_there(name)]
    if missing:
        raise UsageError(
            f"{folder} has its tokenizer as {model} alone, and reading that takes {' and '.join(missing)}: "
            "pip install 'burnish[sentencepiece]'"
        )


def _is_there(package: str) -> bool:
    try:
        importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def _read_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    if not folder.is_dir():
        raise InvalidModelError(f"there is no folder {folder} to read a tokenizer from")
    check_packages(folder)
    try:
        found: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False
        )
    except Exception as error:  # tokenizers fail in many ways
        raise InvalidModelError(
            f"{folder} has no tokenizer that transformers reads, as its save_pretrained writes one: {error}"
        ) from error
    return found
