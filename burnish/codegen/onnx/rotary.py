"""Rotary embedding: ONNX's RotaryEmbedding where it can be, pieces elsewhere, or left to an attention that turns."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir
import torch
from torch import Tensor, fx

from burnish.codegen.onnx.context import Arguments, Context, Result, dtype_of, shape_of
from burnish.ir.arguments import arguments
from burnish.ir.ops import burnish_ops
from burnish.ir.position_table import half_name
from burnish.ir.program import operands
from burnish.ir.shapes import same_shape, same_size
from burnish.ir.traits import traits


def rotary(c: Context, node: fx.Node, a: Arguments) -> Result:
    """Pairs of elements, turned."""
    return _rotary_in_one(c, node, a) or _rotary_in_pieces(c, node, a)


def _rotary_in_one(c: Context, node: fx.Node, a: Arguments) -> ir.Value | None:
    """ONNX's RotaryEmbedding, which takes half a cosine table: the other half must be the same."""
    x = a["x"]
    heads = c.heads(c.value(x))
    if heads is None or dtype_of(node) != dtype_of(x):
        return None
    if not all(_one_row_a_token(x, a[name], heads.first) for name in ("cos", "sin")):
        return None
    tables = [_half_table(c, a[name], a["interleaved"]) for name in ("cos", "sin")]
    if any(table is None for table in tables):
        return None
    rotary_size = int(shape_of(a["cos"])[-1])
    turned = c.builder.op(
        "RotaryEmbedding",
        heads.joined,
        *tables,
        interleaved=int(a["interleaved"]),
        num_heads=heads.count,
        rotary_embedding_dim=rotary_size if rotary_size != heads.size else None,
    )
    return c.split_heads(turned, heads.count, heads.size, heads.first)


def _one_row_a_token(x: fx.Node, table: fx.Node, heads_first: bool) -> bool:
    """Whether a cosine is [B, 1, S, R] for x[B, H, S, D], or [B, S, 1, R] for x[B, S, H, D]."""
    shape, wide = shape_of(table), shape_of(x)
    one, tokens = (1, 2) if heads_first else (2, 1)
    if len(shape) != 4 or not same_size(shape[one], 1):
        return False
    return same_size(shape[0], wide[0]) and same_size(shape[tokens], wide[tokens])


def _half_table(c: Context, node: fx.Node, interleaved: bool) -> ir.Value | None:
    """The distinct half of cosines looked up in a table, [B, S, R / 2]; None where they are something else."""
    source = _looked_up(c, node, interleaved)
    if source is None:
        return None
    size = int(shape_of(source)[-1])

    def make() -> ir.Value:
        a = arguments(source)
        if c.formula(a["table"]) is not None:
            half = _half_of_table(c, a["table"], interleaved)
            return c.builder.op("Gather", half, c.value(a["positions"]), axis=0)
        rows = c.reshape(c.value(source), shape_of(source), (*shape_of(source)[:2], size))
        return _distinct(c, rows, size, interleaved, axis=2)

    return c.builder.once(("half", source, interleaved), make)


def _looked_up(c: Context, node: fx.Node, interleaved: bool) -> fx.Node | None:
    """The lookup that cosines come from, if the table has each of them twice; None where they are something else."""
    source = node
    while _moves_only_ones(source):
        source = operands(source)[0]
    if source.target is not burnish_ops.lookup.default:
        return None
    table: fx.Node = arguments(source)["table"]
    size = shape_of(source)[-1]
    if table.op != "get_attr" or not isinstance(size, int) or size % 2:
        return None
    formula = c.formula(table)

    def compare() -> bool:
        if formula is not None:
            return formula.has_equal_halves(interleaved)
        return _halves_are_equal(c.program.weights[str(table.target)].materialize(), interleaved)

    return source if c.builder.once(("halves", table, interleaved), compare) else None


def _distinct(c: Context, rows: ir.Value, size: int, interleaved: bool, axis: int) -> ir.Value:
    """Of cosines that are there twice along their last axis, `axis`, of `size`, each once."""
    constant = c.builder.constant
    step, end = (2, size) if interleaved else (1, size // 2)
    return c.builder.op("Slice", rows, constant([0]), constant([end]), constant([axis]), constant([step]))


def _moves_only_ones(node: fx.Node) -> bool:
    """Whether a node is a view that adds, drops or moves axes of size 1 and leaves the others in their order."""
    if node.target is not torch.ops.aten.permute.default and not traits(node.target).in_order:
        return False
    source: fx.Node = operands(node)[0]
    before, after = shape_of(source), shape_of(node)
    if node.target is torch.ops.aten.permute.default:
        dims = [axis % len(before) for axis in arguments(node)["dims"]]
        wide = [axis for axis in dims if not same_size(before[axis], 1)]
        return wide == sorted(wide)
    return same_shape(*([size for size in shape if not same_size(size, 1)] for shape in (before, after)))


def _halves_are_equal(table: Tensor, interleaved: bool) -> bool:
    if interleaved:
        return bool(torch.equal(table[..., ::2], table[..., 1::2]))
    return bool(torch.equal(*table.chunk(2, dim=-1)))


def _rotary_in_pieces(c: Context, node: fx.Node, a: Arguments) -> ir.Value:
    """x * cos + rotated(x) * sin."""
    op, constant = c.builder.op, c.builder.constant
    x, dtype = a["x"], dtype_of(node)
    shape = shape_of(x)
    last = len(shape) - 1
    size, rotary_size = int(shape[-1]), int(shape_of(a["cos"])[-1])
    value = c.tensor(x, dtype)

    def part(start: int, end: int, of: ir.Value) -> ir.Value:
        return op("Slice", of, constant([start]), constant([end]), constant([last]))

    turned = value if rotary_size == size else part(0, rotary_size, value)
    half = rotary_size // 2
    if a["interleaved"]:
        pairs = op("Reshape", turned, constant([0] * last + [half, 2]))
        axis = constant([last + 1])
        odd = op("Slice", pairs, constant([1]), constant([2]), axis)
        even = op("Slice", pairs, constant([0]), constant([1]), axis)
        rotated = op("Concat", op("Neg", odd), even, axis=last + 1)
        rotated = op("Reshape", rotated, constant([0] * last + [rotary_size]))
    else:
        rotated = op("Concat", op("Neg", part(half, rotary_size, turned)), part(0, half, turned), axis=last)
    result = op(
        "Add",
        op("Mul", turned, c.tensor(a["cos"], dtype)),
        op("Mul", rotated, c.tensor(a["sin"], dtype)),
    )
    return result if rotary_size == size else op("Concat", result, part(rotary_size, size, value), axis=last)


# ---------------------------------------------------------------- left to attention


@dataclass(frozen=True)
class Unturned:
    """Queries and keys as they are before their rotary embedding, and the table that it reads by position."""

    query: fx.Node
    key: fx.Node
    cos: ir.Value  # [M, R / 2]
    sin: ir.Value
    interleaved: bool


def unturned(c: Context, query: fx.Node, key: fx.Node, position: fx.Node) -> Unturned | None:
    """What GroupQueryAttention turns by itself, if query[B, H, S, D] and key[B, Hkv, S, D] are turned as it does.

    That is token i of row b by row position[b] + i of one table. D has to be a multiple of 16, and of its elements a
    multiple of 16 turned.
    """
    if any(node.target is not burnish_ops.rotary.default for node in (query, key)):
        return None
    of_query, of_key = arguments(query), arguments(key)
    if any(of_query[name] != of_key[name] for name in ("cos", "sin", "interleaved")):
        return None
    if shape_of(query)[3] % 16 or shape_of(of_query["cos"])[-1] % 16:
        return None
    interleaved = bool(of_query["interleaved"])
    tables = []
    for name in ("cos", "sin"):
        if not all(_one_row_a_token(a["x"], a[name], heads_first=True) for a in (of_query, of_key)):
            return None
        source = _looked_up(c, of_query[name], interleaved)
        if source is None or not _reads_by_position(c, source, position):
            return None
        tables.append(arguments(source)["table"])
    cos, sin = (_half_of_table(c, table, interleaved) for table in tables)
    return Unturned(of_query["x"], of_key["x"], cos, sin, interleaved)


def _reads_by_position(c: Context, lookup: fx.Node, position: fx.Node) -> bool:
    """Whether the rows of a table are looked up by the positions of the new tokens, and there is one for each."""
    a = arguments(lookup)
    rows: fx.Node = a["positions"]
    if rows.target is not burnish_ops.positions.default or arguments(rows)["position"] is not position:
        return False
    return int(shape_of(a["table"])[0]) >= c.program.signature.max_length


def _half_of_table(c: Context, table: fx.Node, interleaved: bool) -> ir.Value:
    """[M, ..., R] as [M, R / 2]. ONNX Runtime halves it when it loads the model; of a formula, no more is made."""
    formula = c.formula(table)
    if formula is not None:
        return c.builder.table(half_name(str(table.target), interleaved), formula.half(interleaved))
    count, size = int(shape_of(table)[0]), int(shape_of(table)[-1])

    def make() -> ir.Value:
        rows = c.builder.weight(c.program.weight_of(table), (count, size))
        return _distinct(c, rows, size, interleaved, axis=1)

    return c.builder.once(("half of table", table, interleaved), make)
