"""The numeric check where logits are masked, or are no numbers: no false alarm, and no fault is missed."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM

import burnish
from burnish.frontend import read
from burnish.inspect.bisect import numbers_check
from burnish.ir.errors import InvalidModelError
from burnish.ir.trace import Trace
from burnish.passes.pipeline import run_passes
from burnish.passes.pipelines import default_passes
from burnish.passes.verify import Verifier, relative_difference
from tests.own_modules.causal import NanoGPT
from tests.zoo.configs import build


class Masked(nn.Module):
    """A vocabulary with entries that no token may become."""

    def __init__(self, model: nn.Module, value: float) -> None:
        super().__init__()
        self.model = model
        self.value = value

    def forward(self, tokens: Tensor) -> Tensor:
        logits = self.model(tokens)
        entry = torch.arange(logits.shape[-1])
        return logits.masked_fill(entry >= logits.shape[-1] - 5, self.value)


MASKS = [float("-inf"), torch.finfo(torch.float32).min, torch.finfo(torch.float16).min]


@pytest.mark.parametrize("value", MASKS)
def test_masked_entries_are_no_difference_and_hide_none(value: float) -> None:
    program = read(Masked(NanoGPT().eval(), value), max_length=32).program
    verifier = Verifier(program)
    run_passes(program, default_passes(), Trace(), verifier=verifier)
    (_, logits, _) = verifier.logits(program)
    moved = torch.where(logits < -1000, logits, logits + 0.01)
    assert float(relative_difference(moved, logits).min()) > 1e-4
    assert float(relative_difference(logits, logits).max()) == 0
    unmasked = torch.where(logits < -1000, torch.zeros(()), logits)
    assert not bool((relative_difference(unmasked, logits) <= 1e-4).any())


def test_a_model_that_gives_no_numbers_is_told_so_and_no_pass_is_blamed() -> None:
    model = NanoGPT().eval()
    with torch.no_grad():
        model.ln_f.weight[3] = float("nan")
    for verify in (True, "shrunk", "full"):
        with pytest.raises(InvalidModelError, match=r"the model gives NaN for .* before any pass"):
            burnish.compile(model, max_length=32, verify=verify)
    with pytest.raises(InvalidModelError, match="the model gives NaN"):
        numbers_check(read(model, max_length=32).program)


def test_a_window_longer_than_the_usual_rows_is_checked() -> None:
    config = build("gemma2").config.to_dict() | {"sliding_window": 64, "max_position_embeddings": 256}
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**config), attn_implementation="eager").eval()
    captured = read(model).program
    step = run_passes(captured, default_passes(), Trace(), verifier=Verifier(captured))
    check = numbers_check(captured)
    assert check(step) is None
    wrong = step.copy()
    for node in wrong.graph.nodes:
        if node.kwargs.get("extent") == 64:
            node.kwargs = {**node.kwargs, "extent": 63}
    assert "the logits of 1 x 73 tokens are off" in str(check(wrong))
