"""What transformers does to a checkpoint's tensors before they are a model's, without reading them.

Names become others, and matrices of experts, which files have one by one, are stacked: quantized ones stay so.
"""

from __future__ import annotations

import re
from collections import defaultdict
from pathlib import Path

from transformers import PreTrainedModel
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import (
    Concatenate,
    MergeModulelist,
    PrefixChange,
    WeightConverter,
    WeightRenaming,
    WeightTransform,
)

from burnish.frontend.safetensors_folder import Tensors
from burnish.ir.errors import InvalidModelError, WeightError
from burnish.ir.weights import Concat, Reshape, Weight


def converted(model: PreTrainedModel, stored: Tensors, folder: Path) -> Tensors:
    """The tensors under the names and in the shapes that `model` has them.

    Raises InvalidModelError for a conversion that is not known here, WeightError for experts that do not fit together.
    """
    transforms = get_model_conversion_mapping(model)
    renamings = [each for each in transforms if not isinstance(each, WeightConverter)]
    converters = [each for each in transforms if isinstance(each, WeightConverter)]
    renamed: Tensors = {}
    for name, found in stored.items():
        for each in renamings:
            new, pattern = each.rename_source_key(name)
            if pattern is not None and type(each) not in (WeightRenaming, PrefixChange):
                raise InvalidModelError(_refusal(folder, name, each))
            name = new
        renamed[name] = found
    return _stacked(renamed, converters, folder)


def _stacked(stored: Tensors, converters: list[WeightConverter], folder: Path) -> Tensors:
    left: Tensors = {}
    experts: dict[str, dict[str, list[tuple[int, str]]]] = defaultdict(lambda: defaultdict(list))
    patterns: dict[str, list[str]] = {}
    for name, found in stored.items():
        for each in converters:
            target, pattern = each.rename_source_key(name)
            if pattern is None or target in stored:
                continue
            number = re.search(r"\.(\d+)\.(?!.*\.\d+\.)", name)
            if not _stacks(each) or number is None:
                raise InvalidModelError(_refusal(folder, name, each))
            experts[target][pattern].append((int(number[1]), name))
            patterns[target] = list(each.source_patterns)
            break
        else:
            left[name] = found
    for target, by_pattern in experts.items():
        names = [[name for _, name in sorted(by_pattern[pattern])] for pattern in patterns[target]]
        left[target] = (_stack(target, names, stored, folder), stored[names[0][0]][1])
    return left


def _stacks(converter: WeightConverter) -> bool:
    """Whether it stacks matrices of experts, of several kinds one kind behind the other."""
    operations = converter.operations
    if not isinstance(operations[0], MergeModulelist) or operations[0].dim != 0 or len(converter.target_patterns) != 1:
        return False
    rest = operations[1:]
    several = len(rest) == 1 and isinstance(rest[0], Concatenate) and rest[0].dim == 1
    return several if len(converter.source_patterns) > 1 else not rest


def _stack(target: str, names: list[list[str]], stored: Tensors, folder: Path) -> Weight:
    """The matrices [N, K] of each expert, those of several kinds joined: [experts, N of all kinds, K]."""
    found = [[stored[name][0] for name in kind] for kind in names]
    shapes = [{weight.shape for weight in kind} for kind in found]
    sizes = {shape[1:] for kind in shapes for shape in kind}
    if len({len(kind) for kind in found}) != 1 or any(len(kind) != 1 for kind in shapes) or len(sizes) != 1:
        raise WeightError(
            f"{folder}: the matrices of {target}, such as {names[0][0]}, are not of one shape, or not all there"
        )
    rows = [weight for expert in zip(*found, strict=True) for weight in expert]
    if any(len(weight.shape) != 2 for weight in rows):
        raise WeightError(f"{folder}: {names[0][0]} is no matrix")
    height = sum(kind[0].shape[0] for kind in found)
    return Reshape(Concat(tuple(rows)), (len(found[0]), height, rows[0].shape[1]))


def _refusal(folder: Path, name: str, transform: WeightTransform) -> str:
    operations = ", ".join(type(each).__name__ for each in getattr(transform, "operations", [transform]))
    return (
        f"{folder} is quantized, and transformers makes its tensor {name!r} another one by {operations}, which is not "
        "done to quantized ones: compile the model that it was made from, with quantize='int4' or 'int8'"
    )
