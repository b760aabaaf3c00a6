"""Text, pieces of text, and chat templates, compared with transformers."""

from __future__ import annotations

from typing import Any

import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from burnish.ir.errors import ArtifactError, InvalidInputError
from burnish.runtime.tokenization import TextStream, Tokenizer, TokenizerData
from tests.runtime.texts import BOS, CORPUS, EOS, TEMPLATE, byte_tokenizer, tokenizer_data

BYTES = Tokenizer(tokenizer_data())


def metaspace() -> Tokenizer:
    """Like sentencepiece's: words begin with a mark, the first one's space is not shown, bytes as a fallback."""
    tokenizer = tokenizers.Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    special = ["<unk>", BOS, EOS, *(f"<0x{byte:02X}>" for byte in range(256))]
    trainer = trainers.BpeTrainer(vocab_size=330, special_tokens=special[:3], show_progress=False)
    tokenizer.train_from_iterator(CORPUS[:2], trainer)
    tokenizer.add_tokens(special[3:])
    return Tokenizer(TokenizerData(tokenizer.to_str()))


METASPACE = metaspace()


def streamed(tokenizer: Tokenizer, ids: list[int]) -> list[str]:
    stream = TextStream(tokenizer)
    return [*(stream.put(token) for token in ids), stream.finish()]


@given(st.text(max_size=40))
def test_text_comes_back(text: str) -> None:
    assert BYTES.decode(BYTES.encode(text)) == text


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(0, 289), max_size=30))
def test_pieces_joined_are_the_text_of_any_bytes(ids: list[int]) -> None:
    assert "".join(streamed(BYTES, ids)) == BYTES.decode(ids)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.text(max_size=3) | st.sampled_from([" ", "the cat", " 東京", "sat"]), max_size=8))
def test_pieces_joined_are_the_text_of_words_and_fallback_bytes(words: list[str]) -> None:
    ids = [token for word in words for token in METASPACE.encode(word)]
    assert "".join(streamed(METASPACE, ids)) == METASPACE.decode(ids)


def test_characters_of_several_tokens_come_whole() -> None:
    pieces = streamed(BYTES, BYTES.encode("a𝄞b"))
    assert pieces == ["a", "", "", "", "𝄞", "b", ""]


def test_an_unfinished_character_comes_at_the_end() -> None:
    assert streamed(BYTES, BYTES.encode("a𝄞")[:-1])[-1] == "\N{REPLACEMENT CHARACTER}"


def test_bad_bytes_do_not_swallow_what_comes_after() -> None:
    """The decoder takes back the first byte's character because of the second; the words after it still come."""
    ids = [*METASPACE.encode("\x00"), METASPACE.encode("é")[-1], *METASPACE.encode("the cat")]
    assert "".join(streamed(METASPACE, ids)).endswith(" the cat")


def test_spaces_between_words_are_kept() -> None:
    ids = METASPACE.encode("the cat sat")
    assert "".join(streamed(METASPACE, ids)) == "the cat sat"


def test_special_tokens_are_put_around_and_left_out() -> None:
    tokenizer = Tokenizer(tokenizer_data(adds_bos=True))
    assert tokenizer.encode("the")[0] == 0
    assert 0 not in tokenizer.encode("the", special=False)
    assert tokenizer.decode([0, *tokenizer.encode("the"), 1]) == "the"
    assert tokenizer.decode([1], special=True) == EOS


def test_truncation_and_padding_in_the_file_are_not_applied() -> None:
    raw = byte_tokenizer()
    raw.enable_truncation(3)
    raw.enable_padding(length=10)
    assert (
        Tokenizer(TokenizerData(raw.to_str())).decode(Tokenizer(TokenizerData(raw.to_str())).encode("the cat sat on"))
        == "the cat sat on"
    )


def test_what_is_no_tokenizer_is_an_artifact_error() -> None:
    with pytest.raises(ArtifactError, match=r"tokenizer\.json"):
        Tokenizer(TokenizerData("{}"))


# ---------------------------------------------------------------- chat templates

MESSAGES = [{"role": "user", "content": "Hi <b> & 'you'"}, {"role": "assistant", "content": "naïve"}]

TEMPLATES = [
    TEMPLATE,
    "{% for m in messages %}\n    {% if loop.first %}\n  {% continue %}\n  {% endif %}\n{{ m | tojson }}\n{% endfor %}",
    "{% set ns = namespace(n=0) %}{% for m in messages %}{% set ns.n = ns.n + 1 %}{% endfor %}{{ ns.n }}",
    "{% for m in messages %}{% generation %}{{ m.content | trim }}{% endgeneration %}{% endfor %}",
    "{{ messages | map(attribute='role') | join(',') }}{{ {'a': [1, 2.5, none, true]} | tojson(indent=2) }}",
    "{{ strftime_now('%Y') | length }}{{ messages[0]['content'][:2].upper() }}{{ dict(a=1)['a'] }}",
    # What templates in use do: turn around, take thoughts out of answers, count turns, call macros, write down tools.
    "{% for m in messages[::-1] %}{% if (m['role'] == 'user') != (loop.index0 % 2 == 1) %}{{ loop.index }}/"
    "{{ loop.length }}{{ loop.last ~ loop.revindex0 }}{{ m.content.split('</think>')[-1].lstrip('\n') ~ '\n' }}"
    "{% endif %}{% endfor %}",
    "{% macro turn(m, end='') %}{{ '<' + m.role + '>' ~ m['content'] | trim }}{{ end }}{% endmacro %}"
    "{% for m in messages %}{{ turn(m, end=eos_token) }}{% endfor %}{% set loop_messages = messages[1:] %}"
    "{{ loop_messages | selectattr('role', 'equalto', 'user') | list | length }}{{ loop_messages is iterable }}",
    "{% for key, value in {'b': 1, 'a': {'c': [true]}} | dictsort %}{{ key }}{% if value is mapping %}"
    "{% for inner, each in value.items() %}{{ inner ~ ': ' ~ each | tojson(indent=4) | indent(2) }}{% endfor %}"
    "{% else %}{{ '%s=%d' % (key, value) }}{{ '{}'.format(value) }}{{ 'x' * 3 + ', '.join(['y', key]) }}{% endif %}"
    "{% endfor %}{% if tools is not defined or tools is none %}{{ 'Hi'.replace('i', 'o') | upper }}{% endif %}",
    "{% set text %}{% for m in messages if m.role in ['user', 'tool'] %}{{ m.content }}{% endfor %}{% endset %}"
    "{{ text }}{{ (text | length) // 2 }}{{ [1, 2] + [3] }}{{ {'a': none}.get('b', 7) }}{{ 2 ** 3 }}"
    "{{ messages | groupby('role') | map('first') | join('-') }}{{ ['b', 'a'] | sort | join }}{{ 1.256 | round(1) }}",
]


@pytest.mark.parametrize("template", TEMPLATES)
def test_chats_are_those_of_transformers(template: str) -> None:
    theirs = PreTrainedTokenizerFast(tokenizer_object=byte_tokenizer(), bos_token=BOS, eos_token=EOS)
    theirs.chat_template = template
    ours = Tokenizer(tokenizer_data(template))
    for add in (True, False):
        text = theirs.apply_chat_template(MESSAGES, tokenize=False, add_generation_prompt=add)
        assert ours.chat_text(MESSAGES, add) == text
    ids = theirs.apply_chat_template(MESSAGES, add_generation_prompt=True)
    assert ours.chat_ids(MESSAGES) == (ids if isinstance(ids, list) else ids["input_ids"])


VARIABLES = (
    "{% if tools %}{{ tools | tojson }}{% endif %}{% if tools is none %}none{% endif %}"
    "{% if documents is not none %}{{ documents[0].title }}{% endif %}{{ messages | length }}{{ bos_token }}"
    "{% if add_generation_prompt %}assistant:{% if enable_thinking is defined and not enable_thinking %}"
    "<think></think>{% endif %}{% endif %}"
)
TOOL = {"type": "function", "function": {"name": "f", "parameters": {}}}


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"enable_thinking": False},
        {"enable_thinking": True},
        {"add_generation_prompt": False},
        {"tools": [TOOL]},
        {"tools": []},
        {"documents": [{"title": "a", "text": "b"}]},
        {"bos_token": "mine"},
    ],
)
def test_templates_know_what_those_of_transformers_know(arguments: dict[str, Any]) -> None:
    theirs = PreTrainedTokenizerFast(tokenizer_object=byte_tokenizer(), bos_token=BOS, eos_token=EOS)
    theirs.chat_template = VARIABLES
    text = theirs.apply_chat_template(MESSAGES, tokenize=False, **{"add_generation_prompt": True, **arguments})
    assert Tokenizer(tokenizer_data(VARIABLES)).chat_text(MESSAGES, **arguments) == text


def test_what_is_no_conversation_or_no_variable_is_refused() -> None:
    ours = Tokenizer(tokenizer_data())
    for messages in ("hi", b"hi", ["hi"], {"role": "user", "content": "hi"}, [MESSAGES], None):
        with pytest.raises(InvalidInputError, match="a conversation is a list of messages"):
            ours.chat_text(messages)  # type: ignore[arg-type]
    with pytest.raises(InvalidInputError, match="return_tensors= is not for the model's chat template"):
        ours.chat_text(MESSAGES, return_tensors="pt")
    with pytest.raises(InvalidInputError, match="get_json_schema"):
        ours.chat_text(MESSAGES, tools=[print])


def test_a_template_may_refuse() -> None:
    ours = Tokenizer(tokenizer_data("{{ raise_exception('roles must alternate') }}"))
    with pytest.raises(InvalidInputError, match="roles must alternate"):
        ours.chat_text(MESSAGES)


@pytest.mark.parametrize(
    "template",
    [
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ messages.append(1) }}",
        "{{ self.__init__.__globals__ }}",
        "{{ raise_exception.__globals__.keys() }}",
        "{% include '/etc/passwd' %}",
    ],
)
def test_a_template_cannot_leave_its_sandbox(template: str) -> None:
    with pytest.raises(InvalidInputError, match="chat template refuses"):
        Tokenizer(tokenizer_data(template)).chat_text(MESSAGES)


def test_messages_are_plain_data() -> None:
    class Sneaky(str):
        def leak(self) -> str:
            return "leaked"

    messages: list[dict[str, Any]] = [{"role": "user", "content": Sneaky("x")}]
    ours = Tokenizer(tokenizer_data("{{ messages[0]['content'].leak() }}"))
    with pytest.raises(InvalidInputError):
        ours.chat_text(messages)
    with pytest.raises(InvalidInputError):
        ours.chat_text([{"role": "user", "content": object()}])


def test_a_broken_or_missing_template_is_said_to_be() -> None:
    with pytest.raises(ArtifactError, match="not a template"):
        Tokenizer(tokenizer_data("{% for %}")).chat_text(MESSAGES)
    with pytest.raises(InvalidInputError, match="no chat template"):
        Tokenizer(tokenizer_data(None)).chat_text(MESSAGES)
