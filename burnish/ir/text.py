"""Programs as text: one node a line, typed, with the user's source; repeated layers folded; plain diff works on it."""

from __future__ import annotations

import re
from typing import Any

import torch
from torch import fx

from burnish.ir.program import Program, origin

_DTYPES = {
    torch.float32: "f32",
    torch.float64: "f64",
    torch.float16: "f16",
    torch.bfloat16: "bf16",
    torch.int64: "i64",
    torch.int32: "i32",
    torch.int8: "i8",
    torch.uint8: "u8",
    torch.bool: "bool",
    torch.complex64: "c64",
}


def dtype_name(dtype: torch.dtype) -> str:
    """The short name of a dtype: f32, bf16, i64."""
    return _DTYPES.get(dtype, str(dtype).removeprefix("torch."))


def type_text(val: Any, symbols: dict[str, str]) -> str:
    """The type of a node's value: `f32[batch, sequence, 576]`."""
    if isinstance(val, torch.Tensor):
        sizes = ", ".join(_size(size, symbols) for size in val.shape)
        return f"{dtype_name(val.dtype)}[{sizes}]"
    if isinstance(val, tuple | list):
        return "(" + ", ".join(type_text(item, symbols) for item in val) + ")"
    if isinstance(val, torch.SymInt):
        return f"size {_size(val, symbols)}"
    return type(val).__name__


def _size(size: int | torch.SymInt, symbols: dict[str, str]) -> str:
    text = str(size)
    for symbol, name in symbols.items():
        text = re.sub(rf"\b{symbol}\b", name, text)
    return text


def target_text(node: fx.Node) -> str:
    """The op's name: `aten.linear`, `burnish.attention`; the overload is left out where it is `default`."""
    target = node.target
    if isinstance(target, torch._ops.OpOverload):
        return str(target).removesuffix(".default")
    return target if isinstance(target, str) else f"{getattr(target, '__name__', target)}"


def argument_text(argument: Any) -> str:
    """An argument as it prints: `%x`, `[%a, 1]`, `0.125`."""
    if isinstance(argument, fx.Node):
        return f"@{argument.target}" if argument.op == "get_attr" else f"%{argument.name}"
    if isinstance(argument, list | tuple):
        return "[" + ", ".join(argument_text(item) for item in argument) + "]"
    if isinstance(argument, torch.dtype):
        return dtype_name(argument)
    return repr(argument)


def node_text(node: fx.Node, symbols: dict[str, str]) -> str:
    """One node as one line."""
    kind = type_text(node.meta.get("val"), symbols)
    if node.op == "placeholder":
        return f"input %{node.name}: {kind}"
    if node.op == "output":
        return f"return {argument_text(node.args[0])}"
    arguments = [argument_text(argument) for argument in node.args]
    arguments += [f"{key}={argument_text(argument)}" for key, argument in node.kwargs.items()]
    line = f"%{node.name}: {kind} = {target_text(node)}({', '.join(arguments)})"
    place = str(origin(node))
    return f"{line}  # {place}" if place else line


def symbol_names(program: Program) -> dict[str, str]:
    """What the sizes' symbols are called in print."""
    return {program.batch: "batch", program.sequence: "sequence", **program.details.get("symbols", {})}


def program_text(program: Program) -> str:
    """The whole program, weights first."""
    symbols = symbol_names(program)
    lines = [f"# {program.stage.value}: {len(program.graph.nodes)} nodes, {len(program.weights)} weights"]
    for name, weight in program.weights.items():
        sizes = ", ".join(str(size) for size in weight.shape)
        lines.append(f"weight @{name}: {dtype_name(weight.dtype)}[{sizes}] {type(weight).__name__}")
    for state in program.states:
        sizes = ", ".join(str(size) for size in state.shape)
        lines.append(f"state %{state.name}: {state.kind.value} {dtype_name(state.dtype)}[{sizes}] axis {state.axis}")
    lines += [node_text(node, symbols) for node in program.graph.nodes if node.op != "get_attr"]
    return "\n".join(lines) + "\n"
