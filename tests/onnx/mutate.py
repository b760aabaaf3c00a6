"""Files that were broken on purpose: each gives a module, or an error of ours, soon: `python -m tests.onnx.mutate`."""

from __future__ import annotations

import argparse
import logging
import random
import resource
import struct
import sys
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import onnx
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from burnish.frontend.onnx import OnnxModule, read_bytes
from burnish.ir.errors import BurnishError
from tests.onnx.cases import all_cases, excluded

MOST_SECONDS = 1.0  # to be read and made a module
_MOST_RUN = 20.0  # to be traced: what loops is unrolled
_NUMBERS = (0, 1, -1, 2, 7, 255, 2**15, 2**31 - 1, 2**31, 2**40, 2**62, 2**63 - 1, -(2**31), -(2**63))


@cache
def seeds() -> list[bytes]:
    """Small sound files of every operator that is tested."""
    found = {case.model.SerializeToString() for case in all_cases() if not excluded(case)}
    return sorted(each for each in found if len(each) < 30_000)


def mutant(rng: random.Random) -> bytes:
    """A file with one to a few things wrong in it."""
    data = rng.choice(seeds())
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        change = rng.choice((*_BYTES, _structure, _structure, _structure))
        data = change(data, rng)
    return data


def _flip(data: bytes, rng: random.Random) -> bytes:
    if not data:
        return data
    place = rng.randrange(len(data))
    return data[:place] + bytes([rng.randrange(256)]) + data[place + 1 :]


def _cut(data: bytes, rng: random.Random) -> bytes:
    return data[: rng.randrange(len(data) + 1)]


def _remove(data: bytes, rng: random.Random) -> bytes:
    place = rng.randrange(len(data) + 1)
    return data[:place] + data[place + rng.randrange(1, 9) :]


def _insert(data: bytes, rng: random.Random) -> bytes:
    place = rng.randrange(len(data) + 1)
    return data[:place] + rng.randbytes(rng.randrange(1, 9)) + data[place:]


def _varint(data: bytes, rng: random.Random) -> bytes:
    if len(data) < 2:
        return data
    place = rng.randrange(len(data) - 1)
    return data[:place] + b"\xff" * rng.randrange(1, 10) + b"\x01" + data[place + 1 :]


def _splice(data: bytes, rng: random.Random) -> bytes:
    other = rng.choice(seeds())
    return data[: rng.randrange(len(data) + 1)] + other[rng.randrange(len(other)) :]


_BYTES: tuple[Callable[[bytes, random.Random], bytes], ...] = (_flip, _cut, _remove, _insert, _varint, _splice)


def _structure(data: bytes, rng: random.Random) -> bytes:
    """A field of the parsed file with another value, or gone, or twice."""
    try:
        proto = onnx.ModelProto.FromString(data)
    except Exception:
        return data
    message: Any = proto
    for _ in range(rng.randrange(1, 9)):
        inner = [value for field, value in message.ListFields() if field.message_type is not None]
        chosen = rng.choice(inner) if inner else None
        if chosen is None:
            break
        if hasattr(chosen, "ListFields"):
            message = chosen
        elif len(chosen):
            message = rng.choice(list(chosen))
    _change(message, rng)
    return bytes(proto.SerializeToString())


def _change(message: Any, rng: random.Random) -> None:
    fields = message.DESCRIPTOR.fields
    field = rng.choice([each for each, _ in message.ListFields()] or list(fields))
    if rng.random() < 0.2:
        field = rng.choice(list(fields))
    name = field.name
    value = getattr(message, name)
    try:
        if hasattr(value, "append") or hasattr(value, "add"):
            if len(value) and rng.random() < 0.5:
                del value[rng.randrange(len(value))]
            elif len(value) and field.message_type is not None:
                value.add().CopyFrom(rng.choice(list(value)))
            elif field.message_type is None:
                value.append(_scalar(value[0] if len(value) else _empty(field), rng))
        elif field.message_type is not None or rng.random() < 0.2:
            message.ClearField(name)
        else:
            setattr(message, name, _scalar(value, rng))
    except (TypeError, ValueError, OverflowError):
        message.ClearField(name)


def _empty(field: Any) -> Any:
    return {field.TYPE_STRING: "", field.TYPE_BYTES: b"", field.TYPE_FLOAT: 0.0, field.TYPE_DOUBLE: 0.0}.get(
        field.type, 0
    )


def _scalar(value: Any, rng: random.Random) -> Any:
    if isinstance(value, str):
        return rng.choice(
            ("", "x", value + "x", "Conv", "If", "Loop", "../x", "com.microsoft", "a" * 3000, "a" * 5000, "é\0")
        )
    if isinstance(value, bytes):
        return rng.choice((b"", value[:-1], value + b"\0", struct.pack("<q", 2**62), b"\xff" * len(value)))
    if isinstance(value, float):
        return rng.choice((0.0, -1.0, 1e30, float("nan"), float("inf")))
    return rng.choice((*_NUMBERS, value + 1, value - 1, rng.randrange(40)))


def give(data: bytes, trace: bool) -> str:
    """What came of a file: "module", "traced" or the name of an error of ours. Raises what is not ours."""
    try:
        module = OnnxModule(read_bytes(data, Path("/nonexistent")))
    except BurnishError as error:
        return _name(error)
    if not trace:
        return "module"
    with FakeTensorMode(allow_non_fake_inputs=True):
        try:
            inputs = [
                torch.empty([size if isinstance(size, int) else 2 for size in spec.shape or ()], dtype=spec.dtype)
                for spec in module.inputs
            ]
        except RuntimeError:
            return "no such inputs"
        try:
            module(*inputs)
        except BurnishError as error:
            return f"traced, {_name(error)}"
    return "traced"


def _name(error: BurnishError) -> str:
    if len(str(error)) > 20_000:
        raise AssertionError(f"a message of {len(str(error))} characters") from error
    return type(error).__name__


def mutants(seed: int, count: int) -> Iterator[tuple[int, bytes]]:
    """`count` broken files, each of a seed of its own."""
    for index in range(count):
        yield index, mutant(random.Random(f"{seed}/{index}"))


def main() -> int:
    """Gives all of them; 1 if one raised what is not ours, or took too long."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--no-trace", action="store_true", help="make modules, and do not run them")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.disable(logging.ERROR)  # torch tells of shapes that do not fit before it raises
    torch.set_num_threads(1)
    seeds()
    outcomes: Counter[str] = Counter()
    failures: list[str] = []
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for index, data in mutants(options.seed, options.count):
        start = time.process_time()
        try:
            give(data, trace=False)
            took = time.process_time() - start
            if took > MOST_SECONDS:
                failures.append(f"{index}: {took:.1f} s to be read")
            outcomes[give(data, trace=True) if not options.no_trace else "read"] += 1
            if time.process_time() - start > _MOST_RUN:
                failures.append(f"{index}: {time.process_time() - start:.1f} s to be traced")
        except Exception as error:
            last = traceback.extract_tb(error.__traceback__)[-1]
            failures.append(f"{index}: {type(error).__name__}: {str(error)[:150]} ({last.filename}:{last.lineno})")
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    for name, count in outcomes.most_common():
        print(f"{count:7} {name}")
    print(f"{len(failures)} of {options.count} failed; memory grew by at most {grown:.0f} MiB")
    print("\n".join(failures[:40]))
    return int(bool(failures))


if __name__ == "__main__":
    sys.exit(main())
