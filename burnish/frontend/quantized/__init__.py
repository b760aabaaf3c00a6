"""Quantized checkpoints: the tensors that together are one weight become it, with the integers that they have.

A format is a file of this folder, whose `read(settings, stored)` gives the tensors of the model as they would be
without quantization: each weight `Widened`, floats to all but who asks for what the file has. None needs the library
that wrote it. Products that rounded what they multiply with to 8 bits, too, do not here.
"""

from __future__ import annotations

import importlib
import json
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from burnish.ir.errors import InvalidModelError

if TYPE_CHECKING:
    from burnish.frontend.quantized.parts import Settings
    from burnish.frontend.safetensors_folder import Tensors

_log = logging.getLogger(__name__)

METHODS = {
    "awq": "awq",
    "bitsandbytes": "bitsandbytes",
    "compressed-tensors": "compressed_tensors",
    "fbgemm_fp8": "fp8",
    "fp8": "fp8",
    "gptq": "gptq",
    "mlx": "mlx",
    "mxfp4": "mxfp4",
}
"""By the `quant_method` of config.json, which MLX leaves out, the file of this folder."""

_OLD = ("quantize_config.json", "quant_config.json")  # where the first versions of AutoGPTQ and AutoAWQ wrote it


def settings_of(told: object, folder: Path) -> dict[str, Any] | None:
    """How a checkpoint says that it is quantized; None if it does not. `told`: by its config.json."""
    if told is not None:
        return dict(told) if isinstance(told, dict) else {}
    for name, method in zip(_OLD, ("gptq", "awq"), strict=True):
        if (folder / name).is_file():
            try:
                found = json.loads((folder / name).read_text(encoding="utf-8"))
            except (OSError, ValueError, RecursionError) as error:
                raise InvalidModelError(f"{folder / name} does not say how the model is quantized: {error}") from error
            return {"quant_method": method, **found}
    return None


def check_method(settings: Settings, folder: Path) -> str:
    """The method. Raises InvalidModelError for one that is not read."""
    method = settings.get("quant_method")
    if method is None and (settings.get("load_in_8bit") or settings.get("load_in_4bit")):
        method = "bitsandbytes"
    elif method is None and {"bits", "group_size"} <= settings.keys():
        method = "mlx"
    if method not in METHODS:
        raise InvalidModelError(
            f"{folder} is quantized by {method!r}; what is read: {', '.join(METHODS)}, and .gguf files. Compile the "
            "model that it was made from: quantize='int4' makes it as small."
        )
    return str(method)


def read(settings: Settings, stored: Tensors, folder: Path) -> Tensors:
    """The tensors of the model that `stored` stands for.

    Raises InvalidModelError for a method or a setting that is not read, WeightError for tensors that do not fit.
    """
    method = check_method(settings, folder)
    form = importlib.import_module(f"{__name__}.{METHODS[method]}")
    try:
        found: Tensors = form.read(settings, stored)
    except InvalidModelError as error:
        raise InvalidModelError(f"{folder}: {error}") from error
    if found.keys() == stored.keys() and all(found[name][0] is weight for name, (weight, _) in stored.items()):
        _log.warning("%s says that it is quantized by %s, and none of its weights is", folder, method)
    return found
