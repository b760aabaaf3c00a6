"""Programs as text that holds all of them but the weights' values: `burnish.ir.parse` reads it back.

    program incremental: vocabulary=49152, max_length=8192, token_limit=49152, logits_dtype=f32, outputs=[ids, logits]
    size batch: s52 from 2, example 3
    size capacity: s76 from 2, example 37
    weight @model.embed.weight: f32[49152, 576]
    state %key_0: cache f32[batch, 3, capacity, 64] axis 2
    input %tokens: i64[batch, sequence]
    input %key_0: f32[batch, 3, capacity, 64]  # model.layers.0.self_attn | LlamaAttention | llama.py:12 | k = ...
    %embed_weight: f32[49152, 576] = @model.embed.weight
    %embedding: f32[batch, sequence, 576] = aten.embedding(@model.embed.weight, %tokens)  # model.embed | Embedding
    return [%argmax, %linear_9, %cache_write]

A program that gives the logits alone does not name its outputs. One that is no language model's begins with what its
inputs and outputs are called: `program graph: inputs=["pixels"], outputs=["scores"]`. Sizes have the symbol that the
types' expressions are made of, its range and its value where one is needed to trace. Then the nodes in their order:
inputs, the nodes that read weights, the calls. Behind `#`: module, its type, the line of source, the code.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

import sympy
import torch
from torch import fx

from burnish.ir.origin import NOTHING, SEPARATOR, Origin
from burnish.ir.program import Program, Stage, origin
from burnish.ir.signature import Interface
from burnish.ir.text import (
    argument_text,
    call_text,
    dtype_name,
    heading,
    own_name,
    symbol_names,
    type_text,
    weight_name,
)
from burnish.ir.trace import NodeRecord


def full_text(program: Program) -> str:
    """The whole program, every node on its own line. It must be typed."""
    symbols = symbol_names(program)
    name = _names(program)
    lines = []
    for node in program.graph.nodes:
        if node.op != "output":
            what = call_text(node, name) if node.op == "call_function" else str(node.target)
            lines.append(node_line(node.op, node.name, type_text(node.meta.get("val"), symbols), what, origin(node)))
    return _assembled(declarations(program), lines)


def full_text_of(declared: str, nodes: Iterable[NodeRecord]) -> str:
    """The same from what the trace keeps of a program: its `declarations` and its nodes."""
    lines = []
    for node in nodes:
        if node.op != "output":
            file, _, number = node.source.rpartition(":")
            place = Origin(node.module, node.module_type, file, int(number or 0), node.code)
            what = node.call if node.op == "call_function" else node.target
            lines.append(node_line(node.op, node.name, node.type, what, place))
    return _assembled(declared, lines)


def declarations(program: Program) -> str:
    """All of the text but the nodes: interface, sizes, weights, states, and what is returned."""
    return "\n".join(
        [
            heading(program),
            f"program {program.stage.value}: {_interface(program)}",
            *_sizes(program),
            *(f"weight {weight_name(name)}: {_type(w.dtype, w.shape)}" for name, w in program.weights.items()),
            *(
                f"state %{state.name}: {state.kind.value} {_type(state.dtype, state.shape)} axis {state.axis}"
                for state in program.states
            ),
            f"return {argument_text(program.output.args[0], _names(program))}\n",
        ]
    )


def _interface(program: Program) -> str:
    if isinstance(program.interface, Interface):
        return f"inputs={json.dumps(program.interface.names)}, outputs={json.dumps(program.interface.outputs)}"
    signature = program.signature
    beside = "" if signature.outputs == ("logits",) else f", outputs=[{', '.join(signature.outputs)}]"
    return (
        f"vocabulary={signature.vocabulary}, max_length={signature.max_length}, token_limit={signature.token_limit}, "
        f"logits_dtype={dtype_name(signature.logits_dtype)}{_raised(program)}{beside}"
    )


def _raised(program: Program) -> str:
    """The raising passes behind a program that is not yet raised."""
    halfway = program.stage is Stage.CAPTURED and program.raised_by
    return f", raised_by={'+'.join(sorted(program.raised_by))}" if halfway else ""


def _assembled(declared: str, lines: Sequence[str]) -> str:
    """The declarations with the nodes ahead of their last line."""
    *first, last = declared.splitlines()
    return "\n".join([*first, *lines, last]) + "\n"


def _names(program: Program) -> Any:
    """What nodes are called in arguments. A second node that reads the same weight is called by its own name."""
    first: dict[str, fx.Node] = {}
    for node in program.graph.nodes:
        if node.op == "get_attr":
            first.setdefault(str(node.target), node)

    def name(node: fx.Node) -> str:
        return own_name(node) if first.get(str(node.target)) is node else f"%{node.name}"

    return name


def node_line(op: str, name: str, kind: str, what: str, place: Origin) -> str:
    """One node; `what`: the call, or the weight's name."""
    if op == "placeholder":
        line = f"input %{name}: {kind}"
    else:
        line = f"%{name}: {kind} = {weight_name(what) if op == 'get_attr' else what}"
    source = f"{place.file.replace(chr(92), '/').rsplit('/', 1)[-1]}:{place.line}" if place.file else ""
    fields = [*(_field(text, SEPARATOR) for text in (place.module, place.module_type, source)), _field(place.code)]
    while fields and fields[-1] == NOTHING:
        fields.pop()
    return f"{line}  # {SEPARATOR.join(fields)}" if fields else line


def _field(text: str, separator: str = "") -> str:
    """A field of a comment, in quotes where it could be misread."""
    if not text:
        return NOTHING
    plain = text.isprintable() and text == text.strip() and text != NOTHING and text[0] != '"'
    return text if plain and (not separator or separator.strip() not in text) else json.dumps(text)


def _type(dtype: torch.dtype, shape: Sequence[int | str]) -> str:
    return f"{dtype_name(dtype)}[{', '.join(map(str, shape))}]"


def _sizes(program: Program) -> list[str]:
    """A line for each symbol that types may have."""
    vals = (node.meta.get("val") for node in program.graph.nodes)
    val = next((val for val in vals if isinstance(val, torch._subclasses.FakeTensor)), None)
    environment = None if val is None else val.fake_mode.shape_env
    if environment is None:
        return []
    ranges = {str(symbol): (symbol, found) for symbol, found in environment.var_to_range.items()}
    lines = []
    for symbol, name in symbol_names(program).items():
        if symbol not in ranges:
            continue
        key, limits = ranges[symbol]
        upper = f" to {limits.upper}" if isinstance(limits.upper, sympy.Integer) else ""
        example = environment.backed_var_to_val.get(key)
        lines.append(f"size {name}: {symbol} from {limits.lower}{upper}, example {example}")
    return lines
