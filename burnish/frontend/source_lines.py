"""The user's source line of every op, kept while a model is exported.

torch.export keeps the frames of `forward` methods only; an attention written in a helper function would have no line of
its own. This mode notes, for each torch function, the innermost frame outside of torch.
"""

from __future__ import annotations

import linecache
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.fx.traceback as fx_traceback
from torch import fx
from torch.overrides import TorchFunctionMode

_KEY = "burnish_line"
_SKIPPED = (os.path.dirname(torch.__file__) + os.sep, os.path.dirname(__file__) + os.sep)


class _NoteLines(TorchFunctionMode):
    def __torch_function__(
        self, func: Callable[..., Any], types: Sequence[type], args: Any = (), kwargs: Any = None
    ) -> Any:
        frame = sys._getframe(1)
        while frame.f_code.co_filename.startswith(_SKIPPED) and frame.f_back is not None:
            frame = frame.f_back
        with fx_traceback.annotate({_KEY: (frame.f_code.co_filename, frame.f_lineno)}):
            return func(*args, **(kwargs or {}))


@contextmanager
def noted_lines() -> Iterator[None]:
    """Export inside this: every node then knows its line."""
    with _NoteLines(), fx_traceback.preserve_node_meta():
        yield


def line_of(node: fx.Node) -> tuple[str, int, str]:
    """File, line and code that `node` was noted for; ("", 0, "") if it was not."""
    found = (node.meta.get("custom") or {}).get(_KEY)
    if found is None:
        return "", 0, ""
    file, line = found
    return file, line, linecache.getline(file, line).strip()
