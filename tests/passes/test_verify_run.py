"""The check of what runs sees faults of the session and of the executor, and lets what is right pass."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import burnish
from burnish.ir.errors import VerificationError
from burnish.passes.verify_run import PRECISIONS
from burnish.runtime.executor import Step, StepResult
from burnish.runtime.model import Backend
from burnish.runtime.session import Session
from burnish.runtime.states import States
from tests.own_modules.bare import AverageSoFar
from tests.own_modules.causal import NanoGPT


def model(style: type[nn.Module]) -> nn.Module:
    torch.manual_seed(0)
    return style().eval()


def step_at_the_first_position(self: Session, tokens: Any, active: Any = None, wanted: Any = "logits") -> StepResult:
    """A step of generation that does not know how many tokens there are."""
    new = np.array(tokens, dtype=np.int64)[:, None]
    return self._executor.step(Step(new, np.zeros(self.batch, np.int64), self._first, wanted), self._states)


def stays(self: States, *_: object) -> None:
    """States that are never handed on."""


@pytest.mark.parametrize(
    ("backend", "place", "name", "fault", "style", "told"),
    [
        ("native", Session, "advance", step_at_the_first_position, NanoGPT, "a token each, after"),
        ("onnxruntime", Session, "advance", step_at_the_first_position, NanoGPT, "a token each, after"),
        ("onnxruntime", States, "advance", stays, AverageSoFar, "token by token"),
        ("onnxruntime", States, "accept", stays, AverageSoFar, "a token each, after"),
    ],
    ids=["a-step-by-native-kernels", "a-step-of-generation", "states-stay", "a-row-alone"],
)
def test_a_fault_of_what_runs_is_seen(
    backend: Backend,
    place: type,
    name: str,
    fault: Callable[..., Any],
    style: type[nn.Module],
    told: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    burnish.compile(model(style), max_length=40, backend=backend).close()
    monkeypatch.setattr(place, name, fault)
    with pytest.raises(VerificationError, match=told):
        burnish.compile(model(style), max_length=40, backend=backend)


def test_a_model_that_eight_bits_are_too_few_for_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    eight = burnish.QuantizeCache("int8")
    burnish.compile(model(NanoGPT), max_length=40, backend="reference", transforms=[eight]).close()
    monkeypatch.setitem(PRECISIONS, "8 bits", 1.5 * PRECISIONS["float32"])
    with pytest.raises(VerificationError, match="without rounding it is right: this model does not bear"):
        burnish.compile(model(NanoGPT), max_length=40, backend="reference", transforms=[eight])
