"""Fills the parts of README.md that show real output: the pass table, the program's text, the measured numbers.

    make demo bench readme

Reads smollm2.burnish, which `make demo` leaves, and the last run in benchmarks/results/cpu.jsonl.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from burnish.inspect.table import pass_table, plain_text
from burnish.runtime.artifact import Artifact

ROOT = Path(__file__).parents[1]


def table(artifact: Artifact) -> str:
    """The pass table."""
    text = plain_text(pass_table(artifact.trace()))
    return "\n".join(["```", *(line for line in text.splitlines() if line.strip()), "```"])


def layer(artifact: Artifact) -> str:
    """The calls of the last text, without the places in the source; the states among them."""
    lines = artifact.trace().passes[-1].text.splitlines()
    start = next(index for index, line in enumerate(lines) if line.startswith("input "))
    return "\n".join(["```", *(re.sub(r"  # .*", "", line) for line in lines[start:]), "```"])


def numbers(results: list[dict[str, Any]]) -> str:
    """A row for each contender of the last run."""
    last = {line["contender"]: line for line in results}
    first = last["burnish"]
    settings = first["settings"]
    rows = ["| | decode, tokens/s | burnish is | prefill, tokens/s | burnish is |", "|---|---|---|---|---|"]
    versions: dict[str, str] = {}
    for name, line in last.items():
        versions |= line["versions"]
        ratios = [
            f"{line[f'burnish_times_{what}']:.2f} ×" if name != "burnish" else "" for what in ("decode", "prefill")
        ]
        decode, prefill = line["decode_tokens_per_second"], line["prefill_tokens_per_second"]
        rows.append(f"| {name} | {decode:.1f} | {ratios[0]} | {prefill:.0f} | {ratios[1]} |")
    dropped = ", ".join(f"{line['dropped']} of {name}" for name, line in last.items() if line["dropped"]) or "none"
    kept = ", ".join(str(len(line["repetitions"]) - line["dropped"]) for line in last.values())
    return "\n".join(
        [
            *rows,
            "",
            f"SmolLM2-135M-Instruct in float32 at batch 1, {settings['prompt_length']} tokens of context, "
            f"{settings['new_tokens']} new tokens; {first['device']}, {settings['threads']} threads each; "
            f"{first['date'][:10]}. Medians of one interleaved run ({kept} repetitions; dropped because other "
            f"processes disturbed them: {dropped}). "
            + ", ".join(f"{name} {number}" for name, number in versions.items())
            + ".",
            "`make bench` measures them again.",
        ]
    )


def fill(text: str, name: str, content: str) -> str:
    """`text` with `content` between the marks of that name."""
    begin, end = f"<!-- {name} -->", f"<!-- end of {name} -->"
    before, rest = text.split(begin, 1)
    return f"{before}{begin}\n{content}\n{end}{rest.split(end, 1)[1]}"


if __name__ == "__main__":
    readme = ROOT / "README.md"
    artifact = Artifact.open(ROOT / "smollm2.burnish")
    text = readme.read_text(encoding="utf-8")
    text = fill(text, "table", table(artifact))
    text = fill(text, "text", layer(artifact))
    results = ROOT / "benchmarks" / "results" / "cpu.jsonl"
    if results.exists():
        text = fill(text, "numbers", numbers([json.loads(line) for line in results.read_text().splitlines()]))
    readme.write_text(text, encoding="utf-8")
