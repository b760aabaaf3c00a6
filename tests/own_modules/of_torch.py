"""Causal models out of PyTorch's own transformer layers, whose tokens stand on the first axis inside."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from tests.own_modules.causal import HEADS, LENGTH, VOCABULARY, WIDTH


class EncoderWithAMask(nn.Module):
    """nn.TransformerEncoder with `mask` and without `is_causal`, as PyTorch's tutorial has it."""

    options: ClassVar[dict[str, bool]] = {"batch_first": True}

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.places = nn.Embedding(VOCABULARY, WIDTH), nn.Embedding(LENGTH, WIDTH)
        layer = nn.TransformerEncoderLayer(WIDTH, HEADS, 2 * WIDTH, **self.options)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(WIDTH, VOCABULARY)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embedding(ids) + self.places(torch.arange(ids.shape[1]))
        found: Tensor = self.head(self.encode(x, nn.Transformer.generate_square_subsequent_mask(ids.shape[1])))
        return found

    def encode(self, x: Tensor, mask: Tensor) -> Tensor:
        found: Tensor = self.encoder(x, mask=mask)
        return found


class EncoderWithTokensFirst(EncoderWithAMask):
    """The same with tokens on the first axis from the embedding to the head, norms first, and a mask of booleans."""

    options: ClassVar[dict[str, bool]] = {"batch_first": False, "norm_first": True}

    def encode(self, x: Tensor, mask: Tensor) -> Tensor:
        found: Tensor = self.encoder(x.transpose(0, 1), mask=mask.isinf()).transpose(0, 1)
        return found


class AttentionWithoutPlaces(nn.Module):
    """nn.MultiheadAttention over embeddings alone."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, WIDTH)
        self.attention = nn.MultiheadAttention(WIDTH, HEADS, batch_first=True)
        self.head = nn.Linear(WIDTH, VOCABULARY)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embedding(ids)
        mask = torch.ones(ids.shape[1], ids.shape[1], dtype=torch.bool).triu(1)
        mixed, _ = self.attention(x, x, x, attn_mask=mask, need_weights=False)
        found: Tensor = self.head(x + mixed)
        return found


class DecoderOfItself(nn.Module):
    """nn.TransformerDecoder whose memory is what it decodes, with a mask for each."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.places = nn.Embedding(VOCABULARY, WIDTH), nn.Embedding(LENGTH, WIDTH)
        self.decoder = nn.TransformerDecoder(nn.TransformerDecoderLayer(WIDTH, HEADS, WIDTH, batch_first=True), 1)
        self.head = nn.Linear(WIDTH, VOCABULARY)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embedding(ids) + self.places(torch.arange(ids.shape[1]))
        mask = nn.Transformer.generate_square_subsequent_mask(ids.shape[1])
        found: Tensor = self.head(self.decoder(x, x, tgt_mask=mask, memory_mask=mask))
        return found


OF_TORCH: tuple[type[nn.Module], ...] = (
    EncoderWithAMask,
    EncoderWithTokensFirst,
    AttentionWithoutPlaces,
    DecoderOfItself,
)
