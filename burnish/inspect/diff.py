"""What differs between two stages of a compilation, or between two artifacts: as data."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch

from burnish.inspect.text_diff import TextDiff, text_diff
from burnish.ir.dtypes import SHORT
from burnish.ir.errors import UsageError
from burnish.ir.similar import did_you_mean
from burnish.ir.sizes import unit_of
from burnish.ir.states import State
from burnish.ir.text import dtype_name
from burnish.ir.torch_types import torch_dtype
from burnish.ir.trace import PassRecord, Trace
from burnish.runtime.artifact import Artifact
from burnish.runtime.manifest import known_dtype

_PIECE = 1 << 22  # bytes of a weight that are compared at a time
_NUMBER = re.compile(r"(?<![A-Za-z0-9])[0-9]+(?![A-Za-z0-9])")


@dataclass(frozen=True)
class Measure:
    """One number about two programs."""

    name: str
    before: float
    after: float
    unit: str = ""


@dataclass(frozen=True)
class ProgramDiff:
    """How one stage's program became another."""

    before: str  # what they are called
    after: str
    measures: tuple[Measure, ...]
    ops: dict[str, tuple[int, int]]  # those whose number differs
    text: TextDiff

    @property
    def same(self) -> bool:
        return self.text.same and not self.ops


@dataclass(frozen=True)
class Group:
    """Things of several layers that differ in the same way: `what`, and the names, numbers of layers as `*`."""

    what: str
    names: dict[str, int]
    largest: float = 0.0  # difference of two values

    @property
    def count(self) -> int:
        return sum(self.names.values())


@dataclass(frozen=True)
class ArtifactDiff:
    """How one artifact differs from another. Empty where it does not."""

    settings: dict[str, tuple[str, str]]  # name, target, signature, tokenizer
    passes: tuple[str, ...]  # those that differ, a line each
    weights: tuple[Group, ...]
    states: tuple[Group, ...]
    program: ProgramDiff

    @property
    def same(self) -> bool:
        return not (self.settings or self.passes or self.weights or self.states) and self.program.same


# ---------------------------------------------------------------- two stages


def find_pass(trace: Trace, name: str) -> int:
    """The place in `trace.passes` of a pass by number ("06", "6") or name. Raises UsageError if there is none."""
    for place, record in enumerate(trace.passes):
        if record.name == name or (name.isdecimal() and record.number == int(name)):
            return place
    names = [record.name for record in trace.passes]
    known = ", ".join(f"{record.number:02d} {record.name}" for record in trace.passes)
    raise UsageError(f"there is no pass {name!r}{did_you_mean(name, names)}: there are {known}")


def diff_passes(trace: Trace, first: str, second: str | None = None) -> ProgramDiff:
    """What changed from after the pass `first` to after the pass `second`; what `first` itself changed if that is None.

    Passes are given by name or by number. Raises UsageError for one that there is not.
    """
    after = find_pass(trace, first)
    before = after - 1
    if second is not None:
        before, after = after, find_pass(trace, second)
    if before < 0:
        raise UsageError(f"{first!r} is the program as captured, which no pass made: give a pass, or two")
    return diff_records(trace.passes[before], trace.passes[after])


def diff_records(before: PassRecord, after: PassRecord, owners: tuple[str, str] = ("", "")) -> ProgramDiff:
    """How the program after one pass differs from that after another; `owners` are told ahead of the passes."""
    moved, size_moved = unit_of((before.bytes_moved, after.bytes_moved))
    held, size_held = unit_of((before.weight_bytes, after.weight_bytes))
    measures = (
        Measure("nodes", before.nodes_after, after.nodes_after),
        Measure("launches", before.launches, after.launches),
        Measure(f"{moved} moved", before.bytes_moved / size_moved, after.bytes_moved / size_moved),
        Measure("weights", before.weight_bytes / size_held, after.weight_bytes / size_held, held),
        Measure("cache", before.bytes_a_token, after.bytes_a_token, "B a token"),
    )
    old, new = (Counter(node.target for node in each.nodes if node.op == "call_function") for each in (before, after))
    ops = {op: (old[op], new[op]) for op in sorted({*old, *new}) if old[op] != new[op]}
    passes = zip(owners, (before, after), strict=True)
    called = [f"{owner} {record.number:02d} {record.name}".strip() for owner, record in passes]
    return ProgramDiff(called[0], called[1], measures, ops, text_diff(before.text, after.text))


# ---------------------------------------------------------------- two artifacts


def diff_artifacts(before: Artifact, after: Artifact) -> ArtifactDiff:
    """How two artifacts differ; weights are compared piece by piece and never held as a whole."""
    traces = before.trace(), after.trace()
    old, new = (trace.passes[-1] for trace in traces)
    return ArtifactDiff(
        settings={
            name: (one, two)
            for (name, one), two in zip(_settings(before).items(), _settings(after).values(), strict=True)
            if one != two
        },
        passes=tuple(_passes(traces[0].passes, traces[1].passes)),
        weights=_grouped(_weights(before, after)),
        states=_grouped(_states(before.states, after.states)),
        program=diff_records(old, new, (before.path.name, after.path.name)),
    )


def _settings(artifact: Artifact) -> dict[str, str]:
    manifest, signature = artifact.manifest, artifact.signature
    files = manifest.files
    tokenizer = [f"{name} {''.join(files[name].sha256)[:12]}" for name in files if name.startswith("tokenizer/")]
    if manifest.tokenizer is not None:
        tokenizer += [f"{role} {token}" for role, token in manifest.tokenizer.special_tokens.items()]
    return {
        "model": manifest.name,
        "target": manifest.target,
        "vocabulary": str(signature.vocabulary),
        "longest text": str(signature.max_length),
        "token ids": str(signature.token_limit),
        "logits": dtype_name(signature.logits_dtype),
        "tokenizer": ", ".join(tokenizer) or "none",
        "generation": ", ".join(f"{key}={value}" for key, value in manifest.generation.items()) or "none",
    }


def _passes(old: Sequence[PassRecord], new: Sequence[PassRecord]) -> Iterator[str]:
    """A line for each pass that one of them lacks, or that did something else."""
    before, after = ({record.name: record for record in records} for records in (old, new))
    both = before.keys() & after.keys()
    shared = [[record.name for record in records if record.name in both] for records in (old, new)]
    if shared[0] != shared[1]:
        yield f"their order: {', '.join(shared[0])} became {', '.join(shared[1])}"
    for name in dict.fromkeys([*before, *after]):
        if name not in after or name not in before:
            yield f"{name}: only in the {'second' if name in after else 'first'}"
            continue
        one, two = before[name], after[name]
        told = [
            f"{what} {a} → {b}"
            for what, a, b in (
                ("options", one.options, two.options),
                ("rewrites", len(one.rewrites), len(two.rewrites)),
                ("refused", len(one.refusals), len(two.refusals)),
            )
            if a != b
        ]
        if told:
            yield f"{name}: {', '.join(told)}"


_Difference = tuple[str, str, float]  # the name of what differs, how, and the largest difference of two values


def _states(old: Sequence[State], new: Sequence[State]) -> Iterator[_Difference]:
    before, after = ({state.name: _state_text(state) for state in states} for states in (old, new))
    yield from _differences(before, after)


def _state_text(state: State) -> str:
    return f"{state.kind.value} {dtype_name(state.dtype)}[{', '.join(map(str, state.shape))}]"


def _differences(before: dict[str, str], after: dict[str, str]) -> Iterator[_Difference]:
    for name in dict.fromkeys([*before, *after]):
        if name not in after:
            yield name, f"removed: {before[name]}", 0.0
        elif name not in before:
            yield name, f"added: {after[name]}", 0.0
        elif before[name] != after[name]:
            yield name, f"{before[name]} became {after[name]}", 0.0


def _weights(before: Artifact, after: Artifact) -> Iterator[_Difference]:
    kinds: list[dict[str, str]] = []
    for artifact in (before, after):
        kinds.append({})
        for name, entry in artifact.manifest.weights.items():
            dtype = known_dtype(entry.dtype, f"the weight {name!r}")
            kinds[-1][name] = f"{SHORT.get(dtype, dtype)}[{', '.join(map(str, entry.shape))}]"
    yield from _differences(*kinds)
    for name, kind in kinds[0].items():
        if kinds[1].get(name) == kind:
            count, largest = values_differ(pieces(before, name), pieces(after, name))
            if count:
                entry = before.manifest.weights[name]
                yield name, f"{'all' if count == math.prod(entry.shape) else 'some'} of the values", largest


def pieces(artifact: Artifact, name: str) -> Iterator[torch.Tensor]:
    """The values of a weight, a few at a time: read, not mapped, so that no more than these are in memory."""
    entry = artifact.manifest.weights[name]
    dtype = torch_dtype(known_dtype(entry.dtype, f"the weight {name!r}"))
    left = math.prod(entry.shape)
    with artifact.file(entry.file).open("rb") as stream:
        stream.seek(entry.offset)
        while left:
            count = min(left, _PIECE // dtype.itemsize)
            yield torch.frombuffer(bytearray(stream.read(count * dtype.itemsize)), dtype=dtype)
            left -= count


def values_differ(one: Iterable[torch.Tensor], two: Iterable[torch.Tensor]) -> tuple[int, float]:
    """How many of the values of two weights differ in any bit, and by how much at most; given by pieces of one size."""
    count, largest = 0, 0.0
    for a, b in zip(one, two, strict=True):
        bits = [each.view(torch.uint8).view(-1, each.element_size()) for each in (a, b)]
        if not torch.equal(*bits):
            places = (bits[0] != bits[1]).any(1)
            wide = torch.complex128 if a.is_complex() else torch.float64
            count += int(places.sum())
            largest = max(largest, float((a[places].to(wide) - b[places].to(wide)).abs().max()))
    return count, largest


def _grouped(differences: Iterable[_Difference]) -> tuple[Group, ...]:
    groups: dict[str, list[_Difference]] = {}
    for difference in differences:
        groups.setdefault(difference[1], []).append(difference)
    return tuple(
        Group(
            what,
            dict(Counter(_NUMBER.sub("*", name) for name, _, _ in group)),
            max(amount for _, _, amount in group),
        )
        for what, group in groups.items()
    )
