"""Small step programs made by hand, the same models written as plain PyTorch, and one of them as ONNX."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
import onnx.parser
import torch
import torch.nn.functional as F
from torch import Tensor, fx

from burnish.ir.ops import burnish_ops
from burnish.ir.origin import Origin
from burnish.ir.program import Program, Stage
from burnish.ir.signature import STEP_INPUTS, Signature
from burnish.ir.states import BATCH, CAPACITY, State, StateKind
from burnish.ir.trace import PassRecord, Trace
from burnish.ir.weights import Stored, Weights
from burnish.runtime.artifact_writer import Contents, write
from burnish.runtime.tokenization import TokenizerData
from burnish.runtime.weights_writer import WeightLayout, plan_weights

VOCABULARY, SIZE, MAX_LENGTH, WINDOW = 300, 8, 200, 5
aten = torch.ops.aten


@dataclass(frozen=True)
class Tiny:
    """A step program, and the whole-sequence function ids[b, s] -> logits[b, s, V] that it is a step of."""

    program: Program
    whole: Callable[[Tensor], Tensor]


def tiny(kind: StateKind = StateKind.CACHE, seed: int = 0) -> Tiny:
    """Embedding, learned positions, attention of one head over the embeddings themselves, a running sum, a linear.

    The attention remembers in a CACHE, or, with a window of WINDOW tokens, in a RING; the sum in an ACCUMULATOR, which
    is left out where kind is CACHE, so that this one can be rewound.
    """
    generator = torch.Generator().manual_seed(seed)
    embed = torch.randn(VOCABULARY, SIZE, generator=generator)
    table = torch.randn(MAX_LENGTH, SIZE, generator=generator)
    head = torch.randn(VOCABULARY, SIZE, generator=generator)
    ring = kind is StateKind.RING

    def whole(ids: Tensor) -> Tensor:
        x = F.embedding(ids, embed) + table[: ids.shape[1]]
        distance = torch.arange(ids.shape[1])[:, None] - torch.arange(ids.shape[1])
        visible = (distance >= 0) & ((distance < WINDOW) if ring else torch.tensor(True))
        mixed = F.scaled_dot_product_attention(x, x, x, visible, scale=0.3)
        if ring:
            mixed = mixed + 0.1 * x.cumsum(1)
        return F.linear(x + mixed, head)

    graph, weights = fx.Graph(), Weights()

    def call(target: Any, *args: Any, **kwargs: Any) -> fx.Node:
        node = graph.call_function(target, args, kwargs)
        node.meta["origin"] = Origin("model.layer", "Layer", "/home/someone/layer.py", 7, "x + y")
        return node

    def weight(name: str, tensor: Tensor) -> fx.Node:
        weights.add(name, Stored(tensor))
        return graph.create_node("get_attr", name, name=name.replace(".", "_"))

    tokens, position, index = (graph.placeholder(name) for name in ("tokens", "position", "logits_index"))
    memory = graph.placeholder("memory")
    total = graph.placeholder("total") if ring else None
    positions = call(burnish_ops.positions.default, tokens, position)
    x = call(
        aten.add.Tensor,
        call(aten.embedding.default, weight("embed.weight", embed), tokens),
        call(burnish_ops.lookup.default, weight("table", table), positions),
    )
    four = call(aten.unsqueeze.default, x, 1)  # [b, 1 head, n, d]
    if ring:
        keys = call(aten.cat.default, [memory, four], 2)
        held = call(burnish_ops.ring_positions.default, tokens, position, WINDOW)
        mixed = call(
            burnish_ops.attention.default,
            *(four, keys, keys, position, None, None, None, held),
            scale=0.3,
            mask="window",
            extent=WINDOW,
        )
        after = call(burnish_ops.ring_write.default, memory, four, position, 2)
        assert total is not None
        sums = call(aten.add.Tensor, call(aten.cumsum.default, x, 1), total)
        after_total = call(aten.slice.Tensor, sums, 1, -1, 2**63 - 1)
        mixed = call(aten.squeeze.dim, mixed, 1)
        mixed = call(aten.add.Tensor, mixed, call(aten.mul.Tensor, sums, 0.1))
    else:
        after = call(burnish_ops.cache_write.default, memory, four, position, 2)
        mixed = call(burnish_ops.attention.default, four, after, after, position, scale=0.3)
        mixed = call(aten.squeeze.dim, mixed, 1)
    hidden = call(aten.index_select.default, call(aten.add.Tensor, x, mixed), 1, index)
    logits = call(aten.linear.default, hidden, weight("head.weight", head))
    graph.output((logits, after, after_total) if ring else (logits, after))

    extent: int | str = WINDOW if ring else CAPACITY
    states = [State("memory", kind, (BATCH, 1, extent, SIZE), "float32", 2, "model.layer")]
    if ring:
        states.append(State("total", StateKind.ACCUMULATOR, (BATCH, 1, SIZE), "float32", 1, "model.layer"))
    program = Program(
        graph,
        weights,
        Signature(vocabulary=VOCABULARY, max_length=MAX_LENGTH, token_limit=VOCABULARY, inputs=STEP_INPUTS),
        tuple(states),
        Stage.INCREMENTAL,
    )
    return Tiny(program, whole)


_ONNX = """
<ir_version: 10, opset_import: ["": 21]>
step (int64[b, n] tokens, int64[b] position, int64[kept] logits_index, float[b, 1, capacity, 8] memory)
    => (float[b, kept, 300] logits, float[b, 1, capacity, 8] memory_out)
<int64 zero = {0}, int64 one = {1}, int64[1] second = {1}, int64[1] last = {3},
 float scale = {0.3}, float never = {-1e30}>
{
    size = Shape <start: int = 1, end: int = 2> (tokens)
    count = Squeeze (size)
    offsets = Range (zero, count, one)
    starts = Unsqueeze (position, second)
    positions = Add (starts, offsets)
    embedded = Gather (embed_weight, tokens)
    placed = Gather (table, positions)
    x = Add (embedded, placed)
    four = Unsqueeze (x, second)
    slots = Unsqueeze (positions, second)
    slots4 = Unsqueeze (slots, last)
    shape = Shape (four)
    index = Expand (slots4, shape)
    memory_out = ScatterElements <axis: int = 2> (memory, index, four)
    turned = Transpose <perm: ints = [0, 1, 3, 2]> (memory_out)
    products = MatMul (four, turned)
    scores = Mul (products, scale)
    room = Shape <start: int = 2, end: int = 3> (memory)
    many = Squeeze (room)
    keys = Range (zero, many, one)
    visible = LessOrEqual (keys, slots4)
    masked = Where (visible, scores, never)
    weights = Softmax <axis: int = -1> (masked)
    mixed4 = MatMul (weights, memory_out)
    mixed = Squeeze (mixed4, second)
    sum = Add (x, mixed)
    kept_rows = Gather <axis: int = 1> (sum, logits_index)
    turned_head = Transpose <perm: ints = [1, 0]> (head_weight)
    logits = MatMul (kept_rows, turned_head)
}
"""


def onnx_of_tiny(layout: WeightLayout) -> bytes:
    """The CACHE form of `tiny` as ONNX, its weights pointing into the file of `layout`."""
    names = {"embed.weight": "embed_weight", "head.weight": "head_weight", "table": "table"}
    model = onnx.parser.parse_model(_ONNX)
    for name, onnx_name in names.items():
        place = layout.placements[name]
        tensor = onnx.TensorProto(name=onnx_name, data_type=onnx.TensorProto.FLOAT, dims=place.shape)
        tensor.data_location = onnx.TensorProto.EXTERNAL
        entries = {"location": layout.file, "offset": str(place.offset), "length": str(place.length)}
        for key, value in entries.items():
            tensor.external_data.add(key=key, value=value)
        model.graph.initializer.append(tensor)
    return bytes(model.SerializeToString())


def record(number: int, name: str) -> PassRecord:
    """A record of a pass that did nothing."""
    return PassRecord(number, name, {}, "exact", (), (), (), 9, 9, 0.1, 100, 10, 4, 1000, f"text of {name}\n")


def save_tiny(
    folder: Path,
    kind: StateKind = StateKind.CACHE,
    tokenizer: TokenizerData | None = None,
    generation: dict[str, Any] | None = None,
) -> tuple[Path, Tiny]:
    """An artifact of `tiny` in `folder`."""
    made = tiny(kind)
    layout = plan_weights(made.program.weights)
    has_onnx = kind is StateKind.CACHE
    contents = Contents(
        name="tiny",
        target="onnxruntime" if has_onnx else "reference",
        program=made.program,
        layout=layout,
        model=onnx_of_tiny(layout) if has_onnx else None,
        generation=generation or {},
        tokenizer=tokenizer,
        trace=Trace([record(0, "captured"), record(1, "clean")], {"capture": 0.5}),
        pipeline=("clean",),
    )
    path = folder / "tiny.burnish"
    write(path, contents)
    return path, made
