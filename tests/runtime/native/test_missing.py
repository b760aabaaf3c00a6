"""Native kernels where something that they need is missing: what is said, and what runs instead."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch

import burnish
from burnish.ir.errors import NativeBuildError, UsageError
from burnish.runtime.native import build, library
from burnish.runtime.native.levels import levels_here
from burnish.runtime.processors import processors
from tests.own_modules.causal import NanoGPT
from tests.test_cli import call


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("missing") / "nano.burnish"
    torch.manual_seed(0)
    with burnish.compile(NanoGPT().eval(), max_length=64, backend="native") as found:
        found.save(path)
    return path


@pytest.fixture
def nothing_built(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No library is here, neither in memory; a folder for more."""
    monkeypatch.setenv("BURNISH_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setattr(build, "BROUGHT", tmp_path / "none")
    monkeypatch.setattr(library, "library", library.library.__wrapped__)
    return tmp_path


@pytest.fixture
def failing(nothing_built: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A compiler that fails."""
    compiler = nothing_built / "c++"
    compiler.write_text("#!/bin/sh\necho 'dot.h:7: no such instruction' >&2\nexit 1\n")
    compiler.chmod(0o755)
    monkeypatch.setenv("CXX", str(compiler))


@pytest.mark.usefixtures("failing")
def test_where_a_compiler_fails_onnx_runtime_executes_it_and_is_told_why(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING), burnish.compile(NanoGPT().eval(), max_length=16) as found:
        assert found.backend == "onnxruntime"
        notes = found.trace.passes[-1].notes
    for told in (caplog.text, *[note for note in notes if note.startswith("ONNX Runtime")]):
        assert "ONNX Runtime executes it, and not native kernels: the C++ compiler failed: " in told
        assert "dot.h:7: no such instruction" in told


@pytest.mark.usefixtures("failing")
def test_who_asks_for_native_kernels_gets_the_compilers_message() -> None:
    for asked in ({"backend": "native"}, {"target": f"cpu:{levels_here()[0]}"}):
        with pytest.raises(NativeBuildError, match=r"no such instruction\nCXX=\.\.\. names another compiler"):
            burnish.compile(NanoGPT().eval(), max_length=16, **asked)  # type: ignore[arg-type]


def test_loading_without_a_compiler(saved: Path, nothing_built: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(nothing_built))
    with pytest.raises(NativeBuildError, match=r"apt install g\+\+\), or compile with backend="):
        burnish.load(saved)
    done = call("run", saved, "5 6 7")
    assert done.exit_code == 1
    assert "apt install g++" in done.stderr


@pytest.mark.parametrize("threads", [0, -1, processors() + 1, 1.5])
def test_threads_are_as_many_as_there_are_processors(saved: Path, threads: int) -> None:
    with pytest.raises(UsageError, match=f"at least 1 and at most {processors()}, .*, not {threads}"):
        burnish.load(saved, threads=threads)


def test_a_text_that_the_machine_has_no_memory_for(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with burnish.load(saved) as model:
        token = sum(state.bytes_a_token for state in model.artifact.states)
        monkeypatch.setattr("burnish.runtime.memory.machine_bytes", lambda: 16 * token)
        said = r"the states of 1 rows of \d+ tokens take .* GB, and the machine has less: .* fewer rows or tokens"
        with pytest.raises(UsageError, match=said):
            model.session(capacity=60)
        with pytest.raises(UsageError, match=said):
            model.generate([[5] * 50], max_new_tokens=2)
        monkeypatch.undo()
        assert len(model.generate([[5] * 50], max_new_tokens=2).tokens[0]) == 2
