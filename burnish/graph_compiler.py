"""`compile` for modules that are no language models: tensors in, tensors out."""

from __future__ import annotations

import logging
import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from burnish.frontend.graphs import GraphSource, read_graph
from burnish.ir.errors import ArtifactError, UnsupportedError, UsageError
from burnish.ir.program import Program
from burnish.ir.trace import Check, Trace
from burnish.passes.base import Pass
from burnish.passes.pipeline import Failure, Observer
from burnish.passes.pipelines import graph_passes
from burnish.passes.run import Run
from burnish.passes.verify_graph import GraphVerifier
from burnish.runtime.artifact_writer import Contents, write
from burnish.runtime.compiled_module import CompiledModule
from burnish.runtime.load_module import load_module
from burnish.runtime.weights_writer import plan_weights

if TYPE_CHECKING:
    from burnish.compiler import Phases

_log = logging.getLogger(__name__)

GraphBackend = Literal["onnxruntime", "reference"]
GRAPH_BACKENDS: tuple[GraphBackend, ...] = get_args(GraphBackend)


def compile_graph(
    model: Any,
    example_inputs: Any,
    dynamic_shapes: Any,
    backend: str | None,
    passes: Sequence[Pass] | Callable[[list[Pass]], Sequence[Pass]] | None,
    verify: bool,
    phases: Phases,
    trace: Trace,
    observer: Observer | None,
    on_failure: Callable[[Failure], None],
) -> CompiledModule:
    """See `burnish.compile`. Raises UsageError for a backend that graphs do not have."""
    if backend not in (None, *GRAPH_BACKENDS):
        raise UsageError(f"graphs that are no language models run by {' or '.join(GRAPH_BACKENDS)}, not by {backend}")
    with phases("capture"):
        source = read_graph(model, example_inputs, dynamic_shapes)
    chosen: GraphBackend = backend or "onnxruntime"
    listed = graph_passes(chosen) if passes is None or callable(passes) else list(passes)
    listed = list(passes(listed)) if callable(passes) else listed
    run = Run(source.program, trace, observer, on_failure)
    with phases("passes"):
        run.passes(listed)
    checks = GraphVerifier(source.program, source.examples) if verify else None
    before, count = run.program, len(trace.passes)
    try:
        return _finished(source, run, trace, chosen, checks, phases)
    except UnsupportedError as error:
        if backend is not None:
            raise
        _log.warning("it runs node by node in PyTorch: %s", error)
        run.program = before
        del trace.passes[count:]
        trace.checks = [Check(str(error), "not run by ONNX Runtime")]
        return _finished(source, run, trace, "reference", checks, phases)


def _finished(
    source: GraphSource, run: Run, trace: Trace, chosen: GraphBackend, checks: GraphVerifier | None, phases: Phases
) -> CompiledModule:
    """The program of `run` lowered, written, loaded and compared. Raises UnsupportedError where `chosen` cannot."""
    with phases("lower"):
        if chosen == "onnxruntime":
            from burnish.passes.lower.take_apart import take_apart

            take_apart(run)
        layout = plan_weights(run.program.weights)
        lowered = _lowered(run.program, layout) if chosen == "onnxruntime" else None
    folder = Path(tempfile.mkdtemp(prefix="burnish-")) / f"{source.name}.burnish"
    if checks is not None:
        trace.checks += checks.checks(f"the backend {chosen}")
    with phases("write"):
        contents = Contents(
            program=run.program,
            layout=layout,
            model=lowered,
            target=chosen,
            name=source.name,
            trace=trace,
            pipeline=tuple(record.name for record in trace.passes[1:]),
        )
        write(folder, contents)
    with phases("load"):
        try:
            compiled = load_module(folder)
        except ArtifactError as error:
            if chosen != "onnxruntime":
                raise
            shutil.rmtree(folder.parent)
            raise UnsupportedError(f"{error}. The reference backend runs it") from error
        compiled.own(folder)
    if checks is not None:
        with phases("verify"):
            try:
                assert compiled.executor is not None
                checks.verify(compiled.executor.run, f"the backend {chosen}")
            except BaseException:
                compiled.close()
                raise
    compiled.trace = trace
    return compiled


def _lowered(program: Program, layout: Any) -> bytes:
    from burnish.codegen.onnx import lower
    from burnish.codegen.onnx.lowering import check_translated

    check_translated(program)
    return lower(program, layout)
