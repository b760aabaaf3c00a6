"""Programs as data: what is written comes back, and what is not in the language does not."""

from __future__ import annotations

import copy
import json
import operator
import subprocess
import sys
from typing import Any

import msgspec
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import fx

from burnish.ir.errors import ArtifactError, InvalidProgramError
from burnish.ir.interpreter import run
from burnish.ir.program import Program
from burnish.ir.serialize import program_from_data, program_to_data
from burnish.ir.signature import Input, Signature
from burnish.ir.states import StateKind
from burnish.ir.weights import Weights
from tests.runtime.tiny import VOCABULARY, tiny

SIGNATURE = Signature(5, 5, 5, inputs=(Input("x", ("batch", "sequence")),))


def through_json(program: Program) -> Program:
    data = json.loads(msgspec.json.encode(program_to_data(program)))
    return program_from_data(data, program.weights, program.signature, program.states)


def flat(argument: Any) -> Any:
    """An argument with its nodes by name and its sequences as lists, to compare graphs."""
    if isinstance(argument, fx.Node):
        return f"%{argument.name}"
    return [flat(item) for item in argument] if isinstance(argument, list | tuple) else argument


def listing(program: Program) -> list[Any]:
    return [
        (node.name, node.op, node.target, flat(node.args), {key: flat(value) for key, value in node.kwargs.items()})
        for node in program.graph.nodes
    ]


@pytest.mark.parametrize("kind", [StateKind.CACHE, StateKind.RING])
def test_round_trip_is_the_same_graph_and_gives_the_same_values(kind: StateKind) -> None:
    program = tiny(kind).program
    again = through_json(program)
    assert listing(again) == listing(program)
    assert (again.stage, again.batch, again.sequence) == (program.stage, program.batch, program.sequence)
    states = list(program.first_states(2, 16).values())
    inputs = [torch.randint(0, VOCABULARY, (2, 7)), torch.tensor([0, 3]), torch.arange(7), *states]
    for one, other in zip(run(program, inputs), run(again, inputs), strict=True):
        assert torch.equal(one, other)


def test_origins_stay_without_the_folders_of_the_machine() -> None:
    data = msgspec.json.encode(program_to_data(tiny().program)).decode()
    assert "layer.py:7" in data
    assert "/home/someone" not in data
    node = next(node for node in through_json(tiny().program).graph.nodes if node.op == "call_function")
    assert (node.meta["origin"].file, node.meta["origin"].line) == ("layer.py", 7)


def one_node(target: Any, *args: Any, **kwargs: Any) -> Program:
    """A program of one call; the string "x" among its arguments is its only input."""
    graph = fx.Graph()
    x = graph.placeholder("x")

    def resolve(argument: Any) -> Any:
        if isinstance(argument, list):
            return [resolve(item) for item in argument]
        return x if isinstance(argument, str) and argument == "x" else argument

    values = {key: resolve(value) for key, value in kwargs.items()}
    graph.output((graph.call_function(target, tuple(resolve(argument) for argument in args), values),))
    return Program(graph, Weights(), SIGNATURE)


finite = st.floats(allow_nan=False)
arguments = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | finite | st.text() | st.just("x"),
    lambda inner: st.lists(inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=50, deadline=None)
@given(arguments)
def test_any_argument_comes_back_of_the_same_type(argument: Any) -> None:
    program = one_node(operator.getitem, "x", argument)
    assert repr(listing(through_json(program))) == repr(listing(program))


@pytest.mark.parametrize(
    "constant",
    [torch.float32, torch.bfloat16, torch.bool, torch.device("cpu"), torch.strided, torch.contiguous_format],
)
def test_constants_come_back(constant: Any) -> None:
    program = one_node(torch.ops.aten.full.default, [2], 1.0, dtype=constant)
    assert listing(through_json(program)) == listing(program)


def test_nan_and_infinities_come_back() -> None:
    program = one_node(torch.ops.aten.where.ScalarOther, "x", [float("nan"), float("-inf")], float("inf"))
    assert repr(listing(through_json(program))) == repr(listing(program))


@pytest.mark.parametrize(
    "function",
    [
        operator.add,
        operator.sub,
        operator.mul,
        operator.floordiv,
        operator.mod,
        operator.neg,
        torch.sym_max,
        torch.sym_min,
    ],
)
def test_functions_of_sizes_come_back(function: Any) -> None:
    assert listing(through_json(one_node(function, "x", 2)))[1][2] is function


@pytest.mark.parametrize(
    "target",
    [
        "os.system",
        "builtins.eval",
        "operator.attrgetter",
        "torch.load",
        "aten.linear",
        "aten.linear.nothing",
        "aten.__class__.default",
        "aten.nothing.default",
        "aten.add_.Tensor",  # writes to its argument, which may be a weight
        "aten.from_file.default",  # opens a file
        "aten.save.default",  # known to torch.ops, and no tensor op
        "aten._print.default",
        "aten._reshape_alias.default",  # reads outside of its tensor
        "aten.as_strided.default",
        "aten._native_batch_norm_legit_no_training.default",  # of too few statistics, it reads what lies behind them
        "aten._sparse_csr_tensor_unsafe.default",
        "aten._sobol_engine_draw.default",  # takes the memory that a number says
        "prims.add.default",
        "burnish.nothing.default",
        "",
    ],
)
def test_what_may_not_be_called_is_refused_by_name(target: str) -> None:
    data = program_to_data(one_node(torch.ops.aten.relu.default, "x"))
    data["nodes"][1]["target"] = target
    with pytest.raises(ArtifactError, match=f"'relu_default' .* calls '{target}'"):
        program_from_data(data, Weights(), SIGNATURE)


def test_writing_refuses_what_reading_would() -> None:
    unbounded = torch.ops.aten._reshape_alias.default
    for target in (torch.ops.aten.add_.Tensor, torch.ops.aten.from_file.default, unbounded, print, torch.relu):
        with pytest.raises(InvalidProgramError, match="cannot hold"):
            program_to_data(one_node(target, "x", "x"))
    with pytest.raises(InvalidProgramError, match="object"):
        program_to_data(one_node(torch.ops.aten.relu.default, object()))


def malformed(change: str) -> dict[str, Any]:
    """The data of a program with one thing wrong."""
    data = copy.deepcopy(program_to_data(tiny().program))
    nodes = data["nodes"]
    first_call = next(node for node in nodes if node["op"] == "call")
    match change:
        case "later node":
            first_call["args"] = [{"node": nodes[-2]["name"]}]
        case "unknown kind":
            first_call["args"] = [{"pickle": "gASV"}]
        case "dtype that is none":
            first_call["args"] = [{"dtype": "load"}]
        case "dtype of quantized tensors":
            first_call["args"] = [{"dtype": "quint8"}]
        case "layout of sparse tensors":
            first_call["args"] = [{"layout": "sparse_coo"}]
        case "dtype that is a list":
            first_call["args"] = [{"dtype": ["float32"]}]
        case "node that is a list":
            first_call["args"] = [{"node": []}]
        case "two keys":
            first_call["args"] = [{"node": "tokens", "dtype": "float32"}]
        case "missing weight":
            next(node for node in nodes if node["op"] == "weight")["target"] = "gone"
        case "same name twice":
            first_call["name"] = "tokens"
        case "no output":
            nodes.pop()
        case "after the output":
            nodes.append(first_call | {"name": "another"})
        case "unknown key":
            first_call["code_object"] = "x"
        case "wrong type":
            first_call["args"] = "tokens"
        case "unknown stage":
            data["stage"] = "polished"
    return data


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ("later node", "no known kind"),
        ("unknown kind", "pickle"),
        ("dtype that is none", "load"),
        ("dtype of quantized tensors", "quint8"),
        ("layout of sparse tensors", "sparse_coo"),
        ("dtype that is a list", "no known kind"),
        ("node that is a list", "no known kind"),
        ("two keys", "no known kind"),
        ("missing weight", "'gone'"),
        ("same name twice", "two nodes named 'tokens'"),
        ("no output", "no output"),
        ("after the output", "'another' after its output"),
        ("unknown key", "code_object"),
        ("wrong type", "Expected `array`"),
        ("unknown stage", "polished"),
    ],
)
def test_malformed_data_is_refused(change: str, says: str) -> None:
    with pytest.raises(ArtifactError, match=says):
        program_from_data(malformed(change), tiny().program.weights, SIGNATURE)


def test_ops_of_every_lowered_program_are_known_without_a_compiler() -> None:
    """In a process that only loads artifacts, whatever they were made for."""
    ops = ("fused_linear", "fused_elementwise", "quantized_linear", "to_codes", "from_panels")
    code = f"from burnish.ir.serialize import resolve\nprint([resolve(f'burnish.{{name}}.default') for name in {ops}])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "no such op" not in done.stdout
