"""Modules that are no language models as `Program`s: any inputs, any outputs, the axes that are said to be dynamic."""

from __future__ import annotations

import builtins
import functools
import inspect
import keyword
import logging
import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.export import ExportedProgram
from torch.export.graph_signature import ConstantArgument, InputKind, OutputKind
from torch.utils import _pytree as pytree

from burnish.frontend import exported as export_format
from burnish.frontend.capture import evaluating, quiet
from burnish.frontend.capture_errors import first_line, why_untraced
from burnish.frontend.functional import functional
from burnish.frontend.source_lines import Noted, noted_lines
from burnish.ir.conditions import UnreadCondition, holds
from burnish.ir.dtypes import name_of
from burnish.ir.errors import BurnishError, CaptureError, InvalidModelError, UsageError
from burnish.ir.program import Program, Stage
from burnish.ir.signature import Input, Interface
from burnish.ir.text import size_text

_log = logging.getLogger(__name__)

_PREFIX = "module."
_NO_WORD = re.compile(r"\W")

Examples = Sequence[Any] | Mapping[str, Any]


class _Module(nn.Module):
    """A module whose trace knows the lines of its source."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module
        self.noted = Noted()
        # The parameters are the module's: torch.export calls inputs and sizes by them.
        self.forward = functools.wraps(module.forward)(functools.partial(self._run))

    def _run(self, *args: Any, **kwargs: Any) -> Any:
        with noted_lines(self.noted):
            return self.module(*args, **kwargs)


def capture_graph(
    module: nn.Module,
    examples: Examples,
    dynamic_shapes: Any = None,
    input_names: Sequence[str] | None = None,
    output_names: Sequence[str] | None = None,
) -> Program:
    """`module` as a program over the values that it has now.

    Args:
        module: traced in evaluation mode.
        examples: what it is called with: a tuple of arguments, or a dict of them by name.
        dynamic_shapes: as `torch.export.export` takes it: which axes of which inputs may have other sizes than those of
            the examples. None: none.
        input_names, output_names: what callers call the tensors that it takes and gives, in their order; if None, by
            its parameters, and by what it gives.

    Raises:
        CaptureError: torch.export cannot trace it with these axes dynamic.
        InvalidModelError: it gives other things than tensors.
        UsageError: it cannot be called with the examples.
    """
    args, kwargs = _apart(*arguments(examples))
    with evaluating(module), torch.no_grad():
        try:
            module(*args, **kwargs)
        except Exception as error:  # whatever the module's own code may raise
            raise UsageError(
                f"{type(module).__name__} cannot be called with example_inputs ({_told(args, kwargs)}): "
                f"{type(error).__name__}: {first_line(error)}"
            ) from error
        model, shapes = _Module(module), _shapes_of_call(dynamic_shapes, module, args, kwargs)
        try:
            with quiet():
                exported = torch.export.export(
                    model,
                    args,
                    kwargs,
                    dynamic_shapes=shapes,
                    strict=False,
                )
        except BurnishError:  # of an ONNX model, which names its node
            raise
        except Exception as error:
            raise CaptureError(
                f"{type(module).__name__} cannot be traced: {why_untraced(error)}\nA forward that branches on the "
                "values of tensors, or on a size that dynamic_shapes names, has to say that with tensor operations."
            ) from error
        if model.noted.raised:
            from burnish.frontend.capture_errors import caught

            raise caught(type(module).__name__, model.noted.raised[0])
    called = input_names or _names(module, args, kwargs)
    return graph_of(exported, prefix=_PREFIX, input_names=called, output_names=output_names)


def graph_of(
    exported: ExportedProgram,
    *,
    prefix: str = "",
    input_names: Sequence[str] | None = None,
    output_names: Sequence[str] | None = None,
) -> Program:
    """An exported program with any inputs and outputs as a `Program`.

    `input_names`, `output_names`: what callers call them, in their order; by their parameters, and places, if None.
    `prefix` is taken off the names of weights and modules. For errors see `capture_graph`.
    """
    with quiet():
        exported, operations = functional(exported)
    export_format.check_keeps_nothing(exported, prefix)
    signature = exported.graph_signature
    names = [
        spec.arg.name
        for spec in signature.input_specs
        if spec.kind is InputKind.USER_INPUT and not isinstance(spec.arg, ConstantArgument)
    ]
    # By their targets: a node is not called as a function of Python's is, `input`.
    by_name = {str(node.target): node for node in operations.nodes if node.op == "placeholder"}
    given = [by_name[name] for name in names]
    called = list(input_names) if input_names is not None else names
    for node, name in zip(given, called, strict=True):
        if not isinstance(node.meta.get("val"), Tensor):
            raise InvalidModelError(f"the input {name} is {type(node.meta.get('val')).__name__}: inputs are tensors")
    results, labels = _results(exported, operations, output_names)
    inputs = dict(zip(given, _identifiers(called), strict=True))
    graph, weights = export_format.translate(exported, operations, inputs, results, {}, prefix)
    symbols, ranges, examples = _sizes(exported, given, called)
    conditions = _conditions(exported, given, symbols, {symbols[symbol]: size for symbol, size in examples.items()})
    declared = tuple(
        Input(inputs[node], tuple(_axis(size, symbols) for size in node.meta["val"].shape), _dtype(node))
        for node in given
    )
    return Program(
        graph=graph,
        weights=weights,
        interface=Interface(declared, tuple(labels), tuple(called)),
        stage=Stage.GRAPH,
        details={"symbols": symbols, "ranges": ranges, "examples": examples, "conditions": conditions},
    )


def _axis(size: int | torch.SymInt, symbols: dict[str, str]) -> int | str:
    return size if isinstance(size, int) else size_text(size, symbols)


def _dtype(node: fx.Node) -> str:
    return name_of(node.meta["val"].dtype)


def arguments(examples: Examples) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Positional and named arguments of a call with these."""
    if isinstance(examples, Mapping):
        return (), {str(name): each for name, each in examples.items()}
    if isinstance(examples, Tensor):
        return (examples,), {}
    if not isinstance(examples, tuple | list):
        raise UsageError(
            f"example_inputs is a tuple of what the module is called with, or a dict of it by name, not "
            f"{type(examples).__name__}"
        )
    return tuple(examples), {}


def _apart(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The same arguments with no tensor twice: torch.export takes a tensor that is given for two inputs for one."""
    seen: set[int] = set()

    def apart(value: Any) -> Any:
        known = id(value) in seen
        seen.add(id(value))
        return value.clone() if known else value

    found: tuple[tuple[Any, ...], dict[str, Any]] = pytree.tree_map_only(Tensor, apart, (args, kwargs))
    return found


def _names(module: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[str]:
    """What the tensors of a call are called, in their order: "x", or "pair.0" of a tuple."""
    parameters = list(inspect.signature(module.forward).parameters.values())
    named = dict(zip((each.name for each in parameters), args, strict=False))
    if parameters and parameters[min(len(args), len(parameters)) - 1].kind is inspect.Parameter.VAR_POSITIONAL:
        *first, rest = parameters[: len(args)]
        named = {each.name: value for each, value in zip(first, args, strict=False)}
        named |= {f"{rest.name}_{place}": value for place, value in enumerate(args[len(first) :])}
    leaves, _ = pytree.tree_flatten_with_path({**named, **kwargs})
    return [_label(path) for path, value in leaves if isinstance(value, Tensor)]


def _told(args: Sequence[Any], kwargs: Mapping[str, Any]) -> str:
    def told(value: Any) -> str:
        return f"{name_of(value.dtype)}{list(value.shape)}" if isinstance(value, Tensor) else type(value).__name__

    return ", ".join([*map(told, args), *(f"{name}={told(value)}" for name, value in kwargs.items())])


def _shapes_of_call(dynamic: Any, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """`dynamic_shapes` for all arguments of a call, as torch.export wants them: None where nothing is said."""
    if not isinstance(dynamic, Mapping):
        return dynamic
    parameters = list(inspect.signature(module.forward).parameters)
    if unknown := [name for name in dynamic if name not in parameters]:
        raise UsageError(
            f"dynamic_shapes names {unknown[0]!r}, and the parameters of {type(module).__name__} are "
            f"{', '.join(parameters)}"
        )
    return {name: dynamic.get(name) for name in (*parameters[: len(args)], *kwargs)}


def _results(
    exported: ExportedProgram, operations: fx.Graph, names: Sequence[str] | None
) -> tuple[list[fx.Node], list[str]]:
    """The nodes of the outputs that are tensors, and their names."""
    specs = exported.graph_signature.output_specs
    values = [
        value
        for value, spec in zip(operations.output_node().args[0], specs, strict=True)  # type: ignore[arg-type]
        if spec.kind is OutputKind.USER_OUTPUT
    ]
    structure = exported.call_spec.out_spec
    assert structure is not None
    paths, _ = pytree.tree_flatten_with_path(pytree.tree_unflatten(list(range(len(values))), structure))
    labels = list(names) if names is not None else [_label(path) for path, _ in paths]
    found = [(value, label) for value, label in zip(values, labels, strict=True) if value is not None]
    for value, label in found:
        if not isinstance(value, fx.Node) or not isinstance(value.meta.get("val"), Tensor):
            raise InvalidModelError(f"the forward gives a number as {label}: what a program gives is tensors")
    if not found:
        raise InvalidModelError("the forward gives no tensor")
    if twice := [label for place, (_, label) in enumerate(found) if label in [each for _, each in found[:place]]]:
        raise InvalidModelError(f"the forward gives two tensors that would be called {twice[0]}: give them other names")
    return [value for value, _ in found], [label for _, label in found]


def _label(path: tuple[Any, ...]) -> str:
    """What stands at a path: "output" where it is all, "output_1" in a tuple, "hidden" in a dict, "hidden.0" in it."""
    parts = [str(getattr(key, "key", getattr(key, "idx", getattr(key, "name", key)))) for key in path]
    if not parts:
        return "output"
    name = ".".join(parts)
    return f"output_{name}" if parts[0].isdecimal() else name


def _identifiers(names: Sequence[str]) -> list[str]:
    """Different identifiers that are like these names."""
    found: list[str] = []
    for name in names:
        plain = re.sub(r"\W", "_", name)
        plain = plain if plain[:1].isalpha() else f"input_{plain}"
        while plain in found or plain in vars(builtins) or keyword.iskeyword(plain):
            plain += "_"
        found.append(plain)
    return found


Ranges = dict[str, tuple[int, int | None]]


def _sizes(
    exported: ExportedProgram, given: Sequence[fx.Node], called: Sequence[str]
) -> tuple[dict[str, str], Ranges, dict[str, int]]:
    """Names of the symbols of the inputs' sizes, which sizes these can be by name, and their examples by symbol."""
    symbols: dict[str, str] = {}
    ranges: Ranges = {}
    examples: dict[str, int] = {}
    for node, name in zip(given, called, strict=True):
        for axis, size in enumerate(node.meta["val"].shape):
            for symbol in sorted(size.node.expr.free_symbols, key=str) if isinstance(size, torch.SymInt) else ():
                if str(symbol) in symbols:
                    continue
                found = exported.range_constraints.get(symbol)
                least = int(found.lower) if found is not None and found.lower.is_Integer else 0
                most = int(found.upper) if found is not None and found.upper.is_Integer else None
                label = _axis_name(size.node.shape_env, symbol, f"{re.sub(_NO_WORD, '_', name)}_{axis}")
                symbols[str(symbol)] = label
                ranges[label] = least, most if most is None or most < 2**31 else None
                examples[str(symbol)] = int(size.node.shape_env.backed_var_to_val[symbol])
    return symbols, ranges, examples


def _axis_name(environment: Any, symbol: Any, otherwise: str) -> str:
    """What the user called an axis, as in Dim("batch"), or where it is."""
    sources = environment.var_to_sources.get(symbol, ())
    named = (environment.source_name_to_debug_name.get(source.name) for source in sources)
    return next((name for name in named if name and name.isidentifier() and not name.startswith("_")), otherwise)


def _conditions(
    exported: ExportedProgram, given: Sequence[fx.Node], symbols: Mapping[str, str], examples: Mapping[str, int]
) -> list[str]:
    """What the trace takes for granted of the sizes by name, beside their ranges: "(batch % 2) == 0".

    Raises CaptureError for what cannot be said so.
    """
    sizes = {
        f"L['{node.target}'].size()[{axis}]": size_text(size, symbols)
        for node in given
        for axis, size in enumerate(node.meta["val"].shape)
    }
    found = []
    for guard in getattr(exported, "_guards_code", ()):
        text = re.sub(r"L\['\w+'\]\.size\(\)\[\d+\]", lambda match: f"({sizes.get(match[0], match[0])})", guard)
        try:
            holds(text, examples)
        except UnreadCondition as error:
            raise CaptureError(
                f"the trace holds only where {guard}, which burnish cannot check before a run"
            ) from error
        one, equal, other = text.partition(" == ")
        if not (equal and one == other):
            found.append(text)
    return found
