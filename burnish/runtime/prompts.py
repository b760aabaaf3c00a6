"""What generate continues: texts, conversations, token ids, and what tokenizers of transformers give."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from burnish.ir.errors import InvalidInputError
from burnish.runtime.token_ids import integers, is_array, is_row, row_of
from burnish.runtime.tokenization import Tokenizer

if TYPE_CHECKING:  # for those alone who have tensors
    from burnish.runtime.token_ids import Ids

Messages: TypeAlias = "Sequence[Mapping[str, Any]]"
Prompt: TypeAlias = "str | Sequence[str] | Messages | Sequence[Messages] | Sequence[int] | Ids | Mapping[str, Any]"

ENCODING = ("input_ids", "attention_mask", "token_type_ids")  # what a tokenizer of transformers gives


def encoded(prompt: Prompt | None, given: Mapping[str, Any]) -> tuple[Any, Any]:
    """The prompt, or what is `given` as input_ids, and the attention mask.

    Raises InvalidInputError where there is no prompt or more than one, or what no decoder takes.
    """
    given = {name: value for name, value in given.items() if value is not None}
    if isinstance(prompt, Mapping):
        if "input_ids" not in prompt:
            raise InvalidInputError(
                f"a prompt that is a mapping has input_ids, and this one has {', '.join(map(str, prompt)) or 'nothing'}"
                + (": put a message into a list, [{...}]" if "role" in prompt else "")
            )
        given = {**prompt, **given}
        prompt = None
    if prompt is None and "input_ids" not in given:
        raise InvalidInputError("a prompt is a text, token ids, messages, or a list of these, not NoneType")
    if prompt is not None and "input_ids" in given:
        raise InvalidInputError("there are a prompt and input_ids: give one of them")
    kinds = given.get("token_type_ids")
    if kinds is not None and np.any(kinds.cpu().numpy() if hasattr(kinds, "cpu") else np.asarray(kinds)):
        raise InvalidInputError("token_type_ids are of two texts: a model that continues a text has one")
    return given["input_ids"] if prompt is None else prompt, given.get("attention_mask")


def prompt_ids(prompt: Any, mask: Any, tokenizer: Tokenizer | None) -> list[list[int]]:
    """The prompt as rows of ids, not yet checked, without what `mask` leaves out."""
    if isinstance(prompt, np.ndarray) and prompt.dtype.kind in "UO":
        prompt = prompt.tolist()  # texts
    if not is_array(prompt):
        if not isinstance(prompt, str | Sequence) or isinstance(prompt, bytes | bytearray):
            raise InvalidInputError(
                f"a prompt is a text, token ids, messages, or a list of these, not {type(prompt).__name__}"
            )
        if not isinstance(prompt, str) and not prompt:
            raise InvalidInputError("the prompt is empty: give it at least one token")
        words = _ids_of_words(prompt, tokenizer)
        if words is not None:
            if mask is not None:
                raise InvalidInputError("attention_mask is of token ids, and the prompt is text")
            return words
    rows = id_rows(prompt)
    spans = unmasked(mask, rows)
    return [row[span.start : span.stop] for row, span in zip(rows, spans, strict=True)]


def id_rows(ids: Any) -> list[list[int]]:
    """Token ids of one row or several as rows, not yet checked."""
    if is_array(ids):
        if ids.ndim not in (1, 2):
            raise InvalidInputError(f"token ids are [tokens] or [batch, tokens], not of shape {list(ids.shape)}")
        found = integers(ids)
        return [found] if ids.ndim == 1 else found
    return [row_of(row) for row in ids] if all(is_row(row) for row in ids) else [row_of(ids)]


def unmasked(mask: Any, rows: Sequence[Sequence[int]]) -> list[range]:
    """Where in each row its tokens are, and not padding: all of it where there is no mask.

    Raises InvalidInputError for a mask of another shape, and for one that leaves nothing, or gaps.
    """
    if mask is None:
        return [range(len(row)) for row in rows]
    kept: list[Any] = mask.tolist() if is_array(mask) else list(mask)
    if not all(is_row(row) for row in kept):
        kept = [kept]
    found, lengths = [len(row) for row in kept], [len(row) for row in rows]
    if found != lengths:
        raise InvalidInputError(f"attention_mask has rows of {found} tokens, and the token ids of {lengths}")
    spans = []
    for number, row in enumerate(kept):
        ones = [place for place, value in enumerate(row) if value]
        if not ones or ones[-1] - ones[0] >= len(ones):
            raise InvalidInputError(
                f"attention_mask is 1 for the tokens of a row and 0 for padding before or behind them, at least one "
                f"token a row: row {number} has " + ("gaps" if ones else "none")
            )
        spans.append(range(ones[0], ones[-1] + 1))
    return spans


def _ids_of_words(prompt: str | Sequence[Any], tokenizer: Tokenizer | None) -> list[list[int]] | None:
    """The ids of texts or conversations; None where the prompt is neither."""
    one = isinstance(prompt, str) or isinstance(prompt[0], Mapping)
    items: list[Any] = [prompt] if one else list(prompt)
    texts = [item for item in items if isinstance(item, str)]
    chats = [item for item in items if _is_chat(item)]
    if not texts and not chats:
        return None
    if tokenizer is None:
        raise InvalidInputError("this model has no tokenizer: give token ids, not text")
    if len(items) not in (len(texts), len(chats)):
        raise InvalidInputError("the prompts are text and token ids mixed: give one or the other")
    if chats:
        return [tokenizer.chat_ids(chat) for chat in chats]
    rows = [tokenizer.encode(text) for text in texts]
    for number, row in enumerate(rows):
        if not row:
            raise InvalidInputError(f"prompt {number} is empty: {texts[number]!r} has no token")
    return rows


def _is_chat(item: object) -> bool:
    return isinstance(item, list | tuple) and bool(item) and isinstance(item[0], Mapping)
