"""ONNX Runtime's own operators as ONNX's, in a model that others are to run.

In place of each of `REPLACED` come operators of ONNX that compute the same. Weights that products read are stored as
these want them, turned: [in, out]. Integers stay integers, behind a DequantizeLinear in blocks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from burnish.codegen.onnx.builder import CONTRIB
from burnish.ir.errors import UnsupportedError

_INT8_ZERO, _INT4_ZERO = 128, 8


def make_standard(model: ir.Model) -> None:
    """Replace, in place, all operators that are ONNX Runtime's alone. UnsupportedError for one that has no other form.

    Initializers have to be at hand (`ir.LazyTensor`, or in memory), not in another file.
    """
    rewriter = _Rewriter(model)
    for graph in (model.graph, *(model.graph.subgraphs())):
        rewriter.graph(graph)
    RemoveUnusedNodesPass()(model)
    for name in [name for name, value in model.graph.initializers.items() if not value.uses()]:
        del model.graph.initializers[name]
    model.graph.opset_imports.pop(CONTRIB, None)


class _Rewriter:
    def __init__(self, model: ir.Model) -> None:
        self.initializers = model.graph.initializers
        self.like: ir.Node
        self.made: dict[Any, ir.Value] = {}
        self.count = 0

    def graph(self, graph: ir.Graph) -> None:
        """Replace the operators of one graph."""
        for node in list(graph):
            replace = REPLACED.get((node.domain, node.op_type))
            if replace is None:
                if node.domain == CONTRIB:
                    raise UnsupportedError(
                        f"{node.op_type} is ONNX Runtime's own operator, and has no form in ONNX's: "
                        "export with flavor='ort' (--flavor ort)"
                    )
                continue
            self.like, self.inserted = node, graph
            results = replace(self, node)
            for old, new in zip(node.outputs, results, strict=False):
                new.name, new.shape, new.type = old.name, old.shape, old.type
                old.replace_all_uses_with(new, replace_graph_outputs=True)
            graph.remove(node, safe=True)

    def op(self, name: str, *inputs: ir.Value | None, outputs: int = 1, **attributes: Any) -> ir.Value:
        """An operator in front of the one that is replaced, with its metadata."""
        self.count += 1
        given = {key: value for key, value in attributes.items() if value is not None}
        results = [ir.Value(name=f"{self.like.outputs[0].name}/{name}_{self.count}") for _ in range(outputs)]
        node = ir.Node("", name, list(inputs), ir.convenience.convert_attributes(given), outputs=results)
        node.metadata_props.update(self.like.metadata_props)
        self.inserted.insert_before(self.like, node)
        return results[0]

    def constant(self, array: Any, dtype: Any = np.int64) -> ir.Value:
        """A small constant; equal ones are one."""
        data = np.asarray(array, dtype)
        key = (data.tobytes(), data.shape, data.dtype.str)
        if key not in self.made:
            self.made[key] = self.initializer(f"standard_{len(self.made)}", ir.tensor(data))
        return self.made[key]

    def initializer(self, name: str, tensor: ir.TensorProtocol) -> ir.Value:
        """A new initializer."""
        while name in self.initializers:
            name += "_"
        shape, kind = ir.Shape(tensor.shape.numpy()), ir.TensorType(tensor.dtype)
        value = ir.Value(name=name, const_value=tensor, shape=shape, type=kind)
        self.initializers[name] = value
        return value

    def derived(self, source: ir.Value, suffix: str, shape: Sequence[int], dtype: ir.DataType, make: Any) -> ir.Value:
        """An initializer made of another when the file is written."""
        key = (source.name, suffix)
        if key not in self.made:
            tensor = source.const_value
            assert tensor is not None

            def made() -> ir.TensorProtocol:
                return ir.tensor(make(tensor.numpy()), dtype=dtype)

            lazy = ir.LazyTensor(made, dtype=dtype, shape=ir.Shape(shape), name=f"{source.name}{suffix}")
            self.made[key] = self.initializer(f"{source.name}{suffix}", lazy)
        return self.made[key]


def _attribute(node: ir.Node, name: str, default: Any) -> Any:
    found = node.attributes.get(name)
    return default if found is None else found.value


def _fused_matmul(r: _Rewriter, node: ir.Node) -> list[ir.Value]:
    a, b = node.inputs[:2]
    assert a is not None
    assert b is not None
    if any(_attribute(node, name, 0) for name in ("transA", "transBatchA", "transBatchB")):
        raise UnsupportedError(f"{node.name or node.outputs[0].name} is a product of turned operands")
    if _attribute(node, "transB", 0):
        b = _turned(r, b)
    product = r.op("MatMul", a, b)
    alpha = _attribute(node, "alpha", 1.0)
    return [product if alpha == 1.0 else r.op("Mul", product, r.constant(alpha, np.float32))]


def _turned(r: _Rewriter, b: ir.Value) -> ir.Value:
    """[..., N, K] as [..., K, N]: stored so, if nothing reads it otherwise."""
    stored = b.name in r.initializers and b.const_value is not None and len(b.const_value.shape) == 2
    if stored and all(user.op_type == "FusedMatMul" and at == 1 for user, at in b.uses()):
        assert b.const_value is not None
        rows, size = b.const_value.shape.numpy()
        return r.derived(b, ".T", (size, rows), b.const_value.dtype, lambda x: np.ascontiguousarray(x.T))
    rank = None if b.shape is None else len(b.shape)
    if rank is None:
        raise UnsupportedError(f"{b.name} has a shape that is not known")
    return r.op("Transpose", b, perm=[*range(rank - 2), rank - 1, rank - 2])


def _quick_gelu(r: _Rewriter, node: ir.Node) -> list[ir.Value]:
    """x * sigmoid(alpha * x)."""
    (x,) = node.inputs
    alpha = _attribute(node, "alpha", 1.702)
    return [r.op("Swish", x, alpha=alpha)]


def _rms_norm(r: _Rewriter, node: ir.Node) -> list[ir.Value]:
    options = {name: _attribute(node, name, default) for name, default in (("axis", -1), ("epsilon", 1e-5))}
    return [r.op("RMSNormalization", *node.inputs, **options, stash_type=1)]


def _skip_rms_norm(r: _Rewriter, node: ir.Node) -> list[ir.Value]:
    x, skip, weight = node.inputs[:3]
    total = r.op("Add", x, skip)
    normed = r.op("RMSNormalization", total, weight, axis=-1, epsilon=_attribute(node, "epsilon", 1e-5), stash_type=1)
    # The second and third result are means and deviations, which nothing asks for.
    return [normed, ir.Value(), ir.Value(), total]


# ---------------------------------------------------------------- integers


def _apart(values: Any, bits: int) -> Any:
    """Numbers[N, K] from bytes[N, blocks, bytes]."""
    rows = values.reshape(values.shape[0], -1)
    return rows if bits == 8 else np.stack((rows & 15, rows >> 4), axis=-1).reshape(rows.shape[0], -1)


def _matmul_bits(r: _Rewriter, node: ir.Node) -> list[ir.Value]:
    """x @ dequantized([K, N], blocks along K)."""
    x, values, scales, zeros, _, bias = (*node.inputs, None, None, None)[:6]
    bits, block, size, rows = (_attribute(node, name, None) for name in ("bits", "block_size", "K", "N"))
    dtype, blocks = _unsigned(bits), -(-size // block)
    assert values is not None
    assert scales is not None

    def numbers(x: Any) -> Any:
        return np.ascontiguousarray(_apart(x, bits)[:, :size].T)

    def zero_points(x: Any) -> Any:
        return np.ascontiguousarray(_apart(x.reshape(rows, 1, -1), bits)[:, :blocks].T)

    q = r.derived(values, ".T", (size, rows), dtype, numbers)
    scale = r.derived(
        scales, ".T", (blocks, rows), ir.DataType.FLOAT, lambda x: np.ascontiguousarray(x.reshape(rows, -1).T)
    )
    if zeros is None:
        middle = np.full((blocks, rows), _INT8_ZERO if bits == 8 else _INT4_ZERO, np.uint8)
        zero = r.initializer(f"{values.name}.zeros", ir.tensor(middle, dtype=dtype))
    else:
        zero = r.derived(zeros, ".T", (blocks, rows), dtype, zero_points)
    weight = r.op("DequantizeLinear", q, scale, zero, axis=0, block_size=block)
    product = r.op("MatMul", x, weight)
    return [product if bias is None else r.op("Add", product, bias)]


def _unsigned(bits: int) -> ir.DataType:
    return ir.DataType.UINT8 if bits == 8 else ir.DataType.UINT4


def _gather_quantized(r: _Rewriter, node: ir.Node) -> list[ir.Value]:
    """Rows of integers by ids, (u - zero) * scale: only those that are asked for become floats."""
    values, ids, scales, zeros = (*node.inputs, None)[:4]
    bits, block = _attribute(node, "bits", 4), _attribute(node, "block_size", 128)
    assert ids is not None
    assert scales is not None
    assert scales.const_value is not None
    blocks = int(scales.const_value.shape.numpy()[1])
    lead = [0] * (0 if ids.shape is None else len(ids.shape))
    shape = r.constant([*lead, blocks, block])

    def numbers(of: ir.Value | None, last: list[int]) -> ir.Value:
        rows = r.op("Gather", of, ids, axis=0)
        if bits == 4:
            last_axis = r.constant([-1])
            halves = (
                r.op("BitwiseAnd", rows, r.constant(15, np.uint8)),
                r.op("BitShift", rows, r.constant(4, np.uint8), direction="RIGHT"),
            )
            apart = [r.op("Unsqueeze", half, last_axis) for half in halves]
            rows = r.op("Reshape", r.op("Concat", *apart, axis=-1), r.constant([*lead, *last]))
        return r.op("Cast", rows, to=int(ir.DataType.FLOAT))

    u = r.op("Reshape", numbers(values, [-1]), shape)
    if zeros is None:
        zero = r.constant(float(_INT8_ZERO if bits == 8 else _INT4_ZERO), np.float32)
    else:
        ends = r.constant([0]), r.constant([blocks]), r.constant([-1])
        zero = r.op("Unsqueeze", r.op("Slice", numbers(zeros, [-1]), *ends), r.constant([-1]))
    scale = r.op("Unsqueeze", r.op("Gather", scales, ids, axis=0), r.constant([-1]))
    product = r.op("Mul", r.op("Sub", u, zero), scale)
    return [r.op("Reshape", product, r.constant([*lead, blocks * block]))]


REPLACED: dict[tuple[str, str], Callable[[_Rewriter, ir.Node], list[ir.Value]]] = {
    (CONTRIB, "FusedMatMul"): _fused_matmul,
    (CONTRIB, "QuickGelu"): _quick_gelu,
    ("", "SimplifiedLayerNormalization"): _rms_norm,
    (CONTRIB, "SkipSimplifiedLayerNormalization"): _skip_rms_norm,
    (CONTRIB, "MatMulNBits"): _matmul_bits,
    (CONTRIB, "GatherBlockQuantized"): _gather_quantized,
}
