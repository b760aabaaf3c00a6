"""ONNX decoders as language models: what they take beside token ids is what a text from its first token on gives."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import onnx_ir as ir
import torch
from torch import Tensor, nn

from burnish.frontend.calling import BOUND
from burnish.frontend.onnx.module import OnnxModule, TensorSpec
from burnish.ir.errors import BurnishError

_log = logging.getLogger(__name__)

_TOKENS = ("input_ids", "tokens", "input_tokens", "token_ids", "ids", "idx")
_LOGITS = ("logits", "lm_logits")
_TOLERANCE = 1e-3  # of the largest logit
_OF_TOKENS = re.compile("past|seq|len|tokens", re.IGNORECASE)  # in the name of an axis
_WIDTHS = (64, 128, 80, 96, 256, *range(8, 520, 8), 576)  # of heads: the usual ones first
_ROWS, _FIRST, _SECOND = 2, 4, 3  # of the texts that a decoder is tried with


def _ones(rows: Any, total: Any, new: Any) -> Tensor:
    return torch.ones(rows, total, dtype=torch.int64)


def _places(rows: Any, total: Any, new: Any) -> Tensor:
    places: Tensor = torch.arange(new) + (total - new)
    return places


def _places_of_rows(rows: Any, total: Any, new: Any) -> Tensor:
    return _places(rows, total, new).unsqueeze(0).expand(rows, new)


_BOUND: dict[tuple[str, int], tuple[Callable[[Any, Any, Any], Tensor], str]] = {
    ("attention_mask", 2): (_ones, BOUND["attention_mask"][1]),
    ("position_ids", 2): (_places_of_rows, BOUND["position_ids"][1]),
    ("position_ids", 1): (_places, BOUND["position_ids"][1]),
    ("cache_position", 1): (_places, BOUND["position_ids"][1]),
}
"""Inputs by name and number of axes, as exporters call them: their values for so many rows, tokens, and new ones."""

_CHOICES = {"use_cache_branch": 0, "num_logits_to_keep": 0, "logits_to_keep": 0}
"""Inputs that choose among ways to compute the same: without a cache, and all logits."""

_WORDS = frozenset(
    ["past", "present", "values", "cache", "state", "states", "new", "updated", "in", "out", "input", "output"]
)


def choices(model: ir.Model) -> dict[str, Tensor]:
    """Values for those inputs of a file that choose among ways to compute the same."""
    found: dict[str, Tensor] = {}
    for each in model.graph.inputs:
        if each.name in _CHOICES and each.dtype in (ir.DataType.BOOL, ir.DataType.INT64) and each.shape is not None:
            dtype = torch.bool if each.dtype is ir.DataType.BOOL else torch.int64
            shape = [size for size in each.shape if isinstance(size, int)]
            if len(shape) == len(each.shape):
                found[each.name] = torch.full(shape, _CHOICES[each.name], dtype=dtype)
    return found


class NoDecoder(Exception):
    """Why a graph is not called with token ids alone."""


@dataclass(frozen=True)
class Past:
    """What a step hands to the next: an input, the output that comes back as it, and which of its axes are what."""

    spec: TensorSpec
    present: int
    rows: int
    grows: int | None  # None: it has one size, whatever was read
    width: int | None = None  # of an axis that the file leaves open, and the model does not

    @property
    def has_width(self) -> bool:
        """Whether there is such an axis."""
        shape = self.spec.shape or ()
        return any(not isinstance(size, int) and axis not in (self.rows, self.grows) for axis, size in enumerate(shape))

    def at_start(self, rows: Any) -> Tensor:
        """Its value before the first token: empty where it grows, zeros where it does not."""
        assert self.spec.shape is not None
        shape: list[Any] = [size if isinstance(size, int) else self.width for size in self.spec.shape]
        shape[self.rows] = rows
        if self.grows is not None:
            shape[self.grows] = 0
        return torch.zeros(shape, dtype=self.spec.dtype)


@dataclass(frozen=True)
class Decoder:
    """How the graph of a decoder is called: token ids int64[batch, sequence] -> logits[batch, sequence, vocabulary]."""

    tokens: TensorSpec
    logits: int
    bound: tuple[TensorSpec, ...]
    past: tuple[Past, ...]

    def __call__(self, module: nn.Module, tokens: Tensor) -> Tensor:
        """The logits of whole texts. A cache is empty: burnish finds by itself what a step has to remember."""
        return self.step(module, tokens, tokens.shape[1], self.at_start(tokens.shape[0]))[self.logits]

    def at_start(self, rows: Any) -> dict[str, Tensor]:
        """What the first step is given of what comes before it, by argument."""
        return {each.spec.argument: each.at_start(rows) for each in self.past}

    def step(self, module: nn.Module, tokens: Tensor, total: Any, past: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
        """All outputs for the last tokens of `total` ones."""
        rows, new = tokens.shape
        bound = {each.argument: _BOUND[_key(each)][0](rows, total, new).to(each.dtype) for each in self.bound}
        found: tuple[Tensor, ...] = module(**{self.tokens.argument: tokens.to(self.tokens.dtype)}, **bound, **past)
        return found

    def told(self) -> list[str]:
        """What inputs are bound to, in words."""
        found = [f"{each.name} is given {_BOUND[_key(each)][1]}" for each in self.bound]
        if self.past:
            names = self.past[0].spec.name + (f" and {len(self.past) - 1} more" if self.past[1:] else "")
            found.append(f"its cache ({names}) begins empty, and burnish makes its own states of it")
        return found


def _key(spec: TensorSpec) -> tuple[str, int]:
    return spec.name, len(spec.shape or ())


def decoder_of(module: OnnxModule) -> Decoder:
    """How `module` is called with token ids alone; NoDecoder, with the reason, if it cannot be.

    What names suggest is tried: no logits may change with later tokens, and a text in two parts, the first part's cache
    given to the second, has the logits of the text at once.
    """
    tokens = _tokens(module)
    logits = _logits(module, tokens)
    rest = [spec for spec in module.inputs if spec is not tokens]
    bound = tuple(spec for spec in rest if _key(spec) in _BOUND and not spec.dtype.is_floating_point)
    past = _pasts(module, [spec for spec in rest if spec not in bound], tokens, logits)
    decoder = Decoder(tokens, logits, bound, past)
    if any(each.has_width for each in past):
        decoder = _with_width(module, decoder)
    _try(module, decoder)
    return decoder


@torch.no_grad()
def _with_width(module: OnnxModule, decoder: Decoder) -> Decoder:
    """`decoder` with the size of an axis of its cache that the file leaves open: the first that fits its products."""
    for width in _WIDTHS:
        past = tuple(replace(each, width=width) if each.has_width else each for each in decoder.past)
        found = replace(decoder, past=past)
        try:
            found(module, torch.zeros(1, 2, dtype=torch.int64))
        except BurnishError:
            continue
        return found
    raise NoDecoder(
        f"no size was found for the open axes of {next(each.spec for each in decoder.past if each.has_width)}"
    )


def _tokens(module: OnnxModule) -> TensorSpec:
    ids = [spec for spec in module.inputs if _key(spec) not in _BOUND and spec.dtype in (torch.int64, torch.int32)]
    named = [spec for spec in ids if spec.name in _TOKENS]
    if not named and len(ids) != 1:
        raise NoDecoder(f"none of its inputs is called {_TOKENS[0]} and has integers")
    found = min(named, key=lambda spec: _TOKENS.index(spec.name), default=ids[0])
    if found.shape is None or len(found.shape) != 2 or any(isinstance(size, int) for size in found.shape):
        raise NoDecoder(f"{found} is not [batch, sequence], both of any size")
    return found


def _logits(module: OnnxModule, tokens: TensorSpec) -> int:
    """By their name, or as the one output that has a number for each id that is embedded."""
    fitting = [
        place
        for place, spec in enumerate(module.outputs)
        if spec.dtype.is_floating_point and (spec.shape is None or len(spec.shape) == 3)
    ]
    named = [place for place in fitting if module.outputs[place].name in _LOGITS]
    if named:
        return min(named, key=lambda place: _LOGITS.index(module.outputs[place].name))
    ids = module.embedded(tokens.name)
    for place in fitting:
        size = (module.outputs[place].shape or (None,))[-1]
        if ids is not None and isinstance(size, int) and size >= ids:
            return place
    raise NoDecoder(f"none of its outputs is called {_LOGITS[0]} and has three axes, or has a number for each id")


def _pasts(module: OnnxModule, specs: list[TensorSpec], tokens: TensorSpec, logits: int) -> tuple[Past, ...]:
    outputs = {_words(spec.name): place for place, spec in enumerate(module.outputs) if place != logits}
    in_order = [place for place in range(len(module.outputs)) if place != logits]
    assert tokens.shape is not None
    found: list[Past] = []
    for number, spec in enumerate(specs):
        present = outputs.get(_words(spec.name))
        if present is None and len(in_order) == len(specs):
            present = in_order[number]
        if present is None or spec.shape is None:
            raise NoDecoder(f"it takes {spec}, which a text does not settle, and no output that continues it")
        open_ = [axis for axis, size in enumerate(spec.shape) if not isinstance(size, int)]
        rows = next((axis for axis in open_ if spec.shape[axis] == tokens.shape[0] is not None), min(open_, default=0))
        others = [axis for axis in open_ if axis != rows]
        grows = [axis for axis in others if len(others) == 1 or _OF_TOKENS.search(str(spec.shape[axis]))]
        if not open_ or (others and len(grows) != 1) or len(others) > 2:
            raise NoDecoder(f"{spec} has other open axes than its rows and its tokens")
        found.append(Past(spec, present, rows, grows[0] if grows else None))
    return tuple(found)


def _words(name: str) -> tuple[str, ...]:
    """What in a name tells one cache from another: past_key_values.0.key and present.0.key are one."""
    words = re.findall(r"[a-z]+|\d+", name.lower())
    plain = [word for place, word in enumerate(words) if word != "key" or words[place + 1 : place + 2] != ["values"]]
    return tuple(word for word in plain if word not in _WORDS)


@torch.no_grad()
def _try(module: OnnxModule, decoder: Decoder) -> None:
    total = _FIRST + _SECOND
    try:
        vocabulary = decoder(module, torch.zeros(1, 2, dtype=torch.int64)).shape[-1]
        tokens = torch.randint(vocabulary, (_ROWS, total), generator=torch.Generator().manual_seed(0))
        whole = decoder(module, tokens)
        changed = tokens.clone()
        changed[:, -1] = (changed[:, -1] + 1) % vocabulary
        causal = decoder(module, changed)[:, :-1]
    except BurnishError as error:
        raise NoDecoder(f"it cannot be called with token ids: {error}") from error
    if tuple(whole.shape) != (_ROWS, total, vocabulary):
        raise NoDecoder(f"for token ids {list(tokens.shape)} it gives {list(whole.shape)}, no logits a token")
    if not _same(causal, whole[:, :-1]):
        raise NoDecoder("its logits change with later tokens")
    if not decoder.past:
        return
    try:
        first = decoder.step(module, tokens[:, :_FIRST], _FIRST, decoder.at_start(_ROWS))
        past = {each.spec.argument: first[each.present] for each in decoder.past}
        second = decoder.step(module, tokens[:, _FIRST:], total, past)[decoder.logits]
    except BurnishError as error:
        raise NoDecoder(f"what it gives cannot be given back to it as {decoder.past[0].spec.name}: {error}") from error
    if not _same(second, whole[:, _FIRST:]):
        raise NoDecoder(
            f"a text in two parts, the first part's cache given to the second as {decoder.past[0].spec.name}, has "
            "other logits than the text at once"
        )


def _same(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and bool((one - other).abs().max() <= _TOLERANCE * (1 + other.abs().max()))
