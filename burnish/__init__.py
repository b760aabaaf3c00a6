"""burnish: a graph compiler for LLM inference.

`compile(model)` takes a plain model, without cache or serving code, and gives one that runs incrementally; `load(path)`
brings back one that was saved, without the model's code.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from burnish.ir.errors import BurnishError
from burnish.version import __version__

if TYPE_CHECKING:
    from burnish.compiler import compile
    from burnish.evaluation import evaluate
    from burnish.loader import load
    from burnish.passes.pipelines import default_passes
    from burnish.passes.rules import Rules
    from burnish.passes.transforms.convert_to_gqa import ConvertToGQA
    from burnish.passes.transforms.drop_layers import DropLayers
    from burnish.passes.transforms.quantize import Quantize
    from burnish.passes.transforms.quantize_cache import QuantizeCache
    from burnish.passes.transforms.sparsify import Sparsify
    from burnish.runtime.compiled_module import CompiledModule
    from burnish.runtime.model import CompiledModel

__all__ = [
    "BurnishError",
    "CompiledModel",
    "CompiledModule",
    "ConvertToGQA",
    "DropLayers",
    "Quantize",
    "QuantizeCache",
    "Rules",
    "Sparsify",
    "__version__",
    "compile",
    "default_passes",
    "evaluate",
    "load",
]

# On demand: loading an artifact must not import the compiler, nor compiling wait for what it does not use.
_HOMES = {
    "CompiledModel": "burnish.runtime.model",
    "CompiledModule": "burnish.runtime.compiled_module",
    "ConvertToGQA": "burnish.passes.transforms.convert_to_gqa",
    "DropLayers": "burnish.passes.transforms.drop_layers",
    "Quantize": "burnish.passes.transforms.quantize",
    "QuantizeCache": "burnish.passes.transforms.quantize_cache",
    "Rules": "burnish.passes.rules",
    "Sparsify": "burnish.passes.transforms.sparsify",
    "compile": "burnish.compiler",
    "default_passes": "burnish.passes.pipelines",
    "evaluate": "burnish.evaluation",
    "load": "burnish.loader",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'burnish' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*__all__, *(name for name in globals() if name.startswith("__"))})
