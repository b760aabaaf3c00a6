"""SmolLM2-135M-Instruct in 4 and 8 bits on this CPU: burnish, by ONNX Runtime and by its own kernels ("native"), beside
onnxruntime-genai's int4, llama.cpp and OpenVINO.

    .venv/bin/python benchmarks/low_bits.py

Compiles each variant, and has all take turns in one run; results are added to benchmarks/results/cpu-low-bits.jsonl.
llama.cpp is compiled first, for which a C++ compiler has to be there; the names of contenders choose some of them.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any, Literal

import torch
from cpu import smollm2
from rich.console import Console
from rich.table import Table

import burnish
from burnish import Quantize, QuantizeCache
from burnish.benchmark.bandwidth import native_bandwidth
from burnish.benchmark.machine import device
from burnish.benchmark.peers import prepare
from burnish.benchmark.runner import Entrant, Settings, append, measure, record
from burnish.runtime.artifact import Artifact

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "cpu-low-bits.jsonl"
TEXT = ROOT / "examples" / "texts" / "calibration.txt"
INT4 = Quantize("int4", group=32, method="nearest", symmetric=True)  # what onnxruntime-genai and q4_0 do
INT8 = Quantize("int8", method="nearest")
VARIANTS: dict[str, tuple[Literal["onnxruntime", "native"], list[Any]]] = {
    "native int4": ("native", [INT4]),
    "native Q4_1 as it came": ("native", [Quantize("keep")]),
    "native int8": ("native", [INT8]),
    "native float32": ("native", []),  # in place of the file's integers
    "burnish int4": ("onnxruntime", [INT4]),
    "burnish int4, cache int8": ("onnxruntime", [INT4, QuantizeCache("int8")]),
    "burnish Q4_1 as it came": ("onnxruntime", [Quantize("keep")]),
    "burnish int8": ("onnxruntime", [INT8]),
    "burnish float32": ("onnxruntime", []),
}
PEERS = ("ort-genai-int4", "llama.cpp-q4_0", "llama.cpp-q8_0", "openvino-int4", "openvino-int8")


def say(what: str) -> None:
    """What goes on, on standard error."""
    print(what, file=sys.stderr, flush=True)


def main() -> None:
    """Measure the contenders that the command names, or all."""
    wanted = sys.argv[1:] or [*VARIANTS, *PEERS]
    if not set(wanted) <= {*VARIANTS, *PEERS} or wanted[0] not in VARIANTS:
        sys.exit(f"contenders are {', '.join([*VARIANTS, *PEERS])}; one of burnish's comes first")
    model = smollm2()
    with tempfile.TemporaryDirectory() as folder:
        entrants = []
        for name in wanted:
            say(f"preparing {name}")
            if name in VARIANTS:
                artifact = Path(folder) / name
                backend, transforms = VARIANTS[name]
                caches = any(isinstance(each, QuantizeCache) for each in transforms)
                compiled = burnish.compile(
                    model,
                    backend=backend,
                    dtype=torch.float32 if name == "native float32" else None,
                    transforms=transforms,
                    calibration=TEXT if caches else None,
                    verify=False,
                )
                compiled.save(artifact)
                entrants.append(Entrant(name, Path(sys.executable), artifact, kind="burnish"))
            else:
                entrants.append(prepare(name, model, say))
        settings = Settings(vocabulary=Artifact.open(entrants[0].model).signature.token_limit)
        results = measure(entrants, settings, lambda what, done, of: say(f"{what} ({done} of {of})"))
        bandwidths = [native_bandwidth(each.model, settings) if each.name in VARIANTS else None for each in entrants]
    table = Table("", "decode, tokens/s", "prefill, tokens/s", "of the read bandwidth", "kept", "dropped")
    for result, bandwidth in zip(results, bandwidths, strict=True):
        speeds = (result.decode_tokens_per_second, result.prefill_tokens_per_second)
        table.add_row(
            result.name if result.reliable else f"{result.name} (disturbed)",
            *(f"{speed:.1f}" for speed in speeds),
            f"{bandwidth.share(result):.0%}" if bandwidth is not None else "",
            str(len(result.kept)),
            str(result.dropped),
        )
    Console(width=120).print(table)
    print(
        f"{settings.prompt_length} tokens read, {settings.new_tokens} written, {settings.threads} threads; {device()}"
    )
    for line in [line for bandwidth in bandwidths if bandwidth is not None for line in bandwidth.lines()]:
        print(line)
    append(RESULTS, [record(result, results[0], model.stem) for result in results])


if __name__ == "__main__":
    main()
