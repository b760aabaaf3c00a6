"""What came of the ONNX project's own tests and of real files: `python -m tests.onnx.conformance`."""

from __future__ import annotations

import argparse
import logging
import re
import sys
import warnings
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path

import onnx
import onnxruntime
import torch

from burnish.frontend.onnx.checks import FIRST_OPSET, LAST_OPSET
from tests.onnx.cases import Outcome, all_cases, excluded, operator_of, run
from tests.onnx.files import ALLOWED, PACKAGES, Found, compare, fetch, files

_SHORT = 90  # characters of a reason in the table
WAYS = {
    "itself": "itself",
    "reference": 'compiled, `backend="reference"`',
    "onnxruntime": 'compiled, `backend="onnxruntime"`',
}

Table = dict[str, dict[str, list[Outcome]]]  # by way and operator


def main() -> int:
    """Writes the page; 1 if an answer was wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, help="a file for the page (standard output without it)")
    parser.add_argument("--only", default="", help="tests whose name has this in it")
    parser.add_argument("--files", type=Path, help="a folder to put packages with real files into; none without it")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    left_out: Counter[str] = Counter()
    table: Table = {way: defaultdict(list) for way in WAYS}
    for case in all_cases():
        if options.only not in case.name:
            continue
        reason = excluded(case)
        if reason:
            left_out[reason] += 1
            continue
        for way, found in table.items():
            found[operator_of(case)].append(run(case, way))
    real: list[Found] = []
    if options.files is not None:
        fetch(options.files)
        for path in files(options.files):
            real.append(compare(path))
            print(real[-1].file, real[-1].kind, file=sys.stderr, flush=True)
    text = page(table, left_out, real)
    if options.output:
        options.output.write_text(text, encoding="utf-8")
    else:
        print(text)
    outcomes = [each.kind for found in table.values() for each in _all(found)] + [each.kind for each in real]
    return int("wrong" in outcomes)


def page(table: Table, left_out: Counter[str], real: Sequence[Found]) -> str:
    """The page of documentation."""
    lines = [
        "# ONNX in",
        "",
        'What `burnish.compile("model.onnx")` takes, as `make onnx-conformance` found it, with '
        f"onnx {onnx.__version__}, onnxruntime {onnxruntime.__version__} and torch {torch.__version__}.",
        "",
        "## The ONNX project's own tests of operators",
        "",
        f"Those of opsets {FIRST_OPSET} to {LAST_OPSET}, with their own tolerances. *Itself* is the module that a file "
        "becomes, before it is traced. A compiled program has its shapes before it runs: an input that shapes depend "
        "on is a constant there.",
        "",
        "| | tests | right | refused by name | rounding | wrong |",
        "|---|---|---|---|---|---|",
    ]
    for way, name in WAYS.items():
        counts = Counter(each.kind for each in _all(table[way]))
        total = sum(counts.values())
        share = 100 * counts["right"] / max(total, 1)
        lines.append(
            f"| {name} | {total} | {counts['right']} ({share:.1f}%) | {counts['refused']} | {counts['rounding']} | "
            f"{counts['wrong']} |"
        )
    lines += [
        "",
        "*Rounding*: the expected numbers are further from the exact ones than the test's tolerance; "
        "tests/onnx/cases.py says why for each. What ONNX Runtime does not run is run by the reference backend, and "
        "told, unless `backend=` asks for it.",
        "",
        "Not counted: " + ", ".join(f"{count} of {reason}" for reason, count in sorted(left_out.items())) + ".",
        "",
        *_files(real),
        "## By operator",
        "",
        "Those with a test that is not right everywhere.",
        "",
        "| operator | tests | right itself | by the reference | by ONNX Runtime | why not |",
        "|---|---|---|---|---|---|",
    ]
    for name in sorted(table["itself"]):
        outcomes = [each for found in table.values() for each in found[name]]
        reasons = dict.fromkeys(f"{each.kind}: {_short(each.reason)}" for each in outcomes if each.kind != "right")
        if not reasons:
            continue
        rights = " | ".join(str(sum(each.kind == "right" for each in found[name])) for found in table.values())
        lines.append(f"| {name} | {len(table['itself'][name])} | {rights} | {'; '.join(reasons)} |")
    return "\n".join(lines) + "\n"


def _files(real: Sequence[Found]) -> list[str]:
    if not real:
        return []
    rows = [
        f"| {each.file} | {each.runs or ''} | "
        + (f"refused: {_short(each.reason)} |" if each.difference is None else f"{each.difference:.0e} |")
        for each in real
    ]
    return [
        "## Real files",
        "",
        f"Those in the packages {', '.join(PACKAGES)} and the light models of onnx: the largest difference from ONNX "
        f"Runtime's own answers on the file, of an output's largest number (allowed: {ALLOWED:.0e}), with random and "
        "with smooth inputs, and axes that are open at several sizes.",
        "",
        "| file | runs | difference |",
        "|---|---|---|",
        *rows,
        "",
    ]


def _all(found: dict[str, list[Outcome]]) -> list[Outcome]:
    return [each for outcomes in found.values() for each in outcomes]


def _short(reason: str) -> str:
    """A reason without the node's name, which no other test has."""
    _, _, rest = reason.partition("): ")
    text = " ".join((rest or reason).replace("|", "/").split())
    text = re.sub(r"cannot load \S+: \[ONNXRuntimeError\] : \d+ : \w+ : (Load model from \S+ failed:)?", "has: ", text)
    text = re.sub(r" node with name '\w+'| \(node_\w+\)", "", text)
    return text if len(text) <= _SHORT else f"{text[:_SHORT]}..."


if __name__ == "__main__":
    sys.exit(main())
