"""The weights of a model of transformers from the tensors of a GGUF file: which they are, and what was done to them.

The package gguf knows the names of nearly all; an architecture has rules for the others, and for what llama.cpp's
conversion changed.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from gguf import MODEL_ARCH_NAMES, get_tensor_name_map
from transformers import PreTrainedConfig, PreTrainedModel

from burnish.frontend import empty_model
from burnish.frontend.dequantize import weight_of
from burnish.frontend.gguf_file import GGUFFile
from burnish.ir.errors import UsageError, WeightError
from burnish.ir.weights import Concat, Reshape, Rows, Weight

Change = Callable[[Weight, PreTrainedConfig], Weight]
"""Of a weight as the file has it, as transformers has it."""


@dataclass(frozen=True)
class Made:
    """A parameter that the file has under other names, or in several tensors.

    parameter: a regular expression; its groups are what `{0}` and so on stand for in `tensors`.
    make: the parameter of these tensors, in order, the groups and the configuration; None: the one tensor as it is.
    """

    parameter: str
    tensors: tuple[str, ...]
    make: Callable[[list[Weight], tuple[str, ...], PreTrainedConfig], Weight] | None = None


def weights_of(
    file: GGUFFile, name: str, model: PreTrainedModel, made: tuple[Made, ...], changes: Mapping[str, Change]
) -> tuple[dict[str, Weight], set[str]]:
    """Each weight of `model` by all of its names, and the tensors of the file that are none of them.

    name: of the architecture. made: its parameters that are not one tensor under a name that gguf knows; of several
    that are for one parameter the first whose tensors are there. changes: by an expression for the parameter's name.
    Raises WeightError for a tensor that is missing, or of a wrong shape, UsageError where gguf is too old.
    """
    arch = next((arch for arch, text in MODEL_ARCH_NAMES.items() if text == name), None)
    if arch is None:
        raise UsageError(f"the installed gguf does not know the architecture {name!r} yet: pip install -U gguf")
    names = get_tensor_name_map(arch, model.config.num_hidden_layers)
    found: dict[str, Weight] = {}
    unread = set(file.tensors)
    for first, (parameter, aliases) in empty_model.tensors(model).items():
        rule, groups, wanted = _rule(file, names, first, made)
        for each in wanted:
            if each not in file.tensors:
                raise WeightError(
                    f"{file.path} has no tensor {each!r}: {type(model).__name__} needs it as {first!r} "
                    f"{list(parameter.shape)}. The file is of another architecture or not complete."
                )
        unread -= set(wanted)
        parts = [weight_of(file.tensors[each]) for each in wanted]
        weight = parts[0] if rule is None or rule.make is None else rule.make(parts, groups, model.config)
        for expression, change in changes.items():
            if re.search(expression, first):
                weight = change(weight, model.config)
        if weight.shape != tuple(parameter.shape):
            what = f"the tensor {wanted[0]!r} is" if len(wanted) == 1 else f"the tensors {', '.join(wanted)} make"
            raise WeightError(
                f"{file.path}: {what} {list(weight.shape)}, and {list(parameter.shape)} is expected "
                f"for {first!r} of {type(model).__name__}"
            )
        found.update(dict.fromkeys(aliases, weight))
    return found, unread


def _rule(
    file: GGUFFile, names: Any, parameter: str, made: tuple[Made, ...]
) -> tuple[Made | None, tuple[str, ...], list[str]]:
    """The rule for a parameter, with what its groups matched; None: one tensor. And the tensors."""
    usual: tuple[Made | None, tuple[str, ...], list[str]] | None = None
    for rule in (*made, *_OF_ALL):
        match = re.fullmatch(rule.parameter, parameter)
        if match is None:
            continue
        tensors = _of_experts(file, rule, match)
        if all(tensor in file.tensors for tensor in tensors):
            return rule, match.groups(), tensors
        usual = usual or (rule, match.groups(), tensors)
    known = names.get_name(parameter, try_suffixes=(".weight", ".bias"))
    if usual is None or known in file.tensors:
        return None, (), [known if known is not None else parameter]
    return usual


def _of_experts(file: GGUFFile, rule: Made, match: re.Match[str]) -> list[str]:
    """The tensors of a rule; those with `#` once for each expert that the file has."""
    tensors = [tensor.format(*match.groups()) for tensor in rule.tensors]
    if not any("#" in tensor for tensor in tensors):
        return tensors
    count = 0
    while tensors[0].replace("#", str(count)) in file.tensors:
        count += 1
    return [tensor.replace("#", str(number)) for number in range(max(count, 1)) for tensor in tensors]


def _beside(parts: list[Weight], *_: object) -> Weight:
    """Gates and what they are for, expert by expert."""
    return Concat(tuple(parts), axis=1)


def _stacked(of_each: int) -> Callable[..., Weight]:
    """Experts of `of_each` tensors of their own, which files until 2024 have."""

    def make(parts: list[Weight], *_: object) -> Weight:
        return Concat(tuple(Reshape(part, (1, *part.shape)) for part in _joined(parts, of_each)))

    return make


def _joined(parts: list[Weight], count: int) -> list[Weight]:
    """`count` at a time, one behind the other."""
    groups = (tuple(parts[start : start + count]) for start in range(0, len(parts), count))
    return [group[0] if count == 1 else Concat(group) for group in groups]


def _rows_of_heads(parts: list[Weight], groups: tuple[str, ...], config: PreTrainedConfig) -> Weight:
    """Queries, keys or values out of a tensor that has all three, one behind the other."""
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    queries, keys = config.num_attention_heads * head_dim, config.num_key_value_heads * head_dim
    start, count = {"q": (0, queries), "k": (queries, keys), "v": (queries + keys, keys)}[groups[1]]
    return Rows(parts[0], torch.arange(start, start + count))


_EXPERTS = r"model\.layers\.(\d+)\.(?:\w+\.)?experts\.{}_proj"

_OF_ALL = (
    Made(_EXPERTS.format("gate_up"), ("blk.{0}.ffn_gate_exps.weight", "blk.{0}.ffn_up_exps.weight"), _beside),
    Made(_EXPERTS.format("gate_up"), ("blk.{0}.ffn_gate_up_exps.weight",)),
    Made(_EXPERTS.format("gate_up"), ("blk.{0}.ffn_gate.#.weight", "blk.{0}.ffn_up.#.weight"), _stacked(2)),
    Made(_EXPERTS.format("down"), ("blk.{0}.ffn_down_exps.weight",)),
    Made(_EXPERTS.format("down"), ("blk.{0}.ffn_down.#.weight",), _stacked(1)),
    Made(r"model\.layers\.(\d+)\.self_attn\.([qkv])_proj\.(\w+)", ("blk.{0}.attn_{1}.{2}",)),
    Made(r"model\.layers\.(\d+)\.self_attn\.([qkv])_proj\.(\w+)", ("blk.{0}.attn_qkv.{2}",), _rows_of_heads),
)
"""What is so whatever the architecture."""
