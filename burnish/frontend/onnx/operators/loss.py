"""Losses, as evaluations have them."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from burnish.frontend.onnx.call import Call, Result, Table

_NONE = -100  # of no class


def _loss(c: Call, scores: Tensor) -> Tensor:
    target, weight = c.tensor(1).to(torch.int64), c.optional(2)
    ignored = c.integer("ignore_index", _NONE)
    how = c.text("reduction", "mean")
    if how not in ("mean", "sum", "none"):
        raise c.invalid(f"there is no reduction {how!r}")
    return F.nll_loss(scores, target, weight, ignore_index=ignored, reduction=how)


def _negative_log_likelihood(c: Call) -> Tensor:
    return _loss(c, c.tensor(0))


def _softmax_cross_entropy(c: Call) -> Result:
    scores = torch.log_softmax(c.tensor(0), 1)
    return _loss(c, scores), scores


TABLE: Table = {
    "NegativeLogLikelihoodLoss": _negative_log_likelihood,
    "SoftmaxCrossEntropyLoss": _softmax_cross_entropy,
}
