"""The page docs/finding-a-bug.md: its commands are run, and their output is what the page shows."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
PLANTED = "python examples/planted_bug.py"
FAILURE = "burnish-failure-raise-activations"

INTRODUCTION = """# Finding a bug in a pass

burnish can tell which of its own rewrites is wrong. This page plants a bug and finds it; every output is real
(`make docs` runs the commands).

[examples/planted_bug.py](../examples/planted_bug.py) is the `burnish` command with one rule spoilt: where the rule
makes a gated activation, `silu(gate) * up`, it takes the gate for the value and the value for the gate, but in layer 1
alone. The program still has the right shapes, the right types and the right ops. The model is
[docs/model.py](model.py).
"""

STEPS = (
    (
        """## The check names the pass

`--verify` runs the program before and after each pass on the same tokens and compares the logits; a program with states
is fed in pieces. It does so on two layers of each kind, which takes seconds for a model of any size; `--verify-full`
takes the whole model. (Without either, only the result is compared with the model.) The first pass whose numbers part
by more than its effect allows ends the compilation:""",
        f"{PLANTED} compile docs.model:Decoder --max-length 128 --verify -o decoder.burnish",
    ),
    (
        """## What is left behind

A folder that holds all that is needed to see it again, without the model: the program that the pass was given as text,
its weights, the passes from there on with their options, and the versions.""",
        f"ls {FAILURE}",
    ),
    ("", f"{PLANTED} reproduce {FAILURE}"),
    (
        """## Bisection names the rewrite

A pass makes many rewrites. `burnish bisect` stops in the middle of them, runs the check, and halves what is left, so it
takes about log2(rewrites) checks. It shows what that one rewrite changed, and the line of the model that the node comes
from. It takes a model or, as here, the folder of a failed check:""",
        f"{PLANTED} bisect {FAILURE}",
    ),
    (
        """`--check COMMAND` asks a command of yours instead of the numbers: it gets the path of a dump of the
program, and says with its exit code whether that is good.

## After the fix

The folder is also the test of the repair. With the rule as it should be:""",
        f"burnish reproduce {FAILURE}",
    ),
)


def page() -> str:
    """The page, its commands run in a folder of their own."""
    parts = [INTRODUCTION]
    with tempfile.TemporaryDirectory() as folder:
        for text, command in STEPS:
            output = run(command, Path(folder))
            parts += [f"{text}\n" if text else "", f"```\n$ {command}\n{output}\n```\n"]
    return "\n".join(part for part in parts if part)


def run(command: str, folder: Path) -> str:
    """What a command prints, with paths as a reader has them and without times."""
    words = command.split()
    if words[0] == "python":
        words[:2] = [sys.executable, str(ROOT / words[1])]
    elif words[0] == "burnish":
        words[:1] = [sys.executable, "-m", "burnish.cli"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "110", "PYTHONWARNINGS": "ignore"}
    done = subprocess.run(
        words, cwd=folder, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False
    )
    text = done.stdout.replace(f"{ROOT}/", "")
    return "\n".join(line.rstrip() for line in text.strip("\n").splitlines())


def without_numbers(text: str) -> str:
    """A page without what differs from machine to machine: differences in the last bits, seconds, and the width that
    these take in tables."""
    text = re.sub(r"\d\.?\d*e[-+]\d\d|\d+\.\d s$", "", text, flags=re.MULTILINE)
    return re.sub(r" +|─+", " ", text)
