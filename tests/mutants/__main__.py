"""`python -m tests.mutants`: makes mutants of burnish, tries each on a set of models, and prints the score.

killed: compiling refuses, fails, or its own verification says that the answers are wrong, on some model of the set.
survived: a compiled model gives a wrong answer, and no model of the set showed it. The score is over these two.
equivalent: every model that runs the changed line gives the right answers in every way of feeding it.
undecided: the models took too long, or compiling one never ended. It is not counted, and neither is an equivalent one.
"""

from __future__ import annotations

import argparse
import importlib
import sys
import time
from collections import Counter, defaultdict
from concurrent.futures import ThreadPoolExecutor
from fnmatch import fnmatch

import torch
import torch._dynamo.config

from tests.mutants.cases import CASES, Example, example
from tests.mutants.mutations import ROOT, Mutant, mutants_of, sample
from tests.mutants.named import EDITS
from tests.mutants.trial import CAUGHT, WRONG, attempt, forked, lines_run, third_parties

_IR = ("label_rules", "label_mixing_rules", "label_view_rules", "traits", "step_forms", "ops", "states")
_ROOMS = ("passes/raise_", "passes/states", "passes/fuse", "passes/analyses", "codegen/onnx")
FILES: tuple[str, ...] = (
    *(f"burnish/ir/{name}.py" for name in _IR),
    *(str(file.relative_to(ROOT)) for room in _ROOMS for file in sorted((ROOT / "burnish" / room).glob("[!_]*.py"))),
    "burnish/runtime/session.py",
    "burnish/runtime/states.py",
)
SECONDS = 240  # of one mutant on all models
UNDECIDED = "undecided"


def main() -> int:
    """Print the outcome of each mutant and the score. 0 if at least 95% die."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutants", description=__doc__)
    parser.add_argument("--only", action="append", help="mutants whose name, or file, fits this pattern")
    parser.add_argument("--models", nargs="*", help="of these models only", choices=sorted(CASES), metavar="MODEL")
    parser.add_argument("--each", type=int, default=3, help="how many mutants to draw of each file")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--named", action="store_true", help="only those that were written by hand")
    parser.add_argument("--drawn", action="store_true", help="only those that a walk over the source makes")
    parser.add_argument("--every", action="store_true", help="go on to all models after one has shown a mutant")
    parser.add_argument("--jobs", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch._dynamo.config.fake_tensor_cache_enabled = False  # as in tests/conftest.py
    started = time.perf_counter()
    mutants = _mutants(options)
    examples = _examples(options.models or list(CASES))
    print(f"{len(examples)} models exported after {time.perf_counter() - started:.0f} s", flush=True)
    reached = _reached(list(examples.values()), sorted({mutant.file for mutant in mutants}), options.jobs)
    mutants = _drawn(mutants, reached, options)
    print(
        f"{len(mutants)} mutants, {len(examples)} models, ready after {time.perf_counter() - started:.0f} s", flush=True
    )
    with ThreadPoolExecutor(options.jobs) as pool:
        found = list(pool.map(lambda mutant: _try(mutant, examples, reached, options.every), mutants))
    return _summary(mutants, found, time.perf_counter() - started)


def _mutants(options: argparse.Namespace) -> list[Mutant]:
    found = [] if options.drawn else [edit.mutant() for edit in EDITS]
    if not options.named:
        found += [mutant for file in FILES for mutant in mutants_of(file)]
    if options.only:
        found = [each for each in found if any(_fits(each, pattern) for pattern in options.only)]
    if not found:
        sys.exit("no mutant has such a name")
    return found


def _fits(mutant: Mutant, pattern: str) -> bool:
    return any(fnmatch(each, pattern) for each in (mutant.name, mutant.file, mutant.function))


def _examples(names: list[str]) -> dict[str, Example]:
    examples: dict[str, Example] = {}
    for name in names:
        examples[name] = example(CASES[name], examples)
    for module in forked(lambda: third_parties(next(iter(examples.values()))), SECONDS) or []:
        importlib.import_module(module)  # here once, not in each fork
    return examples


def _reached(examples: list[Example], files: list[str], jobs: int) -> dict[tuple[str, int], set[str]]:
    """The examples that run each line of the files. AssertionError if one is not right without a mutant."""
    found: dict[tuple[str, int], set[str]] = defaultdict(set)
    with ThreadPoolExecutor(jobs) as pool:
        for each, lines in zip(
            examples, pool.map(lambda each: forked(lambda: lines_run(each, files), 4 * SECONDS), examples), strict=True
        ):
            assert lines is not None, f"{each.case.name} is not right without a mutant"
            for file, line in lines:
                found[file, line].add(each.case.name)
    return found


def _drawn(
    mutants: list[Mutant], reached: dict[tuple[str, int], set[str]], options: argparse.Namespace
) -> list[Mutant]:
    """Those by hand, and some of each file's others that some example runs."""
    names = {edit.name for edit in EDITS}
    drawn = [mutant for mutant in mutants if mutant.function in names]
    for file in dict.fromkeys(mutant.file for mutant in mutants):
        rest = [each for each in mutants if each.file == file and each.function not in names and _runs(each, reached)]
        drawn += sample(rest, options.each, options.seed)
    return drawn


def _runs(mutant: Mutant, reached: dict[tuple[str, int], set[str]]) -> set[str]:
    return set().union(*(reached.get((mutant.file, line), set()) for line in range(mutant.first, mutant.last + 1)))


def _try(
    mutant: Mutant, examples: dict[str, Example], reached: dict[tuple[str, int], set[str]], every: bool
) -> tuple[str, str]:
    names = _runs(mutant, reached)
    chosen = [each for name, each in examples.items() if name in names]
    started = time.perf_counter()
    try:
        outcomes = forked(lambda: attempt(mutant, chosen, every), SECONDS * (4 if every else 1))
    except ChildProcessError as error:  # as loud as any error
        outcomes = [{"case": "", "kind": CAUGHT, "told": str(error)}]
    if outcomes is None:
        print(f"{UNDECIDED:10} {mutant.name}  {mutant.what}  [not done after {SECONDS} s]", flush=True)
        return UNDECIDED, ""
    caught = [each for each in outcomes if each["kind"] == CAUGHT]
    wrong = [each for each in outcomes if each["kind"] == WRONG]
    verdict = "killed" if caught else "survived" if wrong else "equivalent"
    where = (caught or wrong or [{"case": f"{len(outcomes)} models", "told": ""}])[0]
    silent = "".join(f"\n    wrong without a word: {each['case']}: {each['told']}" for each in wrong)
    seconds = time.perf_counter() - started
    print(
        f"{verdict:10} {mutant.name}  {mutant.what}  [{where['case']}: {where['told']}] {seconds:.1f} s{silent}",
        flush=True,
    )
    return verdict, where["told"]


def _summary(mutants: list[Mutant], found: list[tuple[str, str]], seconds: float) -> int:
    counts = Counter(verdict for verdict, _ in found)
    counted = counts["killed"] + counts["survived"]
    for mutant, (verdict, told) in zip(mutants, found, strict=True):
        if verdict == "survived":
            print(f"survived: {mutant.name}: {mutant.what} ({told})")
    seen = Counter(told.split(":")[0] for verdict, told in found if verdict == "killed")
    print("killed by " + ", ".join(f"{name} {count}" for name, count in seen.most_common()))
    score = counts["killed"] / counted if counted else 1.0
    print(
        f"{len(found)} mutants in {seconds:.0f} s: {counts['killed']} killed, {counts['survived']} survived, "
        f"{counts['equivalent']} equivalent on these models, {counts[UNDECIDED]} undecided; score {score:.1%}"
    )
    return 0 if score >= 0.95 else 1


if __name__ == "__main__":
    sys.exit(main())
