"""`compile`: a model in, an artifact out."""

from __future__ import annotations

import logging
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch

from burnish.calibration_text import Text, calibration_for
from burnish.frontend import is_graph, is_onnx, read, why_graph
from burnish.graph_compiler import compile_graph
from burnish.ir.errors import MixedRowsError, NotCausalError, UnsupportedError, UsageError
from burnish.ir.program import Program
from burnish.ir.trace import Check, PassRecord, Trace
from burnish.loader import interpreted
from burnish.passes.base import Effect, Pass
from burnish.passes.compilation_checks import CompilationChecks
from burnish.passes.pipeline import Failure, Observer, run_passes
from burnish.passes.run import Run, is_transform
from burnish.passes.shrink import shrink
from burnish.passes.transforms.convert_to_gqa import ConvertToGQA
from burnish.passes.transforms.transform import Transform, check_order
from burnish.passes.verify import Verifier
from burnish.preflight import check_heads, check_text_file
from burnish.runtime.artifact_writer import Contents, write
from burnish.runtime.backends import Backend
from burnish.runtime.model import hold_temporary, load_temporary
from burnish.runtime.weights_writer import plan_weights
from burnish.targets.base import claim_lowered
from burnish.targets.choose import choose

if TYPE_CHECKING:
    from burnish.frontend.rotary_scaling import Context

_log = logging.getLogger(__name__)

Verify = bool | Literal["shrunk", "full"]
Progress = Callable[[str], None]


def compile(  # the field's word for it; shadows the builtin only where it is imported by name
    model: Any,
    example_inputs: Any = None,
    *,
    max_length: int | None = None,
    target: str = "cpu",
    backend: Backend | None = None,
    dtype: torch.dtype | None = None,
    quantize: Literal["int8", "int4", "fp8"] | None = None,
    transforms: Sequence[Transform] = (),
    passes: Sequence[Pass] | Callable[[list[Pass]], Sequence[Pass]] | None = None,
    calibration: Text | None = None,
    tokenizer: Any = None,
    context: Context | None = None,
    tiles: Path | str | None = None,
    trust_remote_code: bool = False,
    verify: Verify = True,
    progress: Progress | None = None,
    observer: Observer | None = None,
    dynamic_shapes: Any = None,
) -> Any:
    """Compile a causal language model for incremental execution, or any other module as it is.

    With `example_inputs` a module is any function of tensors, and a `burnish.CompiledModule` is given; without, it is a
    language model, and a `burnish.CompiledModel` is given.

    Args:
        model: a transformers `PreTrainedModel`; a folder with `config.json` and safetensors;
            "org/name" or "org/name@revision" in the local Hugging Face cache; a `.gguf` file; an
            `nn.Module` or `ExportedProgram` that maps token ids int64[batch, sequence] to logits.
        example_inputs: for a module that is no language model: what it is called with, a tuple of arguments or a dict
            of them by name. Their sizes are those that it is compiled for, but for those in `dynamic_shapes`.
        max_length: the most tokens of prompt and answer together; the model's own limit if None.
        target: "cpu"; "cpu:x86-64-v4,cpu:aarch64", which puts native kernels for these instruction sets into the
            artifact, for machines without a compiler, where they run if they are trusted (see `load`); "cuda" for this
            machine's NVIDIA GPU; or "cuda:sm_90" (or several, "cuda:sm_80,sm_90"), which needs no GPU: the model that
            it gives can be saved, and runs on such a machine.
        backend: who executes it. "native" for CPUs, which is our own kernels, "onnxruntime" for CPUs, and "cuda"; if
            None, for CPUs the first of these that there is here. "reference" runs the graph node by node in PyTorch,
            "triton-interpret" the kernels for GPUs by Triton's interpreter, slowly and on any machine.
        dtype: what GPUs compute in: float32, bfloat16 or float16; if None, what the model's weights are in, and
            bfloat16 for quantized ones. CPUs compute in float32, native kernels with weights that are stored in
            `dtype`, and if None, as the model's file has them: also the integers of a .gguf file.
        quantize: weights of products in 8 or 4 bits: the transform `Quantize(quantize)`, behind all others but those of
            caches. For GPUs in groups of 32 without zero points, which is what kernels read. "fp8": floats of 8 bits,
            by backend="native".
        transforms: what changes the model, in order: `DropLayers`, `ConvertToGQA`, `Sparsify`, `Quantize`,
            `QuantizeCache`. What each costs is in `trace.quality`, if there is `calibration`.
        passes: all passes, in order, in place of `default_passes(...)`: what `dtype`, `quantize` and `transforms` stand
            for is then in them. Or a function that is given those that would run, and gives those that shall.
        calibration: text for the transforms: a file's path, a list of texts, or token ids. An eighth of it is held
            out, to say what they cost.
        tokenizer: a transformers tokenizer, or the folder of one, to put into the artifact, where `model` does not
            bring one.
        context: "short" or "long", for a model of transformers whose rotary frequencies change at a length (longrope,
            dynamic NTK): the frequencies of texts of up to that, or of longer ones, for all; `generate` warns of a
            text on the other side. If None, by `max_length`: without it "short".
        tiles: for GPUs, a file that `burnish tune` wrote on such a one. For several architectures, what it has for all.
        trust_remote_code: run the code that comes with a folder (`auto_map` in its config.json) to build a model that
            is no class of transformers. The artifact needs none of it.
        verify: compare what will run with the model, on random tokens and in the ways that it will be used: whole,
            token by token, in pieces, after going back, rows of unequal lengths, some logits and not all, across the
            boundaries that the program shows. `trace.checks` says what was compared and what was not. "full" compares
            each pass's before and after, too; "shrunk" does so on a program that has two layers of each run of equal
            ones, which takes seconds. A check that fails leaves a folder that shows it again
            (`burnish reproduce`).
        progress: called with the name of each phase as it begins, and of each pass: "pass raise-norms (5 of 14)".
        observer: called with the record of each pass and the program after it, beginning with the program as captured.
        dynamic_shapes: with `example_inputs`: axes that may have other sizes, as `torch.export.export` takes it:
            {"pixels": {0: torch.export.Dim("batch")}}.

    Raises:
        BurnishError: the subclass says what stood in the way; NotCausalError, for one, names the line of the model
            that lets a token see later ones.
    """
    if is_onnx(model) and example_inputs is None and dynamic_shapes is None:
        from burnish.frontend.onnx.language_model import open_onnx  # imports onnx, which takes most of a second

        model = open_onnx(Path(model))
    if example_inputs is not None or dynamic_shapes is not None or is_graph(model):
        language = {
            "max_length": max_length, "dtype": dtype, "quantize": quantize, "transforms": transforms or None,
            "calibration": calibration, "tokenizer": tokenizer, "context": context, "tiles": tiles,
        }  # fmt: skip
        if given := [name for name, value in language.items() if value is not None]:
            why = why_graph(model) or "leave it out, or leave out example_inputs="
            raise UsageError(f"{given[0]}= is for language models: {why}")
        if target != "cpu":
            raise UsageError(f"graphs that are no language models are compiled for target='cpu', not {target!r}")
        if verify not in (True, False):
            raise UsageError(f"verify={verify!r} is for language models: of others, what runs is compared, or nothing")
        trace = Trace()
        return compile_graph(
            model, example_inputs, dynamic_shapes, backend, passes, bool(verify), Phases(trace, progress), trace,
            observer, _leave_reproducer,
        )  # fmt: skip
    chosen = choose(target, backend, dtype, quantize, tiles)
    listed = None if passes is None or callable(passes) else list(passes)
    if listed is not None and (transforms or quantize or dtype):
        raise UsageError("give passes=, or dtype=, quantize= and transforms=: these are passes among the others")
    if calibration is not None and not (transforms or quantize or any(map(is_transform, listed or ()))):
        raise UsageError("there is calibration text, and no transform that takes it: give transforms, too")
    _check_before(model, transforms or [each for each in listed or () if is_transform(each)], calibration, verify)
    trace = Trace()
    phases = Phases(trace, progress)
    with phases("capture"):
        source = read(
            model, max_length=max_length, tokenizer=tokenizer, context=context, trust_remote_code=trust_remote_code
        )
    if quantize is not None:
        numbers = chosen.quantization(source.program, quantize)
        place = sum(each.place <= numbers.place for each in transforms)
        transforms = [*transforms[:place], numbers, *transforms[place:]]
    check_order(transforms)

    def observe(record: PassRecord, program: Program) -> None:
        if progress is not None and listed is not None and record.number < len(listed):
            progress(f"pass {listed[record.number].name} ({record.number + 1} of {len(listed)})")
        if observer is not None:
            observer(record, program)

    if listed is None:
        listed = chosen.passes(source.program, dtype, transforms)
        listed = list(passes(listed)) if callable(passes) else listed
    shrunk: dict[int, PassRecord] = {}
    if verify == "shrunk":
        with phases("verify"):
            shrunk, left = _verify_shrunk(source.program, listed)
            trace.checks += left
    text = None if calibration is None else calibration_for(source, calibration)
    run = Run(source.program, trace, observe, _leave_reproducer, verify == "full", text)
    for transforming, group in groupby(listed, key=is_transform):
        part = list(group)
        with phases("transform" if transforming else "passes"):
            if transforming:
                run.transforms([each for each in part if is_transform(each)])
            else:
                run.passes(part)
    step = run.program
    with phases("lower"):
        claim_lowered(step, chosen, trace)
        layout = plan_weights(step.weights)
        lowered = chosen.lower(step, layout, trace)
        _take_over(trace, shrunk)
        checks = None
        if verify:
            checks = CompilationChecks(run.reference, run.exact, step, chosen.backend, chosen.unavailable)
            trace.checks += checks.planned()
    with phases("write"):
        folder = Path(tempfile.mkdtemp(prefix="burnish-")) / f"{source.name}.burnish"
        contents = Contents(
            program=step,
            layout=layout,
            model=lowered.model,
            code=lowered.code,
            target=lowered.kind,
            name=source.name,
            generation=source.generation,
            tokenizer=source.tokenizer,
            trace=trace,
            pipeline=tuple(record.name for record in trace.passes[1:]),
        )
        write(folder, contents)
    with phases("load"):
        if chosen.unavailable is not None:
            compiled = hold_temporary(folder, chosen.unavailable)
        else:
            compiled = load_temporary(folder, chosen.backend, {"triton-interpret": interpreted})
    if checks is not None:
        with phases("verify"):
            try:
                checks.make(compiled.executor)
            except BaseException:
                compiled.close()
                raise
    compiled.trace = trace  # which knows the times, that the artifact's does not
    return compiled


def _check_before(model: Any, transforms: Sequence[Transform], calibration: Text | None, verify: Verify) -> None:
    """Raise what is wrong with the options before the model is captured."""
    if verify not in (True, False, "shrunk", "full"):
        raise UsageError(f"verify is True, False, 'shrunk' or 'full', not {verify!r}")
    if isinstance(calibration, str | Path):
        check_text_file(Path(calibration))
    for each in transforms:
        each.check(calibration is not None)
        if isinstance(each, ConvertToGQA):
            check_heads(model, each.kv_heads)
    check_order(transforms)


def _leave_reproducer(failure: Failure) -> None:
    from burnish.inspect.reproducer import leave_reproducer  # what almost no compilation needs

    leave_reproducer(failure)


def _verify_shrunk(program: Program, passes: Sequence[Pass]) -> tuple[dict[int, PassRecord], list[Check]]:
    """The records of passes over a shrunk program, by their places, each checked; and what was left out, and why.

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
    return dict(zip(places, trace.passes[1:], strict=False)), left


def _take_over(trace: Trace, shrunk: Mapping[int, PassRecord]) -> None:
    """Put the checks of a shrunk program's passes at those of the whole one that did something where these did."""
    for place, small in shrunk.items():
        record = trace.passes[place + 1]
        if small.verification is None:
            continue
        if bool(record.rewrites) == bool(small.rewrites):
            trace.passes[place + 1] = replace(record, verification=small.verification)
        else:
            why = "it found nothing to do in two layers of each kind without transforms"
            trace.checks.append(Check(f"the pass {record.name} by its before and after: {why}", ""))


class Phases:
    """Times the phases of a compilation into its trace."""

    def __init__(self, trace: Trace, progress: Progress | None) -> None:
        self.trace = trace
        self.progress = progress
        self.name = ""
        self.started = 0.0

    def __call__(self, name: str) -> Phases:
        self.name = name
        if self.progress is not None:
            self.progress(name)
        return self

    def __enter__(self) -> None:
        self.started = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        self.trace.phases[self.name] = self.trace.phases.get(self.name, 0.0) + time.perf_counter() - self.started
