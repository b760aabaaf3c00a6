"""Models with the shapes of well-known ones and random weights, as folders that everyone reads: for speed alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import tokenizers
import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

FOLDER = Path(".venv-peers") / "models"  # where what others make of them is, too
_ALIKE = {"hidden_size": 2048, "num_attention_heads": 32, "max_position_embeddings": 2048}
SHAPES: dict[str, dict[str, Any]] = {
    "tinyllama": {
        **_ALIKE,
        **{"num_hidden_layers": 22, "num_key_value_heads": 4, "intermediate_size": 5632, "vocab_size": 32000},
    },
    "llama-3.2-1b": {
        **_ALIKE,
        **{"num_hidden_layers": 16, "num_key_value_heads": 8, "intermediate_size": 8192, "vocab_size": 128256},
        **{"tie_word_embeddings": True, "rope_theta": 500000.0},
    },
}


def random_model(name: str, folder: Path = FOLDER) -> Path:
    """The model in bfloat16, and a tokenizer of no use, which exporters want to copy; made once."""
    path = folder / f"random-{name}"
    if not path.exists():
        partial = path.with_suffix(".partial")
        config = LlamaConfig(**SHAPES[name])
        with torch.device("meta"):
            model = LlamaForCausalLM(config)
        model = model.bfloat16().to_empty(device="cpu")
        model.tie_weights()
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for weight in model.parameters():
                weight.fill_(1.0) if weight.dim() == 1 else weight.normal_(0.0, 0.02, generator=generator)
        model.save_pretrained(partial)
        words = tokenizers.Tokenizer(tokenizers.models.WordLevel({"w0": 0, "w1": 1, "w2": 2}, unk_token="w0"))
        PreTrainedTokenizerFast(tokenizer_object=words, unk_token="w0").save_pretrained(partial)
        partial.rename(path)
    return path
