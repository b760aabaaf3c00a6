"""Modules from generated source: no file is written, and `inspect` gives the source back, as `triton.jit` needs."""

from __future__ import annotations

import importlib.util
import sys
from importlib.abc import InspectLoader
from types import CodeType, ModuleType


class _Loader(InspectLoader):
    """Loads a module from text."""

    def __init__(self, source: str, path: str) -> None:
        self._source = source
        self._path = path

    def get_source(self, fullname: str) -> str:
        return self._source

    def get_code(self, fullname: str) -> CodeType:
        return self.source_to_code(self._source, self._path)


def load_source(name: str, source: str) -> ModuleType:
    """The module `name` with that source. One name stands for one source: a second call gives the first module."""
    known = sys.modules.get(name)
    if known is not None:
        return known
    path = f"{name}.py"  # there is no such file: it is what tracebacks say
    spec = importlib.util.spec_from_loader(name, _Loader(source, path), origin=path)
    assert spec is not None
    assert spec.loader is not None
    spec.has_location = True  # gives the module a `__file__`, by which `inspect` asks the loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module
