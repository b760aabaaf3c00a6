"""burnish and its peers on one model, and the results as a table and as lines of a file."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from burnish.benchmark.bandwidth import Bandwidth
from burnish.benchmark.machine import device
from burnish.benchmark.peers import prepare
from burnish.benchmark.reads import of_artifact
from burnish.benchmark.runner import DISTURBED, Entrant, Progress, Result, Settings, measure, same_tokens
from burnish.runtime.artifact import Artifact
from burnish.runtime.backends import Trust


def compare(
    artifact: Path,
    source: Path | None,
    peers: Sequence[str],
    settings: Settings,
    progress: Progress,
    trust: Trust | None = None,
) -> list[Result]:
    """Measure an artifact and, on the model that it was compiled from, `peers`; burnish's result comes first.

    `trust`: see `burnish.load`.

    Raises BenchmarkError if a contender cannot be prepared or fails.
    """
    settings = dataclasses.replace(settings, vocabulary=Artifact.open(artifact).signature.token_limit)
    entrants = [Entrant("burnish", Path(sys.executable), artifact, trust=trust, reads=of_artifact(artifact))]
    for peer in peers:
        assert source is not None
        entrants.append(prepare(peer, source, lambda what: progress(what, 0, settings.repeats)))
    return measure(entrants, settings, progress)


def results_view(results: Sequence[Result], bandwidth: Bandwidth | None = None) -> RenderableType:
    """Medians, how many times as fast the first result is, and what to know about the numbers."""
    first = results[0]
    settings = first.settings
    table = Table(box=box.SIMPLE_HEAD, padding=0, pad_edge=False, header_style="bold")
    table.add_column("", min_width=max(len(result.name) for result in results))
    shares = ["of read\nband-\nwidth"] if bandwidth is not None else []
    faster = f"{first.name}\nis"
    headings = ["decode\ntokens/s", faster, *shares, "prefill\ntokens/s", faster, "same\ntokens", "kept", "dropped"]
    for heading in headings:
        table.add_column(heading, justify="right")
    for result in results:
        other = result is not first
        decode = first.decode_tokens_per_second / result.decode_tokens_per_second
        prefill = first.prefill_tokens_per_second / result.prefill_tokens_per_second
        share = bandwidth.share(result) if bandwidth is not None else None
        table.add_row(
            result.name if result.reliable else f"{result.name} (disturbed)",
            f"{result.decode_tokens_per_second:.1f}",
            f"{decode:.2f} ×" if other else "",
            *["" if share is None else f"{share:.0%}" for _ in shares],
            f"{result.prefill_tokens_per_second:.0f}",
            f"{prefill:.2f} ×" if other else "",
            f"{same_tokens(result, first)} of {settings.new_tokens}" if other else "",
            str(len(result.kept)),
            str(result.dropped),
        )
    versions = {name: number for result in results for name, number in result.versions.items()}
    lines = [
        f"batch {settings.batch}, greedy: {settings.prompt_length} tokens read, {settings.new_tokens} written; "
        f"{settings.threads} threads each",
        device(),
        *(bandwidth.lines() if bandwidth is not None else []),
        ", ".join(f"{name} {number}" for name, number in versions.items()),
        f"medians of interleaved repetitions; dropped: others used over {DISTURBED:.0%} of the machine meanwhile",
    ]
    return Group(table, *(Text(line, style="dim") for line in lines))


def records(
    results: Sequence[Result], model: str, bandwidth: Bandwidth | None = None, scenario: str = ""
) -> list[dict[str, Any]]:
    """A run as lines of a results file, of one date; tokens are compared with those of the first result."""
    date = datetime.now(UTC).isoformat(timespec="seconds")
    lines = []
    for result in results:
        share = None if bandwidth is None else bandwidth.share(result)
        lines.append(
            {
                "date": date,
                "device": device(),
                "scenario": scenario,
                "model": model,
                "contender": result.name,
                "versions": result.versions,
                "settings": dataclasses.asdict(result.settings),
                "prefill_tokens_per_second": round(result.prefill_tokens_per_second, 2),
                "decode_tokens_per_second": round(result.decode_tokens_per_second, 2),
                "share_of_bandwidth": None if share is None else round(share, 3),
                "dropped": result.dropped,
                "reliable": result.reliable,
                "same_tokens": same_tokens(result, results[0]),
                "same_tokens_as": results[0].name,
                "repetitions": [
                    {
                        "prefill": round(each.prefill, 5),
                        "decode": round(each.decode, 5),
                        "others": round(each.others, 3),
                    }
                    for each in result.repetitions
                ],
            }
        )
    return lines
