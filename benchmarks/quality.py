"""What the transforms cost SmolLM2-135M on text: `python benchmarks/quality.py [PART ...]`, a table and a JSON file.

Parts: cache, quantize, gqa, heal, layers; small, which is about a model of eight heads of keys and values that is
trained here; exact, SmolLM2 with copies of its heads in disguise; speed, of an artifact of each shape (how its layers,
heads or integers were chosen changes no time); memory, of compiling. Each takes 2 to 30 minutes of one core. The texts
are in examples/texts; held_out.txt is in no calibration.
"""

from __future__ import annotations

import json
import platform
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from cpu import smollm2 as gguf
from disguised import KV_HEADS, disguised
from rich.console import Console
from rich.table import Table
from small_model import trained

import burnish
from burnish import ConvertToGQA, DropLayers, Quantize, QuantizeCache
from burnish.codegen.onnx import lower
from burnish.evaluation import speeds
from burnish.frontend import read
from burnish.ir.program import Program
from burnish.ir.trace import Trace
from burnish.passes.pipeline import run_passes
from burnish.passes.pipelines import insert_states, lower_for_onnxruntime, raise_operations
from burnish.passes.transforms.calibration import Calibration, calibration_of, windows
from burnish.passes.transforms.quality import Quality, measure
from burnish.passes.transforms.quantize_readers import all_readers, head_of, weight_read
from burnish.passes.transforms.transform import cache_bytes_a_token, parameters, weight_bytes
from burnish.passes.verify import logits_of
from burnish.runtime.artifact_writer import Contents, write
from burnish.runtime.tokenization import Tokenizer
from burnish.runtime.weights_writer import plan_weights

ROOT = Path(__file__).parents[1]
TEXTS = ROOT / "examples" / "texts"
LAYERS, DROPPED, RANDOM_CHOICES = 30, 3, 20
HEAL_STEPS = 300
ALLOWED = 1.5e9  # bytes of memory beside the model's float32 weights and the largest value of a layer on all text
TOGETHER = 6  # rows that are measured at once: each holds its last layer's weights


def parts() -> dict[str, list[tuple[str, list[Any]]]]:
    """For each part its rows: a label and the transforms."""
    draw = random.Random(0)
    choices = [sorted(draw.sample(range(LAYERS), DROPPED)) for _ in range(RANDOM_CHOICES)]
    last_three = DropLayers(layers=[LAYERS - 3, LAYERS - 2, LAYERS - 1])
    merged = ConvertToGQA(1, method="mean")
    symmetric = Quantize("int4", group=32, symmetric=True, method="nearest", head="int8")
    return {
        "cache": [
            ("keys and values int8", [QuantizeCache("int8")]),
            ("keys and values fp8", [QuantizeCache("fp8")]),
        ],
        "quantize": [
            ("the file's own integers (Q4_1)", [Quantize("keep")]),
            ("int8 a row, nearest", [Quantize("int8", group="row", method="nearest")]),
            ("int8 a block, nearest", [Quantize("int8", method="nearest")]),
            ("int8 a block, GPTQ", [Quantize("int8")]),
            ("int8 group 32, nearest", [Quantize("int8", group=32, method="nearest")]),
            ("int4 group 32, found again, head int8", [Quantize("int4", group=32, method="nearest", head="int8")]),
            *(
                (f"int4 symmetric group 32, {method}, head int8", [rounding])
                for method in ("nearest", "gptq")
                for rounding in [Quantize("int4", group=32, symmetric=True, method=method, head="int8")]
            ),
        ],
        "gqa": [
            ("3 -> 1 KV heads, mean pooling", [ConvertToGQA(1, method="mean")]),
            ("3 -> 1 KV heads, aligned", [ConvertToGQA(1, method="aligned")]),
            ("3 -> 1 KV heads, refit", [ConvertToGQA(1, method="refit")]),
        ],
        "heal": [(f"3 -> 1 KV heads, refit, {HEAL_STEPS} steps", [ConvertToGQA(1, heal=HEAL_STEPS)])],
        "layers": [
            ("3 of 30 layers dropped, by divergence", [DropLayers(count=DROPPED)]),
            ("by block influence", [DropLayers(count=DROPPED, method="influence")]),
            ("by angle of a block", [DropLayers(count=DROPPED, method="block")]),
            ("the last three", [last_three]),
            *((f"at random: {choice}", [DropLayers(layers=choice)]) for choice in choices),
        ],
        "small": [
            (f"8 -> {heads} KV heads, {label}", [ConvertToGQA(heads, method=method)])
            for heads in (4, 2)
            for label, method in (("mean pooling", "mean"), ("aligned", "aligned"), ("refit", "refit"))
        ],
        "exact": [("9 -> 3 KV heads, copies in disguise", [ConvertToGQA(KV_HEADS)])],
        "speed": [
            ("3 of 30 layers dropped", [last_three]),
            ("3 -> 1 KV heads", [merged]),
            ("int8 a block", [Quantize("int8", method="nearest")]),
            ("int4 group 32, head int8", [Quantize("int4", group=32, method="nearest", head="int8")]),
            ("int4 symmetric group 32, head int8", [symmetric]),
            ("keys and values int8", [QuantizeCache("int8")]),
            ("layers, heads, int4 symmetric, head int8", [last_three, merged, symmetric]),
        ],
        "memory": [("compiling with all transforms", [])],
    }


def small_model() -> tuple[Program, Calibration, torch.Tensor]:
    """The model of eight heads, whose tokens are bytes; text to calibrate by, and held-out text."""
    file = TEXTS / "calibration.txt"
    raised = run_passes(read(trained(file)).program, raise_operations(), Trace())
    held_out = windows(list((TEXTS / "held_out.txt").read_bytes()), 512)[::8]
    return raised, calibration_of(list(file.read_bytes()), 512), held_out


def smollm2() -> tuple[Program, Calibration, torch.Tensor]:
    """SmolLM2; text to calibrate by, and held-out text."""
    source = read(gguf())
    raised = run_passes(source.program, raise_operations(), Trace())
    assert source.tokenizer is not None
    tokenizer = Tokenizer(source.tokenizer)
    text = calibration_of(tokenizer.encode((TEXTS / "calibration.txt").read_text(encoding="utf-8")), 2048)
    held_out = windows(tokenizer.encode((TEXTS / "held_out.txt").read_text(encoding="utf-8")), 512)[::4][:8]
    return raised, text, held_out


def measured(
    raised: Program, rows: Sequence[tuple[str, list[Any]]], text: Calibration, held_out: torch.Tensor
) -> Iterator[dict[str, Any]]:
    """A record for each row. Some are measured at once, so that the original beside them runs once for all of these."""
    for start in range(0, len(rows), TOGETHER):
        some = rows[start : start + TOGETHER]
        programs, seconds = [raised], []
        for _, transforms in some:
            started, program = time.perf_counter(), raised
            for each in transforms:
                program = run_passes(program, [replace(each, calibration=text)], Trace())
            programs.append(program)
            seconds.append(time.perf_counter() - started)
        original, *found = measure(programs, held_out)
        for (label, transforms), program, changed, took in zip(some, programs[1:], found, seconds, strict=True):
            yield {
                **described(label, transforms, program),
                **compared_with(original, changed),
                "seconds": took,
            }


def compared_with(original: Quality, changed: Quality) -> dict[str, Any]:
    """What a row says of a program's quality."""
    return {
        "original_perplexity": original.perplexity,
        "perplexity": changed.perplexity,
        "divergence": changed.divergence,
        "agreement": changed.agreement,
        "tokens": changed.tokens,
    }


def described(label: str, transforms: Sequence[Any], program: Program) -> dict[str, Any]:
    """What a row says of a program without running it."""
    return {
        "label": label,
        "transforms": [str(each) for each in transforms],
        "parameters": parameters(program),
        "weight_bytes": weight_bytes(program),
        "cache_bytes_a_token": cache_bytes_a_token(program),
    }


def merged_exactly(
    raised: Program, rows: Sequence[tuple[str, list[Any]]], text: Calibration, held_out: torch.Tensor
) -> Iterator[dict[str, Any]]:
    """SmolLM2 beside its disguise, merged: also, how far a window's logits are from the disguise's, of the largest."""
    ((label, transforms),) = rows
    hidden = run_passes(read(disguised(raised)).program, raise_operations(), Trace())
    found = run_passes(hidden, transforms, Trace())
    expected = logits_of(hidden, held_out[:1])
    difference = (logits_of(found, held_out[:1]) - expected).abs().max() / expected.abs().max()
    yield {
        **described(label, transforms, found),
        **compared_with(*measure([raised, found], held_out)),
        "besides": f"logits differ by {float(difference):.1e}",
    }


def speed(
    raised: Program, rows: Sequence[tuple[str, list[Any]]], text: Calibration, held_out: torch.Tensor
) -> Iterator[dict[str, Any]]:
    """Tokens a second of each row as an artifact for CPUs, in turns with the original's."""
    for label, transforms in rows:
        program = run_passes(raised, transforms, Trace())
        before, after = tokens_a_second([raised, program], held_out[0])
        yield {
            **described(label, transforms, program),
            "original_tokens_per_second": before,
            "tokens_per_second": after,
            "besides": f"{after:.1f} tokens/s, {after / before:.2f} ×",
        }


def tokens_a_second(programs: Sequence[Program], window: torch.Tensor) -> list[float]:
    """Of raised programs as artifacts for CPUs, on one processor, writing the end of window[length] in turns."""
    with tempfile.TemporaryDirectory() as folder, ExitStack() as opened:
        models = []
        for number, program in enumerate(programs):
            step = run_passes(program, [*insert_states(), *lower_for_onnxruntime()], Trace())
            layout = plan_weights(step.weights)
            file = Path(folder) / f"{number}.burnish"
            write(file, Contents("row", "onnxruntime", step, layout, lower(step, layout)))
            models.append(opened.enter_context(burnish.load(file, threads=1)))
        return speeds(models, window)


def memory(
    raised: Program, rows: Sequence[tuple[str, list[Any]]], text: Calibration, held_out: torch.Tensor
) -> Iterator[dict[str, Any]]:
    """The resident peak of a process that compiles SmolLM2 with all transforms, and what it may be."""
    ((label, _),) = rows
    script = Path(__file__).with_name("peak_memory.py")
    command = [sys.executable, str(script), str(gguf()), str(TEXTS / "calibration.txt")]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    peaks: dict[str, float] = json.loads(done.stdout)
    widest = max(weight_read(each).meta["val"].shape[1] for each in all_readers(raised) if each is not head_of(raised))
    bound = (weight_bytes(raised) + 4 * text.tokens.numel() * widest + ALLOWED) / 1e6
    yield {
        **described(label, [], raised),
        "peak_megabytes": peaks,
        "bound_megabytes": bound,
        "besides": f"peak {max(peaks.values()):,.0f} MB of {bound:,.0f} MB",
    }


OTHERS = {"exact": merged_exactly, "speed": speed, "memory": memory}


def cells_of(record: dict[str, Any]) -> list[str]:
    """A row of the table; what was not measured of it is left empty."""
    cells = [record["label"], f"{record['weight_bytes'] / 1e6:.1f}", f"{record['cache_bytes_a_token']}"]
    if "perplexity" in record:
        ratio = record["perplexity"] / record["original_perplexity"]
        cells += [f"{record['perplexity']:.3f}", f"{ratio:.4f} ×", f"{record['divergence']:.4f}"]
        cells += [f"{100 * record['agreement']:.1f}%"]
    else:
        cells += [""] * 4
    return [*cells, record["besides"] if "besides" in record else f"{record['seconds']:.0f} s"]


def main() -> None:
    """Measure the parts that the command names, or all."""
    known = parts()
    wanted = sys.argv[1:] or list(known)
    if not set(wanted) <= known.keys():
        sys.exit(f"parts are {', '.join(known)}")
    large = smollm2() if set(wanted) != {"small"} else None
    now = datetime.now(UTC)
    file = ROOT / "benchmarks" / "results" / f"quality-{now:%Y-%m-%d}-{'-'.join(sys.argv[1:]) or 'all'}.json"
    versions = {"python": platform.python_version(), "torch": torch.__version__}
    table = Table(
        "model",
        *("MB", "cache B/token", "perplexity", "of original", "KL", "same top token", "besides"),
    )
    found: list[dict[str, Any]] = []
    for part in wanted:
        raised, text, held_out = small_model() if part == "small" or large is None else large
        for record in OTHERS.get(part, measured)(raised, known[part], text, held_out):
            found.append(record)
            cells = cells_of(record)
            table.add_row(*cells)
            print(" | ".join(cells), flush=True)
            # At once: what was measured in an hour is not lost by what comes after it.
            file.write_text(
                json.dumps({"date": f"{now:%Y-%m-%d}", "versions": versions, "rows": found}, indent=1) + "\n"
            )
    Console(width=140).print(table)
    originals = [(each["original_perplexity"], each["tokens"]) for each in found if "tokens" in each]
    for perplexity, tokens in dict.fromkeys(originals):
        print(f"original: perplexity {perplexity:.3f} on {tokens} tokens")
    print(f"wrote {file.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
