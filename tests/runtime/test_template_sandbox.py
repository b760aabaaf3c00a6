"""Chat templates by strangers: none runs for ever, takes the machine's memory, or raises what is not burnish's own."""

from __future__ import annotations

import time
import tracemalloc

import pytest

from burnish.ir.errors import ArtifactError, InvalidInputError
from burnish.runtime import template_sandbox
from burnish.runtime.chat_template import ChatTemplate

MESSAGES = [{"role": "user", "content": "hi"}]
DOUBLING = "{% set ns = namespace(s='ab', l=[1], n=9) %}{% for i in range(60) %}HERE{% endfor %}"

ENDLESS = {
    "loops in loops": "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
    "a filter in a filter": "{{ range(99999) | select('in', range(99999) | list) | list | length }}",
}
TOO_LARGE = {
    "a repeated text": "{{ 'a' * 10**10 }}",
    "a repeated list": "{{ [1, 2] * 10**10 }}",
    "a wide field": "{{ '%1000000000d' % 1 }}",
    "a wide field by a filter": "{{ '%1000000000d' | format(1) }}",
    "a field as wide as an argument": "{{ '%*d' % (10**9, 1) }}",
    "a wide field in braces": "{{ '{:1000000000}'.format(1) }}",
    "a field in braces in braces": "{{ '{:{}}'.format(1, 10**9) }}",
    "one text in many fields": "{{ '%(a)s' * 10000 % {'a': 'x' * 100000} }}",
    "one text in many braces": "{{ ('{a}' * 10000).format_map({'a': 'x' * 100000}) }}",
    "wide JSON": "{{ messages | tojson(indent=10**9) }}",
    "JSON with a long indent": "{{ messages | tojson(indent='x' * 999999) }}",
    "a wide indent": "{{ 'a' | indent(10**9) }}",
    "many lines that are indented": "{{ ('a\n' * 10000) | indent(900) }}",
    "many digits": "{{ 5 | round(10**9, 'ceil') }}",
    "a long text between many": "{{ ('b' * 100000).join(['a'] * 1000) }}",
    "a long text for many": "{{ ('a' * 100000).replace('a', 'b' * 1000) }}",
    "a text that doubles": DOUBLING.replace("HERE", "{% set ns.s = ns.s ~ ns.s %}"),
    "a sum that doubles": DOUBLING.replace("HERE", "{% set ns.s = ns.s + ns.s %}"),
    "a block that doubles": DOUBLING.replace("HERE", "{% set ns.s %}{{ ns.s }}{{ ns.s }}{% endset %}"),
    "lists of lists": DOUBLING.replace("HERE", "{% set ns.l = [ns.l, ns.l, ns.l] %}"),
    "tables of tables": DOUBLING.replace("HERE", "{% set ns.l = dict(a=ns.l, b=ns.l) %}"),
    "a number that squares": DOUBLING.replace("HERE", "{% set ns.n = ns.n * ns.n %}"),
    "a power": "{{ 9 ** (10**9) }}",
    "a list in each of many": "{{ range(99999) | map(attribute='z', default=[1] * 99999) | list }}",
    "words of its own": "{% for i in range(99999) %}" + "a" * 10000 + "{% endfor %}",
    "words of a macro": "{% macro f() %}{% for i in range(9999) %}{{ 'a' * 9999 }}{% endfor %}{% endmacro %}{{ f() }}",
}
REFUSED = {
    "a padded text": "{{ 'a'.center(10**10) }}",
    "bytes": "{{ (1).to_bytes(10**10, 'big') }}",
    "words without sense": "{{ lipsum(n=1000000) }}",
    "a division by zero": "{{ 1 / 0 }}",
    "a range without end": "{% for i in range(10**9) %}{% endfor %}",
    "a macro that calls itself": "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
}
NO_TEMPLATES = {
    "parentheses": "{{ " + "(" * 3000 + "1" + ")" * 3000 + " }}",
    "conditions in conditions": "{% if 1 %}" * 3000 + "{% endif %}" * 3000,
    "25 loops": "{% for i in [1] %}" * 25 + "{% endfor %}" * 25,
    "a loop that calls itself": "{% for x in [1] recursive %}{{ loop([1]) }}{% endfor %}",
    "a filter that chats need not": "{{ [1] | slice(10**9) | list }}",
    "a long one": "a" * 10**7,
}


def applied(template: str) -> str:
    return ChatTemplate(template).text(MESSAGES, {}, {"add_generation_prompt": True})


@pytest.mark.parametrize("what", ENDLESS)
def test_an_endless_template_ends(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(template_sandbox, "SECONDS", 0.2)
    started = time.thread_time()
    with pytest.raises(InvalidInputError, match=r"it runs for more than 0\.2 s"):
        applied(ENDLESS[what])
    assert time.thread_time() - started < 2


@pytest.mark.parametrize("what", TOO_LARGE)
def test_what_is_too_large_is_refused_before_it_is_made(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(template_sandbox, "_SIZE", 1 << 16)  # to count memory takes time
    tracemalloc.start()
    try:
        with pytest.raises(InvalidInputError, match=r"too (long|large|much)"):
            applied(TOO_LARGE[what])
        assert tracemalloc.get_traced_memory()[1] < 100e6
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("what", REFUSED)
def test_what_a_template_raises_is_told(what: str) -> None:
    with pytest.raises(InvalidInputError, match="chat template refuses these messages: "):
        applied(REFUSED[what])


@pytest.mark.parametrize("what", NO_TEMPLATES)
def test_what_cannot_be_a_template_is_told(what: str) -> None:
    with pytest.raises(ArtifactError, match="chat template"):
        applied(NO_TEMPLATES[what])


def test_a_long_conversation_is_not_too_long() -> None:
    """What a template may make grows with what it is given."""
    template = (
        "{% for m in messages %}{{ ('<' + m.role + '>\n' + m['content'] | trim + '\n') * 2 }}{% endfor %}"
        "{{ messages | tojson(indent=2) | length }}"
    )
    messages = [{"role": "user", "content": f" {number} " + "a long text, " * 500} for number in range(1000)]
    text = ChatTemplate(template).text(messages, {}, {"add_generation_prompt": True})
    assert text.startswith("<user>\n0 a long text")
    assert len(text) > 2 * 6_500_000


def test_a_namespace_that_holds_itself_is_text() -> None:
    assert applied("{% set ns = namespace() %}{% set ns.a = ns %}{{ ns }}") == "<namespace>"
