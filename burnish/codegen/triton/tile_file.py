"""A file of tiles: what `burnish tune` found to be fastest, by architecture and problem, as JSON.

{"version": 1, "architectures": {"sm_90": {"fused_linear_kernel-HASH: bfloat16, rows 1, n 28672, k 4096, norm rms":
  {"tiles": {"type": "product", "rows": 1, ...}, "microseconds": 98.2, "table_microseconds": 104.7}}}}
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from burnish.codegen.triton.tiles import Tiles
from burnish.ir.errors import UsageError

VERSION = 1


class Winner(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The fastest tiles of a problem; the microseconds of a launch with these, and with the table's."""

    tiles: Tiles
    microseconds: float
    table_microseconds: float


class TileFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Winners by the key of their problem, by architecture ("sm_90")."""

    version: int
    architectures: dict[str, dict[str, Winner]]

    def with_winners(self, architecture: int, winners: Mapping[str, Winner]) -> TileFile:
        """These as well, instead of those that there were for the same problems."""
        name = f"sm_{architecture}"
        return TileFile(
            self.version, {**self.architectures, name: {**self.architectures.get(name, {}), **dict(winners)}}
        )


def read_tiles(file: Path | str) -> TileFile:
    """Raises UsageError, which says what is wrong, for what is no file of tiles."""
    try:
        data: Any = msgspec.json.decode(Path(file).read_bytes())
    except OSError as error:
        raise UsageError(f"cannot read the file of tiles {file}: {error.strerror or error}") from error
    except msgspec.DecodeError as error:
        raise UsageError(f"{file} is not JSON ({error}): write a file of tiles by burnish tune") from error
    version = data.get("version") if isinstance(data, dict) else None
    if version != VERSION:
        raise UsageError(
            f"{file} is no file of tiles of version {VERSION}, but {f'of {version!r}' if version else 'something else'}"
            ": write it by this burnish's tune"
        )
    try:
        return msgspec.convert(data, TileFile)
    except msgspec.ValidationError as error:
        raise UsageError(f"{file} is a malformed file of tiles: {error}: write it by burnish tune") from error


def write_tiles(file: Path | str, tiles: TileFile) -> None:
    """Write what `read_tiles` reads. Raises UsageError if it cannot be written."""
    try:
        Path(file).write_bytes(encoded(tiles))
    except OSError as error:
        raise UsageError(f"cannot write the file of tiles {file}: {error.strerror or error}") from error


def encoded(tiles: TileFile) -> bytes:
    """As the file has it."""
    return msgspec.json.format(msgspec.json.encode(tiles), indent=1) + b"\n"


def winners_for(file: Path | str, architectures: Sequence[int]) -> dict[str, Winner | None]:
    """Of the file, the winners for kernels that are compiled for all of `architectures`; None where they disagree.

    Raises UsageError where the file has none for one of them.
    """
    tiles = read_tiles(file)
    names = [f"sm_{each}" for each in architectures]
    for name in names:
        if not tiles.architectures.get(name):
            held = ", ".join(sorted(tiles.architectures)) or "no architecture"
            raise UsageError(f"{file} has tiles for {held}, not for {name}: run burnish tune on such a GPU")
    found = [tiles.architectures[name] for name in names]
    winners: dict[str, Winner | None] = {}
    for key in dict.fromkeys(key for each in found for key in each):
        known = [each[key] for each in found if key in each]
        agreed = len(known) == len(found) and all(each.tiles == known[0].tiles for each in known)
        winners[key] = known[0] if agreed else None
    return winners
