"""A model as read: the program, and what else an artifact takes from it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from burnish.ir.program import Program
from burnish.runtime.tokenization import TokenizerData


@dataclass(frozen=True)
class Source:
    """What `read` gives."""

    program: Program
    name: str
    tokenizer: TokenizerData | None = None
    generation: dict[str, Any] = field(default_factory=dict)  # the model's own defaults, by GenerationConfig's names
    config: dict[str, Any] = field(default_factory=dict)  # the model's configuration, as JSON has it
