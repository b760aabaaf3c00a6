"""The planner with a table of host functions of its own, whose kernels are of no language."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor

from burnish.codegen.plan.launches import RECORDER, HostFunctions
from burnish.codegen.plan.planner import fallbacks, plan
from burnish.codegen.plan.regimes import Regime, SymbolicSizes
from burnish.ir.errors import UnsupportedError
from burnish.ir.signature import STEP_INPUTS, Input
from burnish.runtime.plan import Call, Kernel, Launch, Plan
from tests.runtime.tiny import tiny

aten = torch.ops.aten
REGIMES = (
    Regime("one token", 1, 1, 1, {"batch": 1, "sequence": 1, "kept": 1}),
    Regime("a prompt", (1, None, 5), (2, None, 103), (1, None, 7), {"batch": 1, "sequence": 9, "kept": 1}, 64),
)


@dataclass(frozen=True)
class Loop:
    """A kernel that is a name."""

    key: str

    def data(self) -> Kernel:
        return Kernel("loops", self.key, {"x": "*fp32", "out": "*fp32"}, {}, [], 1, 1)

    def launch(self, grid: tuple[int | torch.SymInt, int, int], *arguments: Tensor) -> None:
        recorder = RECORDER.get()
        assert recorder is not None
        recorder.launch(self, grid, arguments)


def add(x: Tensor, y: Tensor) -> Tensor:
    if not (isinstance(y, Tensor) and x.dim() == 3):
        raise UnsupportedError("the loop adds two tensors of three axes")
    out = torch.empty_like(x)
    Loop("add").launch((x.shape[0] * x.shape[1], 1, 1), x, y, out)
    return out


def copy(x: Tensor, out: Tensor | None = None) -> Tensor:
    if out is None:
        out = torch.empty(x.shape, dtype=x.dtype)
    Loop("copy").launch((x.numel(), 1, 1), x, out)
    return out


def planned() -> Plan:
    launches, specs = plan(tiny().program, HostFunctions({aten.add.Tensor: add}, copy), REGIMES)
    assert set(specs) == set(launches.kernels) == {"add", "copy"}  # copy: of the state, which no loop writes in place
    assert isinstance(specs["add"], Loop)
    return launches


def test_what_the_table_has_is_launched_and_all_else_is_called_with_the_reason() -> None:
    launches = planned()
    decode, prompt = launches.variants
    assert [(step.kernel, step.node) for step in decode.steps if isinstance(step, Launch)] == [
        ("add", "add_tensor"),
        ("add", "add_tensor_1"),
        ("copy", "memory"),
    ]
    grids = [step.grid for step in prompt.steps if isinstance(step, Launch) and step.kernel == "add"]
    assert grids == [["batch*sequence", 1, 1]] * 2
    assert fallbacks(launches)["attention_default"] == "there is no kernel for burnish.attention.default"
    assert launches.kernels["add"].module == "loops"


def test_a_regime_is_the_range_of_its_variant() -> None:
    launches = planned()
    assert launches.variants[0].ranges == {"batch": (1, 1), "sequence": (1, 1), "kept": (1, 1)}
    assert launches.variants[1].ranges == {
        "batch": (1, None),
        "sequence": (2, None),
        "kept": (1, None),
        "rows": (1, 64),
    }
    assert launches.variant({"batch": 3, "sequence": 9, "kept": 1}) is launches.variants[1]


def test_sizes_are_numbers_where_a_regime_has_one_and_symbols_else() -> None:
    sizes = SymbolicSizes.of(REGIMES[1])
    assert sorted(sizes.names.values()) == ["batch", "capacity", "kept", "sequence"]
    assert all(isinstance(size, torch.SymInt) for size in sizes.by_name.values())
    alone = SymbolicSizes.of(REGIMES[0])
    assert {name: size for name, size in alone.by_name.items() if isinstance(size, int)} == dict.fromkeys(
        ("batch", "sequence", "kept"), 1
    )


def test_a_host_function_that_refuses_leaves_nothing_behind() -> None:
    def refuse(x: Tensor, y: Tensor) -> Tensor:
        add(x, y)
        raise UnsupportedError("not on a Monday")

    launches, specs = plan(tiny().program, HostFunctions({aten.add.Tensor: refuse}, copy), REGIMES[:1])
    assert set(specs) == {"copy"}
    assert not [step for step in launches.variants[0].all_steps if isinstance(step, Launch) and step.kernel == "add"]
    assert fallbacks(launches)["add_tensor"] == "not on a Monday"


def test_a_state_made_elsewhere_is_copied_by_the_tables_own_copy() -> None:
    program = tiny().program
    memory = program.state_inputs[0]
    with program.graph.inserting_before(program.output):
        doubled = program.graph.call_function(aten.mul.Tensor, (memory, 2))
    program.output.args = ((program.output.args[0][0], doubled),)  # type: ignore[index]
    launches, _ = plan(program, HostFunctions({}, copy), REGIMES[:1])
    (last,) = [step for step in launches.variants[0].steps if isinstance(step, Launch)]
    assert (last.kernel, last.node) == ("copy", "memory")


@pytest.mark.parametrize("missing", ["copy", "by_op"])
def test_a_table_has_both(missing: str) -> None:
    given = {"copy": copy, "by_op": {}}
    del given[missing]
    with pytest.raises(TypeError, match=missing):
        HostFunctions(**given)  # type: ignore[arg-type]


def test_inputs_are_buffers_by_name_and_a_fourth_is_one_more() -> None:
    program = tiny().program
    with program.graph.inserting_after(program.inputs["logits_index"]):
        active = program.graph.placeholder("active")
    with program.graph.inserting_before(program.output):
        program.graph.call_function(aten.logical_not.default, (active,))
    program.interface = replace(program.signature, inputs=(*STEP_INPUTS, Input("active", ("batch",), "bool")))
    launches, _ = plan(program, HostFunctions({}, copy), REGIMES)
    (call,) = [step for step in launches.variants[1].steps if isinstance(step, Call) and "logical_not" in step.op]
    tensor = call.arguments[0]["tensor"]
    assert (tensor.buffer, tensor.dtype, tensor.shape) == ("input active", "bool", ["batch"])
    read = str(launches.variants[1].steps)
    assert all(f"input {each.name}" in read for each in STEP_INPUTS)
