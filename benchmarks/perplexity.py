"""Perplexity by native kernels, for each format of weights and caches: beside the same numbers in PyTorch's arithmetic.

    .venv/bin/python benchmarks/perplexity.py [MODEL.gguf ...]

Of SmolLM2-135M-Instruct a variant for each format that it can be stored in, or each file that is named, as it is. An
artifact runs in three ways: node by node by PyTorch, in floats, over what its panels stand for; natively, "exact"; and
natively, "fast", which rounds activations to 8 bits, or bfloat16 where weights are that. The text is
examples/texts/held_out.txt, 8 windows of 512 tokens. Adds its lines to benchmarks/results/perplexity.jsonl, and exits
with 1 where "exact" is more than 0.1% away from PyTorch.
"""

from __future__ import annotations

import gc
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, ClassVar

import torch
from cpu import INT4, INT8, smollm2
from gguf import GGMLQuantizationType, quantize
from torch import Tensor

import burnish
from burnish import Quantize, QuantizeCache
from burnish.benchmark.machine import device
from burnish.benchmark.runner import append
from burnish.calibration_text import text_ids
from burnish.frontend.dequantize import weight_of
from burnish.frontend.gguf_file import Tensor as GGUFTensor
from burnish.ir.program import Program
from burnish.ir.quantization import kept
from burnish.passes.base import Effect, Log, Pass
from burnish.passes.transforms.calibration import windows
from burnish.passes.transforms.quality import Quality, compared, summed

TEXT = Path(__file__).parents[1] / "examples" / "texts" / "held_out.txt"
LENGTH, WINDOWS = 512, 8
ALLOWED = 1e-3
WAYS = ("PyTorch", "exact", "fast")
FILES_OWN = "the file's own"
RESULTS = Path(__file__).parent / "results" / "perplexity.jsonl"


@dataclass(frozen=True)
class Variant:
    """How SmolLM2 is stored: its weights, and what attention remembers."""

    dtype: torch.dtype | None = None
    transforms: tuple[Any, ...] = ()
    rounded: str = ""  # one of GGML's types, for the weights that the file has integers for


VARIANTS = {
    "float32": Variant(torch.float32),
    "bfloat16, and caches": Variant(torch.bfloat16),
    "float16, and caches": Variant(torch.float16),
    "fp8": Variant(transforms=(Quantize("fp8"),)),
    "int8, a scale a row": Variant(transforms=(INT8,)),
    "int4, groups of 32": Variant(transforms=(INT4,)),
    "int4, groups of 32, zero points": Variant(transforms=(Quantize("int4", group=32, method="nearest"),)),
    FILES_OWN: Variant(),
    **{kind: Variant(rounded=kind) for kind in ("Q8_0", "Q5_0", "Q5_1", "Q4_0")},
    "int4, bfloat16 caches": Variant(torch.bfloat16, (INT4,)),
    "int4, float16 caches": Variant(torch.float16, (INT4,)),
    "int4, int8 caches": Variant(transforms=(INT4, QuantizeCache("int8"))),
    "int4, fp8 caches": Variant(transforms=(INT4, QuantizeCache("fp8"))),
}


@dataclass(frozen=True)
class RoundTo:
    """The weights that a file has integers for, in another of GGML's types."""

    kind: str
    name: ClassVar[str] = "round-to"
    effect: ClassVar[Effect] = Effect.LOSSY
    atomic: ClassVar[bool] = False

    def run(self, program: Program, log: Log) -> Program:
        """Replace each of them, in place."""
        kind = GGMLQuantizationType[self.kind]
        for leaf in [node for node in program.graph.nodes if node.op == "get_attr"]:
            name = program.weight_of(leaf)
            weight = program.weights[name]
            if kept(weight) is None:
                continue
            blocks = quantize(weight.materialize().numpy(), kind)
            rounded = weight_of(GGUFTensor(name, kind, weight.shape, blocks))
            program.weights = program.weights.replaced(name, rounded)
            log.rewrite(leaf, f"in {self.kind}")
        return program


def compile_variant(model: Path, variant: Variant, folder: Path) -> Path:
    """The artifact of `model` in that way."""

    def passes(usual: list[Pass]) -> Sequence[Pass]:
        return [RoundTo(variant.rounded), *usual] if variant.rounded else usual

    options: dict[str, Any] = {"dtype": variant.dtype, "transforms": variant.transforms, "passes": passes}
    with burnish.compile(model, backend="native", verify=False, **options) as compiled:
        compiled.save(folder)
    return folder


def qualities(artifact: Path, tokens: Tensor | None = None) -> dict[str, Quality]:
    """An artifact on tokens[windows, length], None for those of the text, in each of the `WAYS`."""
    models = [
        burnish.load(artifact, backend="reference"),
        burnish.load(artifact, accuracy="exact"),
        burnish.load(artifact, accuracy="fast"),
    ]
    if tokens is None:
        ids, first = text_ids(TEXT, models[0].tokenizer)
        tokens = windows(ids, LENGTH, first)[:WINDOWS]
    sums = torch.zeros(len(models), 3, dtype=torch.float64)
    for window in tokens:
        sums += torch.stack(compared([model(window[None])[0, :-1] for model in models], window[1:]))
    for model in models:
        model.close()
    return dict(zip(WAYS, summed(sums, tokens[:, 1:].numel()), strict=True))


def main() -> None:
    """Print a table of all formats."""
    chosen = [(Path(each), FILES_OWN) for each in sys.argv[1:]]
    chosen = chosen or [(smollm2(), name) for name in VARIANTS]
    date = datetime.now(UTC).isoformat(timespec="seconds")
    print("| model | weights | PyTorch | exact | fast | fast: the same likeliest token |\n|---|---|---|---|---|---|")
    wrong = []
    for model, name in chosen:
        with tempfile.TemporaryDirectory() as folder:
            found = qualities(compile_variant(model, VARIANTS[name], Path(folder) / "model.burnish"))
        gc.collect()
        base = found["PyTorch"].perplexity
        changes = {way: found[way].perplexity / base - 1 for way in WAYS[1:]}
        shown = " | ".join(f"{change:+.4%}" for change in changes.values())
        print(f"| {model.stem} | {name} | {base:.4f} | {shown} | {found['fast'].agreement:.1%} |", flush=True)
        ways = {way: {"perplexity": each.perplexity, "agreement": each.agreement} for way, each in found.items()}
        about = {"date": date, "device": device(), "model": model.stem, "weights": name, "tokens": found["fast"].tokens}
        append(RESULTS, [{**about, "by": ways}])
        if abs(changes["exact"]) > ALLOWED:
            wrong.append(f"{model.stem} in {name}")
    if wrong:
        sys.exit(f"further from PyTorch than {ALLOWED:.1%}: {', '.join(wrong)}")


if __name__ == "__main__":
    main()
