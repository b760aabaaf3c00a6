"""Inputs to try an ONNX model with, where its user gives none."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from burnish.frontend.onnx.module import OnnxModule, TensorSpec
from burnish.ir.errors import BurnishError, UsageError

_BATCH = ("batch", "batch_size", "n", "bs", "b")
_ROWS = 2
_SIZES = (96, 288, 672, 24, 7)  # of open axes: pictures, sounds, ids
"""Large ones first: small ones are special cases; and such as files do not have, which would be one size in a trace."""


def examples_for(module: OnnxModule) -> Iterator[dict[str, Tensor]]:
    """Inputs by argument that the model takes: normal numbers, and ones where there are integers.

    An axis that the file leaves open is 2 rows, where its name or place says so, or one of a few sizes. Raises
    UsageError where none works.
    """
    failure: BurnishError | None = None
    worked = False
    for sizes in _attempts(module):
        found = {spec.argument: _values(spec, sizes) for spec in module.inputs}
        try:
            with torch.no_grad():
                module(**found)
        except BurnishError as error:
            failure = failure or error
            continue
        worked = True
        yield found
    if worked:
        return
    raise UsageError(
        f"no sizes were found that the model takes ({'; '.join(map(str, module.inputs))}): give example_inputs=, a "
        f"dict of tensors by name. At first: {failure}"
    ) from failure


def _attempts(module: OnnxModule) -> Iterator[dict[tuple[str, int], int]]:
    """Sizes of the open axes by argument and axis; axes of one name have one size."""
    for size in _SIZES:
        for beside in (size, _ROWS):  # of inputs behind the first: as large, or states of the rows
            named: dict[str, int] = {}
            found: dict[tuple[str, int], int] = {}
            for place, spec in enumerate(module.inputs):
                for axis, name in enumerate(spec.shape or ()):
                    if isinstance(name, int):
                        continue
                    rows = (name or "").lower() in _BATCH or (axis == 0 and len(spec.shape or ()) > 1)
                    step = min(size, 32) * len(named)  # different sizes: equal ones could be one size for a trace
                    chosen = _ROWS if rows else size + step if not place or name else beside
                    found[spec.argument, axis] = named.setdefault(name, chosen) if name else chosen
            yield found
            if not found:
                return


def _values(spec: TensorSpec, sizes: dict[tuple[str, int], int]) -> Tensor:
    if spec.shape is None:
        raise UsageError(f"the file does not say how many axes the input {spec.name!r} has: give example_inputs=")
    shape = [each if isinstance(each, int) else sizes[spec.argument, axis] for axis, each in enumerate(spec.shape)]
    if spec.dtype.is_floating_point:
        return torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(spec.dtype)
    return torch.ones(shape, dtype=spec.dtype)
