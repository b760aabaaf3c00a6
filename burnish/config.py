"""What a compilation is asked for, as a TOML file: `burnish.toml`, so that it can be made again.

target = "cuda:sm_90"
dtype = "bfloat16"
max_length = 4096
calibration = "calibration.txt"  # paths are relative to the file

[[transforms]]
name = "ConvertToGQA"
kv_heads = 1
"""

from __future__ import annotations

import inspect
import json
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from burnish.ir.errors import UsageError
from burnish.ir.similar import did_you_mean

if TYPE_CHECKING:  # importing torch takes a second or more: a mistake in the file is told before
    from burnish.passes.transforms.transform import Transform

CONFIG_FILE = "burnish.toml"  # is taken from the current folder

_OPTIONS: dict[str, tuple[type, ...]] = {
    "target": (str,),
    "backend": (str,),
    "dtype": (str,),
    "max_length": (int,),
    "quantize": (str,),
    "tokenizer": (Path,),
    "context": (str,),
    "tiles": (Path,),
    "calibration": (Path,),
    "verify": (bool, str),
}
_WORDS = {str: "a text", int: "an integer", Path: "a path", bool: "true or false"}


@dataclass(frozen=True)
class Config:
    """What a file says: options by `compile`'s names, a dtype by its own, and tables of transforms, not yet read."""

    options: Mapping[str, Any] = field(default_factory=dict)
    transforms: Sequence[Mapping[str, Any]] = ()


def read_config(file: Path) -> Config:
    """The options in a TOML file. Raises UsageError, which names what is wrong."""
    try:
        data = tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"cannot read {file}: {error.strerror or error}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{file} is not TOML: {error}") from error
    tables = data.pop("transforms", [])
    if not isinstance(tables, list) or not all(isinstance(each, dict) for each in tables):
        raise UsageError(f"{file}: transforms are tables: write [[transforms]] with a name for each")
    return Config({name: _option(file, name, value) for name, value in data.items()}, tables)


def _option(file: Path, name: str, value: Any) -> Any:
    known = [*_OPTIONS, "transforms"]
    if name not in _OPTIONS:
        raise UsageError(f"{file} has {name!r}{did_you_mean(name, known)}: there are {', '.join(known)}")
    kinds = _OPTIONS[name]
    if type(value) not in (str if kind is Path else kind for kind in kinds):
        raise UsageError(f"{file}: {name} is {' or '.join(_WORDS[kind] for kind in kinds)}, not {value!r}")
    return file.parent / value if Path in kinds else value


def write_config(file: Path, options: Mapping[str, Any], transforms: Sequence[Transform]) -> None:
    """Write what `read_config` reads. Raises UsageError if the file cannot be written."""
    lines = []
    for name, value in options.items():
        plain = str(value.resolve()) if isinstance(value, Path) else value
        lines.append(f"{name} = {json.dumps(plain)}")  # texts, numbers and lists are the same in TOML
    for each in transforms:
        lines += ["", "[[transforms]]", f"name = {json.dumps(type(each).__name__)}"]
        for name, default in _fields_of(type(each)).items():
            if (value := getattr(each, name)) != default:
                lines.append(f"{name} = {json.dumps(value)}")
    try:
        file.write_text("\n".join(lines).lstrip() + "\n", encoding="utf-8")
    except OSError as error:
        raise UsageError(f"cannot write {file}: {error.strerror or error}") from error


def transforms_of(tables: Sequence[Mapping[str, Any]], file: Path) -> list[Transform]:
    """The transforms that the tables of `file` name. Raises UsageError for a name or an option that there is not."""
    from burnish.passes.transforms.convert_to_gqa import ConvertToGQA
    from burnish.passes.transforms.drop_layers import DropLayers
    from burnish.passes.transforms.quantize import Quantize
    from burnish.passes.transforms.quantize_cache import QuantizeCache
    from burnish.passes.transforms.sparsify import Sparsify

    known: dict[str, type[Any]] = {
        each.__name__: each for each in (DropLayers, ConvertToGQA, Sparsify, Quantize, QuantizeCache)
    }
    return [_transform(file, each, known) for each in tables]


def _transform(file: Path, table: Mapping[str, Any], known: Mapping[str, type[Any]]) -> Transform:
    given = dict(table)
    name = str(given.pop("name", ""))
    if name not in known:
        what = f"names the transform {name!r}{did_you_mean(name, known)}" if name else "has a transform without a name"
        raise UsageError(f"{file} {what}: there are {', '.join(known)}")
    options = _fields_of(known[name])
    for each in given:
        if each not in options:
            has = ", ".join(options)
            raise UsageError(f"{file}: {name} has no option {each!r}{did_you_mean(each, options)}: it has {has}")
    missing = [each for each, default in options.items() if default is inspect.Parameter.empty and each not in given]
    if missing:
        raise UsageError(f"{file}: {name} needs {missing[0]}")
    found: Transform = known[name](**given)
    return found


def _fields_of(transform: type[Any]) -> dict[str, Any]:
    """The options of a transform and their defaults, `inspect.Parameter.empty` where there is none."""
    parameters = inspect.signature(transform).parameters
    return {each.name: parameters[each.name].default for each in fields(transform) if each.name != "calibration"}
