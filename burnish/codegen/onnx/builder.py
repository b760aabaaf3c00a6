"""An ONNX graph under construction: operators, constants, weights that lie in a file, sizes known only at run time."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
import onnx_ir as ir
import sympy
import torch
from numpy.typing import ArrayLike
from torch import fx
from torch.utils._sympy import functions

from burnish.codegen.onnx.torchlib import new_value
from burnish.ir.errors import UnsupportedError
from burnish.ir.position_table import PositionTable
from burnish.ir.shapes import size_expression
from burnish.runtime.weights_writer import WeightLayout

OPSET = 24  # the first with TensorScatter
CONTRIB = "com.microsoft"  # ONNX Runtime's own operators

DTYPES = {
    torch.float32: ir.DataType.FLOAT,
    torch.float64: ir.DataType.DOUBLE,
    torch.float16: ir.DataType.FLOAT16,
    torch.bfloat16: ir.DataType.BFLOAT16,
    torch.int64: ir.DataType.INT64,
    torch.int32: ir.DataType.INT32,
    torch.int16: ir.DataType.INT16,
    torch.int8: ir.DataType.INT8,
    torch.uint64: ir.DataType.UINT64,
    torch.uint32: ir.DataType.UINT32,
    torch.uint16: ir.DataType.UINT16,
    torch.uint8: ir.DataType.UINT8,
    torch.bool: ir.DataType.BOOL,
    torch.float8_e4m3fn: ir.DataType.FLOAT8E4M3FN,
    torch.float8_e4m3fnuz: ir.DataType.FLOAT8E4M3FNUZ,
    torch.float8_e5m2: ir.DataType.FLOAT8E5M2,
    torch.float8_e5m2fnuz: ir.DataType.FLOAT8E5M2FNUZ,
}

_INLINE_LIMIT = 16  # elements
_SYMBOL = re.compile(r"[A-Za-z_]\w*")

Size = int | torch.SymInt
_T = TypeVar("_T")


def onnx_dtype(dtype: torch.dtype) -> ir.DataType:
    """The ONNX element type of a torch dtype; UnsupportedError where ONNX has none."""
    if dtype not in DTYPES:
        raise UnsupportedError(f"ONNX has no tensors of {dtype}; use the reference backend")
    return DTYPES[dtype]


class Builder:
    """Collects nodes in order. Values made while `scope` is set are named after it."""

    def __init__(self, layout: WeightLayout, names: Mapping[str, str], taken: Collection[str] = ()) -> None:
        """`names`: what the sizes' symbols are called; `taken`: names that no value of its own may have."""
        self._taken = taken
        self.layout = layout
        self._names = names
        self.inputs: list[ir.Value] = []
        self.tables: list[ir.Value] = []  # those of the inputs that are tables of positions
        self.nodes: list[ir.Node] = []
        self.initializers: dict[str, ir.Value] = {}
        self.functions: dict[Any, ir.Function] = {}
        self.scope = ""
        self._counter = 0
        self._leaves: dict[Hashable, ir.Value] = {}
        self._memory: dict[Hashable, Any] = {}
        self._symbols: dict[sympy.Symbol, tuple[ir.Value, int]] = {}

    # ------------------------------------------------------------ nodes

    def op(self, name: str, *inputs: ir.Value | None, domain: str = "", **attributes: Any) -> ir.Value:
        """A node with one output. Attributes that are None are left out."""
        return self.ops(name, *inputs, count=1, domain=domain, **attributes)[0]

    def ops(
        self, name: str, *inputs: ir.Value | None, count: int, domain: str = "", **attributes: Any
    ) -> Sequence[ir.Value]:
        """A node with `count` outputs."""
        given = list(inputs)
        while given and given[-1] is None:
            given.pop()
        set_ones = {key: value for key, value in attributes.items() if value is not None}
        outputs = [new_value(self._next_name(name)) for _ in range(count)]
        node = ir.Node(domain, name, given, ir.convenience.convert_attributes(set_ones), outputs=outputs)
        self.add_node(node)
        return outputs

    def add_node(self, node: ir.Node) -> None:
        """Append a node; outputs without a name get one."""
        for output in node.outputs:
            if output.name is None:
                output.name = self._next_name(node.op_type)
        self.nodes.append(node)

    def _next_name(self, op: str) -> str:
        self._counter += 1
        name = f"{self.scope}/{op}_{self._counter}"
        return name if name not in self._taken else self._next_name(op)

    def once(self, key: Hashable, make: Callable[[], _T]) -> _T:
        """What `make` gives, made the first time that `key` is asked for. `make` may read only what `key` fixes."""
        if key not in self._memory:
            self._memory[key] = make()
        found: _T = self._memory[key]
        return found

    def subgraph(self, name: str, make: Callable[[], Sequence[ir.Value]], inputs: Sequence[ir.Value] = ()) -> ir.Graph:
        """The graph of what `make` adds and gives. It may read values from outside; nothing outside reads its own."""
        outer_nodes, outer_memory = self.nodes, self._memory
        self.nodes, self._memory = [], dict(outer_memory)
        try:
            outputs = make()
            return ir.Graph(list(inputs), outputs, nodes=self.nodes, name=name)
        finally:
            self.nodes, self._memory = outer_nodes, outer_memory

    def subgraph_input(self, name: str, dtype: torch.dtype, rank: int) -> ir.Value:
        """An input of a subgraph, before the subgraph is made."""
        value = new_value(self._next_name(name))
        value.dtype = onnx_dtype(dtype)
        value.shape = ir.Shape([None] * rank)
        return value

    # ------------------------------------------------------------ leaves

    def input(self, name: str, dtype: torch.dtype, shape: Sequence[Size]) -> ir.Value:
        """An input of the graph; its symbolic sizes can be asked for from now on."""
        value = new_value(name)
        value.dtype = onnx_dtype(dtype)
        value.shape = self.named_shape(shape)
        self.inputs.append(value)
        for axis, size in enumerate(shape):
            expression = size_expression(size)
            if isinstance(expression, sympy.Symbol):
                self._symbols.setdefault(expression, (value, axis))
        return value

    def constant(self, data: ArrayLike, dtype: torch.dtype = torch.int64) -> ir.Value:
        """A small constant, held in the model itself; equal ones are one."""
        kind = onnx_dtype(dtype)
        array = np.asarray(data)
        key = ("constant", kind, array.shape, array.dtype.str, array.tobytes())

        if key not in self._leaves:
            tensor = ir.tensor(array.astype(kind.numpy()))
            self._leaves[key] = self._initializer(f"constant_{len(self._leaves)}", tensor)
        return self._leaves[key]

    def weight(self, name: str, shape: tuple[int, ...] | None = None) -> ir.Value:
        """A weight of the program, by reference to its place in the weights file; tied weights are one initializer.

        A few numbers are held in the model: ONNX's shape inference refuses to look for sizes and bounds in a file.
        `shape`: to read the same numbers as, if not in the weight's own.
        """
        place = self.layout.placements[name]
        weight = self.layout.weights[name]
        shape = shape or place.shape
        if math.prod(shape) <= _INLINE_LIMIT and weight.dtype != torch.bfloat16:
            return self.constant(weight.materialize().reshape(shape).numpy(), weight.dtype)
        key = ("weight", place.tensor, shape)
        if key not in self._leaves:
            tensor = ir.ExternalTensor(
                self.layout.file,
                place.offset,
                place.length,
                onnx_dtype(weight.dtype),
                shape=ir.Shape(shape),
                name=name,
            )
            self._leaves[key] = self._initializer(name if shape == place.shape else f"{name}.{len(shape)}d", tensor)
        return self._leaves[key]

    def table(self, name: str, table: PositionTable) -> ir.Value:
        """A table of positions, or its half: an input, of which whoever runs the model gives as many rows as it needs.

        Not an initializer: ONNX Runtime would make what can be made of its rows when it loads the model.
        """
        key = ("table", name)
        if key not in self._leaves:
            self._leaves[key] = value = new_value(name)
            value.dtype = onnx_dtype(table.dtype)
            value.shape = ir.Shape(["positions", *table.row])
            self.inputs.append(value)
            self.tables.append(value)
        return self._leaves[key]

    def _initializer(self, name: str, tensor: ir.TensorProtocol) -> ir.Value:
        value = new_value(name)
        value.const_value = tensor
        value.dtype = tensor.dtype
        value.shape = ir.Shape(tensor.shape.numpy())
        self.initializers[name] = value
        return value

    # ------------------------------------------------------------ sizes

    def named_shape(self, sizes: Sequence[Size]) -> ir.Shape:
        """A shape as a file has it: sizes that are known only at run time by their names, batch and sequence say."""

        def named(size: torch.SymInt) -> str:
            return _SYMBOL.sub(lambda found: self._names.get(found[0], found[0]), str(size))

        return ir.Shape([size if isinstance(size, int) else named(size) for size in sizes])

    def size(self, size: Size) -> ir.Value:
        """A size as int64[1], computed once a run from the shapes of the inputs."""
        return self._evaluate(size_expression(size))

    def scalar(self, size: Size) -> ir.Value:
        """A size as int64[]."""
        if isinstance(size, int):
            return self.constant(size)
        value = self.size(size)
        return self.once(("scalar", value), lambda: self.op("Squeeze", value, self.constant([0])))

    def shape(self, sizes: Sequence[Size]) -> ir.Value:
        """Sizes as int64[rank]."""
        if all(isinstance(size, int) for size in sizes):
            return self.constant(np.array(sizes, dtype=np.int64))
        key = ("shape", tuple(str(size_expression(size)) for size in sizes))
        return self.once(key, lambda: self.op("Concat", *(self.size(size) for size in sizes), axis=0))

    def _evaluate(self, expression: sympy.Expr) -> ir.Value:
        return self.once(("size", expression), lambda: self._compute(expression))

    def _compute(self, expression: sympy.Expr) -> ir.Value:
        if expression.is_Integer:
            return self.constant([int(expression)])
        if isinstance(expression, sympy.Symbol):
            if expression not in self._symbols:
                raise UnsupportedError(f"the size {expression} is no axis of an input of the step graph")
            value, axis = self._symbols[expression]
            return self.op("Shape", value, start=axis, end=axis + 1)
        operator = _SIZE_OPERATORS.get(expression.func)
        if operator is None:
            raise UnsupportedError(f"the size {expression} cannot be computed in ONNX")
        result, *others = (self._evaluate(argument) for argument in expression.args)
        for other in others:
            result = self.op(operator, result, other)
        return result


_SIZE_OPERATORS: dict[Any, str] = {
    sympy.Add: "Add",
    sympy.Mul: "Mul",
    functions.FloorDiv: "Div",  # sizes are not negative, so that truncation is floor
    functions.CleanDiv: "Div",
    functions.Mod: "Mod",
    functions.PythonMod: "Mod",
    functions.Max: "Max",
    functions.Min: "Min",
    sympy.Mod: "Mod",
    sympy.Max: "Max",
    sympy.Min: "Min",
}


def origin_of_size(argument: Any) -> Size | None:
    """The size that a node or a number stands for; None for anything else."""
    found = argument.meta.get("val") if isinstance(argument, fx.Node) else argument
    return found if isinstance(found, int | torch.SymInt) and not isinstance(found, bool) else None
