"""Numbers of bytes for people."""

from __future__ import annotations

from collections.abc import Iterable

_UNITS = (("GB", 1e9), ("MB", 1e6), ("kB", 1e3))


def size_text(count: float) -> str:
    """812 B, 23.0 kB, 538.1 MB."""
    for unit, size in _UNITS:
        if count >= size:
            return f"{count / size:,.1f} {unit}"
    return f"{count:.0f} B"


def unit_of(counts: Iterable[float]) -> tuple[str, float]:
    """The unit of a column of whole numbers: MB, or a smaller one where that would show 0 for something."""
    least = min((count for count in counts if count), default=1e6)
    return next((each for each in _UNITS[1:] if least >= each[1] / 2), ("B", 1.0))
