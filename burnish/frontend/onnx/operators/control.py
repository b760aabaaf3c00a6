"""Operators with bodies: branches and loops."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from burnish.frontend.onnx import numbers as n
from burnish.frontend.onnx.call import Call, Graph, Result, Table, Value
from burnish.frontend.onnx.numbers import Numbers

_MOST_STEPS = 4096  # of a loop, each of which is a copy of its body


def _as_tensor(value: Value) -> Tensor:
    return value.tensor() if isinstance(value, Numbers) else value


def _if(c: Call) -> Result:
    """The branch that is taken; where that depends on data, both, of which the elements of one are chosen."""
    condition = c.value(0)
    if isinstance(condition, Tensor) and not c.exporting:
        condition = n.of_scalar(bool(condition.reshape(())), torch.bool)
    if isinstance(condition, Numbers):
        if condition.array.size != 1:
            raise c.invalid(f"its condition has {condition.array.size} elements, and one is expected")
        return list(c.run(c.graph("then_branch" if bool(condition.list[0]) else "else_branch"), ()))
    then, other = c.run(c.graph("then_branch"), ()), c.run(c.graph("else_branch"), ())
    found: list[Value | None] = []
    for a, b in zip(map(_as_tensor, then), map(_as_tensor, other), strict=True):
        if (
            a.dtype is not b.dtype
            or a.dim() != b.dim()
            or any(n.equal(*pair) is not True for pair in zip(a.shape, b.shape, strict=True))
        ):
            raise c.unsupported(
                f"its condition depends on data, and its branches give {_kind(a)} and {_kind(b)}: a graph whose "
                "shapes are known before it runs has one shape for both"
            )
        found.append(torch.where(condition.reshape(()), a, b))
    return found


def _kind(x: Tensor) -> str:
    return f"{str(x.dtype).removeprefix('torch.')}{list(x.shape)}"


def _steps(c: Call) -> int | None:
    """How often a loop runs at most."""
    if not c.has(0):
        return None
    steps = c.scalar(0, "how often it runs")
    return _count(c, steps)


def _count(c: Call, steps: Any) -> int:
    if isinstance(steps, torch.SymInt):
        raise c.unsupported(f"how often it runs is the size {steps} of an axis: fix that axis, as each step is a copy")
    if steps > _MOST_STEPS and c.exporting:
        raise c.unsupported(f"it runs {steps} times, and each is a copy of its body: at most {_MOST_STEPS} are")
    return int(steps)


def _goes_on(c: Call, condition: Value | None) -> bool:
    if condition is None:
        return True
    if isinstance(condition, Numbers):
        return bool(condition.list[0])
    if c.exporting:
        raise c.unsupported("whether it goes on depends on data")
    return bool(condition.reshape(()))


def _loop(c: Call) -> Result:
    body = c.graph("body")
    most = _steps(c)
    condition: Value | None = c.operands[1] if c.has(1) else None
    carried: list[Value] = [value for value in c.operands[2:] if value is not None]
    if len(body.inputs) != 2 + len(carried) or len(body.outputs) < 1 + len(carried):
        raise c.invalid(f"its body has {len(body.inputs)} inputs and {len(body.outputs)} outputs for {len(carried)}")
    if most is None and condition is None:
        raise c.invalid("it never ends")
    scanned: list[list[Tensor]] = [[] for _ in body.outputs[1 + len(carried) :]]
    step = 0
    while (most is None or step < most) and _goes_on(c, condition):
        before = condition if condition is not None else n.of_scalar(True, torch.bool)
        condition, *results = c.run(body, (n.of_scalar(step), before, *carried))
        carried = results[: len(carried)]
        for list_, value in zip(scanned, results[len(carried) :], strict=True):
            list_.append(_as_tensor(value))
        step += 1
        if step > 10 * _MOST_STEPS:
            raise c.unsupported(f"it runs more than {10 * _MOST_STEPS} times")
    return [*carried, *(_stacked(c, list_) for list_ in scanned)]


def _stacked(c: Call, parts: list[Tensor], axis: int = 0) -> Tensor:
    if not parts:
        raise c.unsupported("it runs no time, and what it would have collected has no shape")
    return torch.stack(parts, dim=axis)


def _directions(c: Call, name: str, count: int) -> list[int]:
    found = c.integers(name) or []
    return found + [0] * (count - len(found))


def _scan(c: Call) -> Result:
    body = c.graph("body")
    if c.version < 9:
        return _scan_of_rows(c, body)
    return _scanned(c, body, c.tensors())


def _scanned(c: Call, body: Graph, operands: list[Tensor]) -> list[Value | None]:
    count = c.integer("num_scan_inputs", 0)
    states: list[Value] = list(operands[: len(operands) - count])
    sources = operands[len(operands) - count :]
    if count < 1 or not sources:
        raise c.invalid(f"it reads {count} tensors step by step")
    prefix = "scan_input_" if c.version >= 9 else ""
    directions = _directions(c, f"{prefix}directions", count)
    axes = _directions(c, "scan_input_axes", count)
    steps = _count(c, sources[0].shape[axes[0]])
    outputs = len(body.outputs) - len(states)
    scanned: list[list[Tensor]] = [[] for _ in range(outputs)]
    for step in range(steps):
        taken = [
            source.select(axis, steps - 1 - step if backwards else step)
            for source, axis, backwards in zip(sources, axes, directions, strict=True)
        ]
        results = c.run(body, (*states, *taken))
        states = results[: len(states)]
        for list_, value in zip(scanned, results[len(states) :], strict=True):
            list_.append(_as_tensor(value))
    backwards = _directions(c, "scan_output_directions", outputs)
    places = _directions(c, "scan_output_axes", outputs)
    found = [
        _stacked(c, list_[::-1] if turned else list_, axis)
        for list_, turned, axis in zip(scanned, backwards, places, strict=True)
    ]
    return [*states, *found]


def _scan_of_rows(c: Call, body: Graph) -> list[Value | None]:
    """Before version 9: for each row of a batch by itself, after an operand with the lengths of the rows."""
    if c.has(0):
        raise c.unsupported("its rows have lengths of their own")
    operands = [c.tensor(index) for index in range(1, len(c.operands))]
    rows = _count(c, operands[0].shape[0])
    results = [_scanned(c, body, [each[row] for each in operands]) for row in range(rows)]
    return [torch.stack([_as_tensor(v) for v in values if v is not None]) for values in zip(*results, strict=True)]


TABLE: Table = {"If": _if, "Loop": _loop, "Scan": _scan}
