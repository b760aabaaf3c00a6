"""What a failed check leaves behind: enough to see it again, in another process, without the model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import burnish
from burnish.compiler import Verify
from burnish.frontend import read
from burnish.inspect.reproducer import leave_reproducer, read_reproducer, reproduce
from burnish.ir.errors import UsageError, VerificationError, WeightError
from burnish.ir.program import Program
from burnish.passes import pipelines
from burnish.passes.base import Pass
from burnish.passes.pipeline import Failure
from burnish.passes.pipelines import default_passes
from burnish.passes.raise_.clean import Clean
from tests.inspect.test_bisect import Faulty, in_layer, swap_operands
from tests.own_modules.causal import NanoGPT
from tests.zoo.configs import build


@pytest.fixture
def faulty(monkeypatch: pytest.MonkeyPatch) -> None:
    """The pipeline with a swapped operand in one rule."""
    spoilt = Faulty(pipelines.RAISE_ACTIVATIONS, swap_operands, in_layer(1))
    monkeypatch.setattr(pipelines, "RAISE_ACTIVATIONS", spoilt)


def names(passes: list[Pass]) -> list[str]:
    return [each.name for each in passes]


@pytest.mark.usefixtures("faulty")
@pytest.mark.parametrize("verify", ["shrunk", "full"])
def test_a_failed_check_leaves_a_folder_that_fails_again(
    verify: Verify, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(VerificationError, match="the pass raise-activations changes the numbers") as raised:
        burnish.compile(build("llama"), verify=verify)
    folder = tmp_path / "burnish-failure-raise-activations"
    assert f"burnish reproduce {folder.name}" in "".join(raised.value.__notes__)
    assert {file.name for file in folder.iterdir()} == {
        *("before.txt", "weights.safetensors", "reproducer.json", "README.txt")
    }
    data = json.loads((folder / "reproducer.json").read_text())
    assert data["error"] == str(raised.value)
    assert set(data["versions"]) == {"burnish", "torch", "python"}
    with pytest.raises(VerificationError) as again:
        reproduce(folder)
    assert str(again.value).split(" for ")[0] == str(raised.value).split(" for ")[0]  # the same difference


@pytest.mark.usefixtures("faulty")
def test_folders_of_before_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    model = build("llama")
    for _ in range(2):
        with pytest.raises(VerificationError):
            burnish.compile(model, verify="shrunk")
    assert {folder.name for folder in tmp_path.iterdir()} == {
        *("burnish-failure-raise-activations", "burnish-failure-raise-activations-2")
    }


def test_it_holds_the_rest_of_the_pipeline_and_passes_once_repaired(
    faulty: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(VerificationError):
        burnish.compile(build("llama"), verify="shrunk")
    monkeypatch.undo()
    folder = tmp_path / "burnish-failure-raise-activations"
    _, passes = read_reproducer(folder)
    every = names(default_passes())
    assert names(passes) == every[every.index("raise-activations") :]
    assert [record.name for record in reproduce(folder).passes[1:]] == names(passes)


def test_what_is_no_reproducer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"has no reproducer\.json"):
        reproduce(tmp_path)
    (tmp_path / "reproducer.json").write_text("{")
    with pytest.raises(UsageError, match="malformed"):
        reproduce(tmp_path)
    data = {"error": "", "passes": ["rm"], "seed": 0, "shapes": [], "versions": {}}
    (tmp_path / "reproducer.json").write_text(json.dumps(data))
    with pytest.raises(UsageError, match="there is no pass 'rm': the passes are clean"):
        reproduce(tmp_path)


def test_options_that_a_pass_does_not_have_are_refused(tmp_path: Path) -> None:
    data = {"error": "", "passes": ["clean{speed=1}"], "seed": 0, "shapes": [], "versions": {}}
    (tmp_path / "reproducer.json").write_text(json.dumps(data))
    with pytest.raises(UsageError, match="the pass clean has no option 'speed': it has none"):
        read_reproducer(tmp_path)


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), WeightError("no form for this dtype")])
def test_a_folder_that_cannot_be_written_does_not_hide_the_failure(
    error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(program: Program, path: Path, with_weights: bool) -> None:
        path.write_text("the first half")
        raise error

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("burnish.inspect.reproducer.save_dump", full)
    failure = Failure(read(NanoGPT().eval(), max_length=32).program, (Clean(),), VerificationError("off"), ())
    leave_reproducer(failure)
    (note,) = failure.error.__notes__
    assert "could not be written" in note
    assert str(error.args[-1]) in note
    assert list(tmp_path.iterdir()) == []


def test_a_large_folder_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("burnish.inspect.reproducer._LARGE", 10**4)
    failure = Failure(read(NanoGPT().eval(), max_length=32).program, (Clean(),), VerificationError("off"), ())
    leave_reproducer(failure)
    assert failure.error.__notes__[1] == "It has the model's weights and takes 0.0 GB."
    assert read_reproducer(tmp_path / "burnish-failure-clean")[1] == [Clean()]
