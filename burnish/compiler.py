"""`compile`: a model in, an artifact out."""

from __future__ import annotations

import logging
import math
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch

from burnish.calibration_text import Text, calibration_for
from burnish.codegen.onnx import lower
from burnish.frontend import read
from burnish.ir.errors import MixedRowsError, NotCausalError, UnsupportedError, UsageError
from burnish.ir.program import Program, Stage
from burnish.ir.trace import Check, PassRecord, Trace, Verification
from burnish.ir.weights import Cast, Stored
from burnish.loader import interpreted
from burnish.passes.base import Effect, Pass
from burnish.passes.compilation_checks import CompilationChecks
from burnish.passes.pipeline import Failure, Observer, run_passes
from burnish.passes.pipelines import default_passes
from burnish.passes.run import Run, is_transform
from burnish.passes.shrink import shrink
from burnish.passes.transforms.quantize import Quantize
from burnish.passes.transforms.quantize_readers import is_tied
from burnish.passes.transforms.transform import Transform, check_order
from burnish.passes.verify import Verifier
from burnish.runtime.artifact import Contents, write
from burnish.runtime.executor_cuda import this_architecture
from burnish.runtime.kernel_files import GpuCode, architecture_for
from burnish.runtime.model import Backend, CompiledModel, hold_temporary, load_temporary
from burnish.runtime.weights_file import plan_weights

if TYPE_CHECKING:
    from burnish.codegen.triton.tile_file import Winner  # imports triton, which CPUs do without

_log = logging.getLogger(__name__)

Verify = bool | Literal["shrunk", "full"]
Progress = Callable[[str], None]
BITS = {"int8": 8, "int4": 4}


def compile(  # the field's word for it; shadows the builtin only where it is imported by name
    model: Any,
    *,
    max_length: int | None = None,
    target: str = "cpu",
    backend: Backend | None = None,
    dtype: torch.dtype | None = None,
    quantize: Literal["int8", "int4"] | None = None,
    transforms: Sequence[Transform] = (),
    passes: Sequence[Pass] | None = None,
    calibration: Text | None = None,
    tokenizer: Any = None,
    tiles: Path | str | None = None,
    verify: Verify = True,
    progress: Progress | None = None,
    observer: Observer | None = None,
) -> CompiledModel:
    """Compile a causal language model for incremental execution.

    Args:
        model: a transformers `PreTrainedModel`; a folder with `config.json` and safetensors; a `.gguf` file; an
            `nn.Module` or `ExportedProgram` that maps token ids int64[batch, sequence] to logits.
        max_length: the most tokens of prompt and answer together; the model's own limit if None.
        target: "cpu"; "cuda" for this machine's NVIDIA GPU; or "cuda:sm_90" (or several, "cuda:sm_80,sm_90"), which
            needs no GPU: the model that it gives can be saved, and runs on such a machine.
        backend: who executes it: "onnxruntime" (for the CPU) or "cuda" if None. "reference" runs the graph node by node
            in PyTorch, "triton-interpret" the kernels for GPUs by Triton's interpreter, slowly and on any machine.
        dtype: what GPUs compute in: float32, bfloat16 or float16; if None, what the model's weights are in, and
            bfloat16 for quantized ones. CPUs compute in float32.
        quantize: weights of products in 8 or 4 bits: the transform `Quantize(quantize)`, behind all others but those of
            caches. For GPUs in groups of 32 without zero points, which is what kernels read.
        transforms: what changes the model, in order: `DropLayers`, `ConvertToGQA`, `Sparsify`, `Quantize`,
            `QuantizeCache`. What each costs is in `trace.quality`, if there is `calibration`.
        passes: all passes, in order, in place of `default_passes(target, dtype=..., transforms=...)`: what `dtype`,
            `quantize` and `transforms` stand for is then in them.
        calibration: text for the transforms: a file's path, a list of texts, or token ids. An eighth of it is held
            out, to say what they cost.
        tokenizer: a transformers tokenizer to put into the artifact, where `model` does not bring one.
        tiles: for GPUs, a file that `burnish tune` wrote on such a one. For several architectures, what it has for all.
        verify: compare what will run with the model, on random tokens and in the ways that it will be used: whole,
            token by token, in pieces, after going back, rows of unequal lengths, some logits and not all, across the
            boundaries that the program shows. `trace.checks` says what was compared and what was not. "full" compares
            each pass's before and after, too; "shrunk" does so on a program that has two layers of each run of equal
            ones, which takes seconds. A check that fails leaves a folder that shows it again
            (`burnish reproduce`).
        progress: called with the name of each phase as it begins.
        observer: called with the record of each pass and the program after it, beginning with the program as captured.

    Raises:
        BurnishError: the subclass says what stood in the way; NotCausalError, for one, names the line of the model
            that lets a token see later ones.
    """
    chosen, architectures = _chosen(target, backend)
    on_gpu = chosen in ("cuda", "triton-interpret")
    _check_numbers(dtype, quantize, on_gpu)
    if tiles is not None and not architectures:
        raise UsageError(f"{tiles} has tiles for GPUs: give target='cuda', or leave tiles out")
    winners = {} if tiles is None else _winners(tiles, architectures)
    if passes is not None and (transforms or quantize or dtype):
        raise UsageError("give passes=, or dtype=, quantize= and transforms=: these are passes among the others")
    if calibration is not None and not (transforms or quantize or any(map(is_transform, passes or ()))):
        raise UsageError("there is calibration text, and no transform that takes it: give transforms, too")
    trace = Trace()
    phases = _Phases(trace, progress)
    with phases("capture"):
        source = read(model, max_length=max_length, tokenizer=tokenizer)
    if quantize is not None:
        numbers = quantization(source.program, quantize, on_gpu)
        place = sum(each.place <= numbers.place for each in transforms)
        transforms = [*transforms[:place], numbers, *transforms[place:]]
    check_order(transforms)

    def observe(record: PassRecord, program: Program) -> None:
        if progress is not None:
            progress(f"pass {record.name}")
        if observer is not None:
            observer(record, program)

    if passes is None:
        computed_in = dtype or _computed_in(source.program, transforms)
        passes = default_passes("cuda" if on_gpu else "cpu", dtype=computed_in, transforms=transforms)
    verifications: dict[int, Verification] = {}
    if verify == "shrunk":
        with phases("verify"):
            verifications, left = _verify_shrunk(source.program, passes)
            trace.checks += left
    text = None if calibration is None else calibration_for(source, calibration)
    run = Run(source.program, trace, observe, _leave_reproducer, verify == "full", text)
    for transforming, group in groupby(passes, key=is_transform):
        part = list(group)
        with phases("transform" if transforming else "passes"):
            if transforming:
                run.transforms([each for each in part if is_transform(each)])
            else:
                run.passes(part)
    step = run.program
    if step.stage is not Stage.INCREMENTAL:
        raise UsageError("these passes leave the model without states: insert-states has to be among them")
    with phases("lower"):
        trace.passes = [
            replace(record, verification=record.verification or verifications.get(record.number - 1))
            for record in trace.passes
        ]
        layout = plan_weights(step.weights)
        onnx_model = lower(step, layout) if chosen == "onnxruntime" else None
        gpu = _lower_for_gpu(step, architectures, winners, trace) if on_gpu else None
        unavailable = _unavailable(architectures) if chosen == "cuda" else None
        checks = None
        if verify:
            checks = CompilationChecks(run.reference, run.exact, step, chosen, unavailable)
            trace.checks += checks.planned()
    with phases("write"):
        folder = Path(tempfile.mkdtemp(prefix="burnish-")) / f"{source.name}.burnish"
        contents = Contents(
            program=step,
            layout=layout,
            model=onnx_model,
            gpu=gpu,
            target="triton" if gpu is not None else "reference" if onnx_model is None else "onnxruntime",
            name=source.name,
            generation=source.generation,
            tokenizer=source.tokenizer,
            trace=trace,
            pipeline=tuple(record.name for record in trace.passes[1:]),
        )
        write(folder, contents)
    with phases("load"):
        if unavailable is not None:
            compiled = hold_temporary(folder, unavailable)
        else:
            compiled = load_temporary(folder, chosen, {"triton-interpret": interpreted})
    if checks is not None:
        with phases("verify"):
            try:
                checks.make(compiled.executor)
            except BaseException:
                compiled.close()
                raise
    compiled.trace = trace  # which knows the times, that the artifact's does not
    return compiled


def _chosen(target: str, backend: Backend | None) -> tuple[Backend, tuple[int, ...]]:
    """Who executes, and the architectures to compile kernels for. Raises UsageError where these do not fit."""
    if target == "cpu":
        if backend == "cuda":
            raise UsageError("backend='cuda' needs target='cuda', or target='cuda:sm_90' for the GPU of that name")
        if backend == "triton-interpret":
            from burnish.codegen.triton.interpreting import interpret

            interpret()
        return backend or "onnxruntime", ()
    from burnish.codegen.triton.targets import architectures_of  # imports triton, which CPUs do without

    if backend not in (None, "cuda"):
        raise UsageError(f"target={target!r} is executed by the backend cuda, not by {backend}: leave one of them out")
    return "cuda", architectures_of(target)


def _check_numbers(dtype: torch.dtype | None, quantize: str | None, on_gpu: bool) -> None:
    if quantize is not None and quantize not in BITS:
        raise UsageError(f"there is no quantization {quantize!r}: there are {' and '.join(BITS)}")
    if dtype not in (None, torch.float32, torch.bfloat16, torch.float16):
        raise UsageError(f"there is no computing in {dtype}: there are float32, bfloat16 and float16")
    if not on_gpu and dtype not in (None, torch.float32):
        raise UsageError(f"CPUs compute in float32: leave dtype={dtype} out, or give target='cuda'")


def quantization(program: Program, numbers: Literal["int8", "int4"], on_gpu: bool) -> Quantize:
    """The transform that `quantize=` stands for: what the target's products read."""
    if not on_gpu:
        return Quantize(numbers)
    # A table of embeddings that gives the logits, too, would be stored twice: as integers, and as floats to look up.
    return Quantize(numbers, group=32, symmetric=numbers == "int4", head="float" if is_tied(program) else None)


def _computed_in(program: Program, transforms: Sequence[Transform]) -> torch.dtype:
    """What GPUs compute in where nobody says: what the weights are in, and bfloat16 where they become integers."""
    return torch.bfloat16 if any(isinstance(each, Quantize) for each in transforms) else dtype_of(program)


def dtype_of(program: Program) -> torch.dtype:
    """What most of the model's weights are in, by bytes, before they were widened; bfloat16 for quantized ones."""
    total: dict[torch.dtype, int] = {}
    for weight in program.weights.values():
        if weight.dtype.is_floating_point:
            source = weight.source if isinstance(weight, Cast) else weight
            dtype = source.dtype if isinstance(source, Stored) else torch.bfloat16
            total[dtype] = total.get(dtype, 0) + math.prod(weight.shape)
    return max(total, key=total.__getitem__, default=torch.float32)


def _winners(tiles: Path | str, architectures: tuple[int, ...]) -> dict[str, Winner | None]:
    from burnish.codegen.triton.tile_file import winners_for

    return winners_for(tiles, architectures)


def _lower_for_gpu(
    step: Program, architectures: tuple[int, ...], winners: Mapping[str, Winner | None], trace: Trace
) -> GpuCode:
    """The launch plan and its kernels; what has no kernel, and which winners were used, is told in the trace."""
    from burnish.codegen.triton.lower import lower as lower_to_triton
    from burnish.codegen.triton.lower import target_of
    from burnish.codegen.triton.planner import fallbacks
    from burnish.codegen.triton.tile_file import VERSION, TileFile, encoded

    target = target_of(architectures, winners)
    code = lower_to_triton(step, target)
    told = [f"{node} runs by PyTorch: {reason}" for node, reason in fallbacks(code.plan).items()]
    if winners:
        known = {key: each for key, each in winners.items() if each is not None}
        used = {key: known[key] for key in target.used}
        told.append(f"burnish tune has {len(known)} winners for these GPUs, {len(used)} of them for this model")
        told += [f"not tuned: {key}: {reason}" for key, reason in target.skipped.items()]
        told += [f"tuned: {key}: {each.tiles}" for key, each in used.items()]
        code = replace(code, tiles=encoded(TileFile(VERSION, {f"sm_{each}": used for each in architectures})))
    trace.passes[-1] = replace(trace.passes[-1], notes=(*trace.passes[-1].notes, *told))
    for line in told:
        _log.info("%s", line)
    return code


def _unavailable(architectures: tuple[int, ...]) -> str | None:
    """Why kernels for these cannot run here; None if they can."""
    try:
        here = this_architecture()
    except UsageError as reason:
        return f"the model was compiled for {_names(architectures)}, and {reason}"
    if architecture_for(here, list(architectures)) is None:
        return f"the model was compiled for {_names(architectures)}, and this GPU is an sm_{here}"
    return None


def _names(architectures: tuple[int, ...]) -> str:
    return ", ".join(f"sm_{each}" for each in architectures)


def _leave_reproducer(failure: Failure) -> None:
    from burnish.inspect.reproducer import leave_reproducer  # what almost no compilation needs

    leave_reproducer(failure)


def _verify_shrunk(program: Program, passes: Sequence[Pass]) -> tuple[dict[int, Verification], list[Check]]:
    """The numeric check of each pass, by its place, on a shrunk program; and what was left out, and why.

    Transforms, which are made for the whole model, do not run.
    """
    small, trace = shrink(program), Trace()
    places = [place for place, each in enumerate(passes) if not is_transform(each)]
    left = [
        Check(f"the pass {each.name} by its before and after: it changes the numbers by design", "")
        for each in passes
        if each.effect is Effect.LOSSY
    ]
    try:
        chosen = [passes[place] for place in places]
        run_passes(small, chosen, trace, verifier=Verifier(small), on_failure=_leave_reproducer)
    except (NotCausalError, MixedRowsError, UnsupportedError) as refusal:  # of what the whole model may not have
        rest = ", ".join(passes[place].name for place in places[len(trace.passes) - 1 :])
        left.append(Check(f"the passes {rest} by before and after: the shrunk model is refused: {refusal}", ""))
        _log.warning("the shrunk model is refused, so that its passes were not all verified: %s", refusal)
    checked = zip(places, [record.verification for record in trace.passes[1:]], strict=False)
    return {place: found for place, found in checked if found is not None}, left


class _Phases:
    """Times the phases of a compilation into its trace."""

    def __init__(self, trace: Trace, progress: Progress | None) -> None:
        self.trace = trace
        self.progress = progress
        self.name = ""
        self.started = 0.0

    def __call__(self, name: str) -> _Phases:
        self.name = name
        if self.progress is not None:
            self.progress(name)
        return self

    def __enter__(self) -> None:
        self.started = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        self.trace.phases[self.name] = self.trace.phases.get(self.name, 0.0) + time.perf_counter() - self.started
