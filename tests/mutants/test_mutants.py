"""A dozen mutants of burnish, each of which default verification must not let through; and what makes them."""

from __future__ import annotations

import ast
import os
import subprocess
import sys

import pytest

from tests.mutants.mutations import ROOT, mutants_of, sample
from tests.mutants.named import EDITS

MUTANTS = (
    "tokens-picked-in-front-of-what-mixes",
    "tokens-picked-in-front-of-what-mixes-unchecked",
    "rows-not-checked",
    "masks-read-for-96-tokens",
    "every-mixing-is-none",
    "a-table-shows-later-tokens",
    "a-total-starts-again",
    "a-window-keeps-the-oldest",
    "a-window-one-wider",
    "onnx-stale-slots",
    "onnx-caches-exchanged",
    "states-never-move-on",
    "going-back-clears-nothing",
    "a-step-at-the-first-position",
    "a-reset-keeps-states",
    "a-binding-of-the-other-side",
)
MODELS = (
    "ConvolutionBehindResidual",
    "TokensFirst",
    "SlidingWindow",
    "NanoGPT",
    "EightBlocks",
    "Centred",
    "LaterFarOut",
)


@pytest.mark.slow("models are exported and compiled with each mutant")
def test_default_verification_lets_no_mutant_of_these_through() -> None:
    command = [sys.executable, "-m", "tests.mutants", "--named", "--models", *MODELS]
    for name in MUTANTS:
        command += ["--only", name]
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": path}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    lines = [line.split() for line in done.stdout.splitlines()]
    verdicts = {line[1].split(":")[2]: line[0] for line in lines if len(line) > 1 and line[1].count(":") == 3}
    assert set(verdicts) == set(MUTANTS), done.stdout + done.stderr
    assert set(verdicts.values()) == {"killed"}, done.stdout


def test_edits_by_hand_fit_the_source() -> None:
    assert len({edit.name for edit in EDITS}) == len(EDITS)
    for edit in EDITS:
        for file, source in edit.mutant().sources.items():
            assert ast.dump(ast.parse(source)) != ast.dump(ast.parse((ROOT / file).read_text(encoding="utf-8"))), file


def test_each_mutant_is_one_change_of_the_source_and_draws_are_the_same_each_time() -> None:
    file = "burnish/passes/states/select_logits.py"
    source = ast.unparse(ast.parse((ROOT / file).read_text(encoding="utf-8"))).splitlines()
    mutants = mutants_of(file)
    assert len(mutants) > 30
    assert len({mutant.name for mutant in mutants}) == len(mutants)
    assert len({mutant.sources[file] for mutant in mutants}) == len(mutants)
    for mutant in mutants:
        ast.parse(mutant.sources[file])
        changed = [line for line in mutant.sources[file].splitlines() if line not in source]
        assert len(changed) <= 2, mutant.what
    drawn = sample(mutants, 9, seed=1)
    assert drawn == sample(mutants_of(file), 9, seed=1)
    assert len({mutant.function for mutant in drawn}) > 2
