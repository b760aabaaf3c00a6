"""Writes the pages that show what burnish does: docs/passes, from docs/model.py, docs/errors.md, from bad input,
docs/api.md, from docstrings, and docs/finding-a-bug.md, from a planted one.

Tests compare the pages with what burnish does then.

make docs
"""

from __future__ import annotations

import difflib
import importlib
import inspect
import pkgutil
import re
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType

import torch

import burnish.passes
from burnish.frontend.capture import capture
from burnish.frontend.graph_capture import capture_graph
from burnish.inspect.table import reasons
from burnish.ir.trace import PassRecord, Trace
from burnish.passes.base import Pass
from burnish.passes.layout.cancel_transposes import CancelTransposes
from burnish.passes.pipeline import run_passes
from burnish.passes.pipelines import (
    graph_passes,
    lower_for_gpu,
    lower_for_native,
    lower_for_onnxruntime,
    make_incremental,
)
from burnish.passes.rules import Rules

DOCS = Path(__file__).parent
EFFECTS = {
    "exact": "the same numbers, bit for bit",
    "reassociates": "the same numbers up to the order of floating-point operations",
    "lossy": "another function",
}


def runs() -> list[tuple[Pass, PassRecord, PassRecord]]:
    """Each pass with the records of the program before and after it: to a step, on for each backend, and of a graph."""
    sys.path.insert(0, str(DOCS))
    from model import Decoder, Images

    torch.manual_seed(0)
    program = capture(Decoder(), max_length=128)
    found: list[tuple[Pass, PassRecord, PassRecord]] = []
    trace = Trace()
    step = run_passes(program, make_incremental(), trace)
    common = list(trace.passes)
    found += zip(make_incremental(), common[:-1], common[1:], strict=True)
    for passes in (lower_for_native(None), lower_for_onnxruntime(), lower_for_gpu(torch.bfloat16)):
        lowering = Trace(list(common))
        run_passes(step.copy(), passes, lowering)
        records = lowering.passes[len(common) - 1 :]
        found += zip(passes, records[:-1], records[1:], strict=True)
    images = capture_graph(Images().eval(), (torch.randn(1, 3, 32, 32),))
    for passes in (graph_passes(), [*graph_passes()[:-1], CancelTransposes()]):
        lowering = Trace()
        run_passes(images, passes, lowering)
        found += zip(passes, lowering.passes[:-1], lowering.passes[1:], strict=True)
    return found


def pages() -> dict[str, str]:
    """Every page by its path below docs/."""
    found = {}
    rows = []
    for each, before, after in runs():
        file = f"passes/{after.name}.md"
        if file in found:
            continue
        found[file] = page(each, before, after)
        says = description(each).split("\n\n")[0].replace("\n", " ")
        rows.append(f"| {after.number} | [{after.name}]({Path(file).name}) | {after.effect} | {says} |")
    found["passes/README.md"] = "\n".join(
        [
            "# Passes",
            "",
            "In this order, each on what the one before left. Each page shows what the pass did to the two layers of",
            "[docs/model.py](../model.py). `burnish inspect ARTIFACT --dump DIR` writes such texts of yours.",
            "",
            "| # | pass | effect | what it does |",
            "|---|---|---|---|",
            *rows,
            "",
            "Effects: "
            + "; ".join(f"*{name}*: {meaning}" for name, meaning in EFFECTS.items())
            + " (none runs unless asked for, but that a model in half precision stays so on a GPU).",
            "",
        ]
    )
    return found


def description(each: Pass) -> str:
    """What the module of a pass says that it does."""
    for module in modules():
        of_class = type(each).__module__ == module.__name__
        if of_class or (isinstance(each, Rules) and any(value is each for value in vars(module).values())):
            return inspect.cleandoc(module.__doc__ or "")
    raise AssertionError(f"{each.name} is in no module of burnish.passes")


def modules() -> Iterator[ModuleType]:
    """The modules of burnish.passes that each have one pass."""
    for found in pkgutil.walk_packages(burnish.passes.__path__, "burnish.passes."):
        if found.name.rpartition(".")[2] not in ("pipelines", "rules"):
            yield importlib.import_module(found.name)


def page(each: Pass, before: PassRecord, after: PassRecord) -> str:
    """One pass: what it does, what it did, the difference that it made."""
    lines = [f"# {after.name}", "", description(each), "", f"Effect: *{after.effect}*, {EFFECTS[after.effect]}.", ""]
    lines += [f"Operations: {after.nodes_before} before, {after.nodes_after} after.", ""]
    for title, entries in (("Rewritten", after.rewrites), ("Left as it was", after.refusals)):
        if entries:
            lines += [f"{title}:", "", *(f"- {one.count} × {one.text}" for one in reasons(entries)), ""]
    lines += [f"- note: {note}" for note in after.notes]
    changes = difference(before.text, after.text)
    if changes:
        lines += ["## Before and after", "", "```diff", *changes, "```", ""]
    else:
        lines += ["There was nothing for it to do in this model.", ""]
    return "\n".join(lines)


def difference(before: str, after: str) -> Sequence[str]:
    """The lines that changed, without the places in the source."""
    old, new = ([re.sub(r"  # .*", "", line) for line in text.splitlines()[1:]] for text in (before, after))
    return [line.rstrip() for line in difflib.unified_diff(old, new, n=1, lineterm="")][2:]


def errors() -> str:
    """The page on bad input."""
    sys.path.insert(0, str(DOCS.parent))
    from tests.bad_input import CASES, message, row

    rows = []
    for case in CASES:
        with tempfile.TemporaryDirectory() as folder:
            rows.append(row(case, message(case, Path(folder))))
    return "\n".join(
        [
            "# What bad input says",
            "",
            "Each is a subclass of `burnish.BurnishError`, and leaves no half-written artifact behind.",
            "The messages are real: [tests/bad_input.py](../tests/bad_input.py) provokes them.",
            "",
            "| what | error | message |",
            "|---|---|---|",
            *rows,
            "",
        ]
    )


if __name__ == "__main__":
    sys.path.insert(0, str(DOCS))
    import api
    import walkthrough

    made = {**pages(), "api.md": api.page(), "errors.md": errors(), "finding-a-bug.md": walkthrough.page()}
    for name, text in made.items():
        (DOCS / name).parent.mkdir(exist_ok=True)
        (DOCS / name).write_text(text, encoding="utf-8")
        print(DOCS / name)
