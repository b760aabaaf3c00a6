"""Models in several GGUF files, of which any is given."""

import re
import shutil
from pathlib import Path

import pytest

import burnish
from burnish.frontend.gguf_file import open_gguf
from burnish.ir.errors import InvalidModelError, WeightError
from tests.frontend.gguf_files import assert_same, write

PARTS = [f"model-{number:05}-of-00003.gguf" for number in (1, 2, 3)]


def test_any_part_is_the_whole_model(tmp_path: Path) -> None:
    model = write(tmp_path / "model.gguf", split=9)
    assert sorted(path.name for path in tmp_path.iterdir()) == PARTS
    whole = open_gguf(tmp_path / PARTS[0])
    assert len(whole.tensors) == 21
    for part in PARTS:
        file = open_gguf(tmp_path / part)
        assert file.tensors.keys() == whole.tensors.keys()
        assert file.metadata == whole.metadata
        assert file.name == "model"
    assert_same(tmp_path / PARTS[1], model)


def test_parts_that_are_missing_are_named(tmp_path: Path) -> None:
    write(tmp_path / "model.gguf", split=9)
    (tmp_path / PARTS[0]).unlink()
    with pytest.raises(InvalidModelError, match=rf"one part of a model in 3 files.*1 are missing: put {PARTS[0]}"):
        burnish.compile(tmp_path / PARTS[2])
    (tmp_path / PARTS[1]).unlink()
    with pytest.raises(InvalidModelError, match=f"2 are missing: put {PARTS[0]}, {PARTS[1]} beside it"):
        open_gguf(tmp_path / PARTS[2])


def test_a_part_under_another_name(tmp_path: Path) -> None:
    write(tmp_path / "model.gguf", split=9)
    for name in ("part.gguf", "model-00001-of-00002.gguf"):
        shutil.copy(tmp_path / PARTS[0], tmp_path / name)
        with pytest.raises(InvalidModelError, match=r"3 files.*by their names: call them NAME-00001-of-00003\.gguf"):
            open_gguf(tmp_path / name)


def test_parts_of_several_models(tmp_path: Path) -> None:
    write(tmp_path / "model.gguf", split=9)
    shutil.copy(tmp_path / PARTS[0], tmp_path / PARTS[1])
    with pytest.raises(InvalidModelError, match=rf"{PARTS[1]} says that it is part 0 \(from 0\) of 3"):
        open_gguf(tmp_path / PARTS[0])
    other = tmp_path / "other"
    other.mkdir()
    write(other / "model.gguf", split=9, change=lambda tensors: tensors.update(extra=tensors["output_norm.weight"]))
    write(tmp_path / "model.gguf", split=9)
    shutil.copy(other / PARTS[2], tmp_path)
    with pytest.raises(InvalidModelError, match=r"the model has 21 tensors, and its 3 files have 22"):
        open_gguf(tmp_path / PARTS[0])
    write(tmp_path / "model.gguf", split=9)
    shutil.copy(tmp_path / PARTS[2], other / PARTS[1])
    content = (other / PARTS[1]).read_bytes()
    number = re.search(rb"split\.no\x02\x00\x00\x00(..)", content, re.DOTALL)
    assert number
    (other / PARTS[1]).write_bytes(content[: number.start(1)] + b"\x01\x00" + content[number.end(1) :])
    with pytest.raises(InvalidModelError, match=r"has the tensor '.*', which another part has, too"):
        open_gguf(other / PARTS[2])


def test_a_part_that_is_cut_short(tmp_path: Path) -> None:
    write(tmp_path / "model.gguf", split=9)
    content = (tmp_path / PARTS[1]).read_bytes()
    (tmp_path / PARTS[1]).write_bytes(content[:-300])
    with pytest.raises(WeightError, match=rf"{PARTS[1]} is truncated"):
        open_gguf(tmp_path / PARTS[0])
