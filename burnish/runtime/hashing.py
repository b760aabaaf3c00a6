"""SHA-256 of files in pieces: so several threads can hash one large file, and a changed byte is located.

A file's digest is a list: the plain SHA-256 of each 64 MiB piece, in order. A file of at most 64 MiB has one
entry, what `sha256sum` prints; an empty file has none.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from burnish.ir.errors import ArtifactError

PIECE_BYTES = 64 * 2**20
_READ_BYTES = 2**20


class PieceHasher:
    """Digests of a stream that is written in parts of any size."""

    def __init__(self) -> None:
        self.bytes = 0
        self._digests: list[str] = []
        self._current = hashlib.sha256()
        self._filled = 0

    def update(self, data: memoryview) -> None:
        """The next bytes of the stream; `data` is one-dimensional, of bytes."""
        while len(data):
            part = data[: PIECE_BYTES - self._filled]
            self._current.update(part)
            self._filled += len(part)
            self.bytes += len(part)
            data = data[len(part) :]
            if self._filled == PIECE_BYTES:
                self._finish_piece()

    def digests(self) -> list[str]:
        """One digest a piece. Nothing may be added afterwards."""
        if self._filled:
            self._finish_piece()
        return self._digests

    def _finish_piece(self) -> None:
        self._digests.append(self._current.hexdigest())
        self._current = hashlib.sha256()
        self._filled = 0


def digest(data: bytes) -> str:
    """The SHA-256 of `data`, in hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def verify(root: Path, files: Iterable[tuple[str, int, list[str]]], threads: int | None = None) -> None:
    """Check the files (path below `root`, bytes, digests). Raises ArtifactError, which names file and piece.

    Pieces are hashed by `threads` threads (None: one for each processor).
    """
    pieces = [
        (root / path, path, number, min(PIECE_BYTES, size - number * PIECE_BYTES), expected)
        for path, size, digests in files
        for number, expected in enumerate(_complete(path, size, digests))
    ]
    workers = min(len(pieces), threads or os.cpu_count() or 1)
    if workers <= 1:
        for piece in pieces:
            _verify_piece(*piece)
        return
    with ThreadPoolExecutor(workers, thread_name_prefix="burnish-hash") as pool:
        pieces.sort(key=lambda piece: -piece[3])  # the largest first: what remains at the end is small
        for future in [pool.submit(_verify_piece, *piece) for piece in pieces]:
            future.result()


def _complete(path: str, size: int, digests: list[str]) -> list[str]:
    count = -(-size // PIECE_BYTES)
    if len(digests) != count:
        raise ArtifactError(
            f"the manifest has {len(digests)} checksums for {path} of {size} bytes, not {count}: "
            "compile or copy the artifact again"
        )
    return digests


def _verify_piece(file: Path, path: str, number: int, size: int, expected: str) -> None:
    """Hash `size` bytes of `file` from the start of piece `number` on."""
    hasher = hashlib.sha256()
    offset = number * PIECE_BYTES
    buffer = memoryview(bytearray(min(_READ_BYTES, size)))
    with file.open("rb", buffering=0) as stream:
        stream.seek(offset)
        left = size
        while left:
            count = stream.readinto(buffer[: min(left, len(buffer))])
            if not count:
                break
            hasher.update(buffer[:count])
            left -= count
    if hasher.hexdigest() != expected:
        raise ArtifactError(
            f"{path} was changed since the artifact was written (its bytes {offset} to {offset + size - 1} "
            "have another SHA-256 than the manifest says): compile or copy the artifact again"
        )
