"""A model as read: the program, and what else an artifact takes from it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from burnish.ir.program import Program
from burnish.runtime.tokenization import TokenizerData

ACCEPTED = (
    "a transformers PreTrainedModel, a folder with config.json and safetensors, org/name of one in the local Hugging "
    "Face cache, a .gguf file, a torch.nn.Module or a torch.export.ExportedProgram that maps token ids to logits"
)
"""What `read` takes."""


@dataclass(frozen=True)
class Source:
    """What `read` gives."""

    program: Program
    name: str
    tokenizer: TokenizerData | None = None
    generation: dict[str, Any] = field(default_factory=dict)  # the model's own defaults, by GenerationConfig's names
    config: dict[str, Any] = field(default_factory=dict)  # the model's configuration, as JSON has it
