"""Programs as files: a text that parses back, and the weights beside it."""

from __future__ import annotations

import logging
from pathlib import Path

import torch

from burnish.ir.errors import ParseError, UsageError
from burnish.ir.full_text import full_text
from burnish.ir.parse import declared_weights, parse_program
from burnish.ir.program import Program
from burnish.ir.weights import Reshape, Stored, Weight, Weights
from burnish.runtime.mapped_weights import map_weights
from burnish.runtime.weights_file import WEIGHTS_FILE, read_header
from burnish.runtime.weights_writer import WeightLayout, plan_weights, write_weights

_log = logging.getLogger(__name__)


def save_dump(program: Program, path: Path, with_weights: bool) -> None:
    """Write `program` to the text file `path` and, if `with_weights`, its weights to `weights.safetensors` beside it.

    The folder must exist. OSError where it cannot be written to, WeightError where a weight's dtype has no file form.
    """
    path.write_bytes(full_text(program).encode())
    if with_weights:
        save_weights(program.weights, path.parent)


def save_weights(weights: Weights, folder: Path) -> None:
    """Write weights to `weights.safetensors` in `folder`, where `load_dump` finds those of every text there."""
    # As expressions of their own: a file has tied weights once, and then no longer by all of their names.
    apart = Weights({name: Reshape(weight, tuple(weight.shape)) for name, weight in weights.items()})
    replace_weights(plan_weights(apart), folder)


def replace_weights(layout: WeightLayout, folder: Path) -> None:
    """Write a weights file; one that is there already goes when the new one is complete: this may be read from it."""
    partial = folder / f".{layout.file}.partial"
    write_weights(layout, partial)
    partial.replace(folder / layout.file)


def load_dump(path: Path) -> Program:
    """The program of a text file, typed: passes can run on it.

    Weights come from `weights.safetensors` beside the file. Those that are not there are drawn, the same each time, and
    a warning is logged that says so. Raises UsageError where there is no such file, ParseError where it is no program.
    """
    try:
        text = path.read_bytes().decode()
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} is not a text: {error}") from error
    try:
        wanted = declared_weights(text)
        weights = _stored_weights(path.parent / WEIGHTS_FILE, set(wanted))
        missing = {name: kind for name, kind in wanted.items() if name not in weights}
        program = parse_program(text, {**weights, **_drawn(missing)})
    except ParseError as error:
        raise ParseError(f"{path}: {error}") from error
    if missing:
        which = "all weights" if len(missing) == len(wanted) else f"{len(missing)} of {len(wanted)} weights"
        _log.warning("%s are random (seed 0): %s does not have them", which, path.parent / WEIGHTS_FILE)
    return program


def _stored_weights(file: Path, names: set[str]) -> dict[str, Weight]:
    if not file.exists():
        return {}
    placements = {name: place for name, place in read_header(file).items() if name in names}
    return dict(map_weights(file, placements)) if placements else {}


def _drawn(missing: dict[str, tuple[tuple[int, ...], torch.dtype]]) -> dict[str, Weight]:
    """Weights that keep numbers moderate: matrices of about 1 / sqrt(columns), vectors around 1, integers of 0."""
    generator = torch.Generator().manual_seed(0)
    drawn: dict[str, Weight] = {}
    for name, (shape, dtype) in missing.items():
        try:
            if dtype.is_floating_point or dtype.is_complex:
                values = torch.randn(shape, generator=generator)
                values = values / shape[-1] ** 0.5 if len(shape) > 1 else 1 + values / 10
                drawn[name] = Stored(values.to(dtype))
            else:
                drawn[name] = Stored(torch.zeros(shape, dtype=dtype))
        except RuntimeError as error:  # more than there is memory, or a dtype that has no values of its own
            reason = str(error).splitlines()[0]
            raise UsageError(
                f"no values can be drawn for the weight {name!r}, {dtype} {list(shape)}: {reason}"
            ) from error
    return drawn
