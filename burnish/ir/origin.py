"""Where a node comes from in the user's program."""

from __future__ import annotations

from dataclasses import dataclass

SEPARATOR = " | "  # of its parts, in texts
NOTHING = "-"  # in place of a part that is empty


@dataclass(frozen=True)
class Origin:
    """Where a node comes from in the user's program: innermost module, and the line of source that called the op."""

    module: str = ""  # "model.layers.0.self_attn"
    module_type: str = ""  # "LlamaAttention"
    file: str = ""
    line: int = 0
    code: str = ""

    def __str__(self) -> str:
        place = f"{self.file.rsplit('/', 1)[-1]}:{self.line}" if self.file else ""
        return " ".join(part for part in (self.module, place) if part)
