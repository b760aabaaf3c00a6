"""Loading, saving, closing; and running where neither transformers nor the model's code can be imported."""

from __future__ import annotations

import copy
import gc
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from burnish.ir.errors import ArtifactError, InvalidInputError, UsageError
from burnish.ir.states import StateKind
from burnish.runtime import model as models
from burnish.runtime import torch_executors
from burnish.runtime.model import load, load_temporary
from burnish.runtime.processors import processors
from tests.runtime.texts import tokenizer_data
from tests.runtime.tiny import VOCABULARY, save_tiny


@pytest.mark.parametrize("backend", ["onnxruntime", "reference"])
@pytest.mark.parametrize("threads", [None, 1])
def test_logits_of_every_token(tmp_path: Path, backend: str, threads: int | None) -> None:
    before = torch.get_num_threads()
    path, made = save_tiny(tmp_path)
    with load(path, backend, threads) as model:  # type: ignore[arg-type]
        ids = torch.randint(0, VOCABULARY, (3, 11))
        torch.testing.assert_close(model(ids), made.whole(ids), rtol=1e-5, atol=1e-4)
        for form in (ids.int(), ids.tolist(), ids.numpy(), [row.numpy() for row in ids]):
            assert torch.equal(model(form), model(ids))
        assert torch.equal(model(ids[0].tolist()), model(ids[:1]))
        with pytest.raises(InvalidInputError, match=r"have \[2, 1\] tokens: pad them, and give attention_mask="):
            model([[1, 2], [3]])
        with pytest.raises(InvalidInputError, match="not of shape"):
            model(ids[None])
        with pytest.raises(InvalidInputError, match=r"integers, not torch\.float32"):
            model(ids.float())
        with pytest.raises(InvalidInputError, match="no row"):
            model(ids[:0])
    torch.set_num_threads(before)


def test_it_says_what_it_is(tmp_path: Path) -> None:
    with load(save_tiny(tmp_path)[0]) as model:
        assert "'tiny'" in repr(model)
        assert "vocabulary=300" in repr(model)
        assert model.signature.max_length == 200
        assert [record.name for record in model.trace.passes] == ["captured", "clean"]


def test_what_is_no_path_or_no_number_of_threads(tmp_path: Path) -> None:
    path = save_tiny(tmp_path)[0]
    with load(path) as model:
        for given in (None, 3):
            with pytest.raises(UsageError, match=r"a path is a text or a pathlib\.Path, not"):
                load(given)  # type: ignore[arg-type]
            with pytest.raises(UsageError, match=r"a path is a text or a pathlib\.Path, not"):
                model.save(given)  # type: ignore[arg-type]
    for threads in (1.5, "2"):
        with pytest.raises(UsageError, match="threads is at least 1"):
            load(path, threads=threads)  # type: ignore[arg-type]


def test_a_model_is_neither_pickled_nor_copied(tmp_path: Path) -> None:
    with load(save_tiny(tmp_path)[0]) as model:
        for use in (pickle.dumps, copy.copy, copy.deepcopy):
            with pytest.raises(UsageError, match=r"model\.save\(path\), burnish\.load\(path\)"):
                use(model)  # type: ignore[operator]


def test_saving_and_loading_again(tmp_path: Path) -> None:
    path, _ = save_tiny(tmp_path / "first", tokenizer=tokenizer_data())
    with load(path) as model:
        model.save(tmp_path / "second.burnish")
        model.save(path)  # where it is already
    with load(tmp_path / "second.burnish") as again:
        assert again.generate("the cat").tokens == load(path).generate("the cat").tokens
    (tmp_path / "precious").write_text("x")
    with load(path) as model, pytest.raises(ArtifactError, match="precious exists"):
        model.save(tmp_path / "precious")


def test_a_closed_model_says_so(tmp_path: Path) -> None:
    path = save_tiny(tmp_path)[0]
    for backend in ("onnxruntime", "reference"):
        model = load(path, backend)  # type: ignore[arg-type]
        model.close()
        with pytest.raises(UsageError, match="closed"):
            model.generate([1])
        model.close()
    assert path.exists()


@pytest.mark.parametrize("how", ["close", "forget"])
def test_a_temporary_artifact_goes_with_its_model(tmp_path: Path, how: str) -> None:
    path = save_tiny(tmp_path / "around")[0]
    model = load_temporary(path)
    model.generate([1])
    model.save(tmp_path / "kept.burnish")
    if how == "close":
        model.close()
    del model
    gc.collect()
    assert list(tmp_path.iterdir()) == [tmp_path / "kept.burnish"]
    load(tmp_path / "kept.burnish").generate([1])


def test_a_temporary_artifact_that_cannot_be_loaded_goes_too(tmp_path: Path) -> None:
    path = save_tiny(tmp_path / "around", StateKind.RING)[0]
    with pytest.raises(UsageError):
        load_temporary(path, "onnxruntime")
    assert list(tmp_path.iterdir()) == []


def test_bad_ways_to_load(tmp_path: Path) -> None:
    path = save_tiny(tmp_path, StateKind.RING)[0]
    with pytest.raises(UsageError, match="no backend 'tpu'"):
        load(path, "tpu")  # type: ignore[arg-type]
    for threads in (0, -1, processors() + 1, 10**9):
        with pytest.raises(UsageError, match=f"at most {processors()}, .* not {threads}"):
            load(path, threads=threads)
    with pytest.raises(UsageError, match='backend="reference"'):
        load(path, "onnxruntime")


def test_this_threads_denormals_are_left_alone(tmp_path: Path) -> None:
    """ONNX Runtime flushes them in the thread that makes a session; the executor flushes them during a step."""
    tiny_number = torch.tensor(1e-40)
    with load(save_tiny(tmp_path)[0]) as model:
        assert (tiny_number * 1.0).item() != 0
        model.generate([1, 2, 3])
        assert (tiny_number * 1.0).item() != 0
        torch.set_flush_denormal(True)
        try:
            model.generate([1, 2, 3])
            assert (tiny_number * 1.0).item() == 0
        finally:
            torch.set_flush_denormal(False)


def test_an_interrupt_leaves_this_threads_denormals_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As soon as they are flushed is the earliest moment at which it can come."""
    flush = torch.set_flush_denormal

    def interrupted(on: bool) -> bool:
        done: bool = flush(on)
        if on:
            raise KeyboardInterrupt
        return done

    with load(save_tiny(tmp_path)[0]) as model, monkeypatch.context() as patch:
        patch.setattr(torch, "set_flush_denormal", interrupted)
        with pytest.raises(KeyboardInterrupt):
            model.generate([1, 2, 3])
    assert (torch.tensor(1e-40) * 1.0).item() != 0


def test_weights_that_were_changed_are_found_while_the_session_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = save_tiny(tmp_path)[0]
    data = bytearray((path / "weights.safetensors").read_bytes())
    data[4096] ^= 1
    (path / "weights.safetensors").write_bytes(data)
    for backend in ("onnxruntime", "reference"):
        with pytest.raises(ArtifactError, match=r"weights\.safetensors was changed"):
            load(path, backend)  # type: ignore[arg-type]

    def broken(*_: object) -> None:
        raise ArtifactError("the session failed")

    monkeypatch.setattr(torch_executors, "OnnxExecutor", broken)
    with pytest.raises(ArtifactError, match=r"weights\.safetensors was changed"):
        load(path)


_ALONE = """
import importlib.abc, sys

class Blocked(importlib.abc.MetaPathFinder):
    NAMES = ("transformers", "pickle5", "onnx", "onnxscript", "onnx_ir", "networkx", "safetensors", "tests")
    ROOMS = ("compiler", "passes", "frontend", "codegen", "rewrite", "inspect")
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in self.NAMES or name.startswith(tuple("burnish." + room for room in self.ROOMS)):
            raise ImportError(f"{name} must not be imported")

sys.meta_path.insert(0, Blocked())
import burnish
import torch
import builtins, pickle
torch.export.export = None
def refuse(*arguments, **options): raise AssertionError("unpickling")
pickle.load = pickle.loads = pickle.Unpickler = refuse
backend = sys.argv[2]
with burnish.load(sys.argv[1], backend=backend) as model:
    run = model.stream("the cat", max_new_tokens=12)
    text = "".join(run)
    model(torch.tensor([[1, 2]]))
    assert model.trace.passes
    print(run.result.tokens[0])
"""


@pytest.mark.parametrize("backend", ["onnxruntime", "reference"])
def test_it_runs_where_transformers_and_the_compiler_cannot_be_imported(tmp_path: Path, backend: str) -> None:
    path, _ = save_tiny(tmp_path, tokenizer=tokenizer_data())
    done = subprocess.run(
        [sys.executable, "-c", _ALONE, str(path), backend], capture_output=True, text=True, cwd=tmp_path, check=False
    )
    assert done.returncode == 0, done.stderr
    with load(path) as model:
        assert done.stdout.strip() == str(model.generate("the cat", max_new_tokens=12).tokens[0])


def test_nothing_in_the_runtime_evaluates_code() -> None:
    source = "".join(file.read_text() for file in Path(models.__file__).parent.glob("*.py"))
    for word in ("pickle", "torch.load", "exec(", "eval(", "importlib", "__import__", "marshal"):
        assert word not in source
