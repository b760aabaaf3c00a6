"""`compile`: a model in, an artifact out."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from burnish.codegen.onnx import lower
from burnish.frontend import read
from burnish.ir.trace import PassRecord, Trace
from burnish.passes.pack_linears import PackLinears
from burnish.passes.pipeline import run_passes
from burnish.passes.pipelines import make_incremental
from burnish.passes.verify import verify_step
from burnish.runtime.artifact import Contents, write
from burnish.runtime.model import CompiledModel, load_temporary
from burnish.runtime.weights_file import plan_weights

Backend = Literal["onnxruntime", "reference"]
Progress = Callable[[str], None]


def compile(  # the field's word for it; shadows the builtin only where it is imported by name
    model: Any,
    *,
    max_length: int | None = None,
    backend: Backend = "onnxruntime",
    tokenizer: Any = None,
    verify: bool = True,
    progress: Progress | None = None,
) -> CompiledModel:
    """Compile a causal language model for incremental execution.

    Args:
        model: a transformers `PreTrainedModel`; a folder with `config.json` and safetensors; a `.gguf` file; an
            `nn.Module` or `ExportedProgram` that maps token ids int64[batch, sequence] to logits.
        max_length: the most tokens of prompt and answer together; the model's own limit if None.
        backend: "onnxruntime", or "reference" for the graph run node by node in PyTorch.
        tokenizer: a transformers tokenizer to put into the artifact, where `model` does not bring one.
        verify: compare the incremental program with the model on random tokens before anything is written.
        progress: called with the name of each phase as it begins.

    Raises:
        BurnishError: the subclass says what stood in the way; NotCausalError, for one, names the line of the model
            that lets a token see later ones.
    """
    trace = Trace()
    phases = _Phases(trace, progress)
    with phases("capture"):
        source = read(model, max_length=max_length, tokenizer=tokenizer)

    def observe(record: PassRecord) -> None:
        if progress is not None:
            progress(f"pass {record.name}")

    with phases("passes"):
        step = run_passes(source.program, make_incremental(), trace, observe)
    if verify:
        with phases("verify"):
            verify_step(source.program, step)
    with phases("lower"):
        step = run_passes(step, [PackLinears()], trace, observe)
        layout = plan_weights(step.weights)
        onnx_model = lower(step, layout) if backend == "onnxruntime" else None
    with phases("write"):
        folder = Path(tempfile.mkdtemp(prefix="burnish-")) / f"{source.name}.burnish"
        contents = Contents(
            program=step,
            layout=layout,
            model=onnx_model,
            target=backend,
            name=source.name,
            generation=source.generation,
            tokenizer=source.tokenizer,
            trace=trace,
            pipeline=tuple(record.name for record in trace.passes[1:]),
        )
        write(folder, contents)
    with phases("load"):
        return load_temporary(folder, backend=backend)


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
        self.trace.phases[self.name] = time.perf_counter() - self.started
