"""A small byte-level tokenizer, made here."""

from __future__ import annotations

import tokenizers
from tokenizers import decoders, models, pre_tokenizers, processors, trainers

from burnish.runtime.tokenization import TokenizerData

BOS, EOS = "<s>", "</s>"
TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}[{{ message['role'] }}]{{ message['content'] }}{{ eos_token }}"
    "{% endfor %}{% if add_generation_prompt %}[assistant]{% endif %}"
)
CORPUS = ["the cat sat on the mat", "the rat ate the cat", "naïve café, 東京 😀"]


def byte_tokenizer(adds_bos: bool = False) -> tokenizers.Tokenizer:
    """256 bytes, two special tokens (0 and 1) and a few merges: fewer than 300 ids."""
    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=290,
        special_tokens=[BOS, EOS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS * 3, trainer)
    if adds_bos:
        tokenizer.post_processor = processors.TemplateProcessing(single=f"{BOS} $A", special_tokens=[(BOS, 0)])
    return tokenizer


def tokenizer_data(template: str | None = TEMPLATE, adds_bos: bool = False) -> TokenizerData:
    return TokenizerData(byte_tokenizer(adds_bos).to_str(), template, {"bos_token": BOS, "eos_token": EOS})
