"""Recipes: the transforms of a compilation and their calibration text as a TOML file, so that it can be made again."""

from __future__ import annotations

import inspect
import json
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from burnish.ir.errors import UsageError
from burnish.passes.transforms.convert_to_gqa import ConvertToGQA
from burnish.passes.transforms.drop_layers import DropLayers
from burnish.passes.transforms.quantize import Quantize
from burnish.passes.transforms.quantize_cache import QuantizeCache
from burnish.passes.transforms.sparsify import Sparsify
from burnish.passes.transforms.transform import Transform

_TRANSFORMS: dict[str, type[Any]] = {
    each.__name__: each for each in (DropLayers, ConvertToGQA, Sparsify, Quantize, QuantizeCache)
}


@dataclass(frozen=True)
class Recipe:
    """What `compile` takes as `transforms` and `calibration`."""

    transforms: Sequence[Transform]
    calibration: Path | None


def read_recipe(file: Path) -> Recipe:
    """The recipe in a TOML file: a table [[transforms]] for each, with its `name` and options, and `calibration`.

    A path in it is relative to the file. Raises UsageError, which names what is wrong, for all else.
    """
    try:
        data = tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"cannot read the recipe {file}: {error.strerror or error}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{file} is not TOML: {error}") from error
    unknown = sorted(data.keys() - {"transforms", "calibration"})
    if unknown:
        raise UsageError(f"{file} has {unknown[0]!r}: a recipe has calibration, and a table [[transforms]] for each")
    tables = data.get("transforms", [])
    if not tables or not isinstance(tables, list) or not all(isinstance(each, dict) for each in tables):
        raise UsageError(f"{file} has no transforms: write a table [[transforms]] with a name for each")
    calibration = data.get("calibration")
    if calibration is not None and not isinstance(calibration, str):
        raise UsageError(f"calibration in {file} is {calibration!r}: it is the path of a text")
    found = [_transform(file, each) for each in tables]
    return Recipe(found, None if calibration is None else file.parent / calibration)


def write_recipe(file: Path, transforms: Sequence[Transform], calibration: Path | None) -> None:
    """Write what `read_recipe` reads. Raises UsageError if the file cannot be written."""
    lines = [] if calibration is None else [f"calibration = {json.dumps(str(calibration.resolve()))}"]
    for each in transforms:
        lines += ["", "[[transforms]]", f"name = {json.dumps(type(each).__name__)}"]
        for name, default in _options(type(each)).items():
            value = getattr(each, name)
            if value != default:
                lines.append(f"{name} = {json.dumps(value)}")  # numbers, texts and lists are the same in TOML
    try:
        file.write_text("\n".join(lines).lstrip() + "\n", encoding="utf-8")
    except OSError as error:
        raise UsageError(f"cannot write the recipe {file}: {error.strerror or error}") from error


def _options(transform: type[Any]) -> dict[str, Any]:
    """The options of a transform and their defaults, `inspect.Parameter.empty` where there is none."""
    parameters = inspect.signature(transform).parameters
    return {each.name: parameters[each.name].default for each in fields(transform) if each.name != "calibration"}


def _transform(file: Path, table: dict[str, Any]) -> Transform:
    given = dict(table)
    name = given.pop("name", None)
    if name not in _TRANSFORMS:
        raise UsageError(f"{file} names the transform {name!r}: there are {', '.join(_TRANSFORMS)}")
    known = _options(_TRANSFORMS[name])
    unknown = sorted(given.keys() - known.keys())
    if unknown:
        raise UsageError(f"{file}: {name} has no option {unknown[0]!r}: it has {', '.join(known)}")
    missing = [each for each, default in known.items() if default is inspect.Parameter.empty and each not in given]
    if missing:
        raise UsageError(f"{file}: {name} needs {missing[0]}")
    found: Transform = _TRANSFORMS[name](**given)
    return found
