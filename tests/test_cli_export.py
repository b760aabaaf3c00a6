"""`burnish export`."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.export.running import checked
from tests.runtime.tiny import save_tiny
from tests.test_cli import call


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("tiny"))[0]


@pytest.mark.parametrize("flavor", ["standard", "ort"])
def test_it_writes_the_file_and_says_how_large_it_is(artifact: Path, flavor: str, tmp_path: Path) -> None:
    done = call("export", artifact, tmp_path / "out.onnx", "--flavor", flavor)
    assert done.exit_code == 0, done.stderr
    assert f"wrote {tmp_path / 'out.onnx'} (" in done.stderr
    assert {each.key: each.value for each in checked(tmp_path / "out.onnx").metadata_props}["burnish.flavor"] == flavor


def test_mistakes_are_told_in_the_spelling_of_the_command_line(artifact: Path, tmp_path: Path) -> None:
    done = call("export", artifact, tmp_path / "out", "--genai")
    assert (done.exit_code, done.stdout) == (2, "")
    assert "has no tokenizer: compile the model with --tokenizer FOLDER, or leave out --genai" in done.stderr
    done = call("export", artifact, tmp_path / "out.onnx", "--flavor", "standart")
    assert done.exit_code == 2
    assert "did you mean standard" in done.stderr
    assert not list(tmp_path.iterdir())
