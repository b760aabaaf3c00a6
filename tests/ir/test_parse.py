"""Programs as text and back: the same text, the same numbers, the same passes; and what a wrong text is told."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from burnish.frontend import read
from burnish.ir.errors import BurnishError, ParseError
from burnish.ir.full_text import declarations, full_text, full_text_of
from burnish.ir.origin import Origin
from burnish.ir.parse import parse_program
from burnish.ir.parse_line import Reader
from burnish.ir.program import Program, Stage
from burnish.ir.records import node_records
from burnish.ir.text import argument_text, program_text
from burnish.ir.trace import Trace
from burnish.ir.weights import Stored, Weights
from burnish.passes.pipeline import run_passes
from burnish.passes.pipelines import default_passes
from burnish.passes.verify import logits_of, random_tokens
from tests import captures
from tests.zoo.configs import build

SMALL = """\
# captured: 2 operations, 1 weights, 0 states
program captured: vocabulary=5, max_length=16, token_limit=5, logits_dtype=f32
size batch: s52 from 2, example 3
size sequence: s27 from 2 to 16, example 7
weight @table.weight: f32[5, 4]
input %tokens: i64[batch, sequence]
%table_weight: f32[5, 4] = @table.weight
%embedding: f32[batch, sequence, 4] = aten.embedding(@table.weight, %tokens)  # table | Embedding | model.py:12 | x | y
%linear: f32[batch, sequence, 5] = aten.linear(%embedding, @table.weight)  # - | - | <string>:3
return [%linear]
"""
WEIGHTS = {"table.weight": torch.arange(20, dtype=torch.float32).view(5, 4)}


def small() -> Program:
    return parse_program(SMALL, WEIGHTS)


def without_sizes(text: str) -> list[str]:
    return [line for line in text.splitlines() if not line.startswith("size ")]


# ---------------------------------------------------------------- round trips


@pytest.mark.slow("a model is read back and run after each pass")
@pytest.mark.parametrize("model_type", ["gemma2", "gpt_oss", "roberta", "bloom"])
def test_every_stage_of_a_model_comes_back(model_type: str) -> None:
    passes = default_passes()
    with captures.anew():
        programs = [read(build(model_type)).program]
    trace = Trace()
    for each in passes:
        programs.append(run_passes(programs[-1], [each], trace))
    texts = [full_text(program) for program in programs]
    tokens = random_tokens(programs[0], 2, 9)
    for number, (program, text, record) in enumerate(zip(programs, texts, trace.passes, strict=True)):
        if text in texts[:number]:  # the pass found nothing
            continue
        again = parse_program(text, program.weights)
        assert full_text(again) == text
        assert program_text(again) == program_text(program)
        assert (again.signature, again.states, again.stage) == (program.signature, program.states, program.stage)
        assert torch.equal(logits_of(again, tokens), logits_of(program, tokens))
        # Typing a convolution may narrow the range of a size, for all programs that share it: also after the record.
        assert without_sizes(full_text_of(record.declarations, record.nodes)) == without_sizes(text)
        if number in (0, 6):  # the remaining passes find what they found
            for each, expected in zip(passes[number:], texts[number + 1 :], strict=True):
                again = run_passes(again, [each], Trace())
                assert full_text(again) == expected


def test_a_text_written_by_hand_is_a_program() -> None:
    program = small()
    assert full_text(program) == SMALL
    assert program.stage is Stage.CAPTURED
    embedding, linear = (node for node in program.graph.nodes if node.op == "call_function")
    assert embedding.meta["origin"] == Origin("table", "Embedding", "model.py", 12, "x | y")
    assert linear.meta["origin"] == Origin("", "", "<string>", 3, "")
    tokens = torch.tensor([[0, 4]])
    table = WEIGHTS["table.weight"]
    assert torch.equal(logits_of(program, tokens), table[tokens] @ table.T)


def test_lines_of_other_systems_and_gaps_are_read() -> None:
    assert full_text(parse_program(SMALL.replace("\n", "\r\n\r\n"), WEIGHTS)) == SMALL


def test_two_nodes_that_read_one_weight_stay_two() -> None:
    text = SMALL.replace("%embedding:", "%again: f32[5, 4] = @table.weight\n%embedding:").replace(
        "(%embedding, @table.weight)", "(%embedding, %again)"
    )
    program = parse_program(text, WEIGHTS)
    assert full_text(program) == text
    assert [node.name for node in program.output.args[0][0].all_input_nodes] == ["embedding", "again"]  # type: ignore[index,union-attr]


def test_odd_names_of_weights_are_quoted() -> None:
    name = 'a "b", %c) # [1] é\n'
    program = small()
    weights = Weights({name: Stored(WEIGHTS["table.weight"])})
    for node in program.graph.nodes:
        if node.op == "get_attr":
            node.target = name
    text = full_text(replace(program, weights=weights))
    assert full_text(parse_program(text, weights)) == text


def test_the_records_of_a_program_have_its_text() -> None:
    program = small()
    assert full_text_of(declarations(program), node_records(program)) == SMALL


# ---------------------------------------------------------------- arguments and comments

constants = st.sampled_from(
    [
        *(torch.float32, torch.bfloat16, torch.bool, torch.int64, torch.int16, torch.float8_e4m3fn, torch.complex64),
        *(torch.device("cpu"), torch.strided, torch.contiguous_format, torch.preserve_format, torch.channels_last),
    ]
)
arguments = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | constants,
    lambda inner: st.lists(inner, max_size=4),
    max_leaves=12,
)


@settings(max_examples=300, deadline=None)
@given(arguments)
def test_any_argument_comes_back(argument: Any) -> None:
    reader = Reader(argument_text(argument), 1)
    found = reader.argument(lambda name: name)
    reader.end()
    assert repr(found) == repr(argument)


@settings(max_examples=100, deadline=None)
@given(st.lists(arguments, max_size=3), st.dictionaries(st.sampled_from(["alpha", "dim", "dtype"]), arguments))
def test_any_call_comes_back(args: list[Any], kwargs: dict[str, Any]) -> None:
    given_args = [*map(argument_text, args), *(f"{key}={argument_text(value)}" for key, value in kwargs.items())]
    reader = Reader(f"aten.add.Tensor({', '.join(given_args)})  # m", 1)
    target, found, named = reader.call(lambda name: name)
    assert (target, repr(found), repr(named)) == ("aten.add.Tensor", repr(tuple(args)), repr(kwargs))
    assert reader.origin() == Origin("m")


words = st.text(max_size=12) | st.sampled_from(["-", '"', " | ", "# x", "a\nb", "f(x)[1] | '#' %a"])


@settings(max_examples=100, deadline=None)
@given(words, words, words.filter(lambda file: "/" not in file and "\\" not in file), st.integers(0, 9999), words)
def test_any_origin_comes_back(module: str, kind: str, file: str, line: int, code: str) -> None:
    program = small()
    origin = Origin(module, kind, file, line if file else 0, code)
    program.output.args[0][0].meta["origin"] = origin  # type: ignore[index,union-attr]
    again = parse_program(full_text(program), WEIGHTS)
    assert again.output.args[0][0].meta["origin"] == origin  # type: ignore[index,union-attr]


# ---------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("program captured", "program finished", "line 2: there is no stage 'finished'"),
        ("vocabulary=5, ", "", "line 2, column 1: expected the line 'program STAGE"),
        ("from 2, example 3", "from 2", "line 3, column 1: expected a size, as in"),
        ("example 7", "example 17", "line 4: the example 17"),
        ("example 3", "example 1", "line 3: the example 1 has to be at least 2"),
        ("weight @table.weight: f32[5, 4]", "weight @table.weight: f32[5, batch]", "line 5: the sizes of the weight"),
        ("weight @table.weight: f32[5, 4]", "weight @table.weight: f16[5, 4]", "should be f16[5, 4] and is f32[5, 4]"),
        ("weight @table.weight:", "weight @other:", "line 5: the weight 'other' was not given"),
        ("weight @table.weight: f32[5, 4]\n", "", "there is no weight 'table.weight'"),
        ("i64[batch, sequence]\n", "i64[batch, rows]\n", "line 6: there is no size 'rows'"),
        ("input %tokens: i64", "input %tokens: i65", "line 6, column 16: expected a dtype, as in f32, found 'i65"),
        ("input %tokens", "output %tokens", "line 6, column 1: expected a line that begins with size, weight"),
        ("%tokens)", "%token)", "line 8: %token is read, and a line '%token: ...' does not come before"),
        ("%tokens)", "%tokens", "line 8, column 76: expected ', '"),
        ("%tokens)", "%tokens, 1x)", "line 8, column 78: expected an argument, found '1x)"),
        ("%tokens)", "%tokens, a=1, a=2)", "expected another name"),
        ("%tokens)", "%tokens, a=1, 2)", "expected an argument with its name"),
        ("%tokens)", "%tokens, open)", "expected an argument: a node, a number"),
        ("%tokens)", "%tokens, sparse=torch.load)", "expected an argument: a node, a number"),
        ("%tokens)", "%tokens, 'a)", "line 8, column 78: expected an argument, found \"'a)"),
        (
            "%embedding: f32[batch",
            "%embedding: f32[sequence",
            "said to be f32[sequence, sequence, 4], but is f32[batch",
        ),
        ("aten.linear(%embedding", "aten.linear(%tokens", "line 9: linear (aten.linear.default)"),
        ("%linear: ", "%embedding: ", "line 9: there are two nodes named 'embedding'"),
        ("%linear: ", "%1x: ", "line 9: '1x' cannot be the name of a node"),
        (" | x | y", " | x", ""),
        ("model.py:12", "model.py", "line 8: 'model.py' is no file with a line"),
        ("return [%linear]", "return %linear", "line 10: what is returned has to be a list of nodes"),
        ("return [%linear]", "return [%linear, %linear]", "line 10: 2 results for logits and 0 states"),
        ("return [%linear]\n", "", "line 10: the text ends, and has no line that begins with 'return'"),
        ("return [%linear]\n", "return [%linear]\nsize a: s1 from 2, example 3\n", "line 11: nothing can follow"),
        ("size sequence: s27", "size rows: s27", "there is no size 'sequence'"),
    ],
)
def test_what_is_wrong_is_said_with_its_line(old: str, new: str, said: str) -> None:
    assert old in SMALL
    text = SMALL.replace(old, new)
    if not said:
        parse_program(text, WEIGHTS)
        return
    with pytest.raises(ParseError) as raised:
        parse_program(text, WEIGHTS)
    assert said in str(raised.value)
    assert isinstance(raised.value, BurnishError)


@pytest.mark.parametrize(
    "target",
    [
        *("aten.add_.Tensor", "aten.from_file", "aten._print", "aten.add.out", "aten.nothing", "os.system", "eval"),
        *("aten.__class__.mro", "prims.add.default", "torch.load", "builtins.open", "aten.add.Tensor.schema"),
    ],
)
def test_only_ops_of_the_language_are_called(target: str) -> None:
    with pytest.raises(ParseError, match=r"line 9: .* cannot be called"):
        parse_program(SMALL.replace("aten.linear", target), WEIGHTS)


def test_a_folded_text_is_recognised() -> None:
    with pytest.raises(ParseError, match="write it with --full"):
        parse_program(program_text(small()), WEIGHTS)
    with pytest.raises(ParseError, match="line 1, column 1: expected the line 'program STAGE"):
        parse_program("something else\n", WEIGHTS)
    with pytest.raises(ParseError, match="no line that begins with 'program'"):
        parse_program("", WEIGHTS)


STEP = """\
program incremental: vocabulary=5, max_length=16, token_limit=5, logits_dtype=f32
size batch: s52 from 2, example 3
size sequence: s27 from 2 to 16, example 7
size capacity: s76 from 2, example 37
state %key: cache f32[batch, capacity, 4] axis 1
input %tokens: i64[batch, sequence]
input %position: i64[batch]
input %key: f32[batch, capacity, 4]  # layer | Layer
%add: f32[batch, capacity, 4] = aten.add.Tensor(%key, 1)
return [%add, %key]
"""


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("cache f32", "cash f32", "line 5: there is no kind of state 'cash'"),
        ("capacity, 4] axis 1", "capacity, 4] axis 2", "line 5: the state 'key' needs the size batch first"),
        ("capacity, 4] axis 1", "capacity, 4] axis 0", "line 5: the state 'key' needs the size batch first"),
        ("cache f32[batch, capacity", "ring f32[batch, capacity", "line 5: the state 'key' needs"),
        ("cache f32", "cache f16", "line 8: the state %key is declared as another type"),
        ("return [%add, %key]", "return [%add]", "line 10: 1 results for logits and 1 states"),
    ],
)
def test_wrong_states_are_refused(old: str, new: str, said: str) -> None:
    assert parse_program(STEP, {}).states[0].module == "layer"
    with pytest.raises(ParseError) as raised:
        parse_program(STEP.replace(old, new), {})
    assert said in str(raised.value)
