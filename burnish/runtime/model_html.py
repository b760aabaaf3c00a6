"""A compiled model as HTML, for notebooks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from html import escape

from burnish.ir.states import State
from burnish.ir.text import dtype_name
from burnish.ir.trace import Trace
from burnish.ir.trace_html import LINE, TABLE, counted, trace_html
from burnish.runtime.artifact import Artifact

_CELL = "padding:.1em .8em .1em 0;background:none;border:0;text-align:left;vertical-align:top"


def model_html(artifact: Artifact, backend: str, trace: Trace | str) -> str:
    """Name, target, sizes and states, and the trace, folded away; or in its place what keeps it from being shown."""
    manifest, signature = artifact.manifest, artifact.signature
    size = sum(manifest.files[file].bytes for file in {entry.file for entry in manifest.weights.values()})
    rows = {
        "runs on": f"{backend}, compiled for {manifest.target} by burnish {manifest.burnish}",
        "tokens": f"vocabulary of {signature.vocabulary:,}; at most {signature.max_length:,} in a conversation",
        "weights": f"{len(manifest.weights)}, {size / 1e6:,.1f} MB",
        "states": states_text(artifact.states),
        "tokenizer": "none: it reads and writes token ids" if manifest.tokenizer is None else "included",
    }
    cells = "".join(
        f'<tr><th style="{_CELL};opacity:.7;font-weight:normal">{escape(name)}</th>'
        f'<td style="{_CELL}">{escape(value)}</td></tr>'
        for name, value in rows.items()
    )
    if isinstance(trace, Trace):
        rewrites = sum(len(record.rewrites) for record in trace.passes)
        shown = (
            f'<details><summary style="cursor:pointer">{counted(max(len(trace.passes) - 1, 0), "pass")}, '
            f"{counted(rewrites, 'rewrite')}</summary>{trace_html(trace)}</details>"
        )
    else:
        shown = f"<div>{escape(trace)}</div>"
    return (
        f'<div><div style="border-bottom:{LINE};padding-bottom:.2em"><b>{escape(manifest.name)}</b> '
        f'<span style="opacity:.7">burnish CompiledModel</span></div>'
        f'<table style="{TABLE}"><tbody>{cells}</tbody></table>{shown}</div>'
    )


def states_text(states: Sequence[State]) -> str:
    """`60 × cache f32[batch, 3, capacity, 64], 46,080 B a token`."""
    kinds = Counter(
        f"{state.kind.value} {dtype_name(state.dtype)}[{', '.join(str(size) for size in state.shape)}]"
        for state in states
    )
    token = sum(state.bytes_a_token for state in states)
    told = [f"{count} × {kind}" for kind, count in kinds.items()]
    return ", ".join([*told, f"{token:,} B a token"] if token else told) or "none"
