"""Chat templates, which are programs by strangers: they run in jinja2's sandbox, on plain data.

They have the few functions that transformers gives them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import jinja2
import jinja2.ext
from jinja2.sandbox import ImmutableSandboxedEnvironment

from burnish.ir.errors import ArtifactError, InvalidInputError

# What transformers' apply_chat_template takes for itself.
_NOT_VARIABLES = {
    "chat_template", "continue_final_message", "max_length", "padding", "return_assistant_tokens_mask", "return_dict",
    "return_tensors", "sanitize_control_tokens", "tokenize", "tokenizer_kwargs", "truncation",
}  # fmt: skip


class ChatTemplate:
    """A template. Raises ArtifactError if it is none."""

    def __init__(self, text: str) -> None:
        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=[_GenerationBlock, jinja2.ext.loopcontrols]
        )
        environment.filters["tojson"] = _to_json
        environment.globals["raise_exception"] = _raise
        environment.globals["strftime_now"] = _now
        try:
            self._template = environment.from_string(text)
        except jinja2.TemplateError as error:
            raise ArtifactError(f"the model's chat template is not a template: {error}") from error

    def text(
        self,
        messages: Sequence[Mapping[str, Any]],
        special_tokens: Mapping[str, str],
        arguments: Mapping[str, Any] | None = None,
    ) -> str:
        """A conversation as text; the template's variables are special tokens and `arguments`, which go before these.

        Raises InvalidInputError if the template refuses it.
        """
        _check(messages, arguments or {})
        variables = {"tools": None, "documents": None, "add_generation_prompt": True, **(arguments or {})}
        try:
            # plain data is all that the sandbox knows
            plain: dict[str, Any] = json.loads(json.dumps({**variables, "messages": list(messages)}))
            return self._template.render({**special_tokens, **plain})
        except (jinja2.TemplateError, TypeError, ValueError) as error:
            raise InvalidInputError(f"the model's chat template refuses these messages: {error}") from error


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


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """JSON without the HTML escapes of jinja2's own filter."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _raise(message: str) -> None:
    raise jinja2.TemplateError(message)


def _now(form: str) -> str:
    return datetime.now().strftime(form)
