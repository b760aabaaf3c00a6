"""Styles of modules compile to step form and match; what sees later tokens or other rows is refused, with the line."""

from __future__ import annotations

from functools import cache

import pytest
import torch
from torch import Tensor, nn

import burnish
from burnish.ir.errors import MixedRowsError, NotCausalError
from burnish.runtime.backends import Backend
from burnish.runtime.model import CompiledModel
from tests.own_modules.bare import BARE
from tests.own_modules.causal import LENGTH, STYLES, VOCABULARY
from tests.own_modules.mixed_rows import MIXED
from tests.own_modules.not_causal import REFUSED
from tests.own_modules.of_torch import OF_TORCH


def close(found: Tensor, expected: Tensor) -> None:
    scale = max(1.0, float(expected.abs().max()))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4 * scale)


def in_pieces(compiled: CompiledModel, ids: Tensor, pieces: list[int]) -> Tensor:
    session = compiled.session(batch=ids.shape[0])
    return torch.cat([session.append(part, every=True) for part in ids.split(pieces, dim=1)], dim=1)


@cache
def compiled_once(style: type[nn.Module], backend: Backend = "native") -> tuple[nn.Module, CompiledModel]:
    """A module of a style, and what it compiles to: for all tests."""
    torch.manual_seed(0)
    model = style().eval()
    return model, burnish.compile(model, max_length=LENGTH - 1, backend=backend)


@pytest.mark.parametrize("backend", ["native", "onnxruntime", "reference"])
@pytest.mark.parametrize("style", [*STYLES, *BARE, *OF_TORCH], ids=lambda style: style.__name__)
@torch.no_grad()
def test_a_module_somebody_wrote_this_morning(style: type[nn.Module], backend: Backend) -> None:
    model, made = compiled_once(style, "onnxruntime" if backend == "onnxruntime" else "native")
    ids = torch.randint(VOCABULARY, (2, 40), generator=torch.Generator().manual_seed(0))
    expected = model(ids)
    with burnish.load(made.artifact.path, backend=backend) as compiled:
        close(compiled(ids), expected)
        close(in_pieces(compiled, ids, [1] * 40), expected)
        close(in_pieces(compiled, ids, [7, 13, 1, 19]), expected)
        session = compiled.session(batch=2)
        session.append(ids[:, :30])
        session.rewind(11)
        close(session.append(ids[:, 11:], every=True), expected[:, 11:])


def greedy(model: nn.Module, ids: list[int], count: int) -> list[int]:
    tokens = list(ids)
    for _ in range(count):
        tokens.append(int(model(torch.tensor([tokens]))[0, -1].argmax()))
    return tokens[len(ids) :]


@pytest.mark.parametrize("style", [*STYLES, *BARE, *OF_TORCH], ids=lambda style: style.__name__)
@torch.no_grad()
def test_prompts_of_unequal_length_generate_what_each_does_alone(style: type[nn.Module]) -> None:
    model, compiled = compiled_once(style)
    prompts = [[3, 1, 4, 1, 5, 9, 2, 6, 5], [7], [2, 7, 1, 8]]
    found = compiled.generate(prompts, max_new_tokens=12, do_sample=False)
    assert found.tokens == [greedy(model, prompt, 12) for prompt in prompts]


@pytest.mark.parametrize(("style", "code"), REFUSED, ids=lambda value: getattr(value, "__name__", ""))
def test_what_sees_later_tokens_is_refused_by_line(style: type[nn.Module], code: str) -> None:
    with pytest.raises(NotCausalError) as refusal:
        burnish.compile(style().eval(), max_length=LENGTH - 1)
    message = str(refusal.value)
    assert code in message
    assert "not_causal.py:" in message


@pytest.mark.parametrize("style", MIXED, ids=lambda style: style.__name__)
def test_what_mixes_the_rows_of_a_batch_is_refused_by_line(style: type[nn.Module]) -> None:
    with pytest.raises(MixedRowsError) as refusal:
        burnish.compile(style().eval(), max_length=LENGTH - 1)
    message = str(refusal.value)
    assert "mixed_rows.py:" in message
    assert "# mixes" in message


class PaddedByItsTokens(nn.Module):
    """Attention that hides tokens 0, too, by a mask beside the causal one."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.head = nn.Embedding(VOCABULARY, 8), nn.Linear(8, VOCABULARY)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embedding(ids)
        seen = torch.ones(ids.shape[1], ids.shape[1], dtype=torch.bool).tril() & (ids != 0)[:, None, :]
        scores = (x @ x.mT).masked_fill(~seen, -1e9)
        found: Tensor = self.head(x + scores.softmax(-1) @ x)
        return found


def test_a_refusal_ends_with_what_came_first() -> None:
    with pytest.raises(NotCausalError, match=r"What came first: softmax .* was not read as attention: .*input's data"):
        burnish.compile(PaddedByItsTokens().eval(), max_length=LENGTH - 1)
