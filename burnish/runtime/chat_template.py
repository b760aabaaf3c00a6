"""Chat templates, which are programs by strangers: they run in a sandbox with limits, on plain data.

They have the few functions that transformers gives them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import jinja2
import jinja2.ext

from burnish.ir.errors import ArtifactError, InvalidInputError
from burnish.runtime.template_sandbox import BoundedEnvironment, limits

_MOST = 200_000  # characters; the longest in use have some 20,000


class ChatTemplate:
    """A template. Raises ArtifactError if it is none."""

    def __init__(self, text: str) -> None:
        if len(text) > _MOST:
            raise ArtifactError(f"the model's chat template has {len(text)} characters, and burnish reads {_MOST}")
        environment = BoundedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=[_GenerationBlock, jinja2.ext.loopcontrols]
        )
        environment.globals["raise_exception"] = _raise
        environment.globals["strftime_now"] = _now
        try:
            with limits():
                self._template = environment.from_string(text)
        except Exception as error:  # of jinja2, and of Python where it is nested too deep for either
            raise ArtifactError(f"the model's chat template is not a template: {_told(error)}") from error

    def text(
        self, messages: Sequence[Mapping[str, Any]], special_tokens: Mapping[str, str], add_generation_prompt: bool
    ) -> str:
        """A conversation as text. Raises InvalidInputError if the template refuses it, or does not come to an end."""
        _check(messages)
        try:
            plain = json.loads(json.dumps(list(messages)))  # plain data is all that the sandbox knows
            with limits(plain):
                return self._template.render(
                    **special_tokens, messages=plain, add_generation_prompt=add_generation_prompt
                )
        except Exception as error:  # a template is a program by strangers, which may raise anything
            raise InvalidInputError(f"the model's chat template refuses these messages: {_told(error)}") from error


def _check(messages: Any) -> None:
    """Raise InvalidInputError for what is no conversation."""
    listed = isinstance(messages, Sequence) and not isinstance(messages, str | bytes)
    for each in messages if listed else [messages]:
        if not listed or not isinstance(each, Mapping):
            form = '[{"role": "user", "content": "..."}]'
            raise InvalidInputError(f"a conversation is a list of messages, {form}, and has no {each!r:.60}")


def _told(error: Exception) -> str:
    """What an error says, and what it is, where that is Python's."""
    if isinstance(error, RecursionError | MemoryError):
        return "it is nested too deep, or calls itself without end"
    return str(error) if isinstance(error, jinja2.TemplateError) else f"{type(error).__name__}: {error}"


class _GenerationBlock(jinja2.ext.Extension):
    """`{% generation %}` to `{% endgeneration %}` marks the assistant's words for training: kept as they are."""

    tags = {"generation"}  # noqa: RUF012 (jinja2's own interface)

    def parse(self, parser: jinja2.parser.Parser) -> list[jinja2.nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _raise(message: str) -> None:
    raise jinja2.TemplateError(message)


def _now(form: str) -> str:
    return datetime.now().strftime(form)
