"""Views of generated kernels: what is at a place of the view, as a place in what it is a view of."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from burnish.codegen.triton.element_index import ZERO, Indices, Size, Term, broadcast, shifted
from burnish.ir.body import Group, Read, Step
from burnish.ir.fused_group import bound

aten = torch.ops.aten

_SPLITS = (aten.split.Tensor, aten.split_with_sizes.default)


class Views:
    """The views of a group."""

    def __init__(self, group: Group, fakes: dict[str, Any], indices: Indices) -> None:
        self.steps = {step.name: step for step in group.steps}
        self.fakes = fakes
        self.indices = indices

    def source(self, step: Step, index: Sequence[Term]) -> tuple[str, list[Term]]:
        """The value that `step` is a view of, and where in it `index` is."""
        name = step.args[0].name
        split = self.steps.get(name)
        if split is not None and split.target in _SPLITS:
            return self._piece(step, split, list(index))
        return name, self._moved(step, list(index), self.fakes[name].shape)

    def _moved(self, step: Step, index: list[Term], shape: Sequence[Size]) -> list[Term]:
        own, rank, given = self.fakes[step.name].shape, len(shape), bound(step)
        if step.target is aten.permute.default:
            places = {axis % rank: place for place, axis in enumerate(given["dims"])}
            return [index[places[axis]] for axis in range(rank)]
        if step.target is aten.transpose.int:
            first, second = given["dim0"] % rank, given["dim1"] % rank
            index[first], index[second] = index[second], index[first]
            return index
        if step.target is aten.unsqueeze.default:
            axis = given["dim"] % (rank + 1)
            return [*index[:axis], *index[axis + 1 :]]
        if step.target is aten.squeeze.dim:
            axis = given["dim"] % rank
            return index if len(own) == rank else [*index[:axis], ZERO, *index[axis:]]
        if step.target is aten.expand.default:
            return broadcast(index, shape)
        if step.target is aten.select.int:
            axis = given["dim"] % rank
            return [*index[:axis], Term(self._start(given["index"], shape[axis])), *index[axis:]]
        if step.target is aten.slice.Tensor:
            axis = given["dim"] % rank
            index[axis] = shifted(index[axis], self._start(given["start"] or 0, shape[axis]), given["step"])
            return index
        return self.indices.through_reshape(index, own, shape)

    def _piece(self, step: Step, split: Step, index: list[Term]) -> tuple[str, list[Term]]:
        axis = bound(split)["dim"] % len(index)
        start: Size = 0
        for piece in self.fakes[split.name][: step.args[1]]:
            start = start + piece.shape[axis]
        index[axis] = shifted(index[axis], self.indices.scalars.text(start), 1)
        return split.args[0].name, index

    def _start(self, start: Any, size: Size) -> str:
        """Where a slice begins."""
        if isinstance(start, Read):
            start = self.fakes[start.name]
        if isinstance(start, int) and start < 0:
            start = size + start
        if isinstance(start, int) and isinstance(size, int):
            return str(max(0, min(start, size)))
        return self.indices.scalars.text(start)
