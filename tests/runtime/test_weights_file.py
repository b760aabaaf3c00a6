"""The weights file: its layout, what safetensors makes of it, one weight at a time, and what is refused."""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from burnish.ir.errors import ArtifactError, WeightError
from burnish.ir.weights import Cast, Concat, Permute, Stored, Weights
from burnish.runtime import hashing
from burnish.runtime.mapped_weights import map_weights
from burnish.runtime.weights_file import ALIGNMENT, read_header
from burnish.runtime.weights_writer import plan_weights, write_weights

DTYPES = [
    torch.float64,
    torch.float32,
    torch.float16,
    torch.bfloat16,
    torch.int64,
    torch.int32,
    torch.int8,
    torch.uint8,
    torch.bool,
    torch.complex64,
]


def filled(shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    return (torch.randn(shape) * 10).to(dtype)


def weights_of(**tensors: torch.Tensor) -> Weights:
    return Weights({name: Stored(tensor) for name, tensor in tensors.items()})


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(st.lists(st.integers(0, 7), max_size=3).map(tuple), st.sampled_from(DTYPES)), max_size=6))
def test_every_weight_is_where_it_was_said_to_be(
    tmp_path_factory: pytest.TempPathFactory, kinds: list[tuple[tuple[int, ...], torch.dtype]]
) -> None:
    path = tmp_path_factory.mktemp("weights") / "w.safetensors"
    tensors = {f"weight.{number}": filled(shape, dtype) for number, (shape, dtype) in enumerate(kinds)}
    layout = plan_weights(weights_of(**tensors))
    write_weights(layout, path)
    data = path.read_bytes()
    assert len(data) == layout.size
    for name, tensor in tensors.items():
        place = layout.placements[name]
        assert place.offset % ALIGNMENT == 0
        assert data[place.offset : place.offset + place.length] == bytes(tensor.reshape(-1).view(torch.uint8).numpy())
    by_safetensors = safetensors.torch.load_file(path)
    mapped = map_weights(path, read_header(path))
    for name, tensor in tensors.items():
        assert torch.equal(by_safetensors[name], tensor)
        assert torch.equal(mapped[name].materialize(), tensor)
        assert mapped[name].dtype == tensor.dtype


def test_digests_are_sha256_of_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hashing, "PIECE_BYTES", 10_000)
    layout = plan_weights(weights_of(a=torch.randn(3000), b=torch.randn(2, 5)))
    hasher = write_weights(layout, tmp_path / "w")
    data = (tmp_path / "w").read_bytes()
    pieces = [data[start : start + 10_000] for start in range(0, len(data), 10_000)]
    assert hasher.bytes == len(data)
    assert hasher.digests() == [hashlib.sha256(piece).hexdigest() for piece in pieces]


class Counted:
    """A weight that counts how many like it are in memory at once."""

    alive = most = 0

    def __init__(self, size: int) -> None:
        self.shape, self.dtype = (size,), torch.float32

    def materialize(self) -> torch.Tensor:
        values = torch.zeros(self.shape)
        Counted.alive += 1
        Counted.most = max(Counted.most, Counted.alive)
        storage = values.untyped_storage()
        storage._burnish_token = _Token()  # type: ignore[attr-defined]
        return values


class _Token:
    def __del__(self) -> None:
        Counted.alive -= 1


def test_one_weight_is_in_memory_at_a_time(tmp_path: Path) -> None:
    Counted.alive = Counted.most = 0
    layout = plan_weights(Weights({f"w{number}": Counted(1000) for number in range(5)}))
    assert Counted.most == 0
    write_weights(layout, tmp_path / "w")
    assert Counted.most == 1


def test_expressions_are_evaluated_when_written(tmp_path: Path) -> None:
    a, b = torch.randn(2, 3), torch.randn(4, 3)
    weights = Weights(
        {"joined": Permute(Concat((Stored(a), Stored(b))), (1, 0)), "half": Cast(Stored(a), torch.float16)}
    )
    write_weights(plan_weights(weights), tmp_path / "w")
    read = safetensors.torch.load_file(tmp_path / "w")
    assert torch.equal(read["joined"], torch.cat([a, b]).T)
    assert torch.equal(read["half"], a.half())


def test_tied_weights_are_stored_once(tmp_path: Path) -> None:
    shared, expression = torch.randn(100, 8), Cast(Stored(torch.randn(9)), torch.float16)
    other = shared.clone()
    weights = Weights(
        {"embed": Stored(shared), "head": Stored(shared), "other": Stored(other), "x": expression, "y": expression}
    )
    layout = plan_weights(weights)
    assert layout.placements["head"] == layout.placements["embed"]
    assert layout.placements["y"] == layout.placements["x"]
    assert layout.placements["other"].offset != layout.placements["embed"].offset
    write_weights(layout, tmp_path / "w")
    tensors = {name for name in read_header(tmp_path / "w") if not name.startswith("burnish.padding.")}
    assert tensors == {"embed", "other", "x"}
    # the same memory under another shape is another tensor
    again = plan_weights(Weights({"a": Stored(shared), "b": Stored(shared.view(8, 100))}))
    assert again.placements["a"].offset != again.placements["b"].offset


def test_a_weight_that_lies_about_itself_is_named(tmp_path: Path) -> None:
    class Liar(Counted):
        def materialize(self) -> torch.Tensor:
            return torch.zeros(7)

    with pytest.raises(WeightError, match=r"'liar' was said to be float32 \[5\] and came out as .* \[7\]"):
        write_weights(plan_weights(Weights({"liar": Liar(5)})), tmp_path / "w")


def test_a_dtype_that_the_file_has_not_is_named() -> None:
    with pytest.raises(WeightError, match=r"'z' is torch.complex128"):
        plan_weights(weights_of(z=torch.zeros(2, dtype=torch.complex128)))


def test_names_like_our_padding_survive(tmp_path: Path) -> None:
    tensors = {"burnish.padding.0": torch.randn(3), "burnish.padding.1": torch.randn(3)}
    layout = plan_weights(weights_of(**tensors))
    write_weights(layout, tmp_path / "w")
    mapped = map_weights(tmp_path / "w", {name: read_header(tmp_path / "w")[name] for name in tensors})
    for name, tensor in tensors.items():
        assert torch.equal(mapped[name].materialize(), tensor)


def test_mapped_weights_are_never_written_back(tmp_path: Path) -> None:
    write_weights(plan_weights(weights_of(a=torch.zeros(4))), tmp_path / "w")
    before = (tmp_path / "w").read_bytes()
    map_weights(tmp_path / "w", read_header(tmp_path / "w"))["a"].materialize().fill_(1)
    assert (tmp_path / "w").read_bytes() == before


def rewrite_header(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    data = path.read_bytes()
    length = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8 : 8 + length])
    change(header)
    path.write_bytes(data[:8] + json.dumps(header).encode().ljust(length) + data[8 + length :])


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("dtype", "Q99"),
        ("dtype", None),
        ("shape", [5]),
        ("shape", [-1, -4]),
        ("shape", "44"),
        ("data_offsets", [0, 2**40]),
        ("data_offsets", [16, 0]),
        ("data_offsets", [0]),
    ],
)
def test_headers_that_contradict_the_file_are_refused(tmp_path: Path, key: str, value: Any) -> None:
    path = tmp_path / "w"
    write_weights(plan_weights(weights_of(a=torch.zeros(4))), path)
    rewrite_header(path, lambda header: header["a"].__setitem__(key, value))
    with pytest.raises(ArtifactError, match="header"):
        read_header(path)


@pytest.mark.parametrize("data", [b"", b"12", struct.pack("<Q", 2**60), struct.pack("<Q", 4) + b"[1]x", b"\0" * 64])
def test_files_that_are_no_safetensors_are_refused(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "w").write_bytes(data)
    with pytest.raises(ArtifactError, match="header"):
        read_header(tmp_path / "w")
