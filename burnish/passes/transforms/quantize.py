"""Weights of products in 8 or 4 bits, with a scale for each group of them, or floats of 8 bits."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Literal

import torch
from torch import Tensor, fx

from burnish.ir.edit import Editor, remove_dead
from burnish.ir.eight_bit_floats import in_floats_of_8_bits
from burnish.ir.errors import UsageError
from burnish.ir.program import Program
from burnish.ir.quantization import Quantized, as_quantized, kept
from burnish.ir.similar import did_you_mean
from burnish.passes.base import Effect, Log
from burnish.passes.transforms.calibration import Calibration
from burnish.passes.transforms.quantize_awq import absorb, best_scales, gram_of_norm, obstacle
from burnish.passes.transforms.quantize_exact import dtype_of, found_again
from burnish.passes.transforms.quantize_readers import (
    all_readers,
    by_input,
    choice_of,
    gram_of,
    head_of,
    is_table,
    weight_read,
)
from burnish.passes.transforms.quantize_rounding import Grid, gptq, grid_of_8_bits, nearest, searched
from burnish.passes.transforms.quantize_size import Plan, bytes_of, fitted
from burnish.passes.transforms.stream import Stream

aten = torch.ops.aten

Numbers = Literal["int8", "int4", "fp8", "keep"]
Method = Literal["nearest", "gptq", "awq"]
BITS = {"int8": 8, "int4": 4}
GROUPS = (32, 64, 128)


@dataclass(frozen=True)
class Quantize:
    """Weights of linears, and the table of embeddings, in `numbers`, with a scale for each `group` along a row.

    "nearest" rounds each weight to the nearest integer. "gptq" (Frantar et al., 2022) rounds them one column after
    the other, and changes those to come so that they make up for the error on calibration text; each linear sees what
    the model quantized so far gives it. "awq" (Lin et al., 2023) scales what a linear reads from a norm so that what
    matters is rounded least; linears that read anything else have scales of groups searched, and no more. "keep"
    takes the integers that a file has, GGUF or a quantized checkpoint, and rounds nothing, as all others do where a
    file has those that are asked for. "fp8" is float8_e4m3fn with a scale for each row, nearest, which only native
    kernels read. Weights that lie on a grid of the 4 bits asked for already, as those of a quantized file or of
    training for few bits do, are found again on it, by any method. What chooses experts stays in
    floats.
    """

    numbers: Numbers = "int4"
    # Weights of a row that share a scale: 32, 64, 128, of int8 the whole "row"; None: 32 of int4, and of int8 those of
    # a block (64, 128 or 256 mostly) for which an artifact for CPUs stores a scale in any case.
    group: int | Literal["row"] | None = None
    method: Method | None = None  # None: "gptq" with calibration text, else "nearest"
    symmetric: bool = False  # int4 without zero points, as int8 is always
    head: Literal["int8", "int4", "float"] | None = None  # of what gives logits, and the table; None: as all others
    size: int | str | None = None  # bytes that all weights may take, or "80MB": linears that lose most get more bits
    calibration: Calibration | None = field(default=None, repr=False, compare=False)
    name: ClassVar[str] = "quantize"
    effect: ClassVar[Effect] = Effect.LOSSY
    atomic: ClassVar[bool] = False
    place: ClassVar[int] = 2

    def run(self, program: Program, log: Log) -> Program:
        """Quantize the weight of every linear and of the table of embeddings, in place.

        Raises UsageError for options that there are not, and where there is no text or are no integers that are needed.
        """
        self.check(self.calibration is not None)
        method = self.method or ("nearest" if self.calibration is None else "gptq")
        plan = self._plan(program, log)
        if self.size is not None:
            assert self.calibration is not None
            free = {node for node in plan if self.head is None or node is not head_of(program)}
            plan = fitted(program, plan, free, self.calibration.tokens, bytes_of(self.size), log)
        editor = Editor(program)
        stream = None if self.calibration is None or method == "nearest" else Stream(program, self.calibration.tokens)
        for readers in by_input(plan):
            to_round = any(isinstance(plan[each], Grid) for each in readers)
            if stream is None or not to_round or readers[0].target is aten.embedding.default:
                found = [self._rounded(program, each, plan[each], None) for each in readers]
            elif method == "awq":
                scaled = _by_awq(program, editor, stream, readers, plan, log)
                found = [scaled.get(each) or self._rounded(program, each, plan[each], None) for each in readers]
            else:
                gram = gram_of(stream, readers[0].args[0])
                found = [self._rounded(program, each, plan[each], gram) for each in readers]
            for reader, (quantized, text) in zip(readers, found, strict=True):
                leaf = weight_read(reader)
                editor.replace(leaf, editor.weight(f"{program.weight_of(leaf)}.{quantized.numbers}", quantized))
                log.rewrite(reader, text)
        remove_dead(program)
        return program

    def _rounded(
        self, program: Program, reader: fx.Node, chosen: Grid | Quantized, gram: Tensor | None
    ) -> tuple[Quantized, str]:
        """The weight of a reader as integers, and how they came about."""
        own = kept(program.weights[program.weight_of(weight_read(reader))])
        if (
            isinstance(chosen, Quantized)
            and own is not None
            and (chosen.numbers, chosen.group) == (own.numbers, own.group)
        ):
            return chosen, f"{_words(chosen)}, as they came"
        if isinstance(chosen, Quantized) and chosen.numbers == "fp8":
            return chosen, f"{_words(chosen)}, nearest"
        weight = program.weights[program.weight_of(weight_read(reader))].materialize()
        if isinstance(chosen, Quantized):
            dtype = str(dtype_of(weight)).removeprefix("torch.")
            return chosen, f"{_words(chosen)}, found again, to the rounding of {dtype}"
        if gram is None:
            return nearest(weight, chosen), f"{chosen}, nearest"
        return gptq(weight, gram, chosen), f"{chosen}, gptq"

    def check(self, calibrated: bool) -> None:
        """See `Transform.check`."""
        if self.numbers not in (*BITS, "fp8", "keep"):
            meant = did_you_mean(str(self.numbers), (*BITS, "fp8", "keep"))
            raise UsageError(f"there are no weights of {self.numbers!r}{meant}: there are int8, int4, fp8 and keep")
        if self.group not in (None, "row", *GROUPS):
            raise UsageError(f"there are no groups of {self.group}: there are {', '.join(map(str, GROUPS))} and 'row'")
        if self.group == "row" and "int4" in (self.numbers, self.head):
            raise UsageError("a scale for a whole row is too few for int4: give a group of 32, 64 or 128")
        if self.method not in (None, "nearest", "gptq", "awq"):
            meant = did_you_mean(self.method, ("nearest", "gptq", "awq"))
            raise UsageError(f"there is no method {self.method!r}{meant}: there are nearest, gptq and awq")
        if self.head not in (None, *BITS, "float"):
            raise UsageError(f"there is no head of {self.head!r}: there are int8, int4 and float")
        if self.method in ("gptq", "awq") and not calibrated:
            raise UsageError(f"{self} needs calibration text: give calibration=, or method='nearest'")
        if self.numbers == "keep" and self.method == "awq":
            raise UsageError("integers that are kept cannot be scaled: give another method than awq")
        if self.size is not None and not calibrated:
            raise UsageError(f"{self} needs calibration text, to see which linears lose most: give calibration=")
        if self.size is not None:
            bytes_of(self.size)
        if self.size is not None and self.numbers == "keep":
            raise UsageError("integers that are kept have the size that they have: leave size out")
        if self.numbers == "fp8" and (self.symmetric or self.size is not None):
            raise UsageError("fp8 has no zero points and one size: leave symmetric and size out")
        plain = self.head in (None, "float")  # so that there are no integers to round to
        if self.numbers == "fp8" and plain and (self.group or self.method not in (None, "nearest")):
            raise UsageError("fp8 has a scale for each row, and rounds to the nearest: leave group and method out")
        if self.numbers == "keep" and plain and (self.group or self.method):
            raise UsageError(f"{self} rounds nothing: leave group and method out")

    def _plan(self, program: Program, log: Log) -> dict[fx.Node, Grid | Quantized]:
        """What each weight becomes, by the first that reads it, a linear if there is one; in the order of the graph."""
        found: dict[fx.Node, Grid | Quantized] = {}
        ends = {head_of(program), *(node for node in program.graph.nodes if is_table(program, node))}
        heads = {weight_read(node) for node in ends if node is not None}
        seen: set[fx.Node] = set()
        kept_before = False
        for reader in all_readers(program):
            leaf = weight_read(reader)
            if leaf in seen:
                continue
            seen.add(leaf)
            numbers = self.head if leaf in heads and self.head is not None else self.numbers
            if numbers == "float":
                continue
            reason = _obstacle(program, leaf) or ("" if self.numbers == "keep" else choice_of(reader))
            chosen = reason or self._becomes(program, leaf, numbers)
            if isinstance(chosen, str):
                log.refuse(reader, chosen)
                continue
            kept_before |= isinstance(chosen, Quantized)
            found[reader] = chosen
        if self.numbers == "keep" and not kept_before:
            raise UsageError(
                "there are no integers to keep: they come from GGUF files, as Q4_0, Q4_K or Q8_0, and from "
                "quantized checkpoints, as GPTQ"
            )
        return found

    def _becomes(self, program: Program, leaf: fx.Node, numbers: str) -> Grid | Quantized | str:
        """What a weight becomes, or why it stays in floats."""
        if numbers == "keep":
            return kept(program.weights[program.weight_of(leaf)]) or "the file has no integers of one kind for it"
        if numbers == "fp8":
            return in_floats_of_8_bits(program.weights[program.weight_of(leaf)])
        size = int(leaf.meta["val"].shape[1])
        bits = BITS[numbers]
        if bits == 8 and self.group is None:
            return grid_of_8_bits(size)
        group = size if self.group == "row" else self.group or GROUPS[0]
        if size % group:
            return f"its rows of {size} are no whole groups of {group}"
        own = kept(program.weights[program.weight_of(leaf)])
        plain = own is not None and own.zeros is None and own.minima is None
        if own is not None and (own.numbers, own.group) == (numbers, group) and (plain or not self.symmetric):
            return own
        grid = Grid(bits, group, symmetric=self.symmetric or bits == 8)
        return found_again(program.weights[program.weight_of(leaf)].materialize(), grid) or grid


def _words(weight: Quantized) -> str:
    least = " and a zero point" if weight.zeros is not None else "" if weight.minima is None else " and a minimum"
    return f"{weight.numbers}, a scale{least} for each {weight.group}"


def _obstacle(program: Program, leaf: fx.Node) -> str:
    """Why a weight stays as it is; nothing if it need not."""
    if leaf.op != "get_attr":
        return "its weight is computed in the graph"
    for user in leaf.users:
        if not (user.target is aten.linear.default or is_table(program, user)) or weight_read(user) is not leaf:
            return f"its weight is read by {user.name} ({user.target}), too, which is no linear or lookup of tokens"
    if as_quantized(program.weights[program.weight_of(leaf)]) is not None:
        return "its weight is of integers already"
    if leaf.meta["val"].dtype != torch.float32:
        return f"its weight is of {leaf.meta['val'].dtype}, and integers are multiplied with float32"
    return ""


def _by_awq(
    program: Program, editor: Editor, stream: Stream, readers: list[fx.Node], plan: Plan, log: Log
) -> dict[fx.Node, tuple[Quantized, str]]:
    """The weights to round of linears that read one value, scaled if a norm gives it, which is changed in place."""
    x = readers[0].args[0]
    assert isinstance(x, fx.Node)
    rounded = {each: grid for each in readers if isinstance(grid := plan[each], Grid)}
    weights = [program.weights[program.weight_of(weight_read(each))].materialize().float() for each in rounded]
    grids = list(rounded.values())
    reason = obstacle(x, list(rounded))
    if not reason and any(len(weight_read(each).users) > 1 for each in readers):
        reason = "its weight is read elsewhere, too, where nothing takes scales in: rounded without them"
    if reason:
        log.refuse(readers[0], reason)
        gram = gram_of(stream, x)
        scales = torch.ones(len(gram))
    else:
        gram = gram_of_norm(program, stream, x)
        scales = best_scales(weights, grids, gram)
        absorb(program, editor, x, scales)
    importance = gram.diagonal().float() / scales.square()
    how = "awq" if not reason else "nearest, by searched scales"
    found = [
        (searched(weight * scales, grid, importance), f"{grid}, {how}")
        for weight, grid in zip(weights, grids, strict=True)
    ]
    return dict(zip(rounded, found, strict=True))
