"""A conversation, turn by turn: what was said stays in a session, which is fed what is new alone."""

from __future__ import annotations

from collections.abc import Generator
from typing import TYPE_CHECKING, Any

from burnish.ir.errors import InvalidInputError
from burnish.runtime.executor import StepResult, Wanted
from burnish.runtime.generation import Generation, GenerationRun, prepare, tell_side
from burnish.runtime.session import Session

if TYPE_CHECKING:
    from burnish.runtime.model import CompiledModel
    from burnish.runtime.token_ids import Ids


class Chat:
    """A conversation with a model that has a chat template. InvalidInputError if it has none."""

    def __init__(self, model: CompiledModel, system: str | None = None) -> None:
        self._model = model
        if model.tokenizer is None or model.tokenizer.data.chat_template is None:
            what = "tokenizer" if model.tokenizer is None else "chat template"
            raise InvalidInputError(f"this model has no {what}: it continues texts, and has no conversations")
        self.last: Generation | None = None  # of the answers that ended by themselves
        self.reset(system)

    def reset(self, system: str | None = None) -> None:
        """Begin anew, with a system message or without."""
        self.messages: list[dict[str, str]] = [] if system is None else [{"role": "system", "content": system}]
        self._session = self._new_session()

    @property
    def fed(self) -> int:
        """How many tokens the last turn fed: those that the session did not have."""
        return self._session.fed

    def say(self, text: str, **options: Any) -> Generator[str, None, None]:
        """The answer to `text` in pieces, as it comes; options as for `generate`.

        Who stops in the middle keeps what was said so far, if anything was. Raises InvalidInputError, and forgets
        `text`, where the template refuses it or the conversation is longer than the model takes.
        """
        messages = [*self.messages, {"role": "user", "content": text}]
        ids = self._model.chat_ids(messages)
        defaults, tokenizer = self._model.generation_defaults, self._model.tokenizer
        prompts, resolved, room = prepare(ids, self._model.signature, tokenizer, defaults, options)
        if all(each["role"] != "assistant" for each in self.messages):
            tell_side(prompts, self._model.signature)
        run = GenerationRun(self._session, resolved, prompts, room, tokenizer, True)
        said, ended = "", False
        try:
            for piece in run:
                said += piece
                yield piece
            ended = True
            self.last = run.result
        finally:
            if said or ended:
                self.messages = [*messages, {"role": "assistant", "content": said}]
            if not ended and not all(state.can_rewind for state in self._model.artifact.states):
                self._session = self._new_session()  # what was being computed may be in its states by half

    def _new_session(self) -> _Continued:
        return _Continued(self._model.executor, self._model.signature, self._model.artifact.states)


class _Continued(Session):
    """A session of one row that is given whole texts, and feeds what follows the beginning that it has."""

    fed = 0

    def feed(self, ids: Ids, every: bool = False, wanted: Wanted = "logits") -> StepResult:
        """Feed what is new of a text; its last token in any case, of which the results are."""
        text = [int(token) for token in ids[0]]
        same = 0
        for known, token in zip(self._tokens[0], text[:-1], strict=False):
            if known != token:
                break
            same += 1
        self.rewind(same)
        self.fed = len(text) - same
        return super().feed([text[same:]], every, wanted)
