"""The tokenizer in a GGUF file's metadata, as data of the tokenizers library.

Two kinds cover nearly all files: byte-level BPE ("gpt2"), where `tokenizer.ggml.pre` names the way text is cut before
merging, and SentencePiece's BPE ("llama"), whose merges follow from the scores of its vocabulary; "gemma4" is that with
its merges in the file.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from itertools import zip_longest
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from burnish.frontend.gguf_file import GGUFFile
from burnish.ir.errors import InvalidModelError
from burnish.runtime.tokenization import TokenizerData

_log = logging.getLogger(__name__)

_CONTROL, _USER_DEFINED = 3, 4  # of `tokenizer.ggml.token_type`
_SPACE = "\N{LOWER ONE EIGHTH BLOCK}"  # SentencePiece's sign for a space
_SPECIAL = {"bos_token": "bos", "eos_token": "eos", "unk_token": "unknown", "pad_token": "padding"}

_ENDS_OF_TURNS = {
    *("<|end|>", "<end_of_turn>", "<|eot_id|>", "<|eom_id|>", "<|im_end|>", "<turn|>", "<|endoftext|>", "<EOT>"),
    *("<|end_of_text|>", "<|eot|>", "<|eom|>", "<|return|>", "<|call|>", "<end_of_utterance>", "<|END_OF_TURN_TOKEN|>"),
}
"""Control tokens that end what a model says, by their names: files often have but one of them by its id."""

_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}%s| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_LLAMA3, _QWEN2 = _WORDS % "{1,3}", _WORDS % ""
_SEED_CODER = _QWEN2.replace(r"]+[\r\n]*", r"\r\n]+")
_QWEN35 = _QWEN2.replace(r"?\p{L}+", r"?[\p{L}\p{M}]+").replace(r"[^\s\p{L}", r"[^\s\p{L}\p{M}")
_BAILING = _QWEN2.replace(r"\s*[\r\n]+", r"\s*[\r\n]")
_CASED = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]%s[\p{Ll}\p{Lm}\p{Lo}\p{M}]%s"
_TEKKEN = (
    f"{_CASED % ('*', '+')}|{_CASED % ('+', '*')}"
    r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_CONTRACTION = "(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
_GPT4O = (
    f"{_CASED % ('*', '+')}{_CONTRACTION}|{_CASED % ('+', '*')}{_CONTRACTION}"
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_DIGIT, _TRIPLES = r"\p{N}", r"\p{N}{1,3}"
_DEEPSEEK3 = (
    _TRIPLES,
    "[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+",  # Chinese and Japanese
    r"[!-/:-~&&[^A-Za-z]][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+",
)
_DEEPSEEK_CODER = (r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", "[\u4e00-\u9fa5\u0800-\u4e00\uac00-\ud7ff]+", _DIGIT)
_FALCON = (r"[\p{P}$+<=>^~|`]+", _GPT2, "[0-9][0-9][0-9]")
_BLOOM = r" ?[^(\s|.,!?\u2026\u3002\uff0c\u3001\u0964\u06d4\u060c)]+"

_NAMES: dict[tuple[str, ...], str] = {
    (_GPT2,): "default gpt-2 gpt2 phi-2 mpt olmo jais trillion exaone4 modern-bert mellum gigachat granite-docling",
    (_DIGIT, _GPT2): "smollm starcoder refact command-r codeshell exaone minerva-7b",
    (_LLAMA3,): "llama3 llama-v3 llama-bpe falcon3 falcon-h1 pixtral midm-2.0 lfm2 smaug-bpe dbrx chatglm-bpe glm4",
    (_QWEN2,): "qwen2 deepseek-r1-qwen stablelm2 megrez hunyuan grok-2",
    (_QWEN35,): "qwen35",
    (_SEED_CODER,): "seed-coder",
    (_BAILING,): "bailingmoe bailingmoe2 llada-moe",
    (_TEKKEN,): "tekken",
    (_GPT4O,): "gpt-4o llama4 kanana2 minimax-m2",
    _DEEPSEEK3: "deepseek-v3 hunyuan-dense",
    _DEEPSEEK_CODER: "deepseek-coder",
    _FALCON: "falcon",
    (_BLOOM,): "bloom poro-chat gpt3-finnish",
    (_BLOOM, _DIGIT): "viking",
}
_CUTS = {name: cuts for cuts, names in _NAMES.items() for name in names.split()}
"""`tokenizer.ggml.pre`: the expressions that cut the text, one after the other."""

_OF_LLAMA3 = {"llama3", "llama-v3", "llama-bpe", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2"}
_WHOLE_WORDS_FIRST = {*_OF_LLAMA3, "tekken"}  # a word in the vocabulary is not merged
_SENTENCEPIECE = ("llama", "gemma4")  # the second with its merges
_FIRST_TOKEN = {"llama3", "llama-v3", "llama-bpe", "tekken"}  # a first token unless the file says otherwise
_COMPOSED = {"qwen2", "deepseek-r1-qwen"}  # characters are composed first (NFC)


def read_tokenizer(file: GGUFFile) -> TokenizerData | None:
    """The tokenizer of `file`; None, with a warning, if it has none or one of another kind.

    Raises InvalidModelError if what the file says of it does not fit together.
    """
    metadata = _Metadata(file)
    kind, cut = metadata.get("model"), metadata.get("pre", "default")
    if kind == "gpt2" and cut in _CUTS:
        tokenizer, first = _byte_level(metadata, cut), cut in _FIRST_TOKEN
    elif kind in _SENTENCEPIECE:
        tokenizer, first = _sentencepiece(metadata), True
    else:
        _log.warning(
            "%s: the tokenizer of the kind %r, pre-tokenizer %r, is not read: the compiled model takes token ids only "
            "(see the argument tokenizer)",
            file.path,
            kind,
            cut,
        )
        return None
    if kind == "gpt2" and metadata.get("pre") is None:
        _log.warning(
            "%s does not say how its tokenizer cuts text (tokenizer.ggml.pre): it is cut as GPT-2 does, which other "
            "models do otherwise (a newer conversion of the model says it; see the argument tokenizer)",
            file.path,
        )
    for token, token_kind in metadata.kinds():
        if token_kind == _CONTROL:
            tokenizer.add_special_tokens([AddedToken(token, normalized=False, special=True)])
        elif token_kind == _USER_DEFINED:
            tokenizer.add_tokens([AddedToken(_as_text(token, kind), normalized=False, special=False)])
    special = {name: metadata.special(key) for name, key in _SPECIAL.items()}
    before = [special["bos_token"]] if metadata.get("add_bos_token", first) else []
    after = [special["eos_token"]] if metadata.get("add_eos_token", False) else []
    _put_around(tokenizer, [token for token in before if token], [token for token in after if token])
    return TokenizerData(
        tokenizer_json=tokenizer.to_str(),
        chat_template=file.metadata.get("tokenizer.chat_template"),
        special_tokens={name: token for name, token in special.items() if token is not None},
    )


def ends_of_turns(file: GGUFFile) -> list[int]:
    """The ids of tokens that end what a model says, by their names."""
    kinds = enumerate(_Metadata(file).kinds() if "tokenizer.ggml.tokens" in file.metadata else ())
    found = {token: number for number, (token, kind) in kinds if kind == _CONTROL and token in _ENDS_OF_TURNS}
    if {"<|return|>", "<|call|>"} <= found.keys():  # of gpt-oss, whose <|end|> ends a part of an answer
        found.pop("<|end|>", None)
    return list(found.values())


def _as_text(token: str, kind: str) -> str:
    """A token that is looked for in the text itself, as the text has it."""
    return token.replace(_SPACE, " ") if kind in _SENTENCEPIECE else token


class _Metadata:
    """The entries `tokenizer.ggml.*`."""

    def __init__(self, file: GGUFFile) -> None:
        self.file = file

    def get(self, name: str, default: Any = None) -> Any:
        return self.file.metadata.get(f"tokenizer.ggml.{name}", default)

    def tokens(self) -> list[str]:
        found = self.get("tokens")
        if not isinstance(found, list) or not found:
            raise InvalidModelError(f"{self.file.path}: the tokenizer has no vocabulary (tokenizer.ggml.tokens)")
        return found

    def kinds(self) -> Iterator[tuple[str, int | None]]:
        """Each token and its kind, in order."""
        return zip_longest(self.tokens(), self.get("token_type", [])[: len(self.tokens())])

    def special(self, name: str) -> str | None:
        """The token that has this part."""
        index, tokens = self.get(f"{name}_token_id"), self.tokens()
        if index is None:
            return None
        if not 0 <= index < len(tokens):
            raise InvalidModelError(
                f"{self.file.path}: tokenizer.ggml.{name}_token_id is {index}, "
                f"and the vocabulary has {len(tokens)} tokens"
            )
        return str(tokens[index])


def _byte_level(metadata: _Metadata, cut: str) -> Tokenizer:
    merges = [_pair(metadata, merge) for merge in metadata.get("merges", [])]
    vocabulary = {token: index for index, token in enumerate(metadata.tokens())}
    tokenizer = Tokenizer(_bpe(metadata, vocab=vocabulary, merges=merges, ignore_merges=cut in _WHOLE_WORDS_FIRST))
    if cut in _COMPOSED:
        tokenizer.normalizer = normalizers.NFC()
    splits = [pre_tokenizers.Split(Regex(expression), behavior="isolated") for expression in _CUTS[cut]]
    bytes_of = pre_tokenizers.ByteLevel(add_prefix_space=bool(metadata.get("add_space_prefix", False)), use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([*splits, bytes_of])
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _pair(metadata: _Metadata, merge: str) -> tuple[str, str]:
    left, _, right = merge.partition(" ")
    if not left or not right:
        raise InvalidModelError(
            f"{metadata.file.path}: tokenizer.ggml.merges has {merge!r}, which is no pair of tokens"
        )
    return left, right


def _sentencepiece(metadata: _Metadata) -> Tokenizer:
    is_gemma = str(metadata.file.metadata.get("general.architecture", "")).startswith("gemma")
    # What the vocabulary defines is found in the text, the longest first, and takes no part in merges.
    given = [token_kind == _USER_DEFINED for _, token_kind in metadata.kinds()]
    words = zip(metadata.tokens(), given, strict=True)
    tokens = [_as_text(token, "llama") if whole else token.replace(" ", _SPACE) for token, whole in words]
    vocabulary = {token: index for index, token in enumerate(tokens)}
    scores = metadata.get("scores")
    if is_gemma:  # whose scores do not say the order of the merges, while the ids do
        scores = [-index for index in range(len(tokens))]
    if not isinstance(scores, list) or len(scores) != len(tokens):
        raise InvalidModelError(f"{metadata.file.path}: tokenizer.ggml.scores has to have a number for each token")
    unknown = metadata.special("unknown")
    said = metadata.get("merges", []) if metadata.get("model") == "gemma4" else []
    merges = [_pair(metadata, merge) for merge in said] or _merges(
        {token: index for token, index in vocabulary.items() if not given[index]},
        dict(zip(tokens, scores, strict=True)),
    )
    model = _bpe(
        metadata,
        vocab=vocabulary,
        merges=merges,
        unk_token=unknown,
        fuse_unk=True,
        byte_fallback=True,
    )
    tokenizer = Tokenizer(model)
    prefix = bool(metadata.get("add_space_prefix", not is_gemma))
    spaces = normalizers.Replace(" ", _SPACE)
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend(_SPACE), spaces]) if prefix else spaces
    steps: list[Any] = [decoders.Replace(_SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    tokenizer.decoder = decoders.Sequence([*steps, *([decoders.Strip(" ", 1, 0)] if prefix else [])])
    return tokenizer


def _bpe(metadata: _Metadata, **options: Any) -> models.BPE:
    try:
        return models.BPE(**options)
    except Exception as error:  # the library raises plain Exception
        raise InvalidModelError(f"{metadata.file.path}: the tokenizer does not fit together: {error}") from error


def _merges(vocabulary: dict[str, int], scores: dict[str, float]) -> list[tuple[str, str]]:
    """Each way to make a token of two others, the token of the highest score first."""
    found: list[tuple[float, int, int, str, str]] = []
    for token in vocabulary:
        for cut in range(1, len(token)):
            left, right = token[:cut], token[cut:]
            if left in vocabulary and right in vocabulary:
                found.append((-scores[token], vocabulary[left], vocabulary[right], left, right))
    found.sort()
    return [(left, right) for _, _, _, left, right in found]


def _put_around(tokenizer: Tokenizer, before: list[str], after: list[str]) -> None:
    if not before and not after:
        return
    ids = [(token, tokenizer.token_to_id(token)) for token in dict.fromkeys(before + after)]
    tokenizer.post_processor = processors.TemplateProcessing(
        single=[*before, "$A", *after], pair=[*before, "$A", *after, *before, "$B", *after], special_tokens=ids
    )
