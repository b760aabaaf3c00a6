"""Text to token ids and back, and conversations to text, from data in the artifact."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import tokenizers

from burnish.ir.errors import ArtifactError, InvalidInputError

if TYPE_CHECKING:
    from burnish.runtime.chat_template import ChatTemplate

REPLACEMENT = "\N{REPLACEMENT CHARACTER}"  # what a decoder gives for bytes that are not yet a character


@dataclass(frozen=True)
class TokenizerData:
    """A tokenizer as data."""

    tokenizer_json: str  # as `tokenizers.Tokenizer.to_str` gives it
    chat_template: str | None = None
    special_tokens: Mapping[str, str] = field(default_factory=dict)  # "bos_token": "<s>", ..., for the template


class Tokenizer:
    """Encodes and decodes. Raises ArtifactError if the data is no tokenizer."""

    def __init__(self, data: TokenizerData) -> None:
        self.data = data
        try:
            self._tokenizer = tokenizers.Tokenizer.from_str(data.tokenizer_json)
        except Exception as error:  # the library raises plain Exception
            raise ArtifactError(f"tokenizer.json is no tokenizer that this version can read: {error}") from error
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        _give_back()

    def encode(self, text: str, special: bool = True) -> list[int]:
        """The ids of `text`; with `special`, also those that the tokenizer puts around it (a first token)."""
        try:
            return list(self._tokenizer.encode(text, add_special_tokens=special).ids)
        except TypeError as error:
            raise InvalidInputError(
                f"the text has half of a pair of surrogates, which is no character: {ascii(text)[:60]}"
            ) from error

    def decode(self, ids: Sequence[int], special: bool = False) -> str:
        """The text of `ids`, special tokens left out unless `special`."""
        return str(self._tokenizer.decode(list(ids), skip_special_tokens=not special))

    def chat_text(
        self, messages: Sequence[Mapping[str, Any]], add_generation_prompt: bool = True, **arguments: Any
    ) -> str:
        """A conversation as the text that the model was trained to continue.

        `messages` are {"role": "user", "content": "..."} and so on, `arguments` what the template knows beside them:
        tools, documents, enable_thinking, ... Raises InvalidInputError if there is no template or the template refuses
        them.
        """
        if self._template is None:
            raise InvalidInputError("this model has no chat template: give it the text itself, or token ids")
        known = {**arguments, "add_generation_prompt": add_generation_prompt}
        return self._template.text(messages, self.data.special_tokens, known)

    def chat_ids(
        self, messages: Sequence[Mapping[str, Any]], add_generation_prompt: bool = True, **arguments: Any
    ) -> list[int]:
        """`chat_text` as token ids: the template wrote all special tokens itself."""
        return self.encode(self.chat_text(messages, add_generation_prompt, **arguments), special=False)

    @cached_property
    def special(self) -> dict[int, str]:
        """The text of each special token, by its id."""
        return {id: token.content for id, token in self._tokenizer.get_added_tokens_decoder().items() if token.special}

    @cached_property
    def _template(self) -> ChatTemplate | None:
        if self.data.chat_template is None:
            return None
        from burnish.runtime.chat_template import ChatTemplate  # jinja2 takes as long as all else here

        return ChatTemplate(self.data.chat_template)


def _give_back() -> None:
    """The memory in which the library read its file, more than it keeps, goes back to the system."""
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "malloc_trim"):  # glibc's alone
        libc.malloc_trim(0)


class TextStream:
    """The text of ids that come one at a time, in pieces that end between characters.

    The pieces, with `finish`'s, are `decode` of all ids; unless bytes that make no character follow a character made
    of such bytes, which some decoders take back then.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._context: list[int] = []  # ids whose text was given: decoded again, as the first of all ids,
        self._waiting: list[int] = []  # a word without its space say, may be decoded differently

    def put(self, token: int) -> str:
        """The text that `token` completes; empty while a character is incomplete."""
        self._waiting.append(token)
        text = self._text()
        if not text or text.endswith(REPLACEMENT):
            return ""
        self._context, self._waiting = self._waiting, []
        return text

    def finish(self) -> str:
        """What is left: bytes that never made a character, as the decoder shows them."""
        return self._text()

    def _text(self) -> str:
        before = self._tokenizer.decode(self._context)
        return self._tokenizer.decode(self._context + self._waiting)[len(before) :]
