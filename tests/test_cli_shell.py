"""The command in a shell: what all commands share, how much they tell, completion; and the names of the package."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

import burnish
from burnish.cli import COMMANDS
from burnish.cli.commands import app
from burnish.version import __version__

CALL = "import sys; sys.argv[0] = 'burnish'; from burnish.cli import main; main()"
NOISY = """
import logging
from torch import nn
def make():
    logging.getLogger("burnish.noisy").info("a detail")
    logging.getLogger("burnish.noisy").warning("a warning")
    return nn.Embedding(10, 10)
"""


def call(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def burnish_command(
    *arguments: str, folder: Path | None = None, **environment: str
) -> subprocess.CompletedProcess[str]:
    """The command in a process of its own."""
    return subprocess.run(
        [sys.executable, "-c", CALL, *arguments],
        capture_output=True,
        text=True,
        check=False,
        cwd=folder,
        env={**os.environ, **environment},
    )


def test_the_version_is_said() -> None:
    assert call("--version").stdout == f"burnish {__version__}\n"


@pytest.mark.parametrize("command", [(), *((each,) for each in COMMANDS)])
def test_help_has_a_short_name(command: tuple[str, ...]) -> None:
    done = call(*command, "-h")
    assert done.exit_code == 0, done.stderr
    assert done.stdout == call(*command, "--help").stdout
    for option in ("--verbose", "--quiet", "--debug"):
        assert option in done.stdout


@pytest.mark.parametrize(
    ("before", "behind", "variable", "told"),
    [
        ("", "", "", ["warning: a warning", "table"]),
        ("-v", "", "", ["info: a detail", "warning: a warning", "table"]),
        ("", "", "info", ["info: a detail", "warning: a warning", "table"]),
        ("", "--quiet", "info", []),
    ],
)
def test_how_much_is_told(before: str, behind: str, variable: str, told: list[str], tmp_path: Path) -> None:
    (tmp_path / "noisy.py").write_text(NOISY)
    line = ("compile", "noisy:make", "-o", "a.burnish", "--max-length", "9", "--backend", "reference")
    done = burnish_command(*before.split(), *line, *behind.split(), folder=tmp_path, BURNISH_LOG=variable)
    assert done.returncode == 0, done.stderr
    found = [line for line in done.stderr.splitlines() if line in ("info: a detail", "warning: a warning")]
    assert [*found, *(["table"] if "insert-states" in done.stderr else [])] == told
    assert done.stdout == ""


def test_quiet_tells_errors_and_a_level_that_is_none_is_one() -> None:
    done = call("-q", "inspect", "nothing")
    assert (done.exit_code, done.stderr) == (1, "error: there is no artifact at nothing: it is missing\n")
    wrong = burnish_command("inspect", "nothing", BURNISH_LOG="warn")
    assert wrong.returncode == 2
    assert "BURNISH_LOG is 'warn' (did you mean warning?): there are debug, info, warning, error" in wrong.stderr


def test_a_shell_completes_commands_options_and_paths(tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "one.gguf").touch()

    def completed(line: str) -> list[str]:
        words = {"_BURNISH_COMPLETE": "complete_bash", "COMP_WORDS": line, "COMP_CWORD": str(len(line.split()) - 1)}
        return burnish_command(folder=tmp_path, **words).stdout.split()

    assert {"inspect"} == set(completed("burnish ins"))
    assert "--quantize-cache" in completed("burnish compile --quantize")
    assert completed("burnish compile mod") == ["models/"]
    assert completed("burnish compile models/o") == ["models/one.gguf"]


def test_the_package_lists_its_names() -> None:
    assert set(burnish.__all__) == {name for name in dir(burnish) if not name.startswith("__")} | {"__version__"}
