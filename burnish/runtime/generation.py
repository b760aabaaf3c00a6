"""Generating text: prompts into a session, tokens out of it, one a row and step."""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

from burnish.ir.errors import InvalidInputError, UsageError
from burnish.ir.signature import Signature
from burnish.runtime.beam_search import search
from burnish.runtime.executor import StepResult, Wanted
from burnish.runtime.logprobs import TokenLogprobs, of_tokens
from burnish.runtime.options import GenerationOptions, resolve
from burnish.runtime.prompts import ENCODING, Prompt, encoded, prompt_ids
from burnish.runtime.row import Finish, Row
from burnish.runtime.sampling import Sampler
from burnish.runtime.session import CHUNK, Session
from burnish.runtime.token_ids import check_ids
from burnish.runtime.tokenization import Tokenizer

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Generation:
    """What generate made of its prompts, a list entry a row: of each prompt as many as num_return_sequences."""

    tokens: list[list[int]]  # the new tokens, with the end-of-sequence token where one came
    texts: list[str] | None  # of the new tokens, up to a stop string; None without a tokenizer
    finish: list[Finish]  # what ended each row
    prompt_tokens: list[int]  # how many tokens each prompt has, an entry a prompt
    prefill_seconds: float  # from the prompt to the first new token
    decode_seconds: float  # for all further tokens
    logprobs: list[list[TokenLogprobs]] | None = None  # of the new tokens; None where they were not asked for
    prompt_logprobs: list[list[TokenLogprobs | None]] | None = None  # an entry a prompt; of its first token None

    @property
    def text(self) -> str:
        """The text, where there was one prompt."""
        if self.texts is None or len(self.texts) != 1:
            what = "the model has no tokenizer" if self.texts is None else f"there are {len(self.texts)} rows"
            raise InvalidInputError(f"there is no single text: {what}")
        return self.texts[0]

    @property
    def prefill_tokens_per_second(self) -> float:
        """Prompt tokens of all prompts a second."""
        return sum(self.prompt_tokens) / self.prefill_seconds

    @property
    def tokens_per_second(self) -> float:
        """New tokens of all rows a second, the first of each row left out; 0 if there are no others."""
        count = sum(len(row) - 1 for row in self.tokens)
        return count / self.decode_seconds if count else 0.0


class GenerationRun:
    """One run of generate. Iterate it once, for pieces of text; then it has a `result`."""

    def __init__(
        self,
        session: Session,
        options: GenerationOptions,
        prompts: list[list[int]],
        room: list[int],
        tokenizer: Tokenizer | None,
        streams: bool,
    ) -> None:
        self._session = session
        self._options = options
        self._prompts = prompts
        self._tokenizer = tokenizer
        # Of each row its prompt: in turn the rows of the first, of the second, ...
        self._sources = [number for number in range(len(prompts)) for _ in range(options.num_return_sequences)]
        self._room = room
        self._shown = tokenizer if streams or options.stop_strings else None
        self._rows = [Row(options, room[source], self._shown) for source in self._sources]
        self._logprobs: list[list[TokenLogprobs]] = [[] for _ in self._rows]
        self._prompt_logprobs: list[list[TokenLogprobs | None]] = []
        self._seconds = [0.0, 0.0]  # of the first step, of all others
        self._begun = False

    def __iter__(self) -> Iterator[str]:
        """The new text of the first row after each step, where there is any. Raises UsageError the second time."""
        if self._begun:
            raise UsageError("a run of generate is read once: call stream again for another one")
        self._begun = True
        return self._pieces()

    async def __aiter__(self) -> AsyncIterator[str]:
        """The same pieces for `async for`. They are made on another thread, and the event loop goes on meanwhile."""
        import asyncio  # by who awaits

        pieces, loop = iter(self), asyncio.get_running_loop()
        pool = ThreadPoolExecutor(1, thread_name_prefix="burnish-stream")
        try:
            while (piece := await loop.run_in_executor(pool, next, pieces, None)) is not None:
                yield piece
        finally:  # also where it was cancelled: the model is free when its last step is over
            await loop.run_in_executor(None, pool.shutdown)

    def _pieces(self) -> Iterator[str]:
        if self._options.num_beams > 1:
            self._search()
            return
        prompts = [self._prompts[source] for source in self._sources]
        sampler = Sampler(self._options, prompts, [self._room[source] for source in self._sources])
        active = [True] * len(self._rows)
        started, step = time.perf_counter(), 0
        wanted = sampler.wanted if self._options.logprobs is None else "logits"
        found = self._read("ids" if wanted == "ids" else "logits")
        if len(self._rows) > len(self._prompts):
            found = StepResult(found.kind, found.array[self._sources])  # before what it is in is another one's
            self._session.select(self._sources)
        while True:
            found = StepResult(found.kind, found.array)
            chosen = sampler.choose(found, self._session.all_logits, active)
            piece, count = "", self._options.logprobs
            for number, row in enumerate(self._rows):
                if active[number]:
                    if count is not None:
                        self._logprobs[number] += of_tokens(found.array[number], [chosen[number]], count)
                    text = row.add(chosen[number])
                    active[number] = row.finish is None
                    piece = text if number == 0 else piece
            self._seconds[min(step, 1)] += time.perf_counter() - started
            if piece:
                yield piece
            if not any(active):
                return
            started, step = time.perf_counter(), step + 1
            found = self._session.advance(chosen, active, wanted)

    def _search(self) -> None:
        """By beam search, which has no text before its end."""
        started = time.perf_counter()
        found = self._read("logits")
        self._seconds[0] = time.perf_counter() - started
        stops = self._stops if self._options.stop_strings else None
        best = search(self._session, self._options, self._prompts, self._room, found, stops)
        self._seconds[1] = time.perf_counter() - started - self._seconds[0]
        for number, beam in enumerate(best):
            for token in beam.tokens:
                self._rows[number].add(token)
            self._logprobs[number] = beam.logprobs

    def _stops(self, tokens: list[int]) -> bool:
        """Whether a text ends at a stop string."""
        row = Row(self._options, 1 + len(tokens), self._shown)
        for token in tokens:
            row.add(token)
        return row.finish is not None

    def _read(self, wanted: Wanted) -> StepResult:
        """Feed the prompts: what is wanted of their last tokens."""
        count = self._options.prompt_logprobs
        if count is None:
            return self._session.feed(self._prompts, wanted=wanted)
        last = []
        for number, prompt in enumerate(self._prompts):
            known: list[TokenLogprobs | None] = [None]
            for start in range(0, len(prompt), CHUNK):  # all logits of a long prompt are more than memory has
                part = prompt[start : start + CHUNK]
                logits = self._session.feed_row(number, part, every=True).array
                following = prompt[start + 1 : start + 1 + len(part)]
                known += of_tokens(logits[0, : len(following)], following, count)
            self._prompt_logprobs.append(known)
            last.append(logits[:, -1:])
        return StepResult("logits", np.concatenate(last)).narrowed(wanted)

    @property
    def result(self) -> Generation:
        """What came of it. Raises UsageError before all text was read."""
        finish = [row.finish for row in self._rows if row.finish is not None]
        if len(finish) < len(self._rows):
            raise UsageError("there is no result yet: read all pieces of the text first, as in `for piece in run: ...`")
        return Generation(
            tokens=[row.tokens for row in self._rows],
            texts=None if self._tokenizer is None else [row.text(self._tokenizer) for row in self._rows],
            finish=finish,
            prompt_tokens=[len(prompt) for prompt in self._prompts],
            prefill_seconds=self._seconds[0],
            decode_seconds=self._seconds[1],
            logprobs=None if self._options.logprobs is None else self._logprobs,
            prompt_logprobs=None if self._options.prompt_logprobs is None else self._prompt_logprobs,
        )


def prepare(
    prompt: Prompt | None,
    signature: Signature,
    tokenizer: Tokenizer | None,
    defaults: Mapping[str, Any],
    given: Mapping[str, Any],
) -> tuple[list[list[int]], GenerationOptions, list[int]]:
    """The prompts as ids, the options, and how many tokens each row can get. Raises InvalidInputError."""
    prompt, mask = encoded(prompt, {name: given[name] for name in ENCODING if name in given})
    options = resolve(defaults, {name: value for name, value in given.items() if name not in ENCODING})
    if options.stop_strings and tokenizer is None:
        raise InvalidInputError("this model has no tokenizer, so there is no text to find stop strings in")
    _check_options(options, signature)
    prompts = check_ids(prompt_ids(prompt, mask, tokenizer), signature)
    room = []
    for number, ids in enumerate(prompts):
        count = min(options.new_tokens(len(ids)), signature.max_length - len(ids) + 1)
        if count < 1:
            raise InvalidInputError(
                f"row {number} has {len(ids)} tokens already, and max_length={options.max_length} of prompt and "
                "answer together: give max_new_tokens instead"
            )
        room.append(count)
    return prompts, options, room


def tell_side(prompts: Sequence[Sequence[int]], signature: Signature) -> None:
    """Warn of texts that begin where the model itself would compute otherwise than what was compiled."""
    shortest = min(map(len, prompts))
    if shortest <= signature.longer_than:
        _log.warning(
            "the model was compiled for texts of more than %d tokens, and a text begins with %d: what it says may "
            "differ from the model's own answer (context='short' compiles it for such texts)",
            signature.longer_than,
            shortest,
        )


def _check_options(options: GenerationOptions, signature: Signature) -> None:
    """Raise InvalidInputError for tokens that the vocabulary lacks. (Ends of the text that it lacks never come.)"""
    first = () if options.forced_bos_token_id is None else (options.forced_bos_token_id,)
    for name, ids in (
        ("suppress_tokens", options.suppress_tokens),
        ("begin_suppress_tokens", options.begin_suppress_tokens),
        ("forced_bos_token_id", first),
        ("forced_eos_token_id", options.forced_eos_token_id),
        ("logit_bias", tuple(token for token, _ in options.logit_bias)),
        ("bad_words_ids", tuple(token for word in options.bad_words_ids for token in word)),
    ):
        if max(ids, default=0) >= signature.vocabulary:
            raise InvalidInputError(f"{name} has the id {max(ids)}, and the vocabulary has {signature.vocabulary}")
