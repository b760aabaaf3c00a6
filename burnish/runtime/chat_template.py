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
        self, messages: Sequence[Mapping[str, Any]], special_tokens: Mapping[str, str], add_generation_prompt: bool
    ) -> str:
        """A conversation as text. Raises InvalidInputError if the template refuses it."""
        try:
            return self._template.render(
                **special_tokens,
                messages=json.loads(json.dumps(list(messages))),  # plain data is all that the sandbox knows
                add_generation_prompt=add_generation_prompt,
            )
        except (jinja2.TemplateError, TypeError, ValueError) as error:
            raise InvalidInputError(f"the model's chat template refuses these messages: {error}") from error


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
