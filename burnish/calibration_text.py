"""Text to calibrate transforms by, in any form, as windows of token ids. Nothing is downloaded."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from burnish.frontend.source import Source
from burnish.ir.errors import InvalidInputError, UsageError
from burnish.passes.transforms.calibration import Calibration, calibration_of
from burnish.runtime.tokenization import Tokenizer

Text = str | Path | Sequence[str] | Sequence[int] | Sequence[Sequence[int]] | torch.Tensor


def calibration_for(source: Source, text: Text) -> Calibration:
    """`text` as windows for the model of `source`: a file's path, texts, or token ids in any nesting.

    Raises InvalidInputError for text that is too short, empty or none, UsageError where there is no tokenizer for it.
    """
    tokenizer = None if source.tokenizer is None else Tokenizer(source.tokenizer)
    ids, first = text_ids(text, tokenizer)
    signature = source.program.signature
    wrong = [each for each in ids if not 0 <= each < signature.token_limit]
    if wrong:
        raise InvalidInputError(
            f"the calibration text has the id {wrong[0]}: the model knows the ids 0 to {signature.token_limit - 1}"
        )
    return calibration_of(ids, signature.max_length, first)


def text_ids(text: Text, tokenizer: Tokenizer | None) -> tuple[list[int], list[int]]:
    """The ids of all of `text`, and those that the tokenizer puts in front of any text."""
    if isinstance(text, torch.Tensor):
        return [int(each) for each in text.flatten().tolist()], []
    pieces: list[Any] = [_read(Path(text))] if isinstance(text, str | Path) else list(text)
    if pieces and not isinstance(pieces[0], str):
        return [each for piece in pieces for each in ([piece] if isinstance(piece, int) else piece)], []
    if not any(isinstance(piece, str) and piece.strip() for piece in pieces):
        raise InvalidInputError("the calibration text is empty")
    if tokenizer is None:
        raise UsageError("the model has no tokenizer: give the calibration text as token ids, or give a tokenizer")
    return [each for piece in pieces for each in tokenizer.encode(str(piece), special=False)], tokenizer.encode("")


def _read(path: Path) -> str:
    if not path.is_file():
        raise InvalidInputError(f"there is no file {path}: calibration text is a path, a list of texts, or token ids")
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise InvalidInputError(f"{path} is not text (byte {error.start} is not UTF-8)") from error
    if "\0" in text:
        raise InvalidInputError(f"{path} is not text: it has zero bytes")
    return text
