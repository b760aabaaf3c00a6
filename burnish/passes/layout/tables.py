"""What layouts cost the backends: which ops they run in which, and what it takes to get from one to another.

The numbers are factors of a tensor's bytes, read and written once. How they were found: benchmarks/layout.py.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, fx

from burnish.ir.arguments import arguments
from burnish.ir.errors import UsageError
from burnish.ir.program import operands, value
from burnish.ir.shapes import same_shape
from burnish.ir.turns import Order

aten = torch.ops.aten

CONVOLUTIONS = frozenset({aten.conv2d.default, aten.conv2d.padding})
POOLS = frozenset({aten.max_pool2d.default, aten.avg_pool2d.default, aten.adaptive_avg_pool2d.default})
CHANNELS_LAST = (0, 2, 3, 1)
_BLOCK = 16  # channels, where vectors have 512 bits; with fewer it is a divisor of this


@dataclass(frozen=True)
class Form:
    """How a tensor lies in memory: its axes in an order or, as they are written, with its channels in blocks."""

    order: Order
    blocked: bool = False

    def __str__(self) -> str:
        return "in blocks of channels" if self.blocked else f"in the order {list(self.order)}"


@dataclass(frozen=True)
class Other:
    """An order in which an op can work, too: its first `operands` tensors and its result lie in it.

    written: what it costs where they lie as they are written, of what it reads and writes.
    weight: its second operand, a weight, is stored in that order, too, for this.
    """

    order: Order
    operands: int = 1
    written: float = 0.0
    weight: bool = False


@dataclass(frozen=True)
class Table:
    """One backend's.

    blocks: whether an op can work on blocks of channels, as the backend itself lays them out.
    only_blocks: ops that work on nothing else.
    others: ops that can also work in another order than the one in which they are written: permutes right in front of
        them and behind them are not carried out.
    views: a permute alone moves nothing: the copy behind it does.
    absorbs: ops in front of which tensors go to blocks at once, from whatever order; before others that is twice as
        dear, as the backend does it for the sake of these alone.
    """

    name: str
    blocks: Callable[[fx.Node], bool]
    only_blocks: frozenset[object] = frozenset()
    others: Mapping[object, Other] = field(default_factory=dict)
    views: bool = False
    absorbs: frozenset[object] = frozenset()

    def converts(self, before: Form, after: Form, reader: fx.Node) -> float:
        """What it costs to get from one form to another, of the tensor's bytes."""
        if before == after:
            return 0.0
        return 2.0 if after.blocked and reader.target not in self.absorbs else 1.0


def _never(node: fx.Node) -> bool:
    return False


def _alike(node: fx.Node) -> bool:
    """Whether all tensors that an op reads are images of the shape that it gives."""
    tensors = [each for each in node.all_input_nodes if isinstance(each.meta.get("val"), Tensor)]
    return value(node).dim() == 4 and all(same_shape(value(each).shape, value(node).shape) for each in tensors)


_BLOCKED_POINTWISE = frozenset(
    {
        aten.add.Tensor,
        aten.mul.Tensor,
        aten.relu.default,
        aten.sigmoid.default,
        aten.tanh.default,
        aten.hardswish.default,
        aten.hardsigmoid.default,
    }
)


def _blocked_by_onnxruntime(node: fx.Node) -> bool:
    """What ONNX Runtime's NCHWc transformer takes (onnxruntime 1.32, x86)."""
    val = node.meta.get("val")
    if not isinstance(val, Tensor) or val.dtype != torch.float32 or val.dim() != 4:
        return False
    if node.target in _BLOCKED_POINTWISE:
        return _alike(node)
    if node.target is aten.cat.default:
        parts = operands(node)[0]
        channels = [value(each).shape[1] for each in parts]
        whole = all(isinstance(each, int) and each % _BLOCK == 0 for each in channels)
        return arguments(node)["dim"] % 4 == 1 and whole
    return node.target in CONVOLUTIONS or node.target in POOLS or node.target is aten.batch_norm.default


_HEADS_LAST = (0, 2, 1, 3)  # of queries, keys and values [B, H, S, D]
_ATTENTION = aten.scaled_dot_product_attention.default

ONNX_RUNTIME = Table(
    "onnxruntime",
    _blocked_by_onnxruntime,
    only_blocks=CONVOLUTIONS | POOLS,
    others={_ATTENTION: Other(_HEADS_LAST, 3, written=1.0)},
    absorbs=CONVOLUTIONS | POOLS,
)
"""Its convolutions are blocked, whatever they are given; what it blocks by itself the passes leave as it is written.

Its attention takes heads behind tokens, and joins others to these by a copy.
"""

_IMAGES = CONVOLUTIONS | POOLS | {aten.conv_transpose2d.input, aten.batch_norm.default}

PYTORCH = Table(
    "pytorch",
    _never,
    others={
        **dict.fromkeys(_IMAGES, Other(CHANNELS_LAST, written=1.0)),
        **dict.fromkeys(CONVOLUTIONS, Other(CHANNELS_LAST, written=1.0, weight=True)),
        _ATTENTION: Other(_HEADS_LAST, 3),
    },
    views=True,
)
"""oneDNN's convolutions on CPUs: channels last as they are, channels first by way of a copy on either side.

Its attention reads heads wherever they lie.
"""

AS_WRITTEN = Table("as written", _never)
"""Any backend: convolutions stay as they are, all else goes by what is moved."""

TABLES = {each.name: each for each in (ONNX_RUNTIME, PYTORCH)}


def table_of(backend: str) -> Table:
    """The table of a backend. Raises UsageError for one that has none."""
    if backend not in TABLES:
        raise UsageError(f"no layouts are known of {backend!r}: there are tables of {', '.join(TABLES)}")
    return TABLES[backend]
