"""Products by tensor descriptors: the kernel against its op, and a model on a GPU that is none."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from burnish.codegen.triton.kernels import fused_linear as module
from burnish.codegen.triton.kernels.fused_linear import aligned_rows, described, fused_linear
from burnish.codegen.triton.lower import plan
from burnish.codegen.triton.tile_candidates import descriptor_candidates
from burnish.codegen.triton.tiles import ProductTiles, Target, aimed_at
from burnish.codegen.triton.tune import trials_of
from burnish.frontend import read
from burnish.ir.errors import ArtifactError, UsageError
from burnish.ir.fused_ops import fused_ops
from burnish.ir.program import Program
from burnish.ir.trace import Trace
from burnish.passes.pipeline import run_passes
from burnish.passes.pipelines import lower_for_gpu, make_incremental
from burnish.runtime import cuda_launcher
from burnish.runtime.executor import Step
from burnish.runtime.executor_cuda import CudaExecutor
from burnish.runtime.plan import Plan
from burnish.runtime.states import States
from burnish.runtime.torch_memory import ON_CPU
from tests.triton.fake_cuda import FakeGpu, executor_on
from tests.triton.planned import interpreted
from tests.zoo.configs import build

HOPPER = Target((90,), 4)
FIRST = torch.zeros(1, dtype=torch.int64)


def check(x: torch.Tensor, n: int, tiles: ProductTiles, gated: bool = False, given: Any = (), **options: Any) -> None:
    """fused_linear by these tiles, whatever the table says, against its op in float64."""
    k, rows = x.shape[-1], x.shape[:-1]
    weight = (torch.randn(n, k) / k**0.5).half()
    shapes = {"bias": (n,), "norm_weight": (k,), "norm_bias": (k,), "residual": (*rows, n // 2 if gated else n)}
    tensors = {name: torch.randn(*shapes[name]).half() for name in given}
    wide = {name: tensor.double() for name, tensor in tensors.items()}
    expected = fused_ops.fused_linear(x.double(), weight.double(), **wide, gated=gated, **options)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "product_tiles", lambda *sizes, **options: tiles)
        found = fused_linear(x, weight, **tensors, gated=gated, **options)
    torch.testing.assert_close(found.double(), expected, rtol=6e-3, atol=6e-3)


@settings(max_examples=20, deadline=None)
@given(
    rows=st.integers(1, 40),
    n=st.integers(1, 90),
    k=st.integers(1, 9).map(lambda number: 16 * number),
    start=st.integers(0, 2).map(lambda number: 16 * number),
    rest=st.integers(0, 2).map(lambda number: 16 * number),
    norm=st.sampled_from(["none", "rms", "layer"]),
    specialize=st.booleans(),
)
def test_any_sizes(rows: int, n: int, k: int, start: int, rest: int, norm: str, specialize: bool) -> None:
    """Tiles that stick out at any side, of an x that may be a part of each row: what is around it is not read."""
    whole = torch.full((rows, start + k + rest), torch.inf).half()
    x = whole[:, start : start + k]
    x.copy_(torch.randn(rows, k))
    assert aligned_rows(x)[2] == {"x_ptr", "x_stride"}
    tiles = ProductTiles(16, 32, 32, 4, 2, descriptors=True, warp_specialize=specialize)
    check(x, n, tiles, norm=norm, eps=1e-5)


@pytest.mark.parametrize(
    "options",
    [
        {"norm": "rms", "given": ("norm_weight", "residual")},
        {"norm": "layer", "given": ("norm_weight", "norm_bias", "bias")},
        {"norm": "rms", "gated": True, "activation": "silu", "given": ("norm_weight", "bias")},
        {"given": ("residual",), "scale": 0.25, "softcap": 3.0},
    ],
    ids=str,
)
def test_prologues_and_epilogues(options: dict[str, Any]) -> None:
    check(torch.randn(70, 80).half(), 150, ProductTiles(64, 64, 64, 4, 3, descriptors=True), eps=1e-5, **options)


def test_where_descriptors_are_candidates() -> None:
    """Many rows of 16-bit floats at multiples of 16 bytes, and GPUs that have them."""
    places = {"x_ptr", "x_stride", "weight_stride"}
    assert described(torch.bfloat16, 0, places)
    assert not described(torch.float32, 0, places)
    assert not described(torch.bfloat16, 8, places)
    assert not any(described(torch.bfloat16, 0, places - {each}) for each in places)
    assert descriptor_candidates(512, 4096, "none") == ()  # for no GPU
    for architectures, count in {(80,): 0, (80, 90): 0, (90,): 6, (90, 100): 6, (100,): 7, (120,): 7}.items():
        with aimed_at(Target(architectures, 132)):
            assert len(descriptor_candidates(512, 4096, "none")) == count
            assert descriptor_candidates(16, 4096, "none") == ()
    with aimed_at(HOPPER):
        specialized = [each for each in descriptor_candidates(512, 4096, "rms") if each.warp_specialize]
        assert all((each.rows, each.num_warps) == (64, 4) for each in specialized)
        assert descriptor_candidates(512, 32, "none") == ()  # no tile is narrower


# ---------------------------------------------------------------- a model


@pytest.fixture(scope="module")
def model() -> tuple[Program, Plan]:
    """Planned as by a file of tiles that has descriptors for all products that they are candidates for."""
    passes = [*make_incremental(), *lower_for_gpu(torch.float16)]
    program = run_passes(read(build("llama")).program, passes, Trace())
    found = {
        trial.problem.key: trial.tiles
        for trials in trials_of(program, HOPPER)
        for trial in trials
        if isinstance(trial.tiles, ProductTiles) and trial.tiles.warp_specialize
    }
    return program, plan(program, Target((90,), 4, winners=found))[0]


@pytest.fixture
def gpu(model: tuple[Program, Plan], monkeypatch: pytest.MonkeyPatch) -> FakeGpu:
    gpu = FakeGpu(model[1].kernels)
    gpu.install(monkeypatch)
    return gpu


def test_a_launch_has_memory_for_its_descriptors(gpu: FakeGpu, model: tuple[Program, Plan]) -> None:
    """The fake GPU asserts how much; no two launches share it, and the same launch keeps it.

    The numbers are those of the same program by pointers.
    """
    torch.manual_seed(0)  # tokens whose scores lie apart
    executor, pointers = executor_on(gpu, model), interpreted(model[0], plan(model[0], HOPPER)[0])
    mine, theirs = (States.allocate(model[0].states, 1, 96, ON_CPU, in_place=True) for _ in range(2))
    position = FIRST
    for count in (20, 20, 1):
        step = Step(torch.randint(1, 90, (1, count)), position, torch.tensor([count - 1]))
        found, right = executor.step(step, mine), pointers.step(step, theirs)
        torch.testing.assert_close(found.values, right.values, rtol=1e-3, atol=1e-3)
        position = position + count
    kernels = [key for key, kernel in model[1].kernels.items() if kernel.constants.get("DESCRIPTORS")]
    launched = [key for key in gpu.launched if key in kernels]
    assert len(launched) == len(gpu.scratch) >= 8
    half = len(gpu.scratch) // 2
    assert gpu.scratch[:half] == gpu.scratch[half:]  # the second piece of the prompt is the same step
    assert len(set(gpu.scratch[:half])) == half


def test_too_little_memory_for_descriptors_says_so(
    gpu: FakeGpu, model: tuple[Program, Plan], monkeypatch: pytest.MonkeyPatch
) -> None:
    executor, states = executor_on(gpu, model), States.allocate(model[0].states, 1, 96, ON_CPU, in_place=True)

    def empty(*size: Any, **options: Any) -> torch.Tensor:
        raise torch.OutOfMemoryError

    monkeypatch.setattr(cuda_launcher.torch, "empty", empty)
    with pytest.raises(UsageError, match="the tensor descriptors of the kernel fused_linear_kernel-"):
        executor.step(Step(torch.ones(1, 30).long(), FIRST, FIRST), states)
    assert gpu.launched == []


def test_a_weight_in_an_odd_place_is_refused_before_a_launch(gpu: FakeGpu, model: tuple[Program, Plan]) -> None:
    program, launches = model
    names = {str(node.target) for node in program.graph.nodes if node.op == "get_attr"}
    weights = {name: program.weights[name].materialize() for name in names}
    (name,) = [each for each in names if "layers.0.mlp.down_proj.weight" in each]
    odd = torch.empty(weights[name].numel() + 4, dtype=torch.float16)[4:].view_as(weights[name])
    weights[name] = odd.copy_(weights[name])
    executor = CudaExecutor(launches, {90: gpu.compiled()}, weights)
    states = States.allocate(program.states, 1, 96, ON_CPU, in_place=True)
    with pytest.raises(ArtifactError, match=r"weight_ptr .* which is compiled for multiples of 16"):
        executor.step(Step(torch.ones(1, 30).long(), FIRST, FIRST), states)
    assert gpu.launched == []
