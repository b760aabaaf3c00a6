"""Which linears get more bits, so that all weights together fit a size."""

from __future__ import annotations

import re
from collections.abc import Mapping
from collections.abc import Set as AbstractSet

import torch
from torch import Tensor, fx

from burnish.ir.errors import UsageError
from burnish.ir.program import Program
from burnish.ir.quantization import Quantized
from burnish.ir.quantized_ops import block_of, stored_bytes
from burnish.ir.weights import nbytes
from burnish.passes.base import Log
from burnish.passes.transforms.quantize_readers import by_input, gram_of, weight_read
from burnish.passes.transforms.quantize_rounding import Grid, grid_of_8_bits, nearest, output_error
from burnish.passes.transforms.stream import Stream

_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "KI": 2**10, "MI": 2**20, "GI": 2**30}

Plan = dict[fx.Node, Grid | Quantized]


def bytes_of(size: int | str) -> int:
    """Bytes of a size as it is given: a number, "80MB", "1.5 GB", "64MiB". Raises UsageError for anything else."""
    found = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?) *([KMG]?|[KMG]I)B?", str(size).strip().upper())
    if found is None or float(found[1]) <= 0:
        raise UsageError(f"{size!r} is no size: give bytes, or a text like '80MB', '1.5GB' or '64MiB'")
    return int(float(found[1]) * _UNITS[found[2]])


def fitted(program: Program, plan: Plan, free: AbstractSet[fx.Node], tokens: Tensor, size: int, log: Log) -> Plan:
    """`plan` with more bits for those of the `free` linears that lose most, while all weights fit `size` bytes.

    By what a weight's rounding changes of the linear's output on tokens[windows, length], relative to the output: first
    from 4 bits to 8, then from 8 to floats. Sizes are those of the artifact for CPUs. Raises UsageError
    where the plan as it is does not fit.
    """
    names = {program.weight_of(weight_read(reader)): reader for reader in plan}
    total = sum(nbytes(weight) for name, weight in program.weights.items() if name not in names)
    total += sum(planned_bytes(reader, plan[reader]) for reader in plan)
    if total > size:
        raise UsageError(f"the weights become {total / 1e6:.2f} MB at the least, and {size / 1e6:.2f} MB are allowed")
    linears = {node: grid for node, grid in plan.items() if node in free and isinstance(grid, Grid)}
    linears = {node: grid for node, grid in linears.items() if node.target is torch.ops.aten.linear.default}
    losses = _losses(program, linears, tokens)
    found: dict[fx.Node, Grid | Quantized | None] = dict(plan)
    for bits in (4, 8):
        rounded = [node for node in linears if (grid := found[node]) is not None and grid.bits == bits]
        for node in sorted(rounded, key=lambda each: -losses[each][bits]):
            better = _of_8_bits(node) if bits == 4 else None
            more = planned_bytes(node, better) - planned_bytes(node, found[node])
            if total + more <= size:
                found[node] = better
                total += more
    for node in linears:
        if found[node] is None:
            log.refuse(node, f"there is room for its floats: {total / 1e6:.2f} MB of {size / 1e6:.2f} MB are used")
    log.note(f"weights of {total / 1e6:.2f} MB, of {size / 1e6:.2f} MB that are allowed")
    return {node: grid for node, grid in found.items() if grid is not None}


def planned_bytes(reader: fx.Node, chosen: Grid | Quantized | None) -> int:
    """Bytes of the weight of `reader` in an artifact for CPUs; None: in floats."""
    rows, size = (int(each) for each in weight_read(reader).meta["val"].shape)
    if chosen is None:
        return 4 * rows * size
    if isinstance(chosen, Quantized):
        return stored_bytes(chosen)
    block = block_of(chosen.bits, chosen.group, size)
    assert block is not None
    blocks = -(-size // block)
    return rows * (blocks * block * chosen.bits // 8 + 4 * blocks + (blocks + 1) // 2 * (not chosen.symmetric))


def _losses(program: Program, linears: Mapping[fx.Node, Grid], tokens: Tensor) -> dict[fx.Node, dict[int, float]]:
    """What each linear loses of its output in the bits that it would have, and in 8."""
    stream = Stream(program, tokens)
    found: dict[fx.Node, dict[int, float]] = {}
    for readers in by_input(linears):
        x = readers[0].args[0]
        gram = gram_of(stream, x)
        for reader in readers:
            weight = program.weights[program.weight_of(weight_read(reader))].materialize().float()
            grids = {8: _of_8_bits(reader), linears[reader].bits: linears[reader]}
            found[reader] = {
                bits: output_error(weight, nearest(weight, grid).materialize(), gram) for bits, grid in grids.items()
            }
    return found


def _of_8_bits(reader: fx.Node) -> Grid:
    return grid_of_8_bits(int(weight_read(reader).meta["val"].shape[1]))
