"""PyTorch modules and exported programs as `Program`s: `torch.export`, with symbolic batch and sequence sizes."""

from __future__ import annotations

import builtins
import io
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, redirect_stderr
from typing import Any
from unittest import mock

import torch
from torch import nn
from torch.export import Dim, ExportedProgram
from torch.nn.modules import transformer

from burnish.frontend import exported as export_format
from burnish.frontend.alike_layers import AlikeLayers
from burnish.frontend.calling import Call
from burnish.frontend.capture_errors import Constant, caught, constants_made, first_line, untraceable
from burnish.frontend.copied_layers import NotACopy, write_layers
from burnish.frontend.functional import NeedsTracing, functional
from burnish.frontend.limits import (
    check_every_length,
    check_length,
    declared_limit,
    position_limit,
    range_floor,
    range_limit,
    sizes_of_other_branches,
    token_limit,
)
from burnish.frontend.short_texts import check_short_texts
from burnish.frontend.source_lines import Noted, noted_lines
from burnish.ir.dtypes import name_of
from burnish.ir.errors import CaptureError, InvalidModelError, UsageError
from burnish.ir.program import Program
from burnish.ir.signature import Signature
from burnish.ir.weights import Cast, Stored, Weight

_log = logging.getLogger(__name__)

DEFAULT_MAX_LENGTH = 2048
_EXAMPLE_BATCH, _EXAMPLE_SEQUENCE = 3, 17  # odd, and longer than the windows of tiny models
_PREFIX = "module."  # of everything inside `_LanguageModel`
_HALF = (torch.bfloat16, torch.float16)


def capture(
    module: nn.Module,
    *,
    max_length: int | None = None,
    call: Call = lambda module, tokens: module(tokens),
    weights: Mapping[str, Weight] | None = None,
    limit: int | None = None,
) -> Program:
    """`module` as a program over the values that it has now.

    Args:
        module: its forward maps token ids int64[batch, sequence] to logits [batch, sequence, vocabulary], given as a
            tensor, as an object or dict with `logits`, or first in a tuple. Traced in evaluation mode; what is
            float16 or bfloat16 is traced in float32.
        max_length: the most tokens that the program must take; the module's own limit if None.
        call: how the module is called with the ids.
        weights: what to read instead of parameters and buffers of these names (which then need no values).
        limit: the module's own limit, where it is not what its configuration says.

    Raises:
        CaptureError: torch.export cannot trace the module with symbolic sizes.
        UsageError: the module's own limit is below `max_length`.
        InvalidModelError: the module does not map token ids to logits.
    """
    limit = limit or declared_limit(module)
    check_length(max_length, limit)
    length = max_length or limit
    for name, tensor in (*module.named_parameters(), *module.named_buffers()):
        export_format.check_device(name, tensor)
    with evaluating(module), _in_float32(module) as widened:
        model, given = _LanguageModel(module, call), {**widened, **(weights or {})}
        try:
            layers = AlikeLayers(model)
            with layers.tracing():
                exported = _export(model, length)
            copied = (model, layers) if layers.calls else None
            program, fewest, others = _from_exported(exported, max_length, given, _PREFIX, limit, copied)
        except (NotACopy, NeedsTracing, CaptureError) as reason:
            if not layers.calls:
                raise
            _log.info("every layer is traced by itself: %s", first_line(reason))
            exported = _export(model, length)
            program, fewest, others = _from_exported(exported, max_length, given, _PREFIX, limit)

    def eager(tokens: torch.Tensor) -> torch.Tensor:
        found = export_format.logits_of(call(module, tokens))
        assert isinstance(found, torch.Tensor)
        return found

    with evaluating(module):  # with others' weights, its own have no values
        check_short_texts(program, fewest, None if weights else eager, others)
    return program


def from_exported(
    exported: ExportedProgram,
    *,
    max_length: int | None = None,
    weights: Mapping[str, Weight] | None = None,
    prefix: str = "",
    limit: int | None = None,
) -> Program:
    """An exported program (tokens int64[batch, sequence] -> logits, both sizes symbolic) as a `Program`.

    `prefix` is taken off the names of weights and modules. `limit`: how many tokens the model says that it takes; the
    trace may show that it takes fewer. For the others and for errors see `capture`.
    """
    program, fewest, others = _from_exported(exported, max_length, weights, prefix, limit)
    check_short_texts(program, fewest, None, others)
    return program


def _from_exported(
    exported: ExportedProgram,
    max_length: int | None,
    weights: Mapping[str, Weight] | None,
    prefix: str,
    limit: int | None,
    layers: tuple[nn.Module, AlikeLayers] | None = None,
) -> tuple[Program, tuple[int, int], list[tuple[int, int]]]:
    """The program, the fewest rows and tokens that the trace is for, and some from there on that it is not for.

    `layers`: the module, and those of its layers that are not in the trace. Raises NotACopy or NeedsTracing where these
    cannot be written down.
    """
    guards: Sequence[str] = getattr(exported, "_guards_code", ())
    with quiet():
        exported, operations = functional(exported, again=layers is None)
    export_format.check_keeps_nothing(exported, prefix)
    if layers is not None:
        write_layers(operations, layers[1].calls, layers[0], exported)
    tokens = export_format.tokens_of(exported, operations)
    batch, sequence = export_format.size_symbols(tokens)
    logits = export_format.logits_node(exported, operations)
    graph, found = export_format.translate(exported, operations, {tokens: "tokens"}, [logits], weights or {}, prefix)
    traced = range_limit(exported, sequence)
    check_length(max_length, traced)
    length = max_length or min((each for each in (limit, traced) if each is not None), default=None)
    if limit is None:
        longest = position_limit(graph, found, length or DEFAULT_MAX_LENGTH)
        if length is None:
            _log.warning("the model states no limit on its length: compiled for %d tokens (see max_length)", longest)
        check_length(length, longest)
        length = longest
    assert length is not None
    try:
        check_every_length(graph, length)
    except CaptureError:
        # The very longest text may be a branch of its own: a table that is then used whole, not sliced.
        length -= 1
        check_every_length(graph, length)
        if max_length is not None:
            raise UsageError(
                f"max_length is {max_length}, but the trace does not hold for exactly that many: ask for {length}"
            ) from None
        _log.warning("compiled for %d tokens: the trace does not hold for %d", length, length + 1)
    vocabulary = int(logits.meta["val"].shape[-1])
    program = Program(
        graph=graph,
        weights=found,
        interface=Signature(vocabulary, length, token_limit(graph, vocabulary), name_of(logits.meta["val"].dtype)),
        batch=str(batch),
        sequence=str(sequence),
    )
    fewest = (range_floor(exported, batch), range_floor(exported, sequence))
    return program, fewest, sizes_of_other_branches(guards, fewest, length)


class _LanguageModel(nn.Module):
    """A module as a function from token ids to logits and nothing else."""

    def __init__(self, module: nn.Module, call: Call) -> None:
        super().__init__()
        self.module = module
        self.call = call
        self.noted = Noted()

    def forward(self, tokens: torch.Tensor) -> Any:
        with noted_lines(self.noted):
            return export_format.logits_of(self.call(self.module, tokens))


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """`module` in evaluation mode for a while. What its forward keeps of a trace, a mask say, goes with that."""
    before = [(child, dict(vars(child)), dict(child._buffers)) for child in module.modules()]
    try:
        module.eval()
        yield
    finally:
        for child, attributes, buffers in before:
            vars(child).clear()
            vars(child).update(attributes)
            child._buffers.clear()
            child._buffers.update(buffers)


@contextmanager
def _in_float32(module: nn.Module) -> Iterator[dict[str, Weight]]:
    """`module` with float32 in place of half-precision tensors for a while; the float32 ones have no values.

    Gives the values by name, as casts of the tensors that are there.
    """
    replaced: list[tuple[dict[str, Any], str, torch.Tensor]] = []
    wide: dict[int, torch.Tensor] = {}  # by the identity of the narrow tensor, so that tied ones stay tied
    casts: dict[int, Weight] = {}
    names: dict[str, Weight] = {}
    for path, child in module.named_modules():
        for tensors in (child._parameters, child._buffers):
            for name, tensor in tensors.items():
                if tensor is None or tensor.dtype not in _HALF:
                    continue
                if id(tensor) not in wide:
                    empty = torch.empty(tensor.shape, dtype=torch.float32)  # never touched, so it takes no memory
                    is_parameter = isinstance(tensor, nn.Parameter)
                    wide[id(tensor)] = nn.Parameter(empty, requires_grad=False) if is_parameter else empty
                    casts[id(tensor)] = Cast(Stored(tensor.detach()), torch.float32)
                replaced.append((tensors, name, tensor))
                names[f"{path}.{name}" if path else name] = casts[id(tensor)]
    if names:
        _log.info("%d half-precision weights are computed with in float32", len(names))
    try:
        for tensors, name, tensor in replaced:
            tensors[name] = wide[id(tensor)]
        yield names
    finally:
        for tensors, name, tensor in replaced:
            tensors[name] = tensor


# ---------------------------------------------------------------- export


def _export(model: _LanguageModel, max_length: int | None) -> ExportedProgram:
    """The first of three ways that keeps both sizes symbolic, from the strictest to the most lenient."""
    size = min(_EXAMPLE_SEQUENCE, max_length or _EXAMPLE_SEQUENCE)
    batch = _EXAMPLE_BATCH if size != _EXAMPLE_BATCH else _EXAMPLE_BATCH + 2  # equal sizes would become one symbol
    tokens = torch.zeros(batch, size, dtype=torch.int64)
    named = {"tokens": {0: Dim("batch"), 1: Dim("sequence", max=max_length)}}
    automatic = {"tokens": {0: Dim.AUTO, 1: Dim.AUTO}}
    attempts: list[tuple[str, dict[str, Any]]] = [
        ("named sizes", {"dynamic_shapes": named}),
        ("run-time checks", {"dynamic_shapes": named, "prefer_deferred_runtime_asserts_over_guards": True}),
        ("automatic sizes", {"dynamic_shapes": automatic}),
    ]
    failure: Exception | None = None
    constants: list[Constant] = []
    for name, options in attempts:
        try:
            lengths = _symbolic_lengths() if constants else nullcontext()
            with (
                quiet(),
                constants_made(_LanguageModel.forward.__code__) as constants,
                _plain_transformers(),
                lengths,
                torch.no_grad(),
            ):
                exported = torch.export.export(model, (tokens,), strict=False, **options)
            export_format.size_symbols(export_format.tokens_of(exported, exported.graph))
        except InvalidModelError:
            raise
        except Exception as error:  # whatever the module's own code may raise under tracing
            _log.info("capture with %s failed: %s", name, first_line(error))
            failure = error
        else:
            if model.noted.raised:
                raise caught(type(model.module).__name__, model.noted.raised[0])
            return exported
    assert failure is not None
    raise untraceable(type(model.module).__name__, failure, constants, (batch, size)) from failure


@contextmanager
def _symbolic_lengths() -> Iterator[None]:
    """`len(tensor)` is its first size for a while, also where that is symbolic: Python's own makes it a number."""

    def length(value: Any) -> Any:
        return value.shape[0] if isinstance(value, torch.Tensor) and value.dim() else plain(value)

    plain = builtins.len
    with mock.patch.object(builtins, "len", length):
        yield


@contextmanager
def _plain_transformers() -> Iterator[None]:
    """nn.TransformerEncoder and its kin without their shortcuts for a while: a kernel for all, a look at a mask.

    That look tells whether a mask is the causal one, which then need not be read: here it is read, and analysed.
    """
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with mock.patch.object(
            transformer, "_detect_is_causal_mask", lambda mask, is_causal=None, size=None: is_causal is True
        ):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)


@contextmanager
def quiet() -> Iterator[None]:
    """Without what torch prints that says nothing about the model: a deprecation, the graph up to a failure."""
    printed = io.StringIO()
    with warnings.catch_warnings(), redirect_stderr(printed):
        warnings.filterwarnings("ignore", message=r".*LeafSpec.*is deprecated", category=FutureWarning)
        try:
            yield
        finally:
            if printed.getvalue():
                _log.debug("printed during the export: %s", printed.getvalue())
