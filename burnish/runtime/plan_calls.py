"""What of a launch plan has no kernel: ops that PyTorch runs, on the same memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import torch

from burnish.ir.dtypes import BYTES
from burnish.ir.errors import ArtifactError
from burnish.ir.serialize import resolve_step
from burnish.ir.torch_types import torch_dtype
from burnish.runtime.plan import Call, TensorReference, evaluate
from burnish.runtime.plan_runner import Operands


def bound_call(step: Call, operands: Operands) -> Callable[[], None]:
    """An op on its operands, whose results go where the plan wants them."""
    op = resolve_step(step.op)
    if isinstance(op, str):
        raise ArtifactError(f"{step.node} in the launch plan calls {step.op!r}, which an artifact may not: {op}")
    arguments = [_decoded(each, operands) for each in step.arguments]
    options = {name: _decoded(each, operands) for name, each in step.options.items()}
    results = [operands.memory.to_torch(operands.tensor(each)) for each in step.results]
    if "device" in options:
        options["device"] = results[0].device

    def call() -> None:
        found = op(*arguments, **options)
        made = found if isinstance(found, (tuple, list)) else [found]
        for target, result in zip(results, made, strict=True):
            target.copy_(result)

    return call


def _decoded(value: Any, operands: Operands) -> Any:
    """An argument of an op from data."""
    if isinstance(value, list):
        return [_decoded(each, operands) for each in value]
    if not isinstance(value, dict):
        return value
    ((kind, content),) = value.items()
    if kind == "tensor":
        return operands.memory.to_torch(operands.tensor(msgspec.convert(content, TensorReference)))
    if kind == "float":
        return float(content)
    if kind == "size":
        return evaluate(content, operands.sizes)
    if kind == "dtype":
        if content not in BYTES:
            raise ArtifactError(f"the launch plan has the dtype {content!r}, which does not exist")
        return torch_dtype(content)
    if kind == "memory_format":
        return getattr(torch, content)
    raise ArtifactError(f"the launch plan has an argument of the kind {kind!r}, which does not exist")
