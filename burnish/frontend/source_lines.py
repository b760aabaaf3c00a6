"""The user's source line of every op, kept while a model is exported.

torch.export keeps the frames of `forward` methods only; an attention written in a helper function would have no line of
its own. This mode notes, for each torch function, the innermost frame outside of torch.
"""

from __future__ import annotations

import linecache
import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Any
from unittest import mock

import torch
import torch.fx.traceback as fx_traceback
from torch import fx
from torch.overrides import TorchFunctionMode

_KEY = "burnish_line"
ORIGIN = "burnish_origin"  # under which a front end that runs a graph itself notes the fields of an `Origin`
_SKIPPED = (os.path.dirname(torch.__file__) + os.sep, os.path.dirname(__file__) + os.sep)
_FRAME = re.compile(r'File "(?P<file>[^"]*)", line (?P<line>\d+), in ')


_ASKED: list[tuple[type, str]] = [
    (torch.SymBool, "__bool__"),
    (torch.SymInt, "__bool__"),
    (torch.SymInt, "__int__"),
    (torch.SymInt, "__index__"),
]
"""How Python asks a symbolic number what it is."""


@dataclass(frozen=True)
class Raised:
    """An error that a line of the model got from torch."""

    error: RuntimeError
    file: str
    line: int


class _NoteLines(TorchFunctionMode):
    def __init__(self, raised: list[Raised]) -> None:
        super().__init__()
        self.raised = raised

    def __torch_function__(
        self, func: Callable[..., Any], types: Sequence[type], args: Any = (), kwargs: Any = None
    ) -> Any:
        caller = frame = sys._getframe(1)
        while frame.f_code.co_filename.startswith(_SKIPPED) and frame.f_back is not None:
            frame = frame.f_back
        with fx_traceback.annotate({_KEY: (frame.f_code.co_filename, frame.f_lineno)}), _noting(caller, self.raised):
            return func(*args, **(kwargs or {}))


@contextmanager
def _noting(caller: FrameType, raised: list[Raised]) -> Iterator[None]:
    """Inside, errors that come out at a line of the model's are noted."""
    try:
        yield
    except RuntimeError as error:
        if not is_foreign(caller.f_code.co_filename):
            raised.append(Raised(error, caller.f_code.co_filename, caller.f_lineno))
        raise


class Noted:
    """What torch raised to lines of a model in its last trace: no list, which torch.export would take back."""

    def __init__(self) -> None:
        self.raised: list[Raised] = []


@contextmanager
def noted_lines(noted: Noted) -> Iterator[None]:
    """Export inside this: every node then knows its line, and `noted` what torch raised to lines of the model."""
    raised = noted.raised = []
    with ExitStack() as patched:
        for kind, name in _ASKED:
            patched.enter_context(mock.patch.object(kind, name, _noted(getattr(kind, name), raised)))
        with _NoteLines(raised), fx_traceback.preserve_node_meta():
            yield


def _noted(method: Callable[[Any], Any], raised: list[Raised]) -> Callable[[Any], Any]:
    def noted(number: Any) -> Any:
        with _noting(sys._getframe(1), raised):
            return method(number)

    # An assertion of the model's is noted in the trace, not asked: torch looks into the innermost frame that is neither
    # its own nor of such a file for whether it is one.
    noted.__code__ = noted.__code__.replace(co_filename="<string>")
    return noted


def noted_origin(node: fx.Node) -> tuple[str, str, str, int, str] | None:
    """The fields of an `Origin` that were noted for `node` as a whole."""
    found = (node.meta.get("custom") or {}).get(ORIGIN)
    return None if found is None else tuple(found)


def line_of(node: fx.Node) -> tuple[str, int, str]:
    """File, line and code of `node`: as noted, or else as export recorded it; ("", 0, "") if neither."""
    noted = (node.meta.get("custom") or {}).get(_KEY)
    found = noted or innermost_line(node.meta.get("stack_trace") or "")
    return (*found, linecache.getline(*found).strip()) if found else ("", 0, "")


def innermost_line(stack: str) -> tuple[str, int] | None:
    """File and line of the model's innermost frame in a stack trace as text."""
    frames = [frame for frame in _FRAME.finditer(stack) if not is_foreign(frame["file"])]
    return (frames[-1]["file"], int(frames[-1]["line"])) if frames else None


def is_foreign(file: str) -> bool:
    """Whether a source file is not the model's: torch's or this package's."""
    return file.startswith(_SKIPPED)
