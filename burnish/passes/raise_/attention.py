"""Attention in every spelling becomes `burnish::attention` over unrepeated heads, its mask classified by value."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar, cast

import torch
from torch import fx

from burnish.ir.edit import Editor, remove_dead
from burnish.ir.labels import rank
from burnish.ir.ops import burnish_ops
from burnish.ir.program import Program, describe, operands
from burnish.ir.shapes import is_batch, is_over_tokens, is_sequence
from burnish.ir.spec import SOFTMAXES
from burnish.ir.traits import reshapes
from burnish.ir.weights import Stored
from burnish.passes.analyses.attention_match import (
    Match,
    NoMatch,
    match_attention,
    sink_scale,
)
from burnish.passes.analyses.mask_reading import MaskReader
from burnish.passes.analyses.masks import Mask
from burnish.passes.analyses.position_only import PositionOnly
from burnish.passes.base import Effect, Log

aten = torch.ops.aten


@dataclass(frozen=True)
class RaiseAttention:
    """softmax(q k^T) v -> burnish::attention."""

    name: ClassVar[str] = "raise-attention"
    effect: ClassVar[Effect] = Effect.REASSOCIATES
    atomic: ClassVar[bool] = False

    def run(self, program: Program, log: Log) -> Program:
        """Raise each attention of `program`, in place."""
        raiser = _Raiser(program, log)
        for node in list(program.graph.nodes):
            if node.op != "call_function":
                continue
            try:
                if node.target in SOFTMAXES and is_over_tokens(program, operands(node)[0].meta["val"].shape):
                    raiser.raise_softmax(node)
                elif node.target is aten.scaled_dot_product_attention.default:
                    raiser.raise_sdpa(node)
            except NoMatch as miss:
                log.refuse(node, miss.reason if miss.node is node else f"{miss.reason} (at {describe(miss.node)})")
        remove_dead(program)
        return program


class _Raiser:
    def __init__(self, program: Program, log: Log) -> None:
        self.program = program
        self.log = log
        self.positions = PositionOnly(program)
        self.editor = Editor(program)
        self.masks = MaskReader(self.positions, log)
        self.tables: dict[int, fx.Node] = {}

    # ------------------------------------------------------------ the two roots

    def raise_softmax(self, softmax: fx.Node) -> None:
        match = match_attention(softmax, self.program, self.positions)
        for product, value in match.products:
            root = product
            scaled = sink_scale(match, product, self.positions) if match.sinks is None else None
            if scaled is not None:
                root, match.sinks = scaled
            with self.editor.before(root):
                key = match.key if match.key is not None else self._untranspose(match.key_transposed)
                out, told = self._attention(root, match, match.query, key, value)
            self.editor.replace(root, out)
            self.log.rewrite(softmax, told)

    def raise_sdpa(self, root: fx.Node) -> None:
        arguments: dict[str, Any] = dict(
            zip(("query", "key", "value", "attn_mask", "dropout_p", "is_causal"), root.args, strict=False)
        )
        arguments.update(root.kwargs)
        query, key, value = arguments["query"], arguments["key"], arguments["value"]
        shape = query.meta["val"].shape
        if not is_sequence(self.program, shape[-2]):
            raise NoMatch(root, "its queries are not the tokens")
        scale = arguments.get("scale")
        match = Match(root, query, key=key)
        match.scale = 1.0 / math.sqrt(int(shape[-1])) if scale is None else float(scale)
        mask = arguments.get("attn_mask")
        if mask is not None:
            if mask not in self.positions:
                raise NoMatch(root, "its mask depends on the input's data")
            boolean = mask.meta["val"].dtype is torch.bool
            match.terms = [("keep", mask, float("-inf"))] if boolean else [("add", mask, 1.0)]
        known = Mask("causal") if arguments.get("is_causal") else None
        with self.editor.before(root):
            out, told = self._attention(root, match, query, key, value, known)
        self.editor.replace(root, out)
        self.log.rewrite(root, told)

    # ------------------------------------------------------------ operands as [B, H, S, D]

    def _untranspose(self, node: fx.Node | None) -> fx.Node:
        """[..., D, T] -> [..., T, D], through the user's own transpose where there is one."""
        assert node is not None
        axes = rank(node)
        if node.target is aten.transpose.int:
            source, *swapped = operands(node)
            if {axis % axes for axis in swapped} == {axes - 1, axes - 2}:
                return cast("fx.Node", source)
        if node.target is aten.permute.default:
            source, wanted = operands(node)
            order = [axis % axes for axis in wanted]
            order[-2:] = order[:-3:-1]
            if order == list(range(axes)):
                return cast("fx.Node", source)
            return self.editor.call(aten.permute.default, source, order, like=node)
        return self.editor.call(aten.transpose.int, node, axes - 2, axes - 1, like=node)

    def _to_heads(self, node: fx.Node) -> fx.Node:
        """The operand as [B, H, T, D], whatever its rank."""
        shape = node.meta["val"].shape
        if len(shape) == 4:
            if not is_batch(self.program, shape[0]):
                raise NoMatch(node, "its first axis is not the batch")
            return node
        if len(shape) == 3 and is_batch(self.program, shape[0]):
            return self.editor.call(aten.unsqueeze.default, node, 1, like=node)
        if len(shape) == 3:
            return self._split_batch(node)
        if len(shape) == 5 and is_batch(self.program, shape[0]):
            heads = int(shape[1]) * int(shape[2])
            return self._reshape(node, (shape[0], heads, shape[3], shape[4]))
        raise NoMatch(node, f"an operand of rank {len(shape)} is not handled")

    def _split_batch(self, node: fx.Node) -> fx.Node:
        """[B * H, T, D] -> [B, H, T, D], through the user's own view where there is one."""
        shape = node.meta["val"].shape
        source = operands(node)[0] if reshapes(node) else None
        if isinstance(source, fx.Node) and source.meta["val"].dim() == 4:
            before = source.meta["val"].shape
            if is_batch(self.program, before[0]) and str(before[2:]) == str(shape[1:]):
                return source
        batch = self.program.tokens.meta["val"].shape[0]
        heads = shape[0] // batch
        expression = heads.node.expr if isinstance(heads, torch.SymInt) else heads
        try:
            count = int(expression)
        except TypeError:
            raise NoMatch(node, "its first axis is not batch x heads") from None
        return self._reshape(node, (batch, count, shape[1], shape[2]))

    def _reshape(self, node: fx.Node, shape: tuple[Any, ...]) -> fx.Node:
        return self.editor.call(aten.reshape.default, node, [self._size(size) for size in shape], like=node)

    def _size(self, size: Any) -> Any:
        """A size as an argument: a number, or the node that reads it from the tokens."""
        if isinstance(size, int):
            return size
        if is_batch(self.program, size):
            return self.editor.call(aten.sym_size.int, self.program.tokens, 0, like=self.program.tokens)
        if is_sequence(self.program, size):
            return self.editor.call(aten.sym_size.int, self.program.tokens, 1, like=self.program.tokens)
        raise NoMatch(self.program.tokens, f"a size of {size} is not handled")

    def _unrepeat(self, node: fx.Node) -> fx.Node:
        """The keys or values before their heads were repeated for the queries; `node` itself if they were not."""
        current = node
        if reshapes(current) and rank(current) in (3, 4):
            expanded = operands(current)[0]
            if expanded.target is aten.expand.default:
                wide = expanded.meta["val"].shape
                source: fx.Node = operands(expanded)[0]
                narrow = source.meta["val"].shape
                if len(wide) == 5 and len(narrow) == 5 and narrow[2] == 1 and str(wide[:2]) == str(narrow[:2]):
                    if source.target is aten.unsqueeze.default:
                        return cast("fx.Node", operands(source)[0])
                    return self.editor.call(aten.squeeze.dim, source, 2, like=node)
        if current.target is aten.repeat_interleave.self_int:
            axis = current.args[2] if len(current.args) > 2 else current.kwargs.get("dim")
            if axis in (1, -3) and current.meta["val"].dim() == 4:
                return cast("fx.Node", operands(current)[0])
        if current.target is aten.expand.default and current.meta["val"].dim() == 4:
            source = operands(current)[0]
            if rank(source) == 4 and source.meta["val"].shape[1] == 1:
                return source
        return node

    # ------------------------------------------------------------ the op

    def _attention(
        self, root: fx.Node, match: Match, query: fx.Node, key: fx.Node, value: fx.Node, known: Mask | None = None
    ) -> tuple[fx.Node, str]:
        """The op for one product of attention weights and values, in its shape and dtype; and what it became."""
        query = self._to_heads(query)
        key, value = (self._unrepeat(self._to_heads(self._unrepeat(operand))) for operand in (key, value))
        shape = query.meta["val"].shape
        for operand, what in ((query, "queries"), (key, "keys"), (value, "values")):
            if not is_sequence(self.program, operand.meta["val"].shape[2]):
                raise NoMatch(root, f"its {what} are not one for each token")
        heads, kv_heads = int(shape[1]), int(key.meta["val"].shape[1])
        if int(value.meta["val"].shape[1]) != kv_heads:
            raise NoMatch(root, "keys and values have different numbers of heads")
        mask = known or self.masks.read(match, heads)
        options: dict[str, Any] = {"scale": match.scale, "mask": mask.kind}
        if mask.extent:
            options["extent"] = mask.extent
        if match.softcap:
            options["softcap"] = match.softcap
        if match.sinks is not None:
            options["sinks"] = match.sinks
        if mask.slopes is not None:
            slopes = mask.slopes.expand(heads).contiguous().float()
            options["slopes"] = self._table(mask, "alibi_slopes", slopes)
        if mask.table is not None:
            table = self._table(mask, "attention_bias", mask.table.float())
            options["bias"] = self.editor.call(burnish_ops.attention_bias.default, table, None, query, key, like=root)
        out = self.editor.call(burnish_ops.attention.default, query, key, value, like=root, **options)
        told = mask.kind + (f" of {mask.extent}" if mask.extent else "")
        extras = [name for name in ("softcap", "sinks", "slopes", "bias") if name in options]
        if mask.later is not None or (mask.kind == "none" and mask.table is None):
            told += ", not causal: a token sees later ones"
        told = f"attention, {heads} query heads, {kv_heads} KV heads, mask {told}"
        if extras:
            told += f", with {', '.join(extras)}"
        return self._like_root(out, root), told

    def _table(self, mask: Mask, name: str, values: torch.Tensor) -> fx.Node:
        if id(mask) not in self.tables:
            self.tables[id(mask)] = self.editor.weight(name, Stored(values))
        return self.tables[id(mask)]

    # ------------------------------------------------------------ back to what the root gave

    def _like_root(self, out: fx.Node, root: fx.Node) -> fx.Node:
        """[B, H, S, Dv] in the shape and dtype of the root's value."""
        want = root.meta["val"]
        shape = want.shape
        if len(shape) == 3 and is_batch(self.program, shape[0]):
            out = self.editor.call(aten.squeeze.dim, out, 1, like=root)
        elif len(shape) != 4:
            merged = shape[0] if len(shape) == 5 else -1
            sizes = [self._size(merged) if not isinstance(merged, int) else merged]
            sizes += [self._size(size) for size in shape[1:]]
            out = self.editor.call(aten.reshape.default, out, sizes, like=root)
        if out.meta["val"].dtype != want.dtype:
            out = self.editor.call(aten._to_copy.default, out, like=root, dtype=want.dtype)
        return out
