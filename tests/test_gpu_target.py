"""Compiling for GPUs on a machine that has none."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec
import pytest
import torch
from typer.testing import CliRunner

import burnish
from burnish.cli.commands import app
from burnish.codegen.triton.compile import compile_kernel
from burnish.codegen.triton.kernels.rms_norm import rms_norm_spec
from burnish.inspect.kernels import kernels_of
from burnish.ir.errors import ArtifactError, UsageError
from burnish.runtime.artifact import Artifact
from burnish.runtime.executor_cuda import CudaExecutor
from burnish.runtime.kernel_files import architecture_for, architectures, read_kernels, read_plan
from tests.runtime.tiny import save_tiny
from tests.zoo.configs import build

without_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="says what happens where there is no GPU")


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("gpu") / "llama.burnish"
    with burnish.compile(build("llama"), target="cuda:sm_90,sm_80") as compiled:
        compiled.save(path)
    return path


def test_it_holds_the_plan_and_the_kernels(artifact: Path) -> None:
    found = Artifact.open(artifact)
    found.verify()
    plan = read_plan(found)
    assert architectures(found) == [80, 90]
    for architecture in (80, 90):
        kernels = read_kernels(found, architecture)
        assert kernels.keys() == plan.kernels.keys()
        for key, (kernel, cubin) in kernels.items():
            assert key.startswith(kernel.symbol)
            assert cubin.startswith(b"\x7fELF")
            assert kernel.scratch_bytes == 0
    sources = {file.stem for file in (artifact / "kernels" / "source").iterdir()}
    assert {kernel.module.rpartition(".")[2] for kernel in plan.kernels.values()} == sources


def test_equal_layers_share_their_kernels(artifact: Path) -> None:
    plan = read_plan(Artifact.open(artifact))
    decode = plan.variant({"batch": 1, "sequence": 1, "kept": 1, "capacity": 64})
    launches = [step.kernel for step in decode.steps if hasattr(step, "kernel")]
    layers = [key for key in set(launches) if launches.count(key) >= 2]
    assert len(layers) >= 4  # attention, its projections, two products of the feed-forward part


def test_the_reference_runs_it_anywhere(artifact: Path) -> None:
    model = build("llama")
    ids = torch.tensor([[5, 7, 9]])
    with burnish.load(artifact, backend="reference") as loaded:
        torch.testing.assert_close(loaded(ids), model(ids).logits, rtol=1e-4, atol=1e-4)


@without_gpu
def test_the_compiled_model_says_that_it_runs_elsewhere() -> None:
    with burnish.compile(build("llama"), target="cuda:sm_90") as compiled:
        assert compiled.backend == "cuda"
        with pytest.raises(UsageError, match=r"compiled for sm_90, and .*backend=\"reference\""):
            compiled(torch.tensor([[1]]))


@without_gpu
def test_loading_it_for_a_gpu_says_that_there_is_none(artifact: Path) -> None:
    with pytest.raises(UsageError, match=r"backend=\"reference\""):
        burnish.load(artifact)
    with pytest.raises(UsageError, match="cannot run by onnxruntime: load it with"):
        burnish.load(artifact, backend="onnxruntime")


@without_gpu
def test_target_cuda_needs_a_gpu() -> None:
    with pytest.raises(UsageError, match=r"For another one name it, target=.cuda:sm_90."):
        burnish.compile(build("llama"), target="cuda")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"target": "cuda:sm_70"}, "no architecture 'sm_70' to compile for; known are sm_80"),
        ({"target": "cuda:90"}, "no architecture '90'"),
        ({"target": "rocm"}, "no target 'rocm': there are cpu, cpu:x86-64-v4 "),
        ({"target": "cuda:sm_90", "backend": "onnxruntime"}, "leave one of them out"),
        ({"backend": "cuda"}, "needs target='cuda'"),
    ],
)
def test_targets_that_are_none(options: dict[str, str], message: str) -> None:
    with pytest.raises(UsageError, match=re.escape(message)):
        burnish.compile(build("llama"), **options)  # type: ignore[arg-type]


def test_an_artifact_for_another_gpu_says_which(artifact: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("burnish.runtime.executor_cuda.this_architecture", lambda: 120)
    found = Artifact.open(artifact)
    with pytest.raises(UsageError, match=r"kernels for sm_80, sm_90, and this GPU is an sm_120: .*cuda:sm_120"):
        CudaExecutor(read_plan(found), {each: read_kernels(found, each) for each in architectures(found)}, {})


def test_machine_code_runs_on_later_devices_of_its_generation_up_to_sm_89() -> None:
    assert architecture_for(89, [80, 90]) == 80
    assert architecture_for(89, [80, 86]) == 86
    assert architecture_for(80, [86]) is None
    assert architecture_for(90, [80, 90]) == 90
    assert architecture_for(120, [100]) is None
    assert architecture_for(100, [90]) is None


def test_kernels_take_their_arguments_and_two_of_triton() -> None:
    """What the launch passes: with another number, every argument behind would be another."""
    spec = rms_norm_spec(torch.float16, torch.float16, 64)
    ptx = compile_kernel(spec, 90).ptx
    assert len(re.findall(r"\.param ", ptx.split(".reqntid")[0])) == len(spec.arguments) + 2


def test_a_plan_that_was_changed_is_refused(artifact: Path, tmp_path: Path) -> None:
    Artifact.open(artifact).copy(tmp_path / "a.burnish")
    file = tmp_path / "a.burnish" / "plan.json"
    data = msgspec.json.decode(file.read_bytes())
    text = msgspec.json.encode(data).replace(b'"batch"', b'"batcj"')
    file.unlink()
    file.write_bytes(text)
    with pytest.raises(ArtifactError, match=r"plan\.json"):
        burnish.load(tmp_path / "a.burnish", backend="reference")


def test_the_command_line_compiles_for_gpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tiny_llama.py").write_text(
        "from tests.zoo.configs import build\ndef make():\n    return build('llama')\n"
    )
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, ["compile", "tiny_llama:make", "-o", "a.burnish", "--target", "cuda:sm_90"])
    assert done.exit_code == 0, done.stderr
    assert "fuse-linears" in done.stderr
    assert (tmp_path / "a.burnish" / "kernels" / "sm_90.json").exists()
    wrong = CliRunner().invoke(app, ["compile", "tiny_llama:make", "-o", "b.burnish", "--target", "cuda:sm_1"])
    assert wrong.exit_code != 0
    assert "known are sm_80" in wrong.stderr


def test_to_a_device_that_it_was_not_compiled_for(artifact: Path) -> None:
    with burnish.load(artifact, backend="reference") as loaded:
        assert loaded.to("cpu") is loaded
        with pytest.raises(UsageError, match="no device 'tpu'"):
            loaded.to("tpu")
        if not torch.cuda.is_available():
            with pytest.raises(UsageError, match="run on a machine with one"):
                loaded.to("cuda")
    with burnish.compile(build("llama")) as compiled, pytest.raises(UsageError, match="target='cuda'"):
        compiled.to("cuda")


def test_the_report_shows_the_kernels_of_each_node(artifact: Path) -> None:
    opened = Artifact.open(artifact)
    found = kernels_of(opened)
    names = {node.name for node in opened.trace().passes[-1].nodes if node.launches}
    assert names - {"index_select_default"} <= found.keys()
    projection = found["attention_projection_default"]
    assert {function for function, _ in projection} == {"attention_projection_kernel"}
    assert "def attention_projection_kernel(" in projection[0][1]
    attention = next(kernels for node, kernels in found.items() if node.startswith("attention_default"))
    assert {function for function, _ in attention} == {"decode_attention_kernel", "flash_attention_kernel"}


def test_an_artifact_for_cpus_has_no_kernels(tmp_path: Path) -> None:
    assert kernels_of(Artifact.open(save_tiny(tmp_path)[0])) == {}
