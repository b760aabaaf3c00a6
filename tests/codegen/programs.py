"""Step programs made by hand, and running them by ONNX Runtime and by the reference executor."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from torch import Tensor, fx

from burnish.codegen.onnx import lower, output_name
from burnish.ir.dtypes import name_of
from burnish.ir.interpreter import run
from burnish.ir.origin import Origin
from burnish.ir.program import Program, Stage
from burnish.ir.signature import STEP_INPUTS, Signature
from burnish.ir.states import State, StateKind
from burnish.ir.symbols import TypedGraph
from burnish.runtime.weights_writer import plan_weights, write_weights

aten = torch.ops.aten
ops = torch.ops.burnish
VOCABULARY = 23


class Maker(TypedGraph):
    """Makes a step program node by node. Inputs: tokens[B, S], position[B], logits_index[K], then the states."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        self.generator = torch.Generator().manual_seed(seed)
        self.size("capacity", 41)
        self.batch, self.new = self.size("batch", 3), self.size("sequence", 5)
        self.size("kept", 2)
        self.tokens = self.input("tokens", ["batch", "sequence"], torch.int64)
        self.position = self.input("position", ["batch"], torch.int64)
        self.index = self.input("logits_index", ["kept"], torch.int64)

    def random(self, *shape: int, scale: float = 1.0) -> Tensor:
        return torch.randn(*shape, generator=self.generator) * scale

    def remembered(
        self, name: str, kind: StateKind, shape: Sequence[int | str], axis: int, dtype: torch.dtype = torch.float32
    ) -> fx.Node:
        """`shape` has "batch" first, and "capacity" at the token axis of a CACHE."""
        return self.state(State(name, kind, tuple(shape), name_of(dtype), axis))

    def call(self, target: Any, *args: Any, **kwargs: Any) -> fx.Node:
        node = super().call(target, *args, **kwargs)
        node.meta["origin"] = Origin("model.layer", "Layer", "model.py", 12, "y = layer(x)")
        return node

    def embed(self, *shape: int, scale: float = 1.0) -> fx.Node:
        """Some data for each token, [B, S, *shape]."""
        width = int(np.prod(shape))
        table = self.weight("embedding", self.random(VOCABULARY, width, scale=scale))
        data = self.call(aten.embedding.default, table, self.tokens)
        if len(shape) == 1:
            return data
        return self.call(aten.view.default, data, [self.batch_node(), self.new_node(), *shape])

    def heads(self, heads: int, size: int, scale: float = 1.0) -> fx.Node:
        """[B, H, S, D]."""
        return self.call(aten.transpose.int, self.embed(heads, size, scale=scale), 1, 2)

    def batch_node(self) -> fx.Node:
        return self.call(aten.sym_size.int, self.tokens, 0)

    def new_node(self) -> fx.Node:
        return self.call(aten.sym_size.int, self.tokens, 1)

    def step(self, logits: fx.Node, *states: fx.Node) -> Program:
        signature = Signature(VOCABULARY, 64, VOCABULARY, inputs=STEP_INPUTS)
        return self.program(logits, *states, signature=signature, stage=Stage.INCREMENTAL)


class OnnxStep:
    """A lowered program in a folder of its own; called with all inputs by name."""

    def __init__(self, program: Program, folder: Path) -> None:
        layout = plan_weights(program.weights, tables=False)
        write_weights(layout, folder / layout.file)
        self.bytes = lower(program, layout)
        (folder / "model.onnx").write_bytes(self.bytes)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.log_severity_level = 3
        self.session = onnxruntime.InferenceSession(folder / "model.onnx", options, providers=["CPUExecutionProvider"])
        self.program = program
        self.inputs = {each.name for each in self.session.get_inputs()}
        self.outputs = [each.name for each in self.session.get_outputs()]
        assert self.outputs == ["logits", *(output_name(state.name) for state in program.states)]

    def __call__(self, given: dict[str, Tensor]) -> list[Tensor]:
        """Inputs and outputs in memory of their own, but a CACHE is written in place, as the runtime binds it."""
        binding = self.session.io_binding()
        # An OrtValue does not own the memory of the array that it is made from: the arrays must outlive the run.
        memory = {name: tensor.numpy().copy() for name, tensor in given.items()}
        values = {name: onnxruntime.OrtValue.ortvalue_from_numpy(array) for name, array in memory.items()}
        for name in self.inputs:
            binding.bind_ortvalue_input(name, values[name])
        binding.bind_output("logits")
        for state in self.program.states:
            if state.kind is StateKind.CACHE:
                binding.bind_ortvalue_output(output_name(state.name), values[state.name])
            else:
                binding.bind_output(output_name(state.name))
        self.session.run_with_iobinding(binding)
        return [torch.from_numpy(value.numpy().copy()) for value in binding.get_outputs()]

    def op_types(self) -> list[str]:
        return [node.op_type for node in onnx.load_from_string(self.bytes).graph.node]


def compare(
    program: Program,
    folder: Path,
    *,
    rows: int = 2,
    new: int = 3,
    positions: Sequence[int] | None = None,
    capacity: int = 16,
    tolerance: float = 2e-5,
    seed: int = 1,
    step: OnnxStep | None = None,
) -> OnnxStep:
    """Run `program` both ways on random tokens and random states, and compare every output."""
    generator = torch.Generator().manual_seed(seed)
    position = torch.tensor(list(positions or [0] * rows)[:rows], dtype=torch.int64)
    given = {
        "tokens": torch.randint(VOCABULARY, (rows, new), generator=generator),
        "position": position,
        "logits_index": torch.tensor([new - 1]),
    }
    for state in program.states:
        shape = state.concrete_shape(rows, capacity)
        coded = state.dtype == torch.int8
        given[state.name] = (
            torch.randint(-127, 128, shape, generator=generator, dtype=torch.int8)
            if coded
            else torch.randn(shape, generator=generator)
        )
    expected = run(program, [given[node.name] for node in program.placeholders])
    step = step or OnnxStep(program, folder)
    found = step(given)
    for name, wanted, got in zip(step.outputs, expected, found, strict=True):
        assert got.dtype == wanted.dtype, name
        assert got.shape == wanted.shape, name
        state = next((state for state in program.states if output_name(state.name) == name), None)
        if state is not None and state.kind is StateKind.CACHE:  # slots behind a row's last token hold anything
            for row, start in enumerate(position.tolist()):
                used = min(capacity, start + new)
                torch.testing.assert_close(
                    got[row].narrow(state.axis - 1, 0, used),
                    wanted[row].narrow(state.axis - 1, 0, used),
                    rtol=tolerance,
                    atol=1 if state.dtype == torch.int8 else tolerance,  # at an edge between two codes
                )
        else:
            torch.testing.assert_close(got, wanted, rtol=tolerance, atol=tolerance)
    return step


def compare_steps(
    program: Program, folder: Path, steps: Sequence[tuple[int, Sequence[int]]], tolerance: float = 2e-5
) -> OnnxStep:
    """`compare` one lowered program for several numbers of new tokens and positions of the rows."""
    step = OnnxStep(program, folder)
    for new, positions in steps:
        compare(program, folder, new=new, positions=positions, rows=len(positions), tolerance=tolerance, step=step)
    return step
