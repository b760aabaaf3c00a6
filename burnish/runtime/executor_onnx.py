"""The step graph lowered to ONNX, run by ONNX Runtime on the CPU, with every input and output bound in place."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import torch

from burnish.ir.errors import ArtifactError, InvalidProgramError, UsageError
from burnish.ir.position_table import PositionTable, halves_of
from burnish.ir.signature import Signature
from burnish.ir.states import State
from burnish.runtime.executor import Step, StepResult, of_last_step
from burnish.runtime.memory import Memory
from burnish.runtime.position_rows import PositionRows
from burnish.runtime.processors import processors
from burnish.runtime.states import States
from burnish.runtime.torch_memory import ON_CPU, inputs_of

# ONNX's own number for each type (onnx.TensorProto.DataType), and ONNX Runtime's name.
ONNX_TYPES = {
    torch.float32: (1, "tensor(float)"),
    torch.uint8: (2, "tensor(uint8)"),
    torch.int8: (3, "tensor(int8)"),
    torch.uint16: (4, "tensor(uint16)"),
    torch.int16: (5, "tensor(int16)"),
    torch.int32: (6, "tensor(int32)"),
    torch.int64: (7, "tensor(int64)"),
    torch.bool: (9, "tensor(bool)"),
    torch.float16: (10, "tensor(float16)"),
    torch.float64: (11, "tensor(double)"),
    torch.uint32: (12, "tensor(uint32)"),
    torch.uint64: (13, "tensor(uint64)"),
    torch.bfloat16: (16, "tensor(bfloat16)"),
    torch.float8_e4m3fn: (17, "tensor(float8e4m3fn)"),
    torch.float8_e4m3fnuz: (18, "tensor(float8e4m3fnuz)"),
    torch.float8_e5m2: (19, "tensor(float8e5m2)"),
    torch.float8_e5m2fnuz: (20, "tensor(float8e5m2fnuz)"),
}
_SMALLEST = 5e-324  # the least positive double: zero as soon as it is used where denormals are flushed


@dataclass
class _Binding:
    """A run of the session on given memory: the caller's tensors, which it keeps alive."""

    io: Any
    inputs: dict[str, Any]
    logits: torch.Tensor
    tables: Mapping[str, torch.Tensor]

    def reads(self, step: Step) -> bool:
        """Whether it is on the step's very arrays, whatever they contain by now."""
        return all(self.inputs[name] is values for name, values in step.inputs.items())


class OnnxExecutor:
    """A session on `model.onnx`.

    The model's inputs are the step graph's, by name (those that it does not need may be missing), and the tables of
    positions that it reads, or their halves; its outputs are "logits" and, for each state S, "S_out". Of a table, as
    many rows are made as the states have room for tokens.
    """

    memory: Memory = ON_CPU
    in_place = False

    def __init__(
        self,
        model: Path,
        states: Sequence[State],
        signature: Signature,
        threads: int | None = None,
        tables: Mapping[str, PositionTable] | None = None,
    ) -> None:
        """Make the session. `threads`: None for as many as this process has processors.

        Raises ArtifactError if ONNX Runtime refuses the model, or the model is not one for these states.
        """
        self._signature = signature
        self._session: Any = create_session(model, threads or processors())
        known = halves_of(tables or {})
        self._present: set[str] = _check_types(self._session, states, known, signature, model)
        self._tables = PositionRows({name: table for name, table in known.items() if name in self._present}, ON_CPU)
        # The last binding on each side that the states can be on: a decode step finds all its memory as it was.
        self._bindings: WeakKeyDictionary[States, dict[int, _Binding]] = WeakKeyDictionary()
        self._logits: WeakKeyDictionary[States, torch.Tensor] = WeakKeyDictionary()

    def step(self, step: Step, states: States) -> StepResult:
        """See `Executor.step`."""
        if self._session is None:
            raise UsageError("this compiled model was closed")
        bindings = self._bindings.get(states)
        if bindings is None:
            bindings = self._bindings[states] = {}
        binding = bindings.get(states.parity)
        if binding is None or not binding.reads(step):
            binding = bindings[states.parity] = self._bind(step, states)
        self._run(binding.io)
        states.advance()
        self._logits[states] = binding.logits
        return StepResult("logits", binding.logits).narrowed(step.wanted)

    def logits(self, states: States) -> StepResult:
        """See `Executor.logits`."""
        return StepResult("logits", of_last_step(self._logits, states))

    def close(self) -> None:
        """See `Executor.close`."""
        self._bindings.clear()
        self._logits.clear()
        self._tables.clear()
        self._session = None

    def _run(self, io: Any) -> None:
        # Denormal numbers appear in softmax and cost 15% of a long prefill. The session's own threads flush them;
        # this thread works along with them, and gets its own mode back.
        flushing = _SMALLEST * 1.0 == 0.0
        try:
            if not flushing:
                torch.set_flush_denormal(True)  # within the try: an interrupt may come as soon as it is done
            self._session.run_with_iobinding(io)
        except Exception as error:  # ONNX Runtime's exceptions have no common base
            raise InvalidProgramError(f"ONNX Runtime failed in a step: {error}") from error
        finally:
            if not flushing:
                torch.set_flush_denormal(False)

    def _bind(self, step: Step, states: States) -> _Binding:
        """Bind the inputs and the states where they are, and new memory for the logits."""
        shape = (step.tokens.shape[0], step.logits_index.shape[0], self._signature.vocabulary)
        binding = _Binding(
            self._session.io_binding(),
            step.inputs,
            torch.empty(shape, dtype=self._signature.logits_dtype),
            self._tables.for_capacity(states.capacity),
        )
        for name, tensor in (inputs_of(step) | states.named).items():
            if name in self._present:
                binding.io.bind_input(name, "cpu", 0, *place_of(tensor))
        for name, tensor in binding.tables.items():
            binding.io.bind_input(name, "cpu", 0, *place_of(tensor))
        binding.io.bind_output("logits", "cpu", 0, *place_of(binding.logits))
        for spec, tensor in zip(states.specs, states.present, strict=True):
            binding.io.bind_output(f"{spec.name}_out", "cpu", 0, *place_of(tensor))
        return binding


def place_of(tensor: torch.Tensor) -> tuple[int, list[int], int]:
    """Type, shape and address, as ONNX Runtime binds them."""
    assert tensor.is_contiguous(), "ONNX Runtime reads memory in order"
    return ONNX_TYPES[tensor.dtype][0], list(tensor.shape), tensor.data_ptr()


def create_session(model: Path, threads: int, settings: Mapping[str, str] | None = None) -> Any:
    """A session of ONNX Runtime's, with `settings` of it by their names. ArtifactError where it refuses the model."""
    # Imported here: the reference executor needs no ONNX Runtime, and the import takes 0.1 s.
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    for name, value in {"session.set_denormal_as_zero": "1", **(settings or {})}.items():
        options.add_session_config_entry(name, value)
    made: list[Any] = []
    failures: list[Exception] = []

    def make() -> None:
        try:
            made.append(onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"]))
        except Exception as error:  # ONNX Runtime's exceptions have no common base
            failures.append(error)

    # The thread that makes the session has its denormals flushed from then on: let it be one that ends.
    thread = threading.Thread(target=make, name="burnish-session")
    thread.start()
    thread.join()
    if failures:
        raise ArtifactError(f"ONNX Runtime cannot load {model}: {failures[0]}") from failures[0]
    return made[0]


def _check_types(
    session: Any,
    states: Sequence[State],
    tables: Mapping[str, PositionTable],
    signature: Signature,
    model: Path,
) -> set[str]:
    """The names of the session's inputs, after comparing names, types and ranks with what will be bound."""
    expected_inputs = {each.name: (each.dtype, len(each.axes)) for each in signature.inputs}
    expected_inputs |= {state.name: (state.dtype, len(state.shape)) for state in states}
    expected_inputs |= {name: (table.dtype, len(table.shape)) for name, table in tables.items()}
    expected_outputs = {"logits": (signature.logits_dtype, 3)}
    expected_outputs |= {f"{state.name}_out": (state.dtype, len(state.shape)) for state in states}
    found_inputs = {argument.name: argument for argument in session.get_inputs()}
    found_outputs = {argument.name: argument for argument in session.get_outputs()}
    unknown = found_inputs.keys() - expected_inputs.keys()
    missing = expected_outputs.keys() - found_outputs.keys()
    if unknown or missing:
        raise ArtifactError(
            f"{model} is not the model of this manifest: "
            + "; ".join(
                f"{what} {', '.join(sorted(names))}"
                for what, names in (("unknown inputs", unknown), ("missing outputs", missing))
                if names
            )
        )
    for found, expected in ((found_inputs, expected_inputs), (found_outputs, expected_outputs)):
        for name in found.keys() & expected.keys():
            dtype, rank = expected[name]
            if dtype not in ONNX_TYPES or ONNX_TYPES[dtype][1] != found[name].type:
                raise ArtifactError(f"{name} in {model} is {found[name].type}; the manifest says {dtype}")
            if len(found[name].shape) != rank:
                raise ArtifactError(f"{name} in {model} has {len(found[name].shape)} axes, and should have {rank}")
    return set(found_inputs)
