"""A table by operator of what came of the ONNX project's own tests: `python -m tests.onnx.conformance`."""

from __future__ import annotations

import argparse
import sys
import warnings
from collections import Counter, defaultdict
from pathlib import Path

import onnx

from burnish.frontend.onnx.checks import FIRST_OPSET, LAST_OPSET
from tests.onnx.cases import Outcome, all_cases, excluded, operator_of, run

_SHORT = 90  # characters of a reason in the table


def main() -> int:
    """Writes the table; 1 if an answer was wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, help="a file for the table (standard output without it)")
    parser.add_argument("--only", default="", help="tests whose name has this in it")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    left_out: Counter[str] = Counter()
    eager: dict[str, list[Outcome]] = defaultdict(list)
    exported: dict[str, list[Outcome]] = defaultdict(list)
    for case in all_cases():
        if options.only not in case.name:
            continue
        reason = excluded(case)
        if reason:
            left_out[reason] += 1
            continue
        name = operator_of(case)
        eager[name].append(run(case, "itself"))
        exported[name].append(run(case, "exported"))
    text = page(eager, exported, left_out)
    if options.output:
        options.output.write_text(text, encoding="utf-8")
    else:
        print(text)
    return int(any(each.kind == "wrong" for table in (eager, exported) for found in table.values() for each in found))


def page(eager: dict[str, list[Outcome]], exported: dict[str, list[Outcome]], left_out: Counter[str]) -> str:
    """The page of documentation."""
    sums = [Counter(each.kind for found in table.values() for each in found) for table in (eager, exported)]
    total = sum(sums[0].values())
    lines = [
        "# ONNX in",
        "",
        f"What came of the ONNX project's own tests of operators (onnx {onnx.__version__}, opsets {FIRST_OPSET} to "
        f"{LAST_OPSET}), with the tests' own tolerances. *Itself*: the module that a file becomes. *Exported*: what "
        "`torch.export` makes of it, with fixed sizes; inputs that shapes depend on are constants there.",
        "",
        "| | tests | right | refused by name | rounding | wrong |",
        "|---|---|---|---|---|---|",
    ]
    for name, counts in zip(("itself", "exported"), sums, strict=True):
        share = 100 * counts["right"] / max(total, 1)
        lines.append(
            f"| {name} | {total} | {counts['right']} ({share:.1f}%) | {counts['refused']} | {counts['rounding']} | "
            f"{counts['wrong']} |"
        )
    lines += [
        "",
        "*Rounding*: the expected numbers are further from the exact ones than the test's tolerance; "
        "tests/onnx/cases.py says why for each.",
        "",
        "Not counted: " + ", ".join(f"{count} of {reason}" for reason, count in sorted(left_out.items())) + ".",
        "",
        "| operator | tests | right itself | right exported | why not |",
        "|---|---|---|---|---|",
    ]
    for name in sorted(eager):
        reasons = dict.fromkeys(
            f"{each.kind}: {_short(each.reason)}" for each in (*eager[name], *exported[name]) if each.kind != "right"
        )
        rights = [sum(each.kind == "right" for each in table[name]) for table in (eager, exported)]
        lines.append(f"| {name} | {len(eager[name])} | {rights[0]} | {rights[1]} | {'; '.join(reasons)} |")
    return "\n".join(lines) + "\n"


def _short(reason: str) -> str:
    """A reason without the node's name, which no other test has."""
    _, _, rest = reason.partition("): ")
    text = " ".join((rest or reason).replace("|", "/").split())
    return text if len(text) <= _SHORT else f"{text[:_SHORT]}..."


if __name__ == "__main__":
    sys.exit(main())
