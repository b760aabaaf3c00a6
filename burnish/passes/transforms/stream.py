"""A whole program on many tokens, run as far as is asked for: what a transform of one layer sees of all text.

A transform goes through a model layer by layer, and wants of each what it reads for all of the calibration text. So
batches wait at the values that were asked for last, and hold only what later nodes read: the residual stream and
little else. Weights are materialized for the stretch between two such places, and let go.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx

from burnish.ir.errors import InvalidProgramError
from burnish.ir.ops import burnish_ops, differentiable
from burnish.ir.program import Program, describe
from burnish.ir.weights import Weight
from burnish.passes.analyses.position_only import PositionOnly
from burnish.passes.transforms.memory import give_back

_ROWS = 2  # a batch: products gain nothing from more than a thousand rows, and logits of a large vocabulary are large


class Stream:
    """Runs a whole program over tokens[rows, length], in batches. The program's graph may be edited ahead of it."""

    def __init__(
        self, program: Program, tokens: Tensor, rows: int = _ROWS, weights: dict[Weight, Tensor] | None = None
    ) -> None:
        """`rows` of a batch, if they divide what there is. `weights`: where streams side by side share theirs."""
        self.program = program
        rows = rows if tokens.shape[0] % rows == 0 else 1
        self._batches = [_Batch(part) for part in torch.split(tokens, rows)]
        self._positions = PositionOnly(program).nodes
        self._shared = _Batch(tokens[:rows])  # what depends on positions alone is the same for all batches
        self._weights: dict[Weight, Tensor] = {} if weights is None else weights

    def each(self, node: fx.Node, keep: bool = True) -> Iterator[Tensor]:
        """The value of `node` for each batch, [rows of the batch, ...]. Batches run when it is their turn.

        A value that later nodes read stays in memory; without `keep` nothing of `node` does, and nothing can follow.
        """
        order = self._order(node)
        for batch in self._batches:
            yield self._run(node, order, batch, keep)  # and not from a name, by which it would be in memory longer
        self._weights.clear()
        give_back()

    def collect(self, node: fx.Node) -> list[Tensor]:
        """Copies of the value of `node` for all batches, in one piece of memory, which goes back at once when let go.

        As pieces between others that come and go, they leave holes that the allocator does not give back.
        """
        whole, found = torch.empty(0), []
        for number, value in enumerate(self.each(node)):
            if number == 0:
                whole = value.new_empty(len(self._batches), *value.shape)
            found.append(whole[number].copy_(value) if value.shape == whole.shape[1:] else value.clone())
        return found

    def advance(self, node: fx.Node) -> None:
        """Run all batches up to `node`."""
        for _ in self.each(node):
            pass

    def shared(self, node: fx.Node) -> Any:
        """The value of a node that depends on positions alone. Raises InvalidProgramError if it does not."""
        if node not in self._positions:
            raise InvalidProgramError(f"{describe(node)} depends on the text")
        for each in self._order(node):
            self._shared.values[each] = self._value(each, self._shared)
            self._shared.done.add(each)
        return self._read(node, self._shared)

    def _order(self, target: fx.Node) -> list[fx.Node]:
        """What has to run for `target`, in order; all batches are at the same place."""
        known = self._batches[0].values.keys() | self._shared.values.keys()
        needed: set[fx.Node] = set()
        stack = [target]
        while stack:
            node = stack.pop()
            if node in needed or node in known or node.op in ("placeholder", "get_attr"):
                continue
            if node in self._batches[0].done:
                raise InvalidProgramError(f"{describe(node)} is wanted after its value was let go")
            needed.add(node)
            stack.extend(node.all_input_nodes)
        return [node for node in self.program.graph.nodes if node in needed]

    @torch.no_grad()
    def _run(self, target: fx.Node, order: list[fx.Node], batch: _Batch, keep: bool) -> Tensor:
        for node in order:
            holder = self._shared if node in self._positions else batch
            if node not in holder.done:
                holder.values[node] = self._value(node, batch)
                holder.done.add(node)
                for read in node.all_input_nodes:
                    if read is not target and read in batch.values and batch.done.issuperset(read.users):
                        del batch.values[read]
        found = self._read(target, batch)
        assert isinstance(found, Tensor)
        if not keep:
            batch.values.clear()
        return found

    def _value(self, node: fx.Node, batch: _Batch) -> Any:
        args: Any
        kwargs: Any
        args, kwargs = fx.map_arg((node.args, node.kwargs), lambda read: self._read(read, batch))
        try:
            return compute(node, args, kwargs)
        except Exception as error:
            raise InvalidProgramError(f"{describe(node)} failed on calibration text: {error}") from error

    def _read(self, node: fx.Node, batch: _Batch) -> Any:
        if node.op == "placeholder":
            return batch.tokens
        for values in (batch.values, self._shared.values):
            if node in values:
                return values[node]
        weight = self.program.weights[self.program.weight_of(node)]
        if weight not in self._weights:
            self._weights[weight] = weight.materialize()
        return self._weights[weight]


def compute(node: fx.Node, args: Any, kwargs: Any) -> Any:
    """The value of a node, in operations that autograd sees; attention of the common kind by PyTorch's own."""
    if node.target is burnish_ops.attention.default and len(args) == 3 and set(kwargs) <= {"scale", "mask"}:
        query, key, value = args
        if kwargs.get("mask", "causal") == "causal":
            shares = key.shape[1] != query.shape[1]
            return F.scaled_dot_product_attention(
                query, key, value, is_causal=True, scale=kwargs["scale"], enable_gqa=shares
            )
    return differentiable(node.target)(*args, **kwargs)


class _Batch:
    """Rows of tokens, what is known of them, and what was and is needed no more."""

    def __init__(self, tokens: Tensor) -> None:
        self.tokens = tokens
        self.values: dict[fx.Node, Any] = {}
        self.done: set[fx.Node] = set()
