"""Folders with config.json and safetensors, as transformers writes them: weights stay in their files until used."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer

from burnish.frontend import lora
from burnish.frontend.adapter import adapter_in
from burnish.frontend.checkpoint import in_memory, read_checkpoint
from burnish.frontend.hugging_face import capture_model, check_packages, source, tokenizer_data
from burnish.frontend.rotary_scaling import Context
from burnish.frontend.source import Source
from burnish.runtime.tokenization import TokenizerData

_log = logging.getLogger(__name__)

_TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "vocab.json", "spiece.model")


def read_folder(
    path: Path | str,
    *,
    max_length: int | None = None,
    tokenizer: Any = None,
    context: Context | None = None,
    trust_remote_code: bool = False,
    name: str | None = None,
) -> Source:
    """Read the model in a folder, or the adapter with its base model. `name`: the folder's if None.

    For the other arguments see `burnish.frontend.read`.

    Raises:
        InvalidModelError: there is no config.json or no safetensors, or transformers does not know the model, and its
            own code is not trusted; an adapter of another kind than is merged, or without its base model at hand.
        WeightError: a file is missing or truncated, a tensor missing, of another shape than the model's, or of numbers
            that have scales.
        UsageError: a package is missing that reads its tokenizer.
    """
    folder = Path(path)
    adapter = adapter_in(folder)
    base = folder if adapter is None else adapter.base
    model, weights = read_checkpoint(base, trust_remote_code)
    if adapter is not None:
        model, weights = lora.merged(adapter, model, weights or in_memory(model), trust_remote_code)
    homes = [each for each in (folder, base) if any((each / file).is_file() for file in _TOKENIZER_FILES)]
    tokens = tokenizer_data(tokenizer) if tokenizer is not None else _read_tokenizer(homes, folder, trust_remote_code)
    program = capture_model(model, max_length=max_length, weights=weights, context=context)
    return source(model, program, name=name or folder.resolve().name, tokenizer=tokens)


def _read_tokenizer(homes: list[Path], folder: Path, trust: bool) -> TokenizerData | None:
    if not homes:
        _log.info("%s has no tokenizer: the compiled model takes token ids", folder)
        return None
    check_packages(homes[0])
    try:
        return tokenizer_data(AutoTokenizer.from_pretrained(homes[0], local_files_only=True, trust_remote_code=trust))
    except Exception as error:  # tokenizers fail in many ways, and a model without one is still one
        _log.warning("%s: its tokenizer cannot be read, so the compiled model takes token ids: %s", homes[0], error)
        return None
