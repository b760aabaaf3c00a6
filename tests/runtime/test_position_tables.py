"""Artifacts that keep formulas in place of tables of positions: what is stored, what runs, and forgeries."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
import transformers

import burnish
from burnish.ir.errors import ArtifactError
from burnish.ir.position_table import PositionTable, position_table
from burnish.ir.weights import Stored
from burnish.runtime.artifact import Artifact
from burnish.runtime.backends import Backend
from burnish.runtime.executor_onnx import OnnxExecutor
from burnish.runtime.hashing import digest
from burnish.runtime.position_rows import PositionRows
from burnish.runtime.torch_memory import ON_CPU
from tests.zoo.configs import build

LONG = 2**20


def llama(positions: int) -> transformers.PreTrainedModel:
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=97,
        hidden_size=64,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=32,
        max_position_embeddings=positions,
    )
    return transformers.LlamaForCausalLM(config).eval()


def rows_made(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Of each table that is made from now on, how many rows."""
    made: list[int] = []
    first = PositionTable.first

    def counted(self: PositionTable, count: int) -> torch.Tensor:
        made.append(count)
        return first(self, count)

    monkeypatch.setattr(PositionTable, "first", counted)
    return made


# ---------------------------------------------------------------- what is stored


@pytest.fixture(scope="module")
def long(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("long") / "llama.burnish"
    with burnish.compile(llama(LONG), backend="onnxruntime") as compiled:
        compiled.save(path)
    return path


def test_a_million_positions_are_a_few_bytes(long: Path) -> None:
    manifest = Artifact.open(long).manifest
    assert len(manifest.tables) == 2
    assert {entry.rows for entry in manifest.tables.values()} == {LONG}
    parameters = sum(each.numel() * 4 for each in llama(LONG).parameters())
    assert manifest.files["weights.safetensors"].bytes < parameters + 4096 * (len(manifest.weights) + 2)
    vectors = {manifest.weights[name].tensor for entry in manifest.tables.values() for name in entry.vectors}
    assert len(vectors) == 1, "cosines and sines have one vector of frequencies"


def test_a_session_has_as_many_rows_as_it_has_room_for_tokens(long: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = rows_made(monkeypatch)
    with burnish.load(long) as model:
        assert made == [], "none when loading"
        session = model.session(capacity=64)
        session.append([[1, 2, 3]])
        assert made == [1024, 1024], "halves of cosines and sines, for all short sessions"
        model.session(capacity=1000).append([[1, 2]])
        session.append([[5] * 1100])
        assert made == [1024, 1024, 2048, 2048], "as many as the session grew to"
        session.append([[1]])
        model.session(capacity=8).append([[1, 2]])
        assert len(made) == 4


def test_a_session_that_grows_gives_the_models_logits(long: Path) -> None:
    model = llama(LONG)
    ids = torch.randint(97, (1, 1300), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = model(ids).logits
    for backend in ("onnxruntime", "reference"):
        with burnish.load(long, backend=backend) as compiled:
            session = compiled.session(capacity=64)
            first = session.append(ids[:, :40], every=True)
            rest = session.append(ids[:, 40:], every=True)
        found = torch.cat((first.clone(), rest), 1)
        assert float((found - expected).abs().max()) < 1e-4 * float(expected.abs().max())


def test_the_last_positions_of_a_million(long: Path) -> None:
    """A table's rows far out: those of the formula, in float32 as the model computes them."""
    table = next(iter(Artifact.open(long).tables.values()))
    model = llama(LONG)
    positions = torch.arange(LONG - 5, LONG)[None]
    cos, sin = model.model.rotary_emb(torch.zeros(1), positions)
    assert any(torch.equal(table.at(positions).reshape(cos.shape), each) for each in (cos, sin))


def test_attention_reads_halves_that_are_inputs_of_the_onnx_model(long: Path) -> None:
    model = onnx.load(str(long / "model.onnx"), load_external_data=False)
    halves = {name for name in (each.name for each in model.graph.input) if name.endswith(".first_half")}
    assert len(halves) == 2
    readers = [node.op_type for node in model.graph.node for name in node.input if name in halves]
    assert set(readers) == {"GroupQueryAttention"}
    assert not {each.name for each in model.graph.input} & set(Artifact.open(long).tables), "whole tables are not read"


def test_learned_positions_stay_weights(tmp_path: Path) -> None:
    with burnish.compile(build("gpt2")) as compiled:
        manifest = compiled.artifact.manifest
        assert manifest.tables == {}
        assert any(name.endswith("_table") for name in manifest.weights)


@pytest.mark.parametrize(
    ("model_type", "tables"),
    [("llama", 2), ("gemma3_text", 4), ("phi3", 2), ("gpt_neox", 2), ("falcon", 2), ("llama4_text", 3), ("bloom", 0)],
)
def test_whole_models_keep_formulas(model_type: str, tables: int) -> None:
    model = build(model_type)
    ids = torch.randint(50, (2, 21), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = model(ids).logits
    with burnish.compile(model) as compiled:
        assert len(compiled.artifact.tables) == tables
        with burnish.load(compiled.artifact.path, backend="reference") as reference:
            for each in (compiled, reference):
                assert float((each(ids) - expected).abs().max()) < 1e-4 * float(expected.abs().max())


# ---------------------------------------------------------------- rows in memory


def test_rows_that_were_given_stay() -> None:
    body = "input %p: i64[rows]\nsize %n: size rows\n%x: i64[rows] = aten.mul.Scalar(%p, 2)\nreturn [%x]"
    rows = PositionRows({"t": position_table(5000, body, ())}, ON_CPU)
    few = rows.for_capacity(3)["t"]
    many = rows.for_capacity(4000)["t"]
    assert (len(few), len(many), len(rows.for_capacity(9000)["t"])) == (1024, 4000, 5000)
    assert torch.equal(few, many[:1024])
    assert rows.for_capacity(10)["t"].data_ptr() == rows.for_capacity(5000)["t"].data_ptr()


# ---------------------------------------------------------------- forgeries


@cache
def made_for(backend: Backend, folder: Path) -> Path:
    path = folder / f"{backend}.burnish"
    with burnish.compile(llama(128), verify=False, backend=backend) as compiled:
        compiled.save(path)
    return path


@pytest.fixture
def pristine(folder: Path) -> Path:
    return made_for("onnxruntime", folder)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("pristine")


def forge(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    file = path / "manifest.json"
    manifest = json.loads(file.read_bytes())["manifest"]
    change(manifest)
    body = json.dumps(manifest)
    file.write_text(f'{{"format_version": 3, "sha256": "{digest(body.encode())}", "manifest": {body}}}')


def first_table(manifest: dict[str, Any]) -> dict[str, Any]:
    found = next(iter(manifest["tables"].values()))
    assert isinstance(found, dict)
    return found


def with_line(line: str) -> Callable[[dict[str, Any]], None]:
    def change(manifest: dict[str, Any]) -> None:
        table = first_table(manifest)
        *lines, _ = table["body"].split("\n")
        table["body"] = "\n".join([*lines, f"%forged: {line}", "return [%forged]"])

    return change


def set_table(**values: Any) -> Callable[[dict[str, Any]], None]:
    return lambda manifest: first_table(manifest).update(values)


FORGERIES: dict[str, tuple[Callable[[dict[str, Any]], None], str]] = {
    "no formula": (set_table(body=""), "malformed"),
    "another op": (with_line("f32 = aten.from_file(%positions)"), "malformed"),
    "a python function": (with_line("f32 = os.system(%positions)"), "malformed"),
    "without bounds": (with_line(f"f32 = aten.expand(%rows, [{10**15}])"), "malformed"),
    "wide": (with_line(f"i64 = aten.expand(%positions, [{10**15}, %rows])"), "malformed"),
    "a billion rows": (set_table(rows=10**12), "has .* bytes: at most"),
    "too few rows": (set_table(rows=127), "has 127 rows, and the model takes 128 tokens"),
    "rows of another shape": (set_table(row=[7]), r"should have rows of float32 \[7\]"),
    "rows of another dtype": (set_table(dtype="int8"), "should have rows of int8"),
    "a vector that is not there": (set_table(vectors=["gone"]), "reads 'gone', which it lacks"),
    "no vectors": (set_table(vectors=[]), "malformed"),
    "a file": (set_table(file="../x"), "unknown field `file`"),
    "a name of a weight": (
        lambda m: m["tables"].update({next(iter(m["weights"])): first_table(m)}),
        "both as a weight and as a table",
    ),
}


@pytest.mark.parametrize("backend", ["native", "onnxruntime", "reference"])
@pytest.mark.parametrize("forgery", FORGERIES)
def test_forged_tables_are_refused(folder: Path, tmp_path: Path, forgery: str, backend: Backend) -> None:
    pristine = made_for("onnxruntime" if backend == "onnxruntime" else "native", folder)
    path = Path(shutil.copytree(pristine, tmp_path / "copy.burnish"))
    change, says = FORGERIES[forgery]
    forge(path, change)
    with pytest.raises(ArtifactError, match=says):
        burnish.load(path, backend=backend)


def test_a_table_that_the_manifest_lacks_is_refused(pristine: Path, tmp_path: Path) -> None:
    path = Path(shutil.copytree(pristine, tmp_path / "copy.burnish"))
    forge(path, lambda manifest: manifest["tables"].clear())
    with pytest.raises(ArtifactError, match="unknown inputs"):
        burnish.load(path)
    with pytest.raises(ArtifactError, match="which the artifact lacks"):
        burnish.load(path, backend="reference")


def test_a_table_of_another_dtype_than_the_models_is_refused(pristine: Path) -> None:
    artifact = Artifact.open(pristine)
    wrong = {name: table.cast(torch.float64) for name, table in artifact.tables.items()}
    with pytest.raises(ArtifactError, match=r"the manifest says torch\.float64"):
        OnnxExecutor(artifact.file("model.onnx"), artifact.states, artifact.signature, 1, wrong)


def test_vectors_are_weights_like_others(pristine: Path) -> None:
    artifact = Artifact.open(pristine)
    for table in artifact.tables.values():
        assert all(isinstance(vector, Stored) for vector in table.vectors)
    assert set(artifact.weights) == set(artifact.manifest.weights) | set(artifact.tables)
