"""The tiny model as transformers sees models, and what its generate makes of it."""

from __future__ import annotations

from typing import Any

import torch
from transformers import GenerationConfig, GenerationMixin, PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutputWithPast

from tests.runtime.tiny import VOCABULARY, Tiny


class WholeConfig(PretrainedConfig):
    model_type = "whole-sequence"
    num_hidden_layers = 1
    vocab_size = VOCABULARY  # older versions look here


class Whole(PreTrainedModel, GenerationMixin):
    """The tiny model as transformers sees models, without a cache."""

    config_class = WholeConfig
    main_input_name = "input_ids"

    def __init__(self, made: Tiny) -> None:
        super().__init__(WholeConfig())
        self.made = made
        self.nothing = torch.nn.Parameter(torch.zeros(1))

    def forward(self, input_ids: torch.Tensor, **_: Any) -> CausalLMOutputWithPast:
        return CausalLMOutputWithPast(logits=self.made.whole(input_ids))


def their_tokens(made: Tiny, prompt: list[int], **options: Any) -> list[int]:
    """The new tokens of one prompt."""
    return their_sequences(made, prompt, **options)[0]


def their_sequences(made: Tiny, prompt: list[int], **options: Any) -> list[list[int]]:
    """Those of each answer, with the padding behind the shorter ones."""
    model = Whole(made)
    model.generation_config = GenerationConfig()
    out = model.generate(torch.tensor([prompt]), use_cache=False, **options)
    return out[:, len(prompt) :].tolist()
