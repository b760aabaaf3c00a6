"""Each stage has programs that keep its specification, and each clause one that breaks it and is told so."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import pytest
import torch
from torch import fx

import burnish
from burnish.ir.errors import InvalidProgramError, ParseError, UnsupportedError, UsageError
from burnish.ir.full_text import full_text
from burnish.ir.ops import burnish_ops
from burnish.ir.parse import parse_program
from burnish.ir.program import Program, Stage
from burnish.ir.signature import STEP_INPUTS, Signature
from burnish.ir.spec import CAPTURED, INCREMENTAL, RAISED, RAISED_BY, breaches, clauses_of
from burnish.ir.states import State, StateKind
from burnish.ir.symbols import TypedGraph
from burnish.ir.trace import Trace
from burnish.passes.base import Effect, Log, Pass
from burnish.passes.check import check_captured, check_clauses, check_stage
from burnish.passes.pipeline import run_passes
from burnish.passes.pipelines import lower_for_native, make_incremental, raise_operations
from burnish.targets.base import claim_lowered
from burnish.targets.cpu import CpuTarget
from burnish.targets.gpu import GpuTarget
from tests.ir.decoders import decoder
from tests.own_modules.causal import NanoGPT

aten = torch.ops.aten
VOCABULARY, WIDTH = 11, 8
SIGNATURE = Signature(VOCABULARY, 32, VOCABULARY)
STEP_SIGNATURE = Signature(VOCABULARY, 32, VOCABULARY, inputs=STEP_INPUTS)

Make = Callable[["Whole"], fx.Node]


class Whole(TypedGraph):
    """tokens[batch, sequence], x[batch, sequence, WIDTH], and weights to make values of."""

    def __init__(self) -> None:
        super().__init__()
        self.batch, self.tokens_a_row = self.size("batch", 3), self.size("sequence", 5)
        self.tokens = self.input("tokens", ["batch", "sequence"], torch.int64)
        self.table = self.weight("table", torch.randn(VOCABULARY, WIDTH))
        self.square = self.weight("square", torch.randn(WIDTH, WIDTH))
        self.bias = self.weight("bias", torch.randn(WIDTH))
        self.kernel = self.weight("kernel", torch.randn(WIDTH, WIDTH, 3))
        self.x = self.call(aten.embedding.default, self.table, self.tokens)

    def scores(self) -> fx.Node:
        """[batch, sequence, sequence]"""
        return self.call(aten.matmul.default, self.x, self.call(aten.transpose.int, self.x, 1, 2))

    def channels(self) -> fx.Node:
        """[batch, WIDTH, sequence]"""
        return self.call(aten.transpose.int, self.x, 1, 2)

    def rows(self) -> fx.Node:
        """[batch * sequence, WIDTH]"""
        return self.call(aten.reshape.default, self.x, [-1, WIDTH])

    def heads(self) -> fx.Node:
        """[batch, 1, sequence, WIDTH]"""
        return self.call(aten.unsqueeze.default, self.x, 1)

    def whole(self, result: fx.Node) -> Program:
        return self.program(result, signature=SIGNATURE)


@dataclass(frozen=True)
class Acts:
    """A pass of any name that does as it is told."""

    name: str
    act: Callable[[Program, Log], None] = field(default=lambda program, log: None)
    effect: ClassVar[Effect] = Effect.EXACT
    atomic: ClassVar[bool] = False

    def run(self, program: Program, log: Log) -> Program:
        self.act(program, log)
        return program


def complex_rotation(m: Whole) -> fx.Node:
    pairs = m.call(aten.reshape.default, m.x, [-1, WIDTH // 2, 2])
    numbers = m.call(aten.view_as_complex.default, pairs)
    turned = m.call(aten.view_as_real.default, m.call(aten.mul.Tensor, numbers, numbers))
    return m.call(aten.reshape.default, turned, [-1, WIDTH])


def softmax_by_hand(m: Whole) -> fx.Node:
    exponential = m.call(aten.exp.default, m.x)
    return m.call(aten.div.Tensor, exponential, m.call(aten.sum.dim_IntList, exponential, [-1], True))


def gated(m: Whole, other: fx.Node | None = None) -> fx.Node:
    gate = m.call(aten.linear.default, m.x, m.square)
    up = m.call(aten.linear.default, m.x, m.square, m.bias) if other is None else other
    return m.call(aten.mul.Tensor, m.call(aten.silu.default, gate), up)


def relu_squared(m: Whole) -> fx.Node:
    """relu(x) * tanh(x): both from one value, which is no gate."""
    return m.call(aten.mul.Tensor, m.call(aten.relu.default, m.x), m.call(aten.tanh.default, m.x))


def dropped(m: Whole) -> fx.Node:
    m.call(aten._assert_tensor_metadata.default, m.x, None, None, torch.float32)
    return m.x


BROKEN: Sequence[tuple[str, Make, str]] = (
    ("clean", dropped, "is an assertion of export, and is left"),
    ("clean", lambda m: m.call(aten.view.default, m.x, [-1]), "is ATen's second name for an op"),
    ("clean", lambda m: m.call(aten.square.default, m.x), "is ATen's second name for an op"),
    ("join-writes", lambda m: m.call(aten.copy.default, m.x, m.bias), "writes a copy of a value"),
    (
        "join-writes",
        lambda m: m.call(aten.slice_scatter.default, m.x, m.call(aten.slice.Tensor, m.x, 2, 0, 2), 2, 0, 2),
        "writes a part of a value, and is left without a reason",
    ),
    ("canonicalize", lambda m: m.call(aten.std.dim, m.x, [-1]), "is the root of a variance"),
    ("canonicalize", lambda m: m.call(aten.einsum.default, "bsk->bs", [m.x]), "is a product told by letters"),
    (
        "canonicalize",
        lambda m: m.call(aten.addmm.default, m.bias, m.rows(), m.square),
        "is a linear in another spelling",
    ),
    ("canonicalize", lambda m: m.call(aten.matmul.default, m.x, m.square), "is a linear in another spelling"),
    ("canonicalize", softmax_by_hand, "is a softmax written by hand"),
    (
        "raise-attention",
        lambda m: m.call(aten.softmax.int, m.scores(), -1),
        "weighs tokens by tokens, as attention does, and is left without a reason",
    ),
    (
        "raise-attention",
        lambda m: m.call(aten.scaled_dot_product_attention.default, *[m.heads()] * 3),
        "is an attention of ATen's, and is left without a reason",
    ),
    ("raise-norms", lambda m: m.call(aten.rms_norm.default, m.x, [WIDTH]), "is a norm of ATen's"),
    ("raise-rotary", complex_rotation, "turns complex numbers, as rotary embeddings do"),
    (
        "raise-activations",
        lambda m: m.call(aten.mul.Tensor, m.call(aten.sigmoid.default, m.x), m.x),
        "is a silu written by hand, and is left",
    ),
    ("raise-activations", gated, "is a gated activation, and is left"),
    (
        "raise-convolutions",
        lambda m: m.call(aten.conv1d.default, m.channels(), m.kernel, None, [1], [1]),
        "is a convolution over the tokens, and is left without a reason",
    ),
)


@pytest.mark.parametrize(("by", "make", "told"), BROKEN)
def test_what_a_raising_pass_leaves_is_told(by: str, make: Make, told: str) -> None:
    m = Whole()
    program = m.whole(make(m))
    with pytest.raises(InvalidProgramError, match=told) as raised:
        check_clauses(program, program, by, Log(), ended=True)
    assert f"after the pass {by}: " in str(raised.value)
    assert "report" in str(raised.value)
    check_clauses(program, program, by, Log(), ended=False)  # its fuel was used up
    check_clauses(program, program, "another", Log(), ended=True)


@pytest.mark.parametrize(("by", "make", "told"), BROKEN)
def test_what_a_pass_refuses_may_stay_where_it_can_refuse(by: str, make: Make, told: str) -> None:
    m = Whole()
    program = m.whole(make(m))
    log = Log()
    for node in program.graph.nodes:
        log.refuse(node, "because")
    (clause,) = {clause for _, clause in breaches(program, program.graph.nodes, RAISED)}
    if clause.refusable:
        check_clauses(program, program, by, log, ended=True)
    else:
        with pytest.raises(InvalidProgramError, match=told):
            check_clauses(program, program, by, log, ended=True)


@pytest.mark.parametrize(("by", "make", "told"), BROKEN[1:])
def test_no_pass_behind_brings_them_back(by: str, make: Make, told: str) -> None:
    m = Whole()
    before = m.whole(m.x)
    before.stage = Stage.RAISED
    after = Whole()
    made = after.whole(make(after))
    made.stage = Stage.RAISED
    with pytest.raises(InvalidProgramError, match=f"there are no new ones of these behind the pass {by}"):
        check_clauses(before, made, "mine", Log(), ended=True)
    check_clauses(made, made, "mine", Log(), ended=True)  # what was there has a reason


def test_every_clause_has_a_program_that_breaks_it() -> None:
    broken = set()
    for _, make, _ in BROKEN:
        m = Whole()
        program = m.whole(make(m))
        broken |= {id(clause) for _, clause in breaches(program, program.graph.nodes, RAISED)}
    assert broken == {id(clause) for clause in RAISED}


KEPT: Sequence[Make] = (
    lambda m: m.call(aten.softmax.int, m.x, -1),  # over elements, not tokens
    lambda m: m.call(aten.matmul.default, m.x, m.call(aten.transpose.int, m.x, 1, 2)),
    lambda m: m.call(aten.addmm.default, m.rows(), m.rows(), m.square),
    lambda m: m.call(aten.mul.Tensor, m.call(aten.silu.default, m.x), m.bias),  # repeated to its shape
    relu_squared,
    lambda m: m.call(aten.conv1d.default, m.channels(), m.call(aten.slice.Tensor, m.kernel, 2, 0, 1)),
)


@pytest.mark.parametrize("make", KEPT)
def test_what_only_looks_like_it_is_kept(make: Make) -> None:
    m = Whole()
    program = m.whole(make(m))
    assert not list(breaches(program, program.graph.nodes, RAISED))


# ---------------------------------------------------------------- captured


def test_a_captured_program_that_writes_is_refused() -> None:
    m = Whole()
    program = m.whole(m.call(aten.relu_.default, m.x))
    with pytest.raises(UnsupportedError, match=r"aten\.relu_\.default.* writes to its arguments"):
        check_captured(program)
    with pytest.raises(UnsupportedError, match="writes to its arguments"):
        run_passes(program, [], Trace())


def test_a_captured_program_that_calls_graphs_is_refused() -> None:
    m = Whole()
    node = m.graph.call_function(torch.ops.higher_order.cond, (True, None, None, []))
    node.meta["val"] = m.x.meta["val"]
    with pytest.raises(UnsupportedError, match="is a higher-order op, which calls graphs of its own"):
        check_captured(m.whole(node))


def test_a_captured_program_has_one_input() -> None:
    m = Whole()
    other = m.input("other", ["batch"], torch.int64)
    with pytest.raises(UnsupportedError, match="one input, the tokens, and this one has other, too"):
        check_captured(m.whole(m.call(aten.add.Tensor, m.x, m.call(aten.reshape.default, other, [-1, 1, 1]))))


def test_a_pass_that_makes_a_write_is_named() -> None:
    m = Whole()
    program = m.whole(m.x)

    def write(program: Program, log: Log) -> None:
        (embedding,) = [node for node in program.graph.nodes if node.op == "call_function"]
        with program.graph.inserting_after(embedding):
            written = program.graph.call_function(aten.relu_.default, (embedding,))
        written.meta["val"] = embedding.meta["val"]
        program.output.args = ((written,),)

    with pytest.raises(InvalidProgramError, match=r"after the pass mine: .* writes to its arguments"):
        run_passes(program, [Acts("mine", write)], Trace())


# ---------------------------------------------------------------- raised


@pytest.fixture(scope="module")
def captured() -> Program:
    return decoder()


def test_a_program_is_raised_when_the_last_pass_has_run(captured: Program) -> None:
    trace = Trace()
    step = run_passes(captured, make_incremental(), trace)
    stages = [record.stage for record in trace.passes]
    assert stages == ["captured"] * 8 + ["raised"] * 3 + ["incremental"]
    assert trace.stages() == "captured → raised (8) → incremental (11)"
    assert step.stage is Stage.INCREMENTAL
    assert trace.passes[8].text.startswith("# raised: ")
    assert {each.name for each in raise_operations()} == RAISED_BY


def test_a_program_without_one_of_them_is_not_raised(captured: Program) -> None:
    trace = Trace()
    chosen = [each for each in make_incremental() if each.name != "raise-rotary"]
    run_passes(captured, chosen, trace)
    assert trace.stages() == "captured → incremental (10)"


def test_the_order_does_not_matter_to_what_is_claimed(captured: Program) -> None:
    clean, *rest = raise_operations()
    assert run_passes(captured, [clean, *reversed(rest)], Trace()).stage is Stage.RAISED


def test_a_pass_without_fuel_for_all_of_its_rewrites_claims_nothing(captured: Program) -> None:
    trace = Trace()
    run_passes(captured, raise_operations(), trace)
    rewrites = sum(len(record.rewrites) for record in trace.passes)
    stopped = run_passes(captured, raise_operations(), Trace(), fuel=rewrites - 1)
    assert stopped.stage is Stage.CAPTURED
    assert stopped.raised_by < RAISED_BY


def test_raised_programs_leave_nothing_to_raise(captured: Program) -> None:
    raised = run_passes(captured, raise_operations(), Trace())
    trace = Trace()
    assert run_passes(raised, raise_operations(), trace).stage is Stage.RAISED
    assert [record.name for record in trace.passes if record.rewrites] == []


def test_texts_keep_what_was_raised(captured: Program) -> None:
    halfway = run_passes(captured, raise_operations()[:3], Trace())
    text = full_text(halfway)
    assert "raised_by=canonicalize+clean+join-writes" in text
    again = parse_program(text, halfway.weights)
    assert again.raised_by == halfway.raised_by
    assert run_passes(again, raise_operations()[3:], Trace()).stage is Stage.RAISED
    with pytest.raises(ParseError, match="there is no raising pass 'tidy'"):
        parse_program(text.replace("raised_by=canonicalize", "raised_by=tidy"), halfway.weights)


def test_a_raising_pass_that_gives_up_without_a_word_is_named(captured: Program) -> None:
    lazy: list[Pass] = [raise_operations()[0], Acts("raise-attention")]
    with pytest.raises(
        InvalidProgramError, match=r"after the pass raise-attention: .*\(Layer\).* left without a reason"
    ):
        run_passes(captured, lazy, Trace())


# ---------------------------------------------------------------- incremental


class Step(TypedGraph):
    """tokens, position, logits_index, one cache, and x[batch, sequence, WIDTH]."""

    def __init__(self) -> None:
        super().__init__()
        for name, example in (("batch", 3), ("sequence", 5), ("kept", 2), ("capacity", 41)):
            self.size(name, example)
        self.tokens = self.input("tokens", ["batch", "sequence"], torch.int64)
        self.position = self.input("position", ["batch"], torch.int64)
        self.index = self.input("logits_index", ["kept"], torch.int64)
        self.past = self.state(State("past", StateKind.CACHE, ("batch", "capacity", WIDTH), "float32", 1))
        self.x = self.call(aten.embedding.default, self.weight("table", torch.randn(VOCABULARY, WIDTH)), self.tokens)
        self.written = self.call(burnish_ops.cache_write.default, self.past, self.x, self.position, 1)

    def heads(self) -> fx.Node:
        return self.call(aten.unsqueeze.default, self.x, 1)

    def step(self, value: fx.Node) -> Program:
        picked = self.call(aten.index_select.default, value, 1, self.index)
        return self.program(picked, self.written, signature=STEP_SIGNATURE, stage=Stage.INCREMENTAL)


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (
            lambda m: m.call(burnish_ops.shift.default, m.x, 1, 1),
            r"shift.* is left, which a step cannot run on the new tokens alone",
        ),
        (
            lambda m: m.call(aten.squeeze.dim, m.call(aten.scaled_dot_product_attention.default, *[m.heads()] * 3), 1),
            "is left, which a step cannot run on the new tokens alone",
        ),
        (
            lambda m: m.call(
                aten.squeeze.dim,
                m.call(burnish_ops.attention.default, *[m.heads()] * 3, scale=1.0, mask="causal"),
                1,
            ),
            "does not know the position of the new tokens",
        ),
        (lambda m: m.call(aten.relu_.default, m.x), "calls something that an artifact cannot hold"),
        (lambda m: m.call(torch.relu, m.x), "calls something that an artifact cannot hold"),
    ],
    ids=["shift", "sdpa", "position", "in-place", "function"],
)
def test_what_a_step_cannot_have_is_told(make: Callable[[Step], fx.Node], told: str) -> None:
    m = Step()
    program = m.step(make(m))
    with pytest.raises(InvalidProgramError, match=f"after the pass mine: .*{told}"):
        check_clauses(program, program, "mine", Log(), ended=True)


def test_a_step_keeps_its_specification(captured: Program) -> None:
    m = Step()
    program = m.step(m.x)
    check_clauses(program, program, "mine", Log(), ended=True)
    assert clauses_of(Stage.INCREMENTAL) == clauses_of(Stage.LOWERED) == INCREMENTAL
    assert clauses_of(Stage.CAPTURED) == CAPTURED
    step = run_passes(captured, make_incremental(), Trace())
    assert not list(breaches(step, step.graph.nodes, INCREMENTAL))


@pytest.mark.parametrize("mixes", [True, False])
def test_tokens_picked_in_front_of_what_mixes_them_are_refused(mixes: bool) -> None:
    m = Step()
    picked = m.call(aten.index_select.default, m.x, 1, m.index)
    result = m.call(aten.cumsum.default, picked, 1) if mixes else m.call(aten.cumsum.default, picked, 2)
    program = m.program(result, m.written, signature=STEP_SIGNATURE, stage=Stage.INCREMENTAL)
    if mixes:
        with pytest.raises(InvalidProgramError, match=r"tokens were picked for their logits too early: cumsum"):
            check_stage(program)
    else:
        check_stage(program)


# ---------------------------------------------------------------- lowered


def strange(m: Step) -> Program:
    return m.step(m.call(aten.special_bessel_j0.default, m.x))


def traced(program: Program) -> Trace:
    trace = Trace()
    run_passes(program, [], trace)
    return trace


def test_what_onnx_has_no_operator_for_is_refused_before_it_is_lowered() -> None:
    program = strange(Step())
    with pytest.raises(UnsupportedError, match=r"special_bessel_j0.* has no ONNX translation.*reference backend runs"):
        claim_lowered(program, CpuTarget(), traced(program))
    assert program.stage is Stage.INCREMENTAL


def test_the_reference_runs_whatever_an_artifact_holds() -> None:
    program = strange(Step())
    trace = traced(program)
    claim_lowered(program, CpuTarget("reference"), trace)
    assert program.stage is Stage.LOWERED
    assert trace.passes[-1].stage == "lowered"
    assert trace.passes[-1].text.startswith("# lowered: ")
    assert trace.passes[-1].notes == ()


def test_what_has_no_kernel_is_told() -> None:
    program = strange(Step())
    trace = traced(program)
    claim_lowered(program, GpuTarget(()), trace)
    (note,) = trace.passes[-1].notes
    assert note == "special_bessel_j0_default runs by PyTorch: there is no kernel for aten.special_bessel_j0.default"


def test_a_program_without_states_is_not_lowered(captured: Program) -> None:
    with pytest.raises(UsageError, match="insert-states has to be among them"):
        claim_lowered(captured, CpuTarget(), traced(captured))


def test_a_compilation_tells_its_stages() -> None:
    torch.manual_seed(0)
    with burnish.compile(NanoGPT().eval(), max_length=63) as compiled:
        last = 11 + len(lower_for_native(None))
        assert compiled.trace.stages() == f"captured → raised (8) → incremental (11) → lowered ({last})"
        assert "lowered" in compiled.trace._repr_html_()


def test_a_clause_about_no_op_is_about_all() -> None:
    told: list[Any] = [clause.told for clause in CAPTURED if clause.targets is None]
    assert told == ["is a higher-order op, which calls graphs of its own", "writes to its arguments"]
