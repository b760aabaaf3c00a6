"""Native kernels as a backend: whole models, any feeding, any number of threads."""

from __future__ import annotations

import gc
import multiprocessing
import os
import threading
from pathlib import Path

import psutil
import pytest
import torch
from torch import nn

import burnish
from burnish.inspect.kernels import kernels_of
from burnish.ir.errors import ArtifactError, InvalidProgramError, NativeBuildError, UsageError
from burnish.passes.transforms.quantize import Quantize
from burnish.runtime.artifact import Artifact
from burnish.runtime.executor import Step
from burnish.runtime.executor_native import NativeExecutor
from burnish.runtime.kernel_files import read_plan
from burnish.runtime.mapped_bytes import weight_bytes
from burnish.runtime.mapped_weights import weight_tensors
from burnish.runtime.memory import NUMPY
from burnish.runtime.model import CompiledModel
from burnish.runtime.native import build
from burnish.runtime.native.launcher import NativeLauncher
from burnish.runtime.native.library import best_level, levels, library
from burnish.runtime.plan import Kernel
from burnish.runtime.row_tables import row_tables
from burnish.runtime.states import States
from tests.own_modules.causal import NanoGPT
from tests.tolerances import RELATIVE, assert_near
from tests.zoo.configs import build as build_type

KINDS = ["llama", "gpt2", "gemma2", "gemma3_text", "bloom", "opt", "qwen2_moe", "deepseek_v3", "gpt_oss", "lfm2"]


def compiled(model: nn.Module, **options: object) -> CompiledModel:
    return burnish.compile(model, backend="native", max_length=64, **options)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def model() -> nn.Module:
    torch.manual_seed(0)
    return NanoGPT().eval()


@pytest.fixture(scope="module")
def saved(model: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An artifact with int4 weights."""
    folder = tmp_path_factory.mktemp("native") / "nano.burnish"
    with compiled(model, transforms=[Quantize("int4", 32)]) as found:
        found.save(folder)
    return folder


@pytest.mark.parametrize("kind", KINDS)
def test_types_of_models_match(kind: str) -> None:
    """Compilation itself compares what runs with the model, token by token, in pieces, rows of unequal lengths."""
    torch.manual_seed(0)
    eager = build_type(kind)
    with compiled(eager) as found:
        assert found.backend == "native"
        assert all(check.by.startswith("the backend native") for check in found.trace.checks if check.by)
        ids = torch.randint(0, 60, (2, 23))
        with torch.no_grad():
            expected = eager(ids).logits
        torch.testing.assert_close(
            found(ids), expected, rtol=0, atol=5 * RELATIVE[torch.float32] * float(expected.abs().max())
        )


@pytest.mark.parametrize("level", levels())
@pytest.mark.parametrize("threads", [1, 2, 3, 7])
def test_every_instruction_set_and_number_of_threads(saved: Path, level: str, threads: int) -> None:
    with burnish.load(saved, backend="reference") as reference:
        ids = torch.randint(0, 60, (2, 30))
        expected = reference(ids)
    artifact = reference.artifact
    weights = weight_bytes(artifact)
    executor = NativeExecutor(
        read_plan(artifact), weights, library(level), row_tables(artifact, weights), threads, accuracy="exact"
    )
    states = States.allocate(artifact.states, 2, 30, NUMPY, in_place=True)
    found = executor.step(Step(ids, torch.zeros(2).long(), torch.arange(30)), states).array
    assert_near(torch.from_numpy(found), expected)
    executor.close()


def test_a_row_is_the_same_alone_and_in_a_batch(saved: Path) -> None:
    prompts = [[1, 2, 3], [7, 8, 9, 10, 11, 12, 13], [5]]
    with burnish.load(saved) as found:
        together = found.generate(prompts, max_new_tokens=20).tokens
        alone = [found.generate(prompt, max_new_tokens=20).tokens[0] for prompt in prompts]
    assert together == alone


def test_all_logits_are_those_of_the_session_that_is_asked(saved: Path) -> None:
    with burnish.load(saved) as found:
        one, other = found.session(), found.session()
        with pytest.raises(UsageError, match="no step"):
            one.logits()
        one.step([1], wanted="ids")
        expected = one.logits().clone()
        other.step([2], wanted="top")
        assert torch.equal(one.logits(), expected)
        assert not torch.equal(other.logits(), expected)


def test_accuracy_is_chosen_as_it_is_loaded(saved: Path) -> None:
    ids = torch.randint(0, 60, (1, 30))
    with burnish.load(saved, backend="reference") as reference, burnish.load(saved) as exact:
        expected = reference(ids)
        assert_near(exact(ids), expected)
    with burnish.load(saved, accuracy="fast") as fast:
        difference = float((fast(ids) - expected).abs().max() / expected.abs().max())
        assert 1e-5 < difference < 0.1
        with fast.executor.computing("exact"):  # type: ignore[attr-defined]
            assert_near(fast(ids), expected)
    with pytest.raises(UsageError, match="no accuracy 'best'"):
        burnish.load(saved, accuracy="best")  # type: ignore[arg-type]


def test_what_is_stored_in_half_the_bytes(model: nn.Module) -> None:
    ids = torch.randint(0, 60, (1, 30))
    with torch.no_grad():
        expected = model(ids)
    sizes = {}
    for dtype, most in ((torch.float32, 2e-5), (torch.float16, 5e-3), (torch.bfloat16, 5e-2)):
        with compiled(model, dtype=dtype) as found:
            sizes[dtype] = sum(each.nbytes for each in weight_tensors(found.artifact).values())
            assert float((found(ids) - expected).abs().max()) < most * float(expected.abs().max())
    assert sizes[torch.bfloat16] == sizes[torch.float16] < 0.7 * sizes[torch.float32]


def test_two_models_in_one_process_and_threads_that_come_and_go(saved: Path) -> None:
    with burnish.load(saved) as one, burnish.load(saved, threads=1) as two:
        expected = one.generate([1, 2, 3], max_new_tokens=9).tokens
        found: list[object] = []
        for _ in range(3):
            for each in (one, two):
                thread = threading.Thread(
                    target=lambda each=each: found.append(each.generate([1, 2, 3], max_new_tokens=9).tokens)
                )
                thread.start()
                thread.join()
    assert found == [expected] * 6


def _generate(model: CompiledModel, results: multiprocessing.SimpleQueue[object]) -> None:
    results.put(model.generate([1, 2, 3], max_new_tokens=9).tokens)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_child_has_a_team_of_its_own(saved: Path) -> None:
    context = multiprocessing.get_context("fork")
    with burnish.load(saved) as found:
        expected = found.generate([1, 2, 3], max_new_tokens=9).tokens
        results: multiprocessing.SimpleQueue[object] = context.SimpleQueue()
        child = context.Process(target=_generate, args=(found, results))
        child.start()
        child.join(60)
        assert child.exitcode == 0
        assert results.get() == expected == found.generate([1, 2, 3], max_new_tokens=9).tokens


def test_steps_leave_nothing_behind(saved: Path) -> None:
    process = psutil.Process()
    with burnish.load(saved) as found:
        before = 0
        for run in range(5):
            for _ in range(40):
                found.generate([1, 2, 3], max_new_tokens=50)
            gc.collect()
            if run == 1:
                before = process.memory_info().rss
        assert process.memory_info().rss - before < 1_000_000
    assert process.num_threads() < 100


def test_a_closed_model_says_so(saved: Path) -> None:
    found = burnish.load(saved)
    found.close()
    with pytest.raises(UsageError, match="closed"):
        found.generate([1], max_new_tokens=1)


# ---------------------------------------------------------------- bad input


def test_threads_are_at_least_one(saved: Path) -> None:
    with pytest.raises(UsageError, match="threads is at least 1"):
        burnish.load(saved, threads=0)


def test_no_compiler(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("BURNISH_CACHE", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(NativeBuildError, match=r"none that is called g\+\+ or clang\+\+ or c\+\+: install one"):
        build.build(best_level())


def test_a_compiler_that_is_none(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CXX", "ccache g++")
    with pytest.raises(NativeBuildError, match=r"CXX names 'ccache g\+\+', which is no program"):
        build.build(best_level())
    text = tmp_path / "text"
    text.write_text("not a program")
    text.chmod(0o755)
    monkeypatch.setenv("CXX", str(text))
    with pytest.raises(NativeBuildError, match="cannot be started"):
        build.build(best_level())


def test_a_library_that_cannot_be_loaded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    cut = tmp_path / "cut.so"
    cut.touch()
    monkeypatch.setattr("burnish.runtime.native.library.build", lambda level: cut)
    with pytest.raises(NativeBuildError, match=r"cut\.so.*delete that file, or name another folder"):
        library.__wrapped__(best_level())


def test_a_compiler_that_fails(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    compiler = tmp_path / "c++"
    compiler.write_text("#!/bin/sh\necho no such flag >&2\nexit 1\n")
    compiler.chmod(0o755)
    monkeypatch.setenv("CXX", str(compiler))
    monkeypatch.setenv("BURNISH_CACHE", str(tmp_path / "cache"))
    with pytest.raises(NativeBuildError, match="no such flag"):
        build.build(best_level())
    assert not list((tmp_path / "cache").rglob("*.so"))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_written(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    tmp_path.chmod(0o555)
    monkeypatch.setenv("BURNISH_CACHE", str(tmp_path / "cache"))
    with pytest.raises(NativeBuildError, match="BURNISH_CACHE"):
        build.build(best_level())


def test_plans_are_compared_with_what_kernels_take() -> None:
    def made(function: str, arguments: dict[str, str], constants: dict[str, object]) -> None:
        kernel = Kernel("burnish.runtime.native", function, arguments, constants, [], 0, 0)  # type: ignore[arg-type]
        NativeLauncher({"k-0123456789abcdef": kernel}, library(best_level()), 1)

    takes = {"x": "*float32", "out": "*int64", "rows": "i64"}
    made("argmax", takes, {"size": 5})
    for function, arguments, constants, said in (
        ("system", takes, {}, "none of the native kernels"),
        ("argmax", takes, {}, "takes size"),
        ("argmax", takes, {"size": 5, "more": 1}, "takes more"),
        ("argmax", takes | {"x": "i64"}, {"size": 5}, "gives x as 'i64'"),
        ("argmax", takes, {"size": "5"}, "gives size as '5'"),
    ):
        with pytest.raises(ArtifactError, match=said):
            made(function, arguments, constants)  # type: ignore[arg-type]


def test_what_reads_a_weight_in_another_way_cannot_be_planned(
    model: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rather than by PyTorch, over panels that it would take for floats."""
    from burnish.codegen.native import lowerings

    monkeypatch.delitem(lowerings.KERNELS, torch.ops.burnish.fused_linear.default)
    with pytest.raises(InvalidProgramError, match="nothing wrote"):
        compiled(model)


def test_the_report_shows_what_the_kernels_of_each_node_are_given(saved: Path) -> None:
    opened = Artifact.open(saved)
    found = kernels_of(opened)
    names = {node.name for node in opened.trace().passes[-1].nodes if node.launches}
    assert found
    assert found.keys() <= names
    function, given = next(pair for pairs in found.values() for pair in pairs if pair[0] == "fused_linear")
    assert function == "fused_linear"
    assert "x: *float32" in given
    assert "size_k = " in given
