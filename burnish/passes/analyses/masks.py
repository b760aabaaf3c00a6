"""What an attention's position-only bias is, found from its values and from nothing else."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

# exp(-9000 + anything a model computes) is 0 in every floating dtype; masks use -1e4, finfo.min or -inf.
HIDDEN = -9000.0
_TOLERANCE = 1e-5


@dataclass(frozen=True)
class Mask:
    """The kind of a mask and what is left over after it.

    `kind` and `extent` are those of `burnish::attention`. `slopes[H]` are ALiBi's. `table[H|1, L, L]` is what has no
    closed form: a bias to keep (hidden pairs at -inf when `kind` is "none").
    """

    kind: str
    extent: int = 0
    slopes: Tensor | None = None
    table: Tensor | None = None

    def same_as(self, other: Mask) -> bool:
        """Whether two lengths gave the same mask, the shorter table a corner of the longer."""
        if (self.kind, self.extent) != (other.kind, other.extent):
            return False
        if (self.slopes is None) != (other.slopes is None) or (self.table is None) != (other.table is None):
            return False
        if self.slopes is not None and not torch.allclose(self.slopes, other.slopes, rtol=1e-3):  # type: ignore[arg-type]
            return False
        if self.table is not None and other.table is not None:
            size = min(self.table.shape[-1], other.table.shape[-1])
            return torch.equal(self.table[..., :size, :size], other.table[..., :size, :size])
        return True


def classify(bias: Tensor, has_sinks: bool) -> Mask:
    """The mask that `bias[H|1, L, L]`, added to the scores of query i and key j, stands for.

    Softmax does not see what is added to a whole row, so a bias is compared after its diagonal is taken away;
    not so where sinks take part in the softmax without a bias.
    """
    length = bias.shape[-1]
    visible = bias > HIDDEN
    kind, extent = _pattern(visible)
    if kind == "none":
        if bool(visible.all()) and not bool(bias.any()):
            return Mask("none")
        return Mask("none", table=torch.where(visible, bias, float("-inf")))
    rest = torch.where(visible, bias, 0.0)
    if not bool(rest.any()):
        return Mask(kind, extent)
    if not has_sinks:
        diagonal = bias.diagonal(dim1=-2, dim2=-1).unsqueeze(-1)
        rest = torch.where(visible, bias - diagonal, 0.0)
        if not bool(rest.any()):
            return Mask(kind, extent)
    slopes = -rest[:, 1, 0]
    position = torch.arange(length)
    linear = slopes.view(-1, 1, 1) * (position.view(1, 1, -1) - position.view(1, -1, 1))
    scale = float(rest.abs().max())
    if float((torch.where(visible, linear, 0.0) - rest).abs().max()) <= _TOLERANCE * max(1.0, scale):
        return Mask(kind, extent, slopes=slopes)
    return Mask(kind, extent, table=rest)


def _pattern(visible: Tensor) -> tuple[str, int]:
    """The kind and extent of a visibility pattern [H|1, L, L]; "none" where no kind fits."""
    if visible.shape[0] > 1 and not bool((visible == visible[:1]).all()):
        return "none", 0
    seen = visible[0]
    length = seen.shape[-1]
    lower = torch.ones(length, length, dtype=torch.bool).tril()
    if torch.equal(seen, lower):
        return "causal", 0
    if bool((seen & ~lower).any()) or not bool(seen.diagonal().all()):
        return "none", 0
    extent = int(seen.sum(-1).max())
    if torch.equal(seen, lower & ~lower.tril(-extent)):
        return "window", extent
    chunk = torch.arange(length) // extent
    if torch.equal(seen, lower & (chunk.unsqueeze(-1) == chunk.unsqueeze(0))):
        return "chunk", extent
    return "none", 0


def shows_later_tokens(mask: Mask) -> bool:
    """Whether some query sees a key after its own position."""
    if mask.kind != "none":
        return False
    if mask.table is None:
        return True
    hidden = mask.table == float("-inf")
    upper = torch.ones(mask.table.shape[-2:], dtype=torch.bool).triu(1)
    return bool((~hidden & upper).any())
