"""How many tokens a model takes, and how many different ones."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Sequence
from typing import Any

import torch
from torch import fx, nn
from torch.export import ExportedProgram

from burnish.frontend.guards import holds_for_tokens
from burnish.ir.conditions import UnreadCondition
from burnish.ir.errors import CaptureError, UsageError
from burnish.ir.weights import Weights

_log = logging.getLogger(__name__)

LENGTH_NAMES = ("max_position_embeddings", "n_positions", "max_seq_len", "max_sequence_length", "seq_length", "n_ctx")
"""What configurations call the most tokens that a model takes."""


def declared_limit(module: nn.Module) -> int | None:
    """The most tokens that the module's configuration allows, by the names that configurations have for it."""
    config = getattr(module, "config", None)
    get_text_config = getattr(config, "get_text_config", None)
    config = get_text_config() if callable(get_text_config) else config
    found = (getattr(config, name, None) for name in LENGTH_NAMES)
    return next((limit for limit in found if isinstance(limit, int) and limit > 0), None)


def range_limit(exported: ExportedProgram, size: torch.SymInt) -> int | None:
    """The upper bound that export found for a size, if any."""
    found = exported.range_constraints.get(size.node.expr)
    if found is None or not found.upper.is_Integer or int(found.upper) >= 2**31:
        return None
    return int(found.upper)


def range_floor(exported: ExportedProgram, size: torch.SymInt) -> int:
    """The lower bound that export found for a size. It takes 0 and 1 for special cases of any program."""
    found = exported.range_constraints.get(size.node.expr)
    return int(found.lower) if found is not None and found.lower.is_Integer else 0


def check_length(max_length: int | None, limit: int | None) -> None:
    """Raises UsageError unless a model that takes `limit` tokens takes `max_length`."""
    if max_length is not None and max_length < 2:
        raise UsageError(f"max_length is {max_length}: a prompt and an answer take at least two tokens")
    if max_length is not None and limit is not None and max_length > limit:
        raise UsageError(f"max_length is {max_length}, but the model takes at most {limit} tokens: ask for fewer")


def token_limit(graph: fx.Graph, vocabulary: int) -> int:
    """How many ids can be embedded: rows of the table that the tokens index; `vocabulary` if there is none."""
    tokens = next(node for node in graph.nodes if node.op == "placeholder")
    for node in tokens.users:
        if node.target is torch.ops.aten.embedding.default and node.args[1] is tokens:
            table = node.args[0]
            assert isinstance(table, fx.Node)
            return int(table.meta["val"].shape[0])
    return vocabulary


def check_every_length(graph: fx.Graph, longest: int) -> None:
    """Raises CaptureError if the trace is right for some numbers of tokens, or of rows, only.

    Where a forward branches on a size, export follows the branch that the example takes and notes the condition as an
    assertion; a scan in chunks, for one, may hold for lengths that are no multiple of the chunk.
    """
    asserts = [node for node in _position_only(graph) if node.target is torch.ops.aten._assert_scalar.default]
    nodes = _with_ancestors(graph, set(asserts))
    # Shorter texts are always special cases somewhere.
    lengths = [each for each in sorted({*range(3, 36), 64, 127, longest - 1, longest}) if 3 <= each <= longest]
    for length in lengths:
        failed = _first_failure(nodes, Weights(), length)
        if failed is not None:
            raise CaptureError(
                f"the forward branches on the number of tokens (a loop over chunks, perhaps), and the trace has one "
                f"branch, which is not that of {length} tokens: {failed.args[1]}"
            )
    if not any(node.target is torch.ops.aten.sym_size.int and node.args[1] == 0 for node in nodes):
        return
    for rows in (*range(3, 36), 48, 63, 64, 65, 100, 127, 128, 129, 256, 1000):
        for length in lengths:
            failed = _first_failure(nodes, Weights(), length, rows)
            if failed is not None:
                raise CaptureError(
                    f"the forward branches on the number of rows, and the trace has one branch, which is not that of "
                    f"{rows} rows of {length} tokens: {failed.args[1]}"
                )


def sizes_of_other_branches(guards: Sequence[str], fewest: tuple[int, int], longest: int) -> list[tuple[int, int]]:
    """Rows and tokens, few, for which the trace took another branch than a forward does: one pair for each guard.

    guards: what export noted of the sizes of its input and has no assertion for, as expressions of Python.
    """
    found: list[tuple[int, int]] = []
    rows = [each for each in (*range(3, 36), 48, 64, 65, 128, 129, 1000) if each >= fewest[0]]
    lengths = [each for each in (*range(3, 36), 48, 64, 65, longest) if fewest[1] <= each <= longest]
    for guard in guards:
        for pair in sorted(itertools.product(rows, lengths), key=lambda pair: pair[0] * pair[1]):
            try:
                if holds_for_tokens(guard, pair):
                    continue
            except UnreadCondition:
                _log.warning("the trace holds under a condition that is not read: %s", guard)
                break
            found.append(pair)
            break
    return found


def position_limit(graph: fx.Graph, weights: Weights, wanted: int) -> int:
    """The most tokens, at most `wanted`, for which everything that depends on positions alone can be computed.

    A table of learned positions ends somewhere, and only computing with too many tokens shows it.
    """
    nodes = [node for node in _position_only(graph) if node.target is not torch.ops.aten._assert_scalar.default]
    if _first_failure(nodes, weights, wanted) is None:
        return wanted
    low, high = 1, wanted  # computes for low, not for high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if _first_failure(nodes, weights, middle) is None else (low, middle)
    return low


def _position_only(graph: fx.Graph) -> list[fx.Node]:
    """The nodes that read the tokens' sizes and no token, with what those need, in order."""
    tokens = next(node for node in graph.nodes if node.op == "placeholder")
    known: set[fx.Node] = set()  # without a token
    needed: set[fx.Node] = set()
    for node in graph.nodes:
        reads_size = node.target is torch.ops.aten.sym_size.int and node.args[0] is tokens
        if (
            reads_size
            or node.op == "get_attr"
            or (node.op == "call_function" and known.issuperset(node.all_input_nodes))
        ):
            known.add(node)
        if reads_size or (node in known and not needed.isdisjoint(node.all_input_nodes)):
            needed.add(node)
    return _with_ancestors(graph, needed)


def _with_ancestors(graph: fx.Graph, needed: set[fx.Node]) -> list[fx.Node]:
    """`needed` and what it is computed from, in order."""
    needed = set(needed)
    for node in reversed(graph.nodes):
        if node in needed:
            needed.update(node.all_input_nodes)
    return [node for node in graph.nodes if node in needed]


@torch.no_grad()
def _first_failure(nodes: list[fx.Node], weights: Weights, length: int, rows: int = 1) -> fx.Node | None:
    """The first node that cannot be computed for this many tokens, in so many rows."""
    values: dict[fx.Node, Any] = {}
    for node in nodes:
        if node.op == "placeholder":
            values[node] = torch.zeros(rows, length, dtype=torch.int64)
        elif node.op == "get_attr":
            values[node] = weights[str(node.target)].materialize()
        else:
            args, kwargs = fx.map_arg((node.args, node.kwargs), values.__getitem__)
            assert callable(node.target)
            try:
                values[node] = node.target(*args, **kwargs)
            except (IndexError, RuntimeError):  # what torch raises for an index or a size out of range
                return node
    return None
