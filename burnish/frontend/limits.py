"""How many tokens a model takes, and how many different ones."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx, nn
from torch.export import ExportedProgram

from burnish.ir.errors import UsageError
from burnish.ir.weights import Weights

_LENGTH_NAMES = ("max_position_embeddings", "n_positions", "max_seq_len", "max_sequence_length", "seq_length", "n_ctx")


def declared_limit(module: nn.Module) -> int | None:
    """The most tokens that the module's configuration allows, by the names that configurations have for it."""
    config = getattr(module, "config", None)
    get_text_config = getattr(config, "get_text_config", None)
    config = get_text_config() if callable(get_text_config) else config
    found = (getattr(config, name, None) for name in _LENGTH_NAMES)
    return next((limit for limit in found if isinstance(limit, int) and limit > 0), None)


def range_limit(exported: ExportedProgram, size: torch.SymInt) -> int | None:
    """The upper bound that export found for a size, if any."""
    found = exported.range_constraints.get(size.node.expr)
    if found is None or not found.upper.is_Integer or int(found.upper) >= 2**31:
        return None
    return int(found.upper)


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


def position_limit(graph: fx.Graph, weights: Weights, wanted: int) -> int:
    """The most tokens, at most `wanted`, for which everything that depends on positions alone can be computed.

    A table of learned positions ends somewhere, and only computing with too many tokens shows it.
    """
    nodes = _position_only(graph)
    if _computes(nodes, weights, wanted):
        return wanted
    low, high = 1, wanted  # computes for low, not for high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if _computes(nodes, weights, middle) else (low, middle)
    return low


def _position_only(graph: fx.Graph) -> list[fx.Node]:
    """The tokens, then the nodes that read their sizes and no token, and what those need, in order."""
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
    for node in reversed(graph.nodes):
        if node in needed:
            needed.update(node.all_input_nodes)
    return [tokens, *(node for node in graph.nodes if node in needed and node is not tokens)]


@torch.no_grad()
def _computes(nodes: list[fx.Node], weights: Weights, length: int) -> bool:
    values: dict[fx.Node, Any] = {nodes[0]: torch.zeros(1, length, dtype=torch.int64)}
    for node in nodes[1:]:
        if node.op == "get_attr":
            values[node] = weights[str(node.target)].materialize()
            continue
        args, kwargs = fx.map_arg((node.args, node.kwargs), values.__getitem__)
        assert callable(node.target)
        try:
            values[node] = node.target(*args, **kwargs)
        except (IndexError, RuntimeError):  # what torch raises for an index or a size out of range
            return False
    return True
