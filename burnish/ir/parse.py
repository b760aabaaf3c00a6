"""The text of a program, read back: what `burnish.ir.full_text` writes, by hand or changed by hand just as well.

A text is data, from anywhere: it may call the ops of the language and nothing else, as a stored graph
(`burnish.ir.serialize`), and the assertions that export adds. Types are worked out anew from the inputs' and weights',
with symbols for sizes, so that passes can run on the program; what a line says about its type has to agree.
"""

from __future__ import annotations

import json
import operator
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import fx

from burnish.ir.dtypes import name_of
from burnish.ir.errors import InvalidProgramError, ParseError
from burnish.ir.infer import infer
from burnish.ir.origin import Origin
from burnish.ir.parse_line import Reader
from burnish.ir.program import Program, Stage
from burnish.ir.serialize import PYTHON_FUNCTIONS, resolve
from burnish.ir.signature import Input, Interface, Signature
from burnish.ir.spec import RAISED_BY
from burnish.ir.states import BATCH, CAPACITY, State, StateKind
from burnish.ir.symbols import TypedGraph
from burnish.ir.text import dtype_name, type_text
from burnish.ir.weights import Stored, Weight

_PROGRAM = re.compile(
    r"program (?P<stage>\w+): vocabulary=(?P<vocabulary>\d+), max_length=(?P<max_length>\d+), "
    r"token_limit=(?P<token_limit>\d+), logits_dtype=(?P<dtype>\w+)(?:, raised_by=(?P<raised_by>[\w+-]+))?"
    r"(?:, outputs=\[(?P<outputs>\w+(?:, \w+)*)\])?"
)
_GRAPH = re.compile(r"program graph: inputs=(?P<inputs>\[.*\]), outputs=(?P<outputs>\[.*\])$")
_SIZE = re.compile(
    r"size (?P<name>[A-Za-z_]\w*): (?P<symbol>[A-Za-z_]\w*) from (?P<lower>\d+)(?: to (?P<upper>\d+))?, "
    r"example (?P<example>\d+)$"
)
_FOLDED = re.compile(rf"# ({'|'.join(stage.value for stage in Stage)}): \d+ operations")


def parse_program(text: str, weights: Mapping[str, Weight] | Mapping[str, torch.Tensor]) -> Program:
    """The program that `text` is (as `full_text` writes it) over those of `weights` that it declares.

    Raises ParseError, with the line's number and what was expected there. A folded text is not enough.
    """
    parser = _Parser(weights)
    for reader in _lines(text):
        parser.line(reader)
    return parser.finished(text.count("\n") + 1)


def declared_weights(text: str) -> dict[str, tuple[tuple[int, ...], torch.dtype]]:
    """Shape and dtype of each weight that a text declares."""
    found: dict[str, tuple[tuple[int, ...], torch.dtype]] = {}
    for reader in _lines(text):
        if reader.text.startswith("weight "):
            name, dtype, shape = _weight_line(reader)
            found[name] = shape, dtype
    return found


def _lines(text: str) -> list[Reader]:
    """The lines that say something. Raises ParseError for a folded text."""
    lines = [Reader(line.removesuffix("\r"), number) for number, line in enumerate(text.split("\n"), start=1)]
    told = [line for line in lines if line.text.strip() and not line.text.startswith("#")]
    if _FOLDED.match(text) and told and not told[0].text.startswith("program "):
        raise ParseError(
            "this text has its repeated layers folded, which leaves out what a program needs: "
            "write it with --full (burnish inspect ARTIFACT --dump DIR --full)"
        )
    return told


def _weight_line(reader: Reader) -> tuple[str, torch.dtype, tuple[int, ...]]:
    reader.expect("weight ")
    name = reader.weight()
    reader.expect(": ")
    dtype, shape = reader.dtype(), reader.shape()
    reader.end()
    if not all(isinstance(size, int) for size in shape):
        raise reader.wrong(f"the sizes of the weight {name!r} have to be numbers")
    return name, dtype, tuple(map(int, shape))


class _Parser:
    """A program under construction, line by line."""

    def __init__(self, weights: Mapping[str, Any]) -> None:
        self.given = weights
        self.interface: Signature | Interface | None = None
        self.stage = Stage.CAPTURED
        self.raised_by: frozenset[str] = frozenset()
        self.made = TypedGraph()
        self.states: dict[str, State] = {}
        self.inputs: list[Input] = []
        self.nodes: dict[str, fx.Node] = {}
        self.reads: dict[str, fx.Node] = {}  # the first node that reads each weight
        self.results: list[fx.Node] | None = None

    def line(self, reader: Reader) -> None:
        """Read one line."""
        word = re.match(r"\w*", reader.text)
        assert word is not None
        if self.results is not None:
            raise reader.wrong("nothing can follow the line that begins with 'return'")
        if self.interface is None:
            self._program(reader)
        elif reader.text.startswith("%"):
            self._node(reader)
        else:
            read = {
                "size": self._size,
                "weight": self._weight,
                "state": self._state,
                "input": self._input,
                "return": self._output,
            }.get(word[0])
            if read is None:
                raise reader.error("a line that begins with size, weight, state, input, return or %")
            read(reader)

    def finished(self, last: int) -> Program:
        """The program."""
        if self.interface is None:
            raise ParseError(f"line {last}: the text ends, and has no line that begins with 'program'")
        if self.results is None:
            raise ParseError(f"line {last}: the text ends, and has no line that begins with 'return'")
        placeholders = {node.name for node in self.nodes.values() if node.op == "placeholder"}
        for name in self.states:
            if name not in placeholders:
                raise ParseError(f"the state %{name} has no line 'input %{name}: ...'")
        self.made.states = list(self.states.values())
        interface = replace(self.interface, inputs=tuple(self.inputs))
        if isinstance(interface, Interface) and len(interface.names) != len(interface.inputs):
            raise ParseError(f"{len(interface.inputs)} inputs, and names for {len(interface.names)}")
        program = self.made.program(*self.results, signature=interface, stage=self.stage)
        program.raised_by = self.raised_by
        return program

    # ------------------------------------------------------------ declarations

    def _program(self, reader: Reader) -> None:
        if reader.text.startswith(f"program {Stage.GRAPH.value}: "):
            self._graph(reader)
            return
        found = reader.match(
            _PROGRAM,
            "the line 'program STAGE: vocabulary=N, max_length=N, token_limit=N, logits_dtype=f32' ahead of all others",
        )
        reader.end()
        stages = {stage.value: stage for stage in Stage}
        if found["stage"] not in stages:
            raise reader.wrong(f"there is no stage {found['stage']!r}; there are {', '.join(stages)}")
        self.stage = stages[found["stage"]]
        self.raised_by = frozenset((found["raised_by"] or "").split("+")) - {""}
        if unknown := self.raised_by - RAISED_BY:
            raise reader.wrong(f"there is no raising pass {min(unknown)!r}; there are {', '.join(sorted(RAISED_BY))}")
        dtype = Reader(found["dtype"], reader.line).dtype()
        numbers = {name: reader.number(found[name]) for name in ("vocabulary", "max_length", "token_limit")}
        for name, number in numbers.items():
            if number < 1:
                raise reader.wrong(f"{name} has to be at least 1")
        try:
            outputs = tuple((found["outputs"] or "logits").split(", "))
            vocabulary, max_length, token_limit = numbers.values()
            self.interface = Signature(vocabulary, max_length, token_limit, name_of(dtype), outputs=outputs)
        except InvalidProgramError as error:
            raise reader.wrong(str(error)) from error

    def _graph(self, reader: Reader) -> None:
        expected = 'the line \'program graph: inputs=["x"], outputs=["y"]\' ahead of all others'
        found = reader.match(_GRAPH, expected)
        reader.end()
        try:
            names = [json.loads(found[which]) for which in ("inputs", "outputs")]
        except ValueError as error:
            raise reader.wrong(f"the names are no list of strings: {error}") from error
        if not all(isinstance(name, str) for each in names for name in each):
            raise reader.wrong("the names are no lists of strings")
        self.stage = Stage.GRAPH
        self.interface = Interface((), tuple(names[1]), tuple(names[0]))

    def _size(self, reader: Reader) -> None:
        found = reader.match(_SIZE, "a size, as in 'size batch: s52 from 2, example 3'")
        lower, example, name = reader.number(found["lower"]), reader.number(found["example"]), found["name"]
        upper = reader.number(found["upper"]) if found["upper"] else None
        if name in self.made.sizes:
            raise reader.wrong(f"there are two sizes named {name!r}")
        if example < max(lower, 2) or (upper is not None and example > upper):
            raise reader.wrong(f"the example {example} has to be at least 2 and within the range")
        self.made.size(name, example, lower, upper, found["symbol"])

    def _weight(self, reader: Reader) -> None:
        name, dtype, shape = _weight_line(reader)
        if name in self.made.weights:
            raise reader.wrong(f"there are two weights named {name!r}")
        if name not in self.given:
            raise reader.wrong(f"the weight {name!r} was not given")
        weight = self.given[name]
        if isinstance(weight, torch.Tensor):
            weight = Stored(weight)
        if (tuple(weight.shape), weight.dtype) != (shape, dtype):
            there = f"{dtype_name(weight.dtype)}{list(weight.shape)}"
            raise reader.wrong(f"the weight {name!r} should be {dtype_name(dtype)}{list(shape)} and is {there}")
        self.made.weights.add(name, weight)

    def _state(self, reader: Reader) -> None:
        reader.expect("state ")
        name = reader.node()
        reader.expect(": ")
        kinds = {kind.value: kind for kind in StateKind}
        kind = reader.match(re.compile(r"\w+ "), f"a kind of state ({', '.join(kinds)})")[0].strip()
        if kind not in kinds:
            raise reader.wrong(f"there is no kind of state {kind!r}; there are {', '.join(kinds)}")
        dtype, shape = reader.dtype(), reader.shape()
        axis = reader.number(reader.match(re.compile(r" axis (\d+)$"), "' axis ' and a number")[1])
        cache = kinds[kind] is StateKind.CACHE
        expected = (
            [BATCH, *shape[1:axis], CAPACITY if cache else shape[axis], *shape[axis + 1 :]]
            if 0 < axis < len(shape)
            else []
        )
        if shape != expected or sum(isinstance(size, str) for size in shape) != 1 + cache:
            raise reader.wrong(
                f"the state {name!r} needs the size batch first, capacity on the axis of a cache, and numbers else"
            )
        if name in self.states:
            raise reader.wrong(f"there are two states named {name!r}")
        self.states[name] = State(name, kinds[kind], tuple(shape), name_of(dtype), axis)

    # ------------------------------------------------------------ nodes

    def _input(self, reader: Reader) -> None:
        reader.expect("input ")
        name = reader.node()
        reader.expect(": ")
        dtype, shape = reader.dtype(), reader.shape()
        for size in shape:
            if isinstance(size, str) and size not in self.made.sizes:
                raise reader.wrong(f"there is no size {size!r}: it needs a line 'size {size}: ...' ahead of this one")
        place = reader.origin()
        try:
            node = self.made.input(name, shape, dtype)
        except RuntimeError as error:
            raise reader.wrong(f"%{name} cannot be {dtype_name(dtype)}{shape}: {error}") from error
        if name in self.states:
            state = self.states[name]
            if (state.dtype, list(state.shape)) != (dtype, shape):
                raise reader.wrong(f"the state %{name} is declared as another type")
            self.states[name] = replace(state, module=place.module)
        else:
            self.inputs.append(Input(name, tuple(shape), name_of(dtype)))
        self._add(reader, name, node, place)

    def _node(self, reader: Reader) -> None:
        name = reader.node()
        reader.expect(": ")
        kind = reader.kind()
        reader.expect(" = ")
        if reader.text.startswith("@", reader.place):
            weight = reader.weight()
            if weight not in self.made.weights:
                raise reader.wrong(f"there is no weight {weight!r}: it needs a line 'weight @{weight}: ...' ahead")
            node = self.made.read(weight, name)
            self.reads.setdefault(weight, node)
            self._add(reader, name, node, reader.origin())
        else:
            target, args, kwargs = reader.call(lambda read: self._read(reader, read))
            node = self.made.graph.create_node("call_function", _function(reader, target), args, kwargs, name=name)
            self._add(reader, name, node, reader.origin())
            if node.target is operator.pow:
                _check_power(reader, node)
            try:
                infer(node, self.made.mode)
            except InvalidProgramError as error:
                raise reader.wrong(str(error)) from error
        found = type_text(node.meta["val"], {str(size): name for name, size in self.made.sizes.items()})
        if found != kind:
            raise reader.wrong(f"%{name} is said to be {kind}, but is {found}")

    def _output(self, reader: Reader) -> None:
        reader.expect("return ")
        results = reader.argument(lambda read: self._read(reader, read))
        reader.end()
        if not isinstance(results, list) or not all(isinstance(result, fx.Node) for result in results):
            raise reader.wrong("what is returned has to be a list of nodes")
        assert self.interface is not None
        names = self.interface.outputs
        if len(results) != len(names) + len(self.states):
            raise reader.wrong(f"{len(results)} results for {', '.join(names)} and {len(self.states)} states")
        for name in () if self.stage is Stage.GRAPH else ("batch", "sequence"):
            if name not in self.made.sizes:
                raise reader.wrong(f"there is no line 'size {name}: ...'")
        self.results = results

    def _add(self, reader: Reader, name: str, node: fx.Node, place: Origin) -> None:
        if name in self.nodes:
            raise reader.wrong(f"there are two nodes named {name!r}")
        if node.name != name:
            raise reader.wrong(f"{name!r} cannot be the name of a node")
        node.meta["origin"] = place
        self.nodes[name] = node

    def _read(self, reader: Reader, name: str) -> fx.Node:
        found = self.reads.get(name[1:]) if name[0] == "@" else self.nodes.get(name[1:])
        if found is None:
            what = "a line '%x: ... = {}'" if name[0] == "@" else "a line '{}: ...'"
            raise reader.wrong(f"{name} is read, and {what.format(name)} does not come before")
        return found


def _function(reader: Reader, target: str) -> Any:
    """The op or function that a call names."""
    if target in PYTHON_FUNCTIONS:
        return PYTHON_FUNCTIONS[target]
    found = resolve(target if target.count(".") > 1 else f"{target}.default")
    if isinstance(found, str):
        raise reader.wrong(f"{target!r} cannot be called: {found}")
    return found


def _check_power(reader: Reader, node: fx.Node) -> None:
    """A power of whole numbers is worked out at once: one that no size can have would take forever."""
    if len(node.args) != 2:
        raise reader.wrong("pow has two arguments")
    base, exponent = (argument.meta["val"] if isinstance(argument, fx.Node) else argument for argument in node.args)
    known = base.node.hint if isinstance(base, torch.SymInt) else base
    if not isinstance(exponent, int | float) or abs(exponent) > 64 or (isinstance(known, int) and abs(known) >= 2**63):
        raise reader.wrong(f"{base} to the power of {exponent} is not worked out: only to powers from -64 to 64")
