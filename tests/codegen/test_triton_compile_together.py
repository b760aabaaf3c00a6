"""Kernels compiled side by side."""

from __future__ import annotations

import pytest
import torch

from burnish.codegen.triton import compile as compiling
from burnish.codegen.triton.compile import Binary, compile_all
from burnish.codegen.triton.kernels.rms_norm import rms_norm_spec
from burnish.codegen.triton.spec import KernelSpec

SPECS = [rms_norm_spec(torch.float16, None, size) for size in (64, 128)]


def disturbed(message: str) -> Exception:
    """As Triton tells what went wrong in a function that another calls."""
    try:
        try:
            raise SystemError(message)
        except SystemError as error:
            raise RuntimeError("at 59:8:") from error
    except RuntimeError as error:
        return error


def test_a_parser_disturbed_by_another_thread_tries_again(monkeypatch: pytest.MonkeyPatch) -> None:
    real, tried = compiling.compile_kernel, []

    def compile_kernel(spec: KernelSpec, architecture: int) -> Binary:
        tried.append(spec)
        if len(tried) == 1:
            raise disturbed("AST constructor recursion depth mismatch (before=36, after=88)")
        return real(spec, architecture)

    monkeypatch.setattr(compiling, "compile_kernel", compile_kernel)
    assert len(compile_all(SPECS, 90)) == 2
    assert len(tried) == 3


def test_any_other_error_is_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    def compile_kernel(spec: KernelSpec, architecture: int) -> Binary:
        raise disturbed("out of something")

    monkeypatch.setattr(compiling, "compile_kernel", compile_kernel)
    with pytest.raises(RuntimeError, match="at 59:8"):
        compile_all(SPECS, 90)
