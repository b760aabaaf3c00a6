"""`tune`: a model in, the fastest tiles of its kernels on this machine's GPU out."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal

import torch

from burnish.frontend import read
from burnish.ir.errors import UsageError
from burnish.ir.trace import Trace
from burnish.passes.pipeline import run_passes
from burnish.passes.transforms.quantize import BITS

if TYPE_CHECKING:
    from burnish.codegen.triton.tile_file import TileFile  # imports triton, which CPUs do without
    from burnish.codegen.triton.tune import Measure


def tune(
    model: Any,
    *,
    max_length: int | None = None,
    target: str = "cuda",
    dtype: torch.dtype | None = None,
    quantize: Literal["int8", "int4", "fp8"] | None = None,
    trust_remote_code: bool = False,
    measure: Measure | None = None,
    progress: Callable[[str], None] | None = None,
) -> TileFile:
    """The fastest tiles for `compile(model, target="cuda", tiles=...)` with these options, on this machine's GPU.

    Args:
        model: see `compile`, as are `max_length`, `dtype`, `quantize` and `trust_remote_code`.
        target: "cuda".
        measure: times the candidates of a problem; by CUDA events on this machine's GPU if None.
        progress: called with what is being done.

    Raises:
        UsageError: there is no GPU here, or not one that kernels are compiled for.
    """
    from burnish.codegen.triton.lower import target_of
    from burnish.codegen.triton.targets import architectures_of
    from burnish.codegen.triton.tile_file import VERSION, TileFile
    from burnish.codegen.triton.tune import fastest, trials_of
    from burnish.targets.gpu import GpuTarget

    if target != "cuda":
        raise UsageError(f"tuning for {target!r}: it is measured on this machine's GPU, which is target='cuda'")
    if quantize is not None and quantize not in BITS:
        raise UsageError(f"there is no quantization {quantize!r}: there are {' and '.join(BITS)}")
    (architecture,) = architectures_of(target)
    if measure is None:
        from burnish.codegen.triton.tile_timer import GpuTimer

        measure = GpuTimer(architecture)
    tell = progress or (lambda _: None)
    tell("planning the model")
    program = read(model, max_length=max_length, trust_remote_code=trust_remote_code).program
    chosen = GpuTarget((architecture,))
    transforms = [] if quantize is None else [chosen.quantization(program, quantize)]
    step = run_passes(program, chosen.passes(program, dtype, transforms), Trace())
    problems = trials_of(step, target_of((architecture,)))
    winners = {}
    for number, trials in enumerate(problems):
        tell(f"{number + 1} of {len(problems)}: {trials[0].problem.about}")
        winners[trials[0].problem.key] = fastest(trials, measure)
    return TileFile(VERSION, {}).with_winners(architecture, winners)
