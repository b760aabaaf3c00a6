"""What is wrong with a folder, told before transformers is imported and weights are looked at."""

from __future__ import annotations

import json
from pathlib import Path

from burnish.frontend.adapter import adapter_in
from burnish.frontend.own_code import not_trusted, own_code
from burnish.frontend.quantized import check_method, settings_of
from burnish.ir.errors import InvalidModelError


def check_folder(folder: Path) -> None:
    """InvalidModelError for an adapter that is not merged or lacks its base model, and for quantization not read."""
    adapter = adapter_in(folder)
    base = folder if adapter is None else adapter.base
    try:
        config = json.loads((base / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):  # who reads it says what is wrong with it
        return
    config = config if isinstance(config, dict) else {}
    settings = settings_of(config.get("quantization_config") or config.get("quantization"), base)
    if settings is not None:
        check_method(settings, base)


def check_code(folder: Path) -> None:
    """InvalidModelError for a model that is code of its own, which transformers has none for."""
    files = own_code(folder)
    if not files:
        return
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

    kind = json.loads((folder / "config.json").read_text(encoding="utf-8")).get("model_type")
    if kind not in CONFIG_MAPPING_NAMES:
        raise InvalidModelError(not_trusted(folder, files))
