"""What was exported gives what the compiled model gives: compared before anybody has the file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from burnish.export.models import EXACT, session_settings
from burnish.ir.conditions import UnreadCondition, holds, number
from burnish.ir.errors import UsageError, VerificationError
from burnish.ir.past_present import (
    ATTENTION_MASK,
    BATCH_SIZE,
    FLAVOR,
    INPUT_IDS,
    LOGITS,
    PAST_LENGTH,
    POSITION,
    STATES,
)
from burnish.runtime.executor_native import NativeExecutor
from burnish.runtime.executor_onnx import create_session
from burnish.runtime.model import load
from burnish.runtime.processors import processors
from burnish.runtime.torch_memory import array_of

if TYPE_CHECKING:
    from burnish.runtime.compiled_module import CompiledModule
    from burnish.runtime.model import CompiledModel

_PIECES = (7, 1, 1, 4)  # tokens of each call
_MOST = 2e-2  # difference of logits, as a part of their spread: both round, in their own orders


class OnnxModel:
    """An exported language model in a session of plain ONNX Runtime: tokens in, logits out; it keeps the pasts."""

    def __init__(self, session: Any, rows: int) -> None:
        self.session = session
        self.takes = {each.name for each in session.get_inputs()}
        self.states = json.loads(self.session.get_modelmeta().custom_metadata_map[STATES])
        self.mask = np.zeros((rows, 0), np.int64)
        sizes = {BATCH_SIZE: rows, PAST_LENGTH: 0}
        self.pasts = {
            each["past"]: np.zeros([sizes.get(size, size) for size in each["shape"]], each["dtype"])
            for each in self.states
        }

    def __call__(self, ids: Any, mask: Any = None) -> Any:
        """Logits[B, S, V] of the next ids[B, S]. `mask`: 0 for padding."""
        count = np.full(len(ids), self.mask.shape[1])
        new = np.ones(ids.shape, np.int64) if mask is None else mask
        self.mask = np.concatenate([self.mask, new], axis=1)
        given = {INPUT_IDS: ids, ATTENTION_MASK: self.mask, POSITION: count, **self.pasts}
        outputs = [LOGITS, *(each["present"] for each in self.states)]
        logits, *presents = _run(self.session, outputs, given)
        self.pasts = {each["past"]: present for each, present in zip(self.states, presents, strict=True)}
        return logits


def _run(session: Any, outputs: list[str], inputs: Mapping[str, Any]) -> list[Any]:
    """These outputs, of those of the inputs that the session takes."""
    takes = {each.name for each in session.get_inputs()}
    try:
        found: list[Any] = session.run(outputs, {name: value for name, value in inputs.items() if name in takes})
    except Exception as error:  # ONNX Runtime's exceptions have no common base
        raise VerificationError(f"ONNX Runtime cannot run the exported model: {error}") from error
    return found


def verify_language_model(compiled: CompiledModel, file: Path) -> None:
    """Compare logits of random tokens, in pieces, and, where the model takes a mask, of two rows, one of them padded.

    Raises VerificationError where they differ.
    """
    signature = compiled.signature
    length = min(sum(_PIECES), signature.max_length)
    ids = np.random.default_rng(0).integers(0, signature.token_limit, (2, length))
    wanted = _exact_logits(compiled, torch.from_numpy(ids))
    session = create_session(file, processors(), session_settings(EXACT))
    in_one_row = session.get_modelmeta().custom_metadata_map[FLAVOR] == "ort"  # its attention takes pieces so alone
    rows = 1 if in_one_row else 2
    exported, found, at = OnnxModel(session, rows), [], 0
    for count in _PIECES:
        if at < length:
            found.append(exported(ids[:rows, at : at + count]))
            at += count
    _compare(np.concatenate(found, axis=1), wanted[:rows], "in pieces")
    if ATTENTION_MASK not in exported.takes or length < 6:
        return
    short = length - 4  # of the second row; the first has one token more than fits beside padding in front
    for where in ("in front", "behind"):
        exported, mask = OnnxModel(session, 2), np.ones((2, length - 1), np.int64)
        padding, text = (slice(0, 3), slice(3, None)) if where == "in front" else (slice(short, None), slice(0, short))
        row = ids[1, : length - 1].copy()
        row[text] = ids[1, :short]
        mask[1, padding] = 0
        first = exported(np.stack([ids[0, :-1], row]), mask)
        kept = first[1, text]
        second = exported(np.stack([ids[0, -1:], ids[1, short : short + 1]]))
        _compare(first[0], wanted[0, :-1], f"beside a row with padding {where}")
        _compare(kept, wanted[1, :short], f"with padding {where}")
        _compare(second[0], wanted[0, -1:], f"beside a row with padding {where}")
        _compare(second[1], wanted[1, short : short + 1], f"after padding {where}")


def _exact_logits(compiled: CompiledModel, ids: torch.Tensor) -> Any:
    """What no rounding of activations has changed, which layer after layer makes larger."""
    executor = compiled.executor
    if isinstance(executor, NativeExecutor):
        with executor.computing("exact"):
            return array_of(compiled(ids).float())
    if compiled.backend == "onnxruntime":  # which rounds what it multiplies with integers
        with load(compiled.artifact.path, "reference") as exact:
            return array_of(exact(ids).float())
    return array_of(compiled(ids).float())


def verify_graph(compiled: CompiledModule, file: Path) -> None:
    """Compare the outputs for random inputs. Raises VerificationError where they differ."""
    graph = compiled.artifact.manifest.graph
    assert graph is not None
    sizes = _sizes(graph.sizes, graph.conditions)
    generator = torch.Generator().manual_seed(0)
    inputs: dict[str, torch.Tensor] = {}
    for each in graph.inputs:
        shape = [axis if isinstance(axis, int) else number(axis, sizes) for axis in each.axes]
        dtype = getattr(torch, each.dtype)
        random = torch.rand(shape, generator=generator)
        inputs[each.called] = (random > 0.5).to(dtype) if not dtype.is_floating_point else random.to(dtype)
    wanted = compiled.run(inputs)
    session: Any = create_session(file, processors())
    found = _run(session, list(wanted), {name: array_of(each) for name, each in inputs.items()})
    for (name, tensor), array in zip(wanted.items(), found, strict=True):
        _compare(np.asarray(array), array_of(tensor), f"of {name}")


def _sizes(limits: Mapping[str, tuple[int, int | None]], conditions: list[str]) -> dict[str, int]:
    """Sizes that a graph may have: the first of small ones that all conditions hold of."""
    names = list(limits)
    choices = [
        [size for size in (3, 5, 8, 16, 32, 64, 2, 1, low) if low <= size <= (high or size)]
        for low, high in limits.values()
    ]
    for start in range(max(map(len, choices), default=1)):
        sizes = {name: choice[start % len(choice)] for name, choice in zip(names, choices, strict=True)}
        try:
            if all(holds(condition, sizes) for condition in conditions):
                return sizes
        except UnreadCondition:
            break
    raise UsageError("there are no sizes at which the graph could be tried: export it with verify=False")


def _compare(found: Any, wanted: Any, how: str) -> None:
    if found.shape != wanted.shape:
        raise VerificationError(f"the exported model gives {found.shape} {how}, and {wanted.shape} was expected")
    if not wanted.size:
        return
    if wanted.dtype.kind not in "fc":
        if not np.array_equal(found, wanted):
            raise VerificationError(f"the exported model gives other numbers {how}")
        return
    spread = float(np.std(wanted.astype(np.float64))) or 1.0
    apart = float(np.abs(found.astype(np.float64) - wanted).max()) / spread
    if not apart <= _MOST:
        raise VerificationError(f"the exported model differs {how} by {apart:.2g} of the spread of what it should give")
