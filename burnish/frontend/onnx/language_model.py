"""ONNX files: as language models where they are decoders, with what lies beside them; as graphs where they are not."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from burnish.frontend.capture import capture
from burnish.frontend.limits import LENGTH_NAMES
from burnish.frontend.onnx.decoder import Decoder, NoDecoder, choices, decoder_of
from burnish.frontend.onnx.module import OnnxModule
from burnish.frontend.onnx.read import read_file
from burnish.frontend.source import Source
from burnish.ir.errors import InvalidModelError
from burnish.runtime.options import keep_defaults

_log = logging.getLogger(__name__)

_TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "tokenizer.model")


@dataclass(frozen=True)
class OnnxFile:
    """A file as it was read. `decoder` is None for `reason`, why it is called with tensors by name."""

    path: Path
    module: OnnxModule
    decoder: Decoder | None
    reason: str = ""


def open_onnx(path: Path) -> OnnxFile:
    """Read a file, and try whether it is a decoder. Raises as `read_file` and `OnnxModule` do."""
    model = read_file(path)
    module = OnnxModule(model, choices(model))
    try:
        return OnnxFile(path, module, decoder_of(module))
    except NoDecoder as error:
        _log.info("%s is compiled as a graph: %s", path, error)
        return OnnxFile(path, module, None, str(error))


def read_decoder(file: OnnxFile, max_length: int | None, tokenizer: Any) -> Source:
    """The program of a decoder, with the tokenizer and the settings that lie beside it.

    `tokenizer`: as data, or None for that of the file's folder. Raises as `capture` does.
    """
    assert file.decoder is not None
    for told in file.decoder.told():
        _log.warning("%s: %s", file.path.name, told)
    settings = dict(_settings(file.path))
    texts = (settings.get("config.json", {}), settings.get("genai_config.json", {}).get("model", {}))
    limits = (each.get(name) for each in texts for name in (*LENGTH_NAMES, "context_length"))
    limit = next((each for each in limits if isinstance(each, int) and each > 1), None)
    weights = file.module.widen_packed()
    program = capture(file.module, max_length=max_length, call=file.decoder, weights=weights, limit=limit)
    ends = next((each["eos_token_id"] for each in texts if each.get("eos_token_id") is not None), None)
    generation = {} if ends is None else {"eos_token_id": ends}
    generation |= keep_defaults(settings.get("generation_config.json", {}))
    return Source(
        program=program,
        name=file.path.stem if file.path.stem != "model" else file.path.resolve().parent.name,
        tokenizer=tokenizer or _tokenizer(file.path),
        generation=generation,
        config=settings.get("config.json", {}),
    )


def _homes(path: Path) -> list[Path]:
    """The file's folder, and that around it where it is called "onnx", as exported models are published."""
    folder = path.resolve().parent
    return [folder, folder.parent] if folder.name == "onnx" else [folder]


def _settings(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """What JSON files beside a model say, by their names."""
    for name in ("config.json", "generation_config.json", "genai_config.json"):
        for home in _homes(path):
            if not (home / name).is_file():
                continue
            try:
                found = json.loads((home / name).read_text(encoding="utf-8"))
            except (OSError, ValueError, RecursionError) as error:
                raise InvalidModelError(f"{home / name} lies beside the model and cannot be read: {error}") from None
            if isinstance(found, dict):
                yield name, found
                break


def _tokenizer(path: Path) -> Any:
    home = next((each for each in _homes(path) if any((each / name).is_file() for name in _TOKENIZER_FILES)), None)
    if home is None:
        _log.info("%s has no tokenizer beside it: the compiled model takes token ids", path)
        return None
    from burnish.frontend.hugging_face import tokenizer_data

    return tokenizer_data(home)
