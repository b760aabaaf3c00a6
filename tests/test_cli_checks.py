"""compile --verify, bisect and reproduce on the command line: what they print, and their exit codes."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from burnish.cli.commands import app
from burnish.ir.ops import burnish_ops
from burnish.ir.program import Program
from burnish.passes import pipelines
from tests.inspect.test_bisect import Faulty, made

MODEL = "tests.own_modules.causal:NanoGPT"


def call(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments], env={"COLUMNS": "300"})


@pytest.fixture
def faulty(monkeypatch: pytest.MonkeyPatch) -> None:
    """The pipeline with attention of block 1 scaled wrongly."""

    def scale(program: Program, nodes: list[object]) -> None:
        node = made(nodes, burnish_ops.attention.default)  # type: ignore[arg-type]
        node.kwargs = {**node.kwargs, "scale": 0.9}

    spoilt = Faulty(pipelines.RaiseAttention(), scale, lambda node, text: node.name.endswith("_1"))  # type: ignore[arg-type]
    monkeypatch.setattr(pipelines, "RaiseAttention", lambda: spoilt)


@pytest.mark.usefixtures("faulty")
def test_from_a_failed_check_to_the_rewrite(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    failed = call("compile", MODEL, "--verify", "-o", "out.burnish")
    assert failed.exit_code == 1
    assert "the pass raise-attention changes the numbers" in failed.stderr
    assert "burnish bisect burnish-failure-raise-attention" in failed.stderr
    assert not Path("out.burnish").exists()

    again = call("reproduce", "burnish-failure-raise-attention")
    assert again.exit_code == 1
    assert "the pass raise-attention changes the numbers" in again.stderr

    for what in ("burnish-failure-raise-attention", MODEL):
        named = call("bisect", what)
        assert named.exit_code == 1
        assert "in the pass raise-attention" in named.stdout
        assert "scaled_dot_product_attention_1" in named.stdout
        assert "causal.py:" in named.stdout
        assert "scale=0.9" in named.stdout


def test_a_command_can_be_the_check(tmp_path: Path) -> None:
    """Here: a program with an attention op of ours is bad."""
    script = tmp_path / "check.py"
    script.write_text(
        "import sys\nfrom pathlib import Path\n"
        "dump = Path(sys.argv[2])\nassert sys.argv[1] == '--dump'\n"
        "assert (dump.parent / 'weights.safetensors').exists()\n"
        "sys.exit('burnish.attention' in dump.read_text() and 'there is attention')\n"
    )
    named = call("bisect", MODEL, "--check", f"{sys.executable} {script} --dump {{}}")
    assert named.exit_code == 1
    assert "in the pass raise-attention" in named.stdout
    assert "the command ended with exit code 1: there is attention" in named.stdout
    fine = call("bisect", MODEL, "--check", f"{sys.executable} -c pass")
    assert fine.exit_code == 0
    assert "the check holds after every pass" in fine.stdout
    wrong = call("bisect", MODEL, "--check", "no-such-command-here")
    assert wrong.exit_code == 2
    assert "'no-such-command-here' cannot be run" in wrong.stderr


def test_verified_passes_show_their_errors_in_the_table(tmp_path: Path) -> None:
    done = call("compile", MODEL, "--verify-full", "-o", tmp_path / "a.burnish")
    assert done.exit_code == 0, done.stderr
    assert "error" in done.stderr
    assert "0e+00" in done.stderr
