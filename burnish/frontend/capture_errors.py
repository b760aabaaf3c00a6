"""Why a module could not be traced, in words of what its author wrote, and the line where."""

from __future__ import annotations

import linecache
import logging
import re
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import CodeType

from burnish.frontend.source_lines import Raised, innermost_line, is_foreign
from burnish.ir.errors import CaptureError

_ADVICE = (
    "A forward that loops over tokens, or branches on how many there are or on what they are, has to say that with "
    "tensor operations."
)


@dataclass(frozen=True)
class Constant:
    """A size of the token ids that was made a number: which, and the line of the model, if one is known."""

    size: int
    place: str


def untraceable(name: str, failure: Exception, constants: list[Constant], sizes: tuple[int, int]) -> CaptureError:
    """The error for a module that was tried with token ids of these sizes, rows and tokens."""
    made = constants[0] if constants else None
    text = str(failure)
    if made is not None and made.size in sizes:
        why = f"its forward makes the number of {('rows', 'tokens')[sizes.index(made.size)]} a constant"
    elif made is not None:
        why = f"its forward holds for one size alone, where {made.size} is one of its own"
    elif "data-dependent expression" in text:
        why = f"its forward branches on, or counts by, values that differ from text to text ({first_line(failure)})"
    else:
        why = first_line(failure)
    place = made.place if made is not None else _place(failure)
    where = f"Where: {place}\n" if place else ""
    return CaptureError(f"{name} cannot be traced for any batch and sequence size: {why}\n{where}{_ADVICE}")


def caught(name: str, raised: Raised) -> CaptureError:
    """The error for a module whose forward caught an error of its trace, and went on."""
    return CaptureError(
        f"{name} cannot be traced: its forward catches an error that values, which a trace does not have, would not "
        f"raise ({first_line(raised.error)})\nWhere: {_said(raised.file, raised.line)}\n{_ADVICE}"
    )


@contextmanager
def constants_made(within: CodeType) -> Iterator[list[Constant]]:
    """The sizes of inputs that were made constants meanwhile, as torch logs them (and not on the terminal).

    Their lines are those of functions that the code `within` called.
    """
    logger = logging.getLogger("torch.fx.experimental.symbolic_shapes")
    found: list[Constant] = []

    class Listener(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            match = re.match(r"eval Eq\(.*, (\d+)\) \[guard added\]", record.getMessage())
            if match:
                found.append(Constant(int(match[1]), _line_now(within)))

    handlers, level, propagate = logger.handlers, logger.level, logger.propagate
    logger.handlers, logger.propagate = [Listener()], False
    logger.setLevel(logging.INFO)
    try:
        yield found
    finally:
        logger.handlers, logger.propagate = handlers, propagate
        logger.setLevel(level)


def first_line(error: BaseException) -> str:
    """The first line of an error's message, or its type."""
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__


def why_untraced(error: BaseException) -> str:
    """Why torch.export refuses the axes that are said to be dynamic, and what it suggests; else the first line."""
    text = str(error).strip()
    if not text.startswith("Constraints violated"):
        return first_line(error)
    if made := re.search(r"You marked (\S+) as dynamic but your code specialized it to be a constant \((\d+)\)", text):
        name, size = made.groups()
        if int(size) < 2:
            return (
                f"{name} is {size} in example_inputs, which a trace takes for a constant: give an example of 2 or more"
            )
        return f"its forward makes {name} a constant, {size}"
    _, _, suggested = text.partition("Suggested fixes:")
    fixes = [line.strip() for line in suggested.partition("\n\n")[0].splitlines() if line.strip()]
    reasons = [line.strip().removeprefix("- ") for line in text.splitlines() if line.startswith("  - ")]
    return " ".join(reasons) + (f" torch.export suggests {'; '.join(fixes)}" if fixes else "")


def _line_now(within: CodeType) -> str:
    """The line of the model that runs at this moment; empty where `within` does not."""
    frame, innermost = sys._getframe(1), ""
    while frame is not None and frame.f_code is not within:
        file = frame.f_code.co_filename
        if not innermost and not is_foreign(file) and "/logging/" not in file:
            innermost = _said(file, frame.f_lineno)
        frame = frame.f_back  # type: ignore[assignment]
    return innermost if frame is not None else ""


def _place(error: BaseException) -> str:
    """The innermost line of the model that an error comes from, by its message or else its traceback; else empty."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if not is_foreign(frame.filename)]
    found = innermost_line(str(error)) or ((frames[-1].filename, frames[-1].lineno or 0) if frames else None)
    return _said(*found) if found else ""


def _said(file: str, line: int) -> str:
    code = linecache.getline(file, line).strip()
    return f"{file}:{line}: `{code}`" if code else ""
