"""burnish: a graph compiler for LLM inference.

`compile(model)` takes a plain model, without cache or serving code, and gives one that runs incrementally; `load(path)`
brings back one that was saved, without the model's code.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from burnish.ir.errors import BurnishError
from burnish.version import __version__

if TYPE_CHECKING:
    from burnish.compiler import compile
    from burnish.loader import load
    from burnish.runtime.model import CompiledModel

__all__ = ["BurnishError", "CompiledModel", "__version__", "compile", "load"]


def __getattr__(name: str) -> Any:
    # On demand: loading an artifact must not import the compiler, nor compiling wait for what it does not use.
    if name == "compile":
        from burnish.compiler import compile

        return compile
    if name == "load":
        from burnish.loader import load

        return load
    if name == "CompiledModel":
        from burnish.runtime.model import CompiledModel

        return CompiledModel
    raise AttributeError(f"module 'burnish' has no attribute {name!r}")
