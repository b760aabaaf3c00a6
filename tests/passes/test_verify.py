"""The numeric check of each pass: it holds for ours, and a pass that changes the numbers is named."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pytest
import torch

import burnish
from burnish.compiler import Verify
from burnish.frontend import read
from burnish.ir.edit import Editor
from burnish.ir.errors import VerificationError
from burnish.ir.ops import burnish_ops
from burnish.ir.program import Program, origin
from burnish.ir.trace import Trace
from burnish.passes.base import Effect, Log
from burnish.passes.pipeline import run_passes
from burnish.passes.pipelines import default_passes
from burnish.passes.verify import Verifier, relative_difference
from burnish.runtime.artifact import Artifact
from tests.zoo.configs import build

aten = torch.ops.aten


@dataclass(frozen=True)
class Scales:
    """Multiplies what layer 1's feed-forward gives."""

    factor: float
    effect: Effect = Effect.REASSOCIATES  # type: ignore[misc]
    name: ClassVar[str] = "scales"
    atomic: ClassVar[bool] = False

    def run(self, program: Program, log: Log) -> Program:
        node = next(
            node
            for node in program.graph.nodes
            if node.target is aten.linear.default and origin(node).module == "model.layers.1.mlp.down_proj"
        )
        editor = Editor(program)
        with editor.after(node):
            scaled = editor.call(aten.mul.Tensor, node, self.factor, like=node)
        editor.replace(node, scaled)
        log.rewrite(node, "scaled")
        return program


@pytest.fixture(scope="module")
def captured() -> Program:
    return read(build("llama")).program


def test_every_pass_is_verified(captured: Program) -> None:
    trace = Trace()
    run_passes(captured, default_passes(), trace, verifier=Verifier(captured))
    for record in trace.passes[1:]:
        assert record.verification is not None, record.name
        assert record.verification.difference <= record.verification.tolerance
        assert record.verification.tolerance == (1e-5 if record.effect == "exact" else 1e-4)
    states = next(record for record in trace.passes if record.name == "insert-states")
    assert states.verification is not None
    assert states.verification.difference > 0  # run in pieces, so not bit for bit


def test_a_pass_that_changes_the_numbers_is_named_with_the_first_value(captured: Program) -> None:
    trace = Trace()
    told = r"the pass scales changes the numbers: .*model\.layers\.1.*modeling_llama\.py:\d+"
    with pytest.raises(VerificationError, match=told):
        run_passes(captured, [Scales(2.0)], trace, verifier=Verifier(captured))
    assert [record.name for record in trace.passes] == ["captured"]


def test_the_tolerance_is_that_of_the_effect(captured: Program) -> None:
    verifier = Verifier(captured)
    doubled = Scales(2.0).run(captured.copy(), Log())
    moved = max(
        float(relative_difference(found, expected).max())
        for found, expected in zip(verifier.logits(doubled), verifier.logits(captured), strict=True)
    )
    slightly = 1 + 5e-5 / moved  # moves the logits by about 5e-5 of the largest
    run_passes(captured, [Scales(slightly)], Trace(), verifier=verifier)
    with pytest.raises(VerificationError, match="allowed: 1e-05"):
        run_passes(captured, [Scales(slightly, Effect.EXACT)], Trace(), verifier=verifier)
    run_passes(captured, [Scales(2.0, Effect.LOSSY)], Trace(), verifier=verifier)  # it says that it does


def test_a_wrong_step_is_found(captured: Program) -> None:
    @dataclass(frozen=True)
    class Forgets:
        """Attends from a position that is one too small."""

        name: ClassVar[str] = "forgets"
        effect: ClassVar[Effect] = Effect.REASSOCIATES
        atomic: ClassVar[bool] = False

        def run(self, program: Program, log: Log) -> Program:
            write = next(n for n in program.graph.nodes if n.target is burnish_ops.cache_write.default)
            editor = Editor(program)
            with editor.before(write):
                early = editor.call(aten.mul.Tensor, write.args[2], 0, like=write)
            write.args = (*write.args[:2], early, *write.args[3:])
            return program

    passes = [*default_passes("onnxruntime"), Forgets()]
    with pytest.raises(VerificationError, match="the pass forgets changes the numbers"):
        run_passes(captured, passes, Trace(), verifier=Verifier(captured))


@pytest.mark.parametrize("verify", ["shrunk", "full"])
def test_compile_verifies_each_pass(verify: Verify) -> None:
    with burnish.compile(build("llama"), verify=verify) as compiled:
        checks = [record.verification for record in compiled.trace.passes[1:]]
    assert all(check is not None and check.difference <= check.tolerance for check in checks)


def test_not_a_number_is_a_difference(captured: Program) -> None:
    with pytest.raises(VerificationError):
        run_passes(captured, [Scales(float("nan"))], Trace(), verifier=Verifier(captured))


def test_what_was_verified_is_in_the_artifact(tmp_path: Path) -> None:
    with burnish.compile(build("llama"), verify="shrunk") as compiled:
        compiled.save(tmp_path / "a.burnish")
        checks = [record.verification for record in compiled.trace.passes]
    assert [record.verification for record in Artifact.open(tmp_path / "a.burnish").trace().passes] == checks
