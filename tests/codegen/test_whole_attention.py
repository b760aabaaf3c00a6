"""ATen's attention lowered to ONNX Runtime's, with heads joined, and to plain operators where these cannot be."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.export import Dim

import burnish
from tests.passes.layout.test_networks import optimized

HEADS, SIZE = 4, 8


class Attention(nn.Module):
    """Of x[B, S, H * D] with what `attend` does."""

    def __init__(self, attend: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor], value_size: int = SIZE) -> None:
        super().__init__()
        width = HEADS * SIZE
        self.attend = attend
        self.q, self.k, self.v = nn.Linear(width, width), nn.Linear(width, width), nn.Linear(width, HEADS * value_size)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        q, k, v = (f(x).unflatten(-1, (HEADS, -1)).transpose(1, 2) for f in (self.q, self.k, self.v))
        return self.attend(q, k, v, mask).transpose(1, 2).flatten(2)


def _plain(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(q, k, v, scale=0.3)


def _causal(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(q, k, v, is_causal=True)


def _masked(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)


def _some_rows_see_nothing() -> Tensor:
    mask = torch.rand(6, 6, generator=torch.Generator().manual_seed(0)) > 0.4
    mask[0] = False
    return mask


SEEN = _some_rows_see_nothing()


@pytest.mark.parametrize(
    ("attend", "mask", "joined"),
    [
        (_plain, torch.zeros(1), True),
        (_causal, torch.zeros(1), True),
        (_masked, SEEN, True),
        (_masked, SEEN.expand(2, 1, 6, 6).contiguous(), True),
        (_masked, SEEN[2:3].expand(2, 1, 1, 6).contiguous(), True),
        (_masked, torch.zeros(6, 6).masked_fill(~SEEN, float("-inf")), True),
        (_masked, torch.randn(6, 6, generator=torch.Generator().manual_seed(0)), True),
        (_masked, torch.randn(HEADS, 6, 6, generator=torch.Generator().manual_seed(0)), False),
        (_masked, SEEN.expand(HEADS, 6, 6).contiguous(), False),
    ],
    ids=[
        "plain",
        "causal",
        "mask",
        "mask of rows",
        "mask of keys",
        "infinite bias",
        "bias",
        "bias of heads",
        "of heads",
    ],
)
@pytest.mark.parametrize("value_size", [SIZE, 5])
def test_it_gives_what_pytorch_gives(
    attend: Callable[..., Tensor], mask: Tensor, joined: bool, value_size: int
) -> None:
    torch.manual_seed(0)
    module, x = Attention(attend, value_size).eval(), torch.randn(2, 6, HEADS * SIZE)
    with burnish.compile(module, (x, mask)) as compiled:
        with torch.no_grad():
            torch.testing.assert_close(compiled(x, mask), module(x, mask), rtol=1e-5, atol=1e-6)
        operators = optimized(compiled)
    assert operators["MultiHeadAttention"] == joined
    assert operators["Transpose"] == 0 or not joined


@pytest.mark.parametrize("attend", [_plain, _causal])
def test_for_any_number_of_rows_and_tokens(attend: Callable[..., Tensor]) -> None:
    torch.manual_seed(0)
    module, mask = Attention(attend).eval(), torch.zeros(1)
    shapes = {"x": {0: Dim("rows"), 1: Dim("tokens", max=64)}, "mask": None}
    with burnish.compile(module, (torch.randn(2, 6, HEADS * SIZE), mask), dynamic_shapes=shapes) as compiled:
        assert optimized(compiled)["MultiHeadAttention"] == 1
        for rows, tokens in ((1, 1), (3, 17)):
            x = torch.randn(rows, tokens, HEADS * SIZE)
            with torch.no_grad():
                torch.testing.assert_close(compiled(x, mask), module(x, mask), rtol=1e-5, atol=1e-6)


def test_queries_of_other_lengths_than_keys() -> None:
    def crossed(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(q[:, :, :2], k, v)

    torch.manual_seed(0)
    module, x = Attention(crossed).eval(), torch.randn(2, 6, HEADS * SIZE)
    with burnish.compile(module, (x, torch.zeros(1))) as compiled, torch.no_grad():
        torch.testing.assert_close(compiled(x, torch.zeros(1)), module(x, torch.zeros(1)), rtol=1e-5, atol=1e-6)
