"""Fills what shows real output: README.md's pass table and numbers, docs/benchmarks.md's tables, docs/program-text.md.

    make demo bench readme

Reads smollm2.burnish, which `make demo` leaves, and the newest run of each scenario in benchmarks/results/cpu.jsonl.
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


WIDTHS = {
    "int4": ("native int4 fast", ("ort-genai-int4", "llama.cpp-q4_0", "openvino-int4")),
    "GGUF's Q4_1, as it is": ("native Q4_1 as it came fast", ("llama.cpp-q4_1",)),
    "int8": ("native int8 fast", ("llama.cpp-q8_0", "openvino-int8")),
    "bfloat16": ("native bfloat16 fast", ("llama.cpp-bf16",)),
    "float32": ("native float32", ("ort-genai", "eager", "inductor")),
}
"""Ours and others with weights of as many bits: OpenVINO's float32 computes in bfloat16."""


def headline(run: list[dict[str, Any]]) -> str:
    """burnish beside the best of the others, for each width of weights."""
    lines = {line["contender"]: line for line in run}
    rows = [
        "| weights | decode, tokens/s | best of the others | | prompt, tokens/s | best of the others | |",
        "|" + "---|" * 7,
    ]
    for width, (own, others) in WIDTHS.items():
        cells = []
        for what, digits in (("decode_tokens_per_second", 0), ("prefill_tokens_per_second", 0)):
            ours = lines[own][what]
            name, best = max(
                ((each, lines[each][what]) for each in others if each in lines), key=lambda found: found[1]
            )
            cells.append(
                f"{ours:,.{digits}f} | {best:,.{digits}f} ({name.partition('-')[0]}) | **{ours / best:.2f} ×**"
            )
        rows.append(f"| {width} | {' | '.join(cells)} |")
    model, settings = run[0]["model"].partition(".Q")[0], run[0]["settings"]
    what = f"{model}, {settings['prompt_length']} tokens read, {settings['new_tokens']} written"
    return "\n".join([f"{what}:", "", *rows, "", conditions(run)])


def newest(results: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """The lines of the newest run of each scenario."""
    runs: dict[str, list[dict[str, Any]]] = {}
    for line in results:
        run = runs.setdefault(line["scenario"], [])
        if run and run[0]["date"] != line["date"]:
            run.clear()
        run.append(line)
    return runs


def numbers(runs: dict[str, list[dict[str, Any]]]) -> str:
    """A table for each scenario."""
    tables = [steps(run) if "milliseconds" in run[0] else speeds(run) for run in runs.values()]
    return "\n\n".join([*tables, "`make bench` measures them again."])


def speeds(run: list[dict[str, Any]]) -> str:
    """A row for each contender."""
    rows = ["| | decode, tokens/s | of the read bandwidth | prefill, tokens/s |", "|---|---|---|---|"]
    for line in run:
        share = line.get("share_of_bandwidth")  # older lines have none
        decode, prefill = line["decode_tokens_per_second"], line["prefill_tokens_per_second"]
        cells = (f"{decode:.1f}", "" if share is None else f"{share:.0%}", f"{prefill:,.0f}")
        rows.append(f"| {line['contender']} | {' | '.join(cells)} |")
    settings = run[0]["settings"]
    model, batch = run[0]["model"].partition(".Q")[0], settings.get("batch", 1)
    read, written = settings["prompt_length"], settings["new_tokens"]
    what = f"{model} at batch {batch}, {read:,} tokens of context, {written} new tokens"
    return "\n".join([f"**{what}**", "", *rows, "", conditions(run)])


def steps(run: list[dict[str, Any]]) -> str:
    """How long a step of several new tokens takes, over one."""
    counts = list(run[0]["milliseconds"])
    rows = [f"| a step of | 1 token, ms | {' | '.join(f'{count} tokens' for count in counts[1:])} |"]
    rows.append("|---" * (len(counts) + 1) + "|")
    for line in run:
        one, *more = line["milliseconds"].values()
        rows.append(f"| {line['contender']} | {one:.2f} | {' | '.join(f'{each / one:.2f} ×' for each in more)} |")
    model, length = run[0]["model"].partition(".Q")[0], run[0]["settings"]["prompt_length"]
    what = f"{model}: a step of several tokens of one sequence behind {length:,} others, over a step of one"
    return "\n".join([f"**{what}**", "", *rows, "", conditions(run)])


def conditions(run: list[dict[str, Any]]) -> str:
    """Where and when a run was made, of what, and how much of it was dropped."""
    first = run[0]
    versions = {name: number for line in run for name, number in line["versions"].items()}
    dropped = ", ".join(f"{line['dropped']} of {line['contender']}" for line in run if line["dropped"]) or "none"
    unreliable = ", ".join(line["contender"] for line in run if not line["reliable"])
    return (
        f"{first['device']}, {first['settings']['threads']} threads each; {first['date'][:10]}. Medians of up to "
        f"{first['settings']['repeats']} repetitions in one interleaved run; dropped because other processes disturbed "
        f"them: {dropped}. "
        + (f"Disturbed throughout: {unreliable}. " if unreliable else "")
        + ", ".join(f"{name} {number}" for name, number in versions.items())
        + "."
    )


def fill(text: str, name: str, content: str) -> str:
    """`text` with `content` between the marks of that name."""
    begin, end = f"<!-- {name} -->", f"<!-- end of {name} -->"
    before, rest = text.split(begin, 1)
    return f"{before}{begin}\n{content}\n{end}{rest.split(end, 1)[1]}"


def refill(path: Path, parts: dict[str, str]) -> None:
    """Write the parts between their marks in a file."""
    text = path.read_text(encoding="utf-8")
    for name, content in parts.items():
        text = fill(text, name, content)
    path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    artifact = Artifact.open(ROOT / "smollm2.burnish")
    results = (ROOT / "benchmarks" / "results" / "cpu.jsonl").read_text().splitlines()
    runs = newest([json.loads(line) for line in results])
    refill(ROOT / "README.md", {"table": table(artifact), "numbers": headline(runs["smollm2"])})
    refill(ROOT / "docs" / "benchmarks.md", {"numbers": numbers(runs)})
    refill(ROOT / "docs" / "program-text.md", {"text": layer(artifact)})
