"""A small model, captured and compiled once for the tests of this folder."""

from __future__ import annotations

from functools import cache

from burnish.frontend import read
from burnish.ir.program import Program
from burnish.ir.trace import Trace
from burnish.passes.pipeline import run_passes
from burnish.passes.pipelines import default_passes
from tests import captures
from tests.zoo.configs import build


@cache
def stages(model_type: str = "gemma2", backend: str = "native") -> dict[str, Program]:
    """The program as captured and after each pass, by the pass's name."""
    found: dict[str, Program] = {}
    with captures.anew():  # texts are compared that have the symbols of sizes
        program = read(build(model_type)).program
    run_passes(program, default_passes(backend), Trace(), lambda r, p: found.update({r.name: p}))
    return found
