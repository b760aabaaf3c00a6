"""Compile a module of your own. Nothing in it knows of caches, positions of a step, or burnish.

python examples/own_module.py
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import burnish


class Block(nn.Module):
    """Attention and a feed-forward layer."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (
            part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in self.qkv(self.norm1(x)).chunk(3, -1)
        )
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(mixed.transpose(1, 2).flatten(-2))
        return x + self.down(F.gelu(self.up(self.norm2(x))))


class Model(nn.Module):
    """Token ids to logits, the way it is written for training."""

    def __init__(
        self, vocabulary: int = 256, width: int = 64, heads: int = 4, layers: int = 3, length: int = 128
    ) -> None:
        super().__init__()
        self.tokens, self.positions = nn.Embedding(vocabulary, width), nn.Embedding(length, width)
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(layers))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, vocabulary)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.tokens(ids) + self.positions(torch.arange(ids.shape[1], device=ids.device))
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))


if __name__ == "__main__":
    torch.manual_seed(0)
    model = Model().eval()
    compiled = burnish.compile(model, max_length=128)
    ids = torch.randint(256, (1, 20))

    # The whole sequence at once, as the module does it ...
    torch.testing.assert_close(compiled(ids), model(ids), atol=1e-4, rtol=1e-4)

    # ... and token by token, each step reading only the new token.
    session = compiled.session()
    steps = torch.cat([session.append(ids[:, i : i + 1]) for i in range(20)], dim=1)
    torch.testing.assert_close(steps, model(ids), atol=1e-4, rtol=1e-4)

    print(compiled)
    print(compiled.generate(ids, max_new_tokens=10).tokens[0])
