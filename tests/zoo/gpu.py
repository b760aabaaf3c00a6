"""What each type of the zoo becomes on a GPU: `python -m tests.zoo.gpu` writes docs/zoo-gpu.md. It needs no GPU.

The types are those that docs/zoo.md says compile and match. Numbers of the kernels are checked elsewhere: by the
interpreter, kernel by kernel and for some whole models (tests/triton).
"""

from __future__ import annotations

import logging
import re
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import torch

from burnish.codegen.plan.planner import fallbacks
from burnish.codegen.triton.lower import plan
from burnish.codegen.triton.tiles import Target
from burnish.frontend import read
from burnish.ir.errors import BurnishError
from burnish.ir.trace import Trace
from burnish.passes.pipeline import run_passes
from burnish.passes.pipelines import lower_for_gpu, make_incremental
from burnish.runtime.plan import Launch
from tests.zoo.configs import build

DOCS = Path(__file__).parents[2] / "docs"


@dataclass(frozen=True)
class Planned:
    """The launch plan of a type, for one more token of one row, chosen by the last launch."""

    model_type: str
    launches: int = 0
    kernels: int = 0
    by_pytorch: tuple[str, ...] = ()  # the ops that have no kernel, and how many of each
    error: str = ""


def planned(model_type: str) -> Planned:
    """Compile the type's tiny model as far as its launch plan, in bfloat16."""
    try:
        program = read(build(model_type)).program
        step = run_passes(program, [*make_incremental(), *lower_for_gpu(torch.bfloat16)], Trace())
        launches, specs = plan(step, Target((90,), 132))
    except BurnishError as error:
        return Planned(model_type, error=f"{type(error).__name__}: {error}")
    decode = launches.variants[0]
    targets = {node.name: str(node.target).removesuffix(".default") for node in step.graph.nodes}
    missing = Counter(targets.get(node, node) for node in fallbacks(launches))
    return Planned(
        model_type,
        sum(isinstance(each, Launch) for each in (*decode.steps, *decode.results["ids"].steps)),
        len(specs),
        tuple(f"{count} × {target}" for target, count in missing.most_common()),
    )


def page(rows: list[Planned]) -> str:
    """The page, a row each."""
    complete = sum(not row.by_pytorch and not row.error for row in rows)
    lines = [
        "# The model zoo on GPUs",
        "",
        f"Of the {len(rows)} types that [compile and match](zoo.md), {complete} become a launch plan of kernels alone.",
        "What others have no kernel for is run by PyTorch, between the kernels. Tiny models in bfloat16; launches",
        "of one more token, all layers and what is around them, up to the likeliest token's id. No GPU is needed to",
        "make this page, and none was used.",
        "",
        "This page is written by `python -m tests.zoo.gpu`.",
        "",
        "| type | launches a token | distinct kernels | run by PyTorch |",
        "|---|---:|---:|---|",
        *(
            f"| {row.model_type} | {row.launches} | {row.kernels} | {row.error or ', '.join(row.by_pytorch)} |"
            for row in rows
        ),
    ]
    return "\n".join(lines) + "\n"


def matching() -> list[str]:
    """The types that docs/zoo.md says match."""
    text = (DOCS / "zoo.md").read_text(encoding="utf-8")
    return re.findall(r"^\| ([\w-]+) \| match \|", text, flags=re.MULTILINE)


def main() -> int:
    """Plan all types, one after the other, and write the page."""
    logging.disable(logging.WARNING)
    rows = []
    for model_type in matching():
        rows.append(planned(model_type))
        print(rows[-1], flush=True)
    (DOCS / "zoo-gpu.md").write_text(page(rows), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
