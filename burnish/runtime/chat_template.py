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

# What transformers' apply_chat_template takes for itself.
_NOT_VARIABLES = {
    "chat_template", "continue_final_message", "max_length", "padding", "return_assistant_tokens_mask", "return_dict",
    "return_tensors", "sanitize_control_tokens", "tokenize", "tokenizer_kwargs", "truncation",
}  # fmt: skip


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
        self,
        messages: Sequence[Mapping[str, Any]],
        special_tokens: Mapping[str, str],
        arguments: Mapping[str, Any] | None = None,
    ) -> str:
        """A conversation as text; the template's variables are special tokens and `arguments`, which go before these.

        Raises InvalidInputError if the template refuses it, or does not come to an end.
        """
        _check(messages, arguments or {})
        variables = {"tools": None, "documents": None, "add_generation_prompt": True, **(arguments or {})}
        try:
            # plain data is all that the sandbox knows
            plain: dict[str, Any] = json.loads(json.dumps({**variables, "messages": list(messages)}))
            with limits(plain):
                return self._template.render({**special_tokens, **plain})
        except Exception as error:  # a template is a program by strangers, which may raise anything
            raise InvalidInputError(f"the model's chat template refuses these messages: {_told(error)}") from error


def _told(error: Exception) -> str:
    """What an error says, and what it is, where that is Python's."""
    if isinstance(error, RecursionError | MemoryError):
        return "it is nested too deep, or calls itself without end"
    return str(error) if isinstance(error, jinja2.TemplateError) else f"{type(error).__name__}: {error}"


def _check(messages: object, arguments: Mapping[str, Any]) -> None:
    """Raise InvalidInputError for what is no conversation, or is no variable of a template but said to transformers."""
    if isinstance(messages, str | bytes | Mapping) or not isinstance(messages, Sequence):
        strange = [messages]
    else:
        strange = [each for each in messages if not isinstance(each, Mapping)]
    if strange:
        raise InvalidInputError(
            'a conversation is a list of messages, [{"role": "user", "content": "..."}], and no message is '
            f"{type(strange[0]).__name__}: {strange[0]!r:.60}"
        )
    for name in _NOT_VARIABLES.intersection(arguments):
        raise InvalidInputError(f"{name}= is not for the model's chat template, and chat_ids has no use for it")
    if any(callable(tool) for tool in arguments.get("tools") or ()):
        raise InvalidInputError(
            "tools are JSON schemas: transformers.utils.get_json_schema(function) gives one of a function"
        )


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
