"""What one row has generated: its tokens, its text up to a stop string, and what ended it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from burnish.runtime.options import GenerationOptions
from burnish.runtime.tokenization import TextStream, Tokenizer

Finish = Literal["eos", "stop", "length"]


class Row:
    """Takes tokens until one ends it."""

    def __init__(self, options: GenerationOptions, room: int, tokenizer: Tokenizer | None) -> None:
        """`tokenizer` where the text is needed while it grows: to be shown, or to find stop strings."""
        self.tokens: list[int] = []
        self.finish: Finish | None = None
        self._options = options
        self._room = room
        self._stream = None if tokenizer is None else TextStream(tokenizer)
        # Special tokens are no text of an answer, but may be, or be part of, what it stops at.
        self._special = tokenizer.special if tokenizer is not None and options.stop_strings else {}
        self._text = ""
        self._hidden: list[tuple[int, int]] = []  # where in it special tokens are
        self._shown = 0  # characters of it that were given away
        self._searched = 0  # characters in which no stop string begins

    def add(self, token: int) -> str:
        """Take the next token; the text that may be shown because of it."""
        self.tokens.append(token)
        if token in self._options.eos_token_id:
            self.finish = "eos"
        elif len(self.tokens) == self._room:
            self.finish = "length"
        if self._stream is None:
            return ""
        if self.finish != "eos":
            if token in self._special:
                start = len(self._text)
                self._text += self._special[token]
                self._hidden.append((start, len(self._text)))
            else:
                self._text += self._stream.put(token)
        if self.finish is not None:
            self._text += self._stream.finish()
        limit = len(self._text)
        if self._options.stop_strings:
            limit = self._find_stop()
        piece, self._shown = self._visible(self._shown, limit), max(limit, self._shown)
        return piece

    def text(self, tokenizer: Tokenizer) -> str:
        """The finished text."""
        if self._stream is not None:
            return self._visible(0, len(self._text))
        return tokenizer.decode(self.tokens[:-1] if self.finish == "eos" else self.tokens)

    def _visible(self, start: int, end: int) -> str:
        """What of the text from `start` to `end` is not of special tokens."""

        def parts() -> Iterator[str]:
            place = start
            for first, last in self._hidden:
                yield self._text[place : max(place, min(first, end))]
                place = max(place, last)
            yield self._text[place : max(place, end)]

        return "".join(parts())

    def _find_stop(self) -> int:
        """Cut the text at the first stop string, if there is one; how many characters are certain to stay."""
        stops = self._options.stop_strings
        found = [place for place in (self._text.find(stop, self._searched) for stop in stops) if place >= 0]
        if found:
            self._text = self._text[: min(found)]
            self.finish = self.finish or "stop"
        if self.finish is not None:
            return len(self._text)
        # The end of the text may be the beginning of a stop string.
        longest = max(map(len, stops))
        for place in range(max(self._searched, len(self._text) - longest + 1), len(self._text)):
            if any(stop.startswith(self._text[place:]) for stop in stops):
                self._searched = place
                return place
        self._searched = len(self._text)
        return len(self._text)
