"""Models whose code comes with their weights (`auto_map` in config.json): run only for who trusts it."""

from __future__ import annotations

import json
from pathlib import Path

ACCEPTED = (
    "a transformers PreTrainedModel, a folder with config.json and safetensors, org/name of one in the local Hugging "
    "Face cache, a .gguf or .onnx file, a torch.nn.Module or a torch.export.ExportedProgram that maps token ids to "
    "logits"
)
"""What `read` takes."""


def own_code(folder: Path) -> list[str]:
    """The files of code that `folder` names for its configuration and model; nothing where transformers' is meant."""
    try:
        found = json.loads((folder / "config.json").read_text(encoding="utf-8")).get("auto_map")
    except (OSError, ValueError, AttributeError, RecursionError):  # who reads the configuration says what is wrong
        return []
    classes = [found.get(name) for name in ("AutoConfig", "AutoModelForCausalLM")] if isinstance(found, dict) else []
    return [f"{each.rpartition('.')[0]}.py" for each in classes if isinstance(each, str)]


def not_trusted(folder: Path, files: list[str]) -> str:
    """Why a model that is such code is not read."""
    return (
        f"{folder}: the model is code that comes with it ({', '.join(files)}), which is not run: read it, and if you "
        f"trust it, give trust_remote_code=True. Without, burnish takes {ACCEPTED}."
    )
