"""What times trials: the memory that it binds them to, by the interpreter, and the timing, on a GPU that is none."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import msgspec
import pytest
import torch

from burnish.codegen.triton import tile_timer
from burnish.codegen.triton.compile import Binary
from burnish.codegen.triton.interpreted import InterpretedLauncher
from burnish.codegen.triton.kernels.attention_projection import attention_projection_kernel
from burnish.codegen.triton.kernels.fused_linear import fused_linear_kernel
from burnish.codegen.triton.spec import KernelSpec
from burnish.codegen.triton.tile_timer import GpuTimer, prepared
from burnish.codegen.triton.tiles import Target
from burnish.codegen.triton.tune import Trial, trials_of
from burnish.ir.errors import ArtifactError, UnsupportedError
from burnish.runtime.plan import Kernel
from burnish.runtime.plan_runner import BoundLaunch
from tests.triton.fake_cuda import SHARED, FakeGpu
from tests.triton.planned import fused

CONTEXT = 40
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def problems() -> list[list[Trial]]:
    """Of a model: up to three trials each, at sizes that the interpreter gets through."""
    found = []
    for trials in trials_of(fused("llama"), Target((90,), 4)):
        sequence = min(9, trials[0].sizes["sequence"])
        sizes = {**trials[0].sizes, "batch": min(2, trials[0].sizes["batch"]), "sequence": sequence}
        sizes["capacity"] = CONTEXT + sequence
        found.append([replace(each, sizes=sizes) for each in [trials[0], *trials[1:][-2:]]])
    return found


@pytest.fixture(autouse=True)
def _short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tile_timer, "CONTEXT", CONTEXT)
    monkeypatch.setattr(tile_timer, "_FLUSHED", 1024)
    monkeypatch.setattr(tile_timer, "_WARM", 1)
    monkeypatch.setattr(tile_timer, "_ROUNDS", 2)


def kernels_of(trials: Sequence[Trial]) -> dict[str, Kernel]:
    return {key: spec.data() for trial in trials for key, spec in trial.kernels.items()}


class Noting:
    """The interpreter, and what it was given: by trial, the arguments of each launch by name."""

    def __init__(self, kernels: dict[str, Kernel]) -> None:
        self.kernels = kernels
        self.launcher = InterpretedLauncher(kernels)
        self.arguments: list[dict[str, torch.Tensor | int | float]] = []

    def prepare(self, launches: Sequence[BoundLaunch]) -> Callable[[], None]:
        for each in launches:
            self.arguments.append(dict(zip(self.kernels[each.kernel].arguments, each.arguments, strict=True)))
        return self.launcher.prepare(launches)


def test_all_trials_of_a_problem_give_the_same_numbers(problems: list[list[Trial]]) -> None:
    """Each on the same memory, and none that are zero or infinite."""
    torch.manual_seed(0)
    assert len(problems) >= 8
    for trials in problems:
        kernels = kernels_of(trials)
        launcher = Noting(kernels)
        runs = prepared(trials, kernels, launcher, CPU)
        results = []
        for run in runs:
            name = "query_ptr" if trials[0].problem.function is attention_projection_kernel else "out_ptr"
            out = launcher.arguments[-1][name]
            assert isinstance(out, torch.Tensor)
            out.zero_()
            run()
            results.append(out.clone())
        assert results[0].isfinite().all()
        assert (results[0] != 0).float().mean() > 0.9
        for each in results[1:]:
            torch.testing.assert_close(each, results[0], rtol=1e-3, atol=1e-3)


def test_a_text_is_a_thousand_tokens_long(problems: list[list[Trial]]) -> None:
    """The position that attention is given is that of the first new token."""
    positions = []
    for trials in problems:
        launcher = Noting(kernels_of(trials))
        prepared(trials, kernels_of(trials), launcher, CPU)
        positions += [each["position_ptr"] for each in launcher.arguments if "position_ptr" in each]
    assert positions
    assert all(isinstance(each, torch.Tensor) and bool((each == CONTEXT).all()) for each in positions)


def test_what_a_kernel_is_not_compiled_for_is_not_launched(problems: list[list[Trial]]) -> None:
    trials = next(each for each in problems if each[0].problem.function is fused_linear_kernel)
    kernels = {key: msgspec.structs.replace(kernel, arguments={}) for key, kernel in kernels_of(trials).items()}
    with pytest.raises(ArtifactError, match="as it cannot be started"):
        prepared(trials, kernels, InterpretedLauncher(kernels_of(trials)), CPU)


def test_what_does_not_fit_has_no_time(problems: list[list[Trial]], monkeypatch: pytest.MonkeyPatch) -> None:
    trials = next(each for each in problems if len(each) == 3 and each[0].problem.function is fused_linear_kernel)
    gpu = FakeGpu(kernels_of(trials))
    gpu.install(monkeypatch)

    def compile_each(specs: Sequence[KernelSpec], architecture: int) -> dict[str, Binary | UnsupportedError]:
        assert architecture == 90
        found: dict[str, Binary | UnsupportedError] = {}
        for spec in specs:
            key = spec.key
            found[key] = Binary(spec.name, 90, key.encode(), "", SHARED, spec.num_warps, 0, "13.4", ())
        return found | {key: UnsupportedError("too large") for trial in too_large for key in trial.kernels}

    too_large = trials[1:2]
    monkeypatch.setattr(tile_timer, "compile_each", compile_each)
    assert GpuTimer(90)(trials) == [1e-3, None, 1e-3]
    (first,), (last,) = trials[0].kernels, trials[2].kernels
    assert gpu.launched == [first, last] * 3  # in turns, one of them to warm up
    too_large = trials
    assert GpuTimer(90)(trials) == [None, None, None]
