"""A dozen architectures of different kinds; `make zoo` runs all."""

from __future__ import annotations

import pytest
import torch

from tests.zoo.check import Result, check, eager_logits, sample
from tests.zoo.configs import MODEL_TYPES, build
from tests.zoo.overrides import OVERRIDES, UNUSABLE

MATCHING = {
    "llama": {"cache"},
    "gpt2": {"cache"},  # learned positions, fused QKV
    "gpt_neox": {"cache"},  # partial rotary embedding, parallel residual
    "gemma2": {"cache", "ring"},  # soft caps, windows
    "mistral": {"ring"},  # a window in every layer
    "falcon": {"cache"},  # one KV head
    "roberta": {"cache", "accumulator"},  # positions count the tokens that are no padding
    "bloom": {"cache"},  # ALiBi
    "opt": {"cache"},  # learned positions with an offset
    "deepseek_v3": {"cache"},  # latent attention, grouped experts
    "mixtral": {"cache"},  # experts
    "gpt_oss": {"cache", "ring"},  # sinks
    "llama4_text": {"cache", "ring"},  # chunks, queries scaled by position
}
REFUSED = {
    "xlnet": "multiplies all tokens with one another",  # attends in both directions
    "xlm": "reduces over the tokens",  # counts them
}


@pytest.mark.parametrize("model_type", MATCHING)
def test_matches_transformers(model_type: str) -> None:
    result = check(model_type)
    assert result.outcome == "match", result
    assert set(result.states) == MATCHING[model_type]


@pytest.mark.parametrize("model_type", REFUSED)
def test_not_causal(model_type: str) -> None:
    result = check(model_type)
    assert (result.outcome, result.error) == ("refused", "NotCausalError"), result
    assert REFUSED[model_type] in result.reason
    assert f"modeling_{model_type}.py:" in result.reason  # the line that proves it


def test_a_wrong_answer_is_a_mismatch(monkeypatch: pytest.MonkeyPatch) -> None:
    """The check itself: a model whose logits at one position are off by 1%."""

    def off(model: object, ids: torch.Tensor) -> torch.Tensor:
        logits = eager_logits(model, ids)  # type: ignore[arg-type]
        logits[:, 7] *= 1.01
        return logits

    monkeypatch.setattr("tests.zoo.check.eager_logits", off)
    result: Result = check("gpt2", "reference")
    assert result.outcome == "MISMATCH"
    assert "token 7" in result.reason


def test_weights_are_random_and_reproducible() -> None:
    first, again, other = build("llama"), build("llama"), build("llama", seed=1)
    ids = sample(first, 0)
    assert torch.equal(eager_logits(first, ids), eager_logits(again, ids))
    assert not torch.equal(eager_logits(first, ids), eager_logits(other, ids))
    assert 3 < float(eager_logits(first, ids).abs().max()) < 30


def test_tables_name_model_types() -> None:
    newer = {*OVERRIDES, *UNUSABLE} - set(MODEL_TYPES)  # types that an older transformers does not have
    assert len(newer) < 15, newer
