"""What can be said of a compilation before the model is captured, which takes most of it. Imports no PyTorch."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from burnish.hub import snapshot
from burnish.ir.errors import ArtifactError, InvalidInputError, UsageError
from burnish.runtime.fresh_folder import check_replaceable

# What says that not every query head has keys and values of its own, by other names than num_key_value_heads.
_SHARED_HEADS = ("multi_query", "num_kv_heads", "new_decoder_architecture", "kv_lora_rank", "n_head_kv")


def check_destination(path: Path) -> None:
    """ArtifactError if no artifact can be written to `path`."""
    check_replaceable(path)
    parent = path.absolute().parent
    while not parent.exists():
        parent = parent.parent
    if not parent.is_dir():
        raise ArtifactError(f"{path} cannot be written: {parent} is a file")
    try:
        Path(tempfile.mkdtemp(prefix=".burnish-", dir=parent)).rmdir()  # permissions say little: root has all of them
    except OSError as error:
        raise ArtifactError(f"{path} cannot be written: {parent}: {error.strerror or error}") from error


def check_text_file(path: Path) -> None:
    """InvalidInputError unless there is a text to calibrate by."""
    if not path.is_file():
        raise InvalidInputError(f"there is no file {path}: calibration text is a path, a list of texts, or token ids")
    if not path.stat().st_size:
        raise InvalidInputError(f"the calibration text is empty: {path} has no byte")


def check_heads(model: Any, kv_heads: int) -> None:
    """UsageError if the model says how many heads of keys and values it has, and `kv_heads` of them cannot be made."""
    has = declared_kv_heads(model)
    if has is None or (kv_heads < has and has % kv_heads == 0):
        return
    possible = [str(count) for count in range(1, has) if has % count == 0]
    can = f"{' or '.join(possible)} can be made of them" if possible else "there are no fewer"
    raise UsageError(f"kv_heads={kv_heads}: the model has {has} heads of keys and values, and {can}")


def declared_kv_heads(model: Any) -> int | None:
    """Heads of keys and values of each layer, as a configuration has them; None where it does not say or they vary."""
    if isinstance(model, str | Path):
        path = Path(model)
        path = path if path.exists() else snapshot(str(path)) or path
        return _of_gguf(path) if path.suffix.lower() == ".gguf" else _of_config(_config_of(path))
    config = getattr(model, "config", None)
    get_text_config = getattr(config, "get_text_config", None)
    text = get_text_config() if callable(get_text_config) else config
    to_dict = getattr(text, "to_dict", None)
    return _of_config(to_dict()) if callable(to_dict) else None


def _config_of(folder: Path) -> Mapping[str, Any]:
    try:
        found = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):  # who reads the model says what is wrong with it
        return {}
    found = found if isinstance(found, dict) else {}
    text = found.get("text_config", found)
    return text if isinstance(text, dict) else {}


def _of_config(config: Mapping[str, Any]) -> int | None:
    heads = config.get("num_key_value_heads")
    if heads is None and not any(name in config for name in _SHARED_HEADS):
        heads = config.get("num_attention_heads", config.get("n_head"))
    varies = any("key_value_heads" in name and name != "num_key_value_heads" for name in config)
    return heads if type(heads) is int and heads > 0 and not varies else None


def _of_gguf(path: Path) -> int | None:
    if not path.is_file():
        return None
    from burnish.frontend.gguf_file import open_gguf

    metadata = open_gguf(path).metadata
    name = metadata.get("general.architecture")
    heads = metadata.get(f"{name}.attention.head_count_kv", metadata.get(f"{name}.attention.head_count"))
    return heads if type(heads) is int and heads > 0 else None
