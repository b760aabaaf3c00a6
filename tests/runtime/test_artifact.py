"""The artifact: all or nothing when written, and every kind of damage refused by name when read."""

from __future__ import annotations

import json
import os
import re
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch

from burnish.ir.errors import ArtifactError, WeightError
from burnish.ir.states import StateKind
from burnish.ir.weights import Stored, Weights
from burnish.runtime import artifact_writer, fresh_folder, mapped_bytes
from burnish.runtime.artifact import Artifact
from burnish.runtime.artifact_writer import Contents, write
from burnish.runtime.hashing import digest
from burnish.runtime.model import load
from burnish.runtime.weights_writer import plan_weights
from tests.runtime.texts import tokenizer_data
from tests.runtime.tiny import save_tiny, tiny


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("pristine"))[0]


@pytest.fixture
def path(pristine: Path, tmp_path: Path) -> Path:
    """A copy of the artifact, to damage."""
    return Path(shutil.copytree(pristine, tmp_path / "copy.burnish"))


def contents() -> Contents:
    program = tiny().program
    return Contents("tiny", "reference", program, plan_weights(program.weights), None)


def change_manifest(path: Path, change: Callable[[dict[str, Any]], None], sealed: bool = True) -> None:
    """Change the manifest; `sealed` with its checksum made right again, as somebody who forges it would."""
    file = path / "manifest.json"
    envelope = json.loads(file.read_bytes())
    change(envelope["manifest"])
    body = json.dumps(envelope["manifest"])
    checksum = digest(body.encode()) if sealed else envelope["sha256"]
    file.write_text(f'{{"format_version": 3, "sha256": "{checksum}", "manifest": {body}}}')


# ---------------------------------------------------------------- what is written is what is read


@pytest.mark.parametrize("kind", [StateKind.CACHE, StateKind.RING])
def test_reading_gives_what_was_written(tmp_path: Path, kind: StateKind) -> None:
    path, made = save_tiny(tmp_path, kind, generation={"temperature": 0.7, "eos_token_id": [1, 2]})
    artifact = Artifact.open(path)
    assert artifact.signature == made.program.signature
    assert artifact.states == made.program.states
    assert artifact.manifest.generation == {"temperature": 0.7, "eos_token_id": [1, 2]}
    assert artifact.manifest.pipeline == ["clean"]
    assert [node.name for node in artifact.program().graph.nodes] == [node.name for node in made.program.graph.nodes]
    for name, weight in made.program.weights.items():
        assert torch.equal(artifact.weights[name].materialize(), weight.materialize())
    artifact.verify()


def test_the_trace_comes_back_and_its_texts_are_files(pristine: Path) -> None:
    trace = Artifact.open(pristine).trace()
    assert [(record.number, record.name) for record in trace.passes] == [(0, "captured"), (1, "clean")]
    assert trace.passes[1].text == "text of clean\n" == (pristine / "trace" / "01-clean.txt").read_text()
    assert (trace.phases, trace.passes[1].seconds) == ({}, None)  # times would differ from one compilation to the next


@pytest.mark.parametrize(
    ("file", "data", "said"),
    [
        ("trace/nodes.json", b'{"nodes":[],"passes":[],"declarations":[]}', "does not fit trace/trace.json"),
        ("trace/nodes.json", b'{"nodes":[],"passes":[[-1]],"declarations":[""]}', "does not fit trace/trace.json"),
        ("trace/trace.json", b'{"passes":[{}]}', "trace/trace.json in .* is malformed"),
        ("TEXT", b"\xff", "is not a text"),
    ],
)
def test_a_damaged_trace_is_told(path: Path, file: str, data: bytes, said: str) -> None:
    if file == "TEXT":
        file = str(next((path / "trace").glob("0*.txt")).relative_to(path))
    opened = Artifact.open(path)
    (path / file).write_bytes(data)
    with pytest.raises(ArtifactError, match=said):
        opened.trace()


def test_nothing_in_it_is_pickled_and_every_file_is_listed(pristine: Path) -> None:
    listed = set(Artifact.open(pristine).manifest.files) | {"manifest.json"}
    found = {str(file.relative_to(pristine)) for file in pristine.rglob("*") if file.is_file()}
    assert found == listed
    assert {Path(name).suffix for name in found} <= {".json", ".onnx", ".safetensors", ".txt", ".jinja"}


# ---------------------------------------------------------------- writing: all or nothing


def test_a_failure_leaves_nothing_behind(tmp_path: Path) -> None:
    class Broken:
        shape, dtype = (3,), torch.float32

        def materialize(self) -> torch.Tensor:
            raise WeightError("the file is truncated")

    weights = Weights({"good": Stored(torch.zeros(3)), "broken": Broken()})
    with pytest.raises(WeightError, match="truncated"):
        write(tmp_path / "x.burnish", replace(contents(), layout=plan_weights(weights)))
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_reported_and_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(artifact_writer, "write_weights", full)
    with pytest.raises(ArtifactError, match="No space left on device"):
        write(tmp_path / "x.burnish", contents())
    assert list(tmp_path.iterdir()) == []


def test_a_failed_replacement_leaves_the_old_artifact(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save_tiny(tmp_path)[0]
    before = (path / "manifest.json").read_bytes()
    monkeypatch.setattr(artifact_writer, "write_weights", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        write(path, contents())
    assert list(tmp_path.iterdir()) == [path]
    assert (path / "manifest.json").read_bytes() == before


def test_an_artifact_is_replaced(tmp_path: Path) -> None:
    path = save_tiny(tmp_path)[0]
    write(path, replace(contents(), name="other"))
    assert Artifact.open(path).manifest.name == "other"
    assert not (path / "model.onnx").exists()
    assert list(tmp_path.iterdir()) == [path]


def test_an_empty_folder_and_missing_parents_are_fine(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for path in (tmp_path / "empty", tmp_path / "some" / "where" / "x.burnish"):
        write(path, contents())
        Artifact.open(path).verify()


@pytest.mark.parametrize("what", ["file", "folder", "link", "other manifest"])
def test_what_is_no_artifact_is_not_replaced(tmp_path: Path, what: str) -> None:
    path = tmp_path / "precious"
    if what == "file":
        path.write_text("precious")
    elif what == "link":
        (tmp_path / "elsewhere").mkdir()
        path.symlink_to(tmp_path / "elsewhere")
    else:
        path.mkdir()
        (path / ("manifest.json" if what == "other manifest" else "a.txt")).write_text("{}")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(ArtifactError, match="precious exists and is not"):
        write(path, contents())
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("extra", ["notes.txt", "trace/notes.txt", "other.burnish/manifest.json", "empty/"])
def test_an_artifact_that_holds_more_is_not_replaced(path: Path, extra: str) -> None:
    if extra.endswith("/"):
        (path / extra).mkdir()
    else:
        (path / extra).parent.mkdir(exist_ok=True)
        (path / extra).write_text("mine")
    before = sorted(path.rglob("*"))
    top = extra.split("/")[0] if not extra.startswith("trace") else extra
    with pytest.raises(ArtifactError, match=rf"copy\.burnish has {re.escape(top)}, which is not of the artifact"):
        write(path, contents())
    assert sorted(path.rglob("*")) == before


@pytest.mark.parametrize("below", ["sub.burnish", "trace", "some/where/x.burnish"])
def test_no_artifact_is_written_into_another(path: Path, below: str) -> None:
    before = sorted(path.rglob("*"))
    with pytest.raises(ArtifactError, match=r"inside of the artifact .*copy\.burnish|exists and is not an artifact"):
        write(path / below, contents())
    assert sorted(path.rglob("*")) == before


def test_a_name_that_no_file_can_have(pristine: Path, tmp_path: Path) -> None:
    for name, says in (("x" * 300, "name too long"), ("x\0y", "zero byte")):
        with pytest.raises(ArtifactError, match=says):
            write(tmp_path / name, contents())
        with pytest.raises(ArtifactError, match="no artifact at"):
            Artifact.open(tmp_path / name)
    assert list(tmp_path.iterdir()) == []


# ---------------------------------------------------------------- writing: killed on the way


def killed(path: Path, moment: str) -> None:
    """Save to `path` in a process that is killed as soon as it calls what `moment` names."""
    code = (
        "import os, shutil\n"
        "from pathlib import Path\n"
        "from burnish.runtime import fresh_folder\n"
        "from tests.runtime.test_artifact import contents, write\n"
        f"fresh_folder._exchange = {'fresh_folder._exchange' if moment == 'rmtree' else 'lambda *_: False'}\n"
        "rename, calls = Path.rename, []\n"
        "def second(*paths):\n"
        "    calls.append(paths)\n"
        "    rename(*paths) if len(calls) == 1 else os._exit(9)\n"
        f"{'shutil.rmtree = lambda *_, **__: os._exit(9)' if moment == 'rmtree' else 'Path.rename = second'}\n"
        f"write({str(path)!r}, contents())\n"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 9


@pytest.mark.skipif(sys.platform != "linux", reason="other systems cannot exchange two folders")
def test_a_save_that_is_killed_leaves_an_artifact_and_the_next_one_cleans_up(path: Path) -> None:
    killed(path, "rmtree")
    Artifact.open(path).verify()
    assert len(list(path.parent.iterdir())) == 2
    write(path, contents())
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.skipif(sys.platform == "win32", reason="there are no locks that end with their process")
def test_where_folders_cannot_be_exchanged_it_is_said_where_the_old_one_is(path: Path) -> None:
    killed(path, "rename")
    with pytest.raises(ArtifactError, match=r"missing; a save was interrupted, .* is .*\.copy\.burnish\..*\.replaced"):
        Artifact.open(path)
    assert len(list(path.parent.iterdir())) == 2
    write(path, contents())
    assert list(path.parent.iterdir()) == [path]


def test_folders_are_replaced_where_they_cannot_be_exchanged(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fresh_folder, "_exchange", lambda *_: False)
    write(path, replace(contents(), name="other"))
    assert Artifact.open(path).manifest.name == "other"
    assert list(path.parent.iterdir()) == [path]


def test_what_another_save_writes_at_the_time_is_left_alone(path: Path) -> None:
    with fresh_folder.fresh_folder(path) as folder:
        write(path, replace(contents(), name="other"))
        assert folder.exists()
        shutil.copytree(path, folder, dirs_exist_ok=True)
    assert Artifact.open(path).manifest.name == "other"
    assert list(path.parent.iterdir()) == [path]


def test_a_copy_is_complete_and_shares_the_files(pristine: Path, tmp_path: Path) -> None:
    Artifact.open(pristine).copy(tmp_path / "copy")
    Artifact.open(tmp_path / "copy").verify()
    assert os.path.samefile(pristine / "weights.safetensors", tmp_path / "copy" / "weights.safetensors")


def test_a_copy_works_where_there_are_no_hard_links(
    pristine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_links(*_: object) -> None:
        raise OSError("not supported")

    monkeypatch.setattr(os, "link", no_links)
    Artifact.open(pristine).copy(tmp_path / "copy")
    Artifact.open(tmp_path / "copy").verify()
    assert not os.path.samefile(pristine / "weights.safetensors", tmp_path / "copy" / "weights.safetensors")


# ---------------------------------------------------------------- reading: each damage has its own error


def every_file(pristine: Path) -> list[str]:
    return sorted(str(file.relative_to(pristine)) for file in pristine.rglob("*") if file.is_file())


def test_a_changed_byte_is_found_in_every_file(pristine: Path, tmp_path: Path) -> None:
    for number, name in enumerate(every_file(pristine)):
        path = Path(shutil.copytree(pristine, tmp_path / str(number)))
        data = bytearray((path / name).read_bytes())
        data[len(data) // 2] ^= 1
        (path / name).write_bytes(data)
        with pytest.raises(ArtifactError, match=rf"{name}( was changed|.* header)?"):
            load(path, backend="reference")


def test_every_missing_file_is_named(pristine: Path, tmp_path: Path) -> None:
    for number, name in enumerate(every_file(pristine)):
        path = Path(shutil.copytree(pristine, tmp_path / str(number)))
        (path / name).unlink()
        with pytest.raises(ArtifactError, match=name):
            load(path, backend="reference")


def test_every_truncated_or_longer_file_is_named(pristine: Path, tmp_path: Path) -> None:
    for number, name in enumerate(every_file(pristine)):
        for suffix, change in (("short", lambda data: data[:-2]), ("long", lambda data: data + b"\0")):
            path = Path(shutil.copytree(pristine, tmp_path / f"{number}{suffix}"))
            (path / name).write_bytes(change((path / name).read_bytes()))
            with pytest.raises(ArtifactError, match=name):
                load(path, backend="reference")


def test_no_artifact_at_all(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"no artifact at .*: it is missing"):
        load(tmp_path / "nothing")
    (tmp_path / "file").write_text("x")
    with pytest.raises(ArtifactError, match="a file, not a folder"):
        load(tmp_path / "file")
    with pytest.raises(ArtifactError, match=r"no manifest\.json"):
        load(tmp_path)


@pytest.mark.parametrize("data", [b"", b"not json", b"[]", b'{"a": 1}', b"\xff\xfe", b'{"format_version": "1"}'])
def test_a_manifest_that_is_none(path: Path, data: bytes) -> None:
    (path / "manifest.json").write_bytes(data)
    with pytest.raises(ArtifactError, match=r"manifest\.json is not the manifest of a burnish artifact"):
        load(path)


@pytest.mark.parametrize("what", ["pipe", "device", "link", "loop", "folder", "huge", "deep"])
def test_a_manifest_that_is_no_file_of_its_folder(path: Path, what: str) -> None:
    """None of them is waited for, or read."""
    file = path / "manifest.json"
    file.rename(path.parent / "moved.json")
    if what == "pipe":
        os.mkfifo(file)
    elif what == "folder":
        file.mkdir()
    elif what == "huge":
        file.touch()
        os.truncate(file, 1 << 40)
    elif what == "deep":
        file.write_text('{"format_version": 3, "manifest": ' + "[" * 100_000)
    else:
        file.symlink_to({"device": "/dev/zero", "link": path.parent / "moved.json", "loop": file}[what])
    says = {
        "pipe": "is not a file",
        "folder": "is not a file",
        "huge": "no manifest has over",
        "deep": "is not the man",
    }
    with pytest.raises(ArtifactError, match=says.get(what, r"(leaves the folder|cannot be read)")):
        load(path)
    with pytest.raises(ArtifactError, match="exists and is not an artifact"):
        write(path, contents())


@pytest.mark.parametrize("name", ["x" * 300, "a\0b", "step.json/x", "loop"])
def test_files_that_no_folder_can_have(path: Path, name: str) -> None:
    (path / "loop").symlink_to("loop")
    change_manifest(path, lambda manifest: manifest["files"].update({name: {"bytes": 6, "sha256": ["0"]}}))
    with pytest.raises(ArtifactError, match=r"(cannot be read|lacks the file)"):
        load(path)


@pytest.mark.parametrize(("version", "advice"), [(4, "install a newer burnish"), (2, "compile the model again")])
def test_another_format_version(path: Path, version: int, advice: str) -> None:
    file = path / "manifest.json"
    future = json.dumps({"format_version": version, "kernels": {}})
    file.write_text(future)
    with pytest.raises(ArtifactError, match=f"format version {version}, and this burnish reads version 3: {advice}"):
        load(path)


def test_a_manifest_that_was_edited(path: Path) -> None:
    change_manifest(path, lambda manifest: manifest["generation"].update(temperature=9), sealed=False)
    with pytest.raises(ArtifactError, match=r"manifest\.json was changed"):
        load(path)


def set_weight(key: str, value: Any) -> Callable[[dict[str, Any]], None]:
    return lambda manifest: manifest["weights"]["table"].update({key: value})


def set_state(**values: Any) -> Callable[[dict[str, Any]], None]:
    return lambda manifest: manifest["states"][0].update(values)


FORGERIES: dict[str, tuple[Callable[[dict[str, Any]], None], str]] = {
    "unknown key": (lambda m: m.update(run="rm"), "unknown field `run`"),
    "missing key": (lambda m: m.pop("states"), "missing required field `states`"),
    "unknown key inside": (set_weight("loader", "x"), "unknown field `loader`"),
    "wrong type": (lambda m: m.update(name=3), "Expected `str`, got `int`"),
    "unknown target": (lambda m: m.update(target="cuda"), "'cuda'"),
    "unknown state kind": (set_state(kind="disk"), "'disk'"),
    "state shape": (set_state(shape=["batch", 1, 7, 8]), "state 'memory' has the shape"),
    "state axis": (set_state(axis=9), "state 'memory' has the shape"),
    "state dtype": (set_state(dtype="load"), "'load'"),
    "size below one": (lambda m: m["signature"].update(vocabulary=0), "below 1"),
    "weight shape": (
        set_weight("shape", [8, 200]),
        r"'table' should be float32 \[8, 200\] at .* has float32 \[200, 8\]",
    ),
    "weight dtype": (set_weight("dtype", "int32"), "'table' should be int32"),
    "weight offset": (set_weight("offset", 4096), "'table' should be .* at byte 4096"),
    "weight tensor": (set_weight("tensor", "gone"), "lacks the tensor 'gone'"),
    "weight file": (set_weight("file", "../other"), r"has no \.\./other"),
}


@pytest.mark.parametrize("forgery", FORGERIES)
def test_manifests_that_disagree_with_the_files_or_the_language(path: Path, forgery: str) -> None:
    change, says = FORGERIES[forgery]
    change_manifest(path, change)
    with pytest.raises(ArtifactError, match=says):
        load(path)


@pytest.mark.parametrize(
    "name", ["/etc/passwd", "../outside", "trace/../../outside", "a\\b", "C:/x", "", ".", "./step.json", "trace//x"]
)
def test_paths_that_leave_the_folder_are_refused(path: Path, name: str) -> None:
    (path.parent / "outside").write_text("secret")
    change_manifest(
        path, lambda manifest: manifest["files"].update({name: {"bytes": 6, "sha256": [digest(b"secret")]}})
    )
    with pytest.raises(ArtifactError, match="no plain path inside the folder"):
        load(path)


def test_links_that_leave_the_folder_are_refused(path: Path) -> None:
    outside = path.parent / "outside"
    shutil.move(path / "step.json", outside)
    (path / "step.json").symlink_to(outside)
    with pytest.raises(ArtifactError, match=r"step\.json in .* is a link that leaves the folder"):
        load(path)
    shutil.move(path / "trace", path.parent / "trace")
    (path / "trace").symlink_to(path.parent / "trace")
    (path / "step.json").unlink()
    shutil.move(outside, path / "step.json")
    with pytest.raises(ArtifactError, match="link that leaves the folder"):
        load(path)


def test_a_link_inside_the_folder_is_fine(path: Path) -> None:
    (path / "step.json").rename(path / "graph.json")
    (path / "step.json").symlink_to("graph.json")
    load(path, backend="reference").close()


def test_a_folder_in_the_place_of_a_file(path: Path) -> None:
    (path / "step.json").unlink()
    (path / "step.json").mkdir()
    with pytest.raises(ArtifactError, match=r"step\.json in .* is not a file"):
        load(path)


@pytest.mark.parametrize("checksums", [[], ["0"], ["0", "0"]])
def test_checksums_of_the_wrong_number_or_value(path: Path, checksums: list[str]) -> None:
    change_manifest(path, lambda manifest: manifest["files"]["step.json"].update(sha256=checksums))
    with pytest.raises(ArtifactError, match=r"step\.json"):
        load(path)


def test_weights_are_not_touched_before_they_are_checked(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    change_manifest(path, set_weight("offset", 0))
    monkeypatch.setattr(mapped_bytes.mmap, "mmap", lambda *_, **__: pytest.fail("mapped"))
    with pytest.raises(ArtifactError, match="should be"):
        load(path, backend="reference")


def test_a_graph_that_calls_something_else_is_refused(path: Path) -> None:
    """Even where every checksum is right: an artifact is data, whoever made it."""
    graph = json.loads((path / "step.json").read_bytes())
    next(node for node in graph["nodes"] if node["op"] == "call")["target"] = "os.system"
    data = msgspec.json.encode(graph)
    (path / "step.json").write_bytes(data)
    change_manifest(
        path, lambda manifest: manifest["files"]["step.json"].update(bytes=len(data), sha256=[digest(data)])
    )
    with pytest.raises(ArtifactError, match=r"os\.system"):
        load(path, backend="reference")


NESTED = {
    "step.json": b"[" * 1000,
    "tokenizer/tokenizer.json": b"\xff\xfe",
    "tokenizer/chat_template.jinja": b"\xff\xfe",
    "weights.safetensors": struct.pack("<Q", 2000) + b"[" * 2000,
}


@pytest.mark.parametrize("what", NESTED)
def test_what_is_nested_too_deep_or_is_no_text(tmp_path: Path, what: str) -> None:
    path = save_tiny(tmp_path, tokenizer=tokenizer_data())[0]
    data = NESTED[what]
    (path / what).write_bytes(data)
    change_manifest(path, lambda manifest: manifest["files"][what].update(bytes=len(data), sha256=[digest(data)]))
    with pytest.raises(ArtifactError, match=r"(malformed|is not a text|no safetensors)"):
        load(path, backend="reference").chat_ids([])


def test_an_onnx_model_whose_weights_lie_outside_is_refused(path: Path) -> None:
    shutil.copy(path / "weights.safetensors", path.parent / "outside.data")
    model = (path / "model.onnx").read_bytes().replace(b"\x13weights.safetensors", b"\x13../././outside.data")
    assert model.count(b"outside.data") == 3
    (path / "model.onnx").write_bytes(model)
    change_manifest(
        path, lambda manifest: manifest["files"]["model.onnx"].update(bytes=len(model), sha256=[digest(model)])
    )
    with pytest.raises(ArtifactError, match=r"ONNX Runtime cannot load .*model\.onnx.*outside"):
        load(path)
