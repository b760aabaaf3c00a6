"""Runs a part of the tests with other versions of Python and libraries, and writes the table docs/versions.md.

    python docs/versions.py PYTHON [REQUIREMENT ...]       such as python3.12 torch==2.11.0 'transformers==5.17.*'
    python docs/versions.py --environment FOLDER           one that is there already

Makes a virtual environment in a temporary folder, installs burnish and what is required into it, runs the tests, and
puts a row into the table in place of that of the same versions.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = Path(__file__).with_name("versions.md")
TESTS = (
    *("tests/own_modules", "tests/runtime", "tests/frontend/test_capture.py", "tests/frontend/test_calling.py"),
    *("tests/passes/raise_", "tests/passes/states", "tests/zoo/test_zoo.py", "tests/test_cli.py"),
)
FACTS = """
import json, platform, sys
from importlib.metadata import version
names = ("torch", "transformers", "onnxruntime", "triton", "numpy")
print(json.dumps([platform.python_version(), *map(version, names), f"{platform.system()} {platform.machine()}"]))
"""
HEAD = """# Versions that were run

By `python docs/versions.py`, which installs them and runs a part of the tests: modules of strangers, the runtime,
capture, the passes that raise, the states, some of the zoo and the command line. `make test` runs all of them with what
`make` installs. Others may work: `pyproject.toml` says what is not tried to be kept out.

| Python | torch | transformers | onnxruntime | triton | numpy | platform | tests |
|---|---|---|---|---|---|---|---|
"""


def main() -> None:
    """Run the tests with an environment, and write its row."""
    parser = argparse.ArgumentParser(description="run a part of the tests with other versions")
    parser.add_argument("python", nargs="?", help="the interpreter to make an environment with")
    parser.add_argument("requirements", nargs="*")
    parser.add_argument("--environment", type=Path)
    asked = parser.parse_args()
    if asked.environment is not None:
        run(asked.environment)
        return
    if asked.python is None:
        parser.error("give an interpreter, or --environment")
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([asked.python, "-m", "venv", folder], check=True)
        pip = [f"{folder}/bin/python", "-m", "pip", "install", "--quiet"]
        if asked.requirements:
            subprocess.run([*pip, *asked.requirements], check=True)
        subprocess.run([*pip, "--editable", f"{ROOT}[dev]", *asked.requirements], check=True)
        run(Path(folder))


def run(environment: Path) -> None:
    """The tests in an environment, and its row in the table."""
    python = str(environment / "bin" / "python")
    facts = json.loads(subprocess.run([python, "-c", FACTS], check=True, capture_output=True, text=True).stdout)
    command = [python, "-m", "pytest", "-q", "-n", "2", "--dist", "loadfile", *TESTS]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    summary = re.search(r"(\d+ failed, )?\d+ passed.*?(?= in )", done.stdout)
    if summary is None:
        sys.exit(done.stdout[-3000:] + done.stderr[-3000:])
    key = f"| {' | '.join(facts)} |"
    rows = [line for line in PAGE.read_text().splitlines() if line.startswith("| ")][1:] if PAGE.exists() else []
    rows = sorted([*(row for row in rows if not row.startswith(key)), f"{key} {summary[0]} |"])
    PAGE.write_text(HEAD + "\n".join(rows) + "\n", encoding="utf-8")
    print(done.stdout[-2000:])


if __name__ == "__main__":
    main()
