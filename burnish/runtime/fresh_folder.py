"""A folder that is there as a whole or not at all."""

from __future__ import annotations

import ctypes
import errno
import os
import secrets
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from burnish.ir.errors import ArtifactError
from burnish.runtime import manifest as manifests
from burnish.runtime.manifest import MANIFEST_FILE, Manifest

if sys.platform != "win32":
    import fcntl

_PARTIAL, _REPLACED = ".partial", ".replaced"
_HERE, _EXCHANGE = -100, 2  # Linux' AT_FDCWD and RENAME_EXCHANGE


@contextmanager
def fresh_folder(path: Path) -> Iterator[Path]:
    """A new folder beside `path` that becomes `path` at the end; on an error, it is removed.

    What is at `path` is there until the new one is, to the very moment where the system can exchange two folders. What
    a save leaves that is killed, the next one to the same path removes.
    """
    folder, lock = None, -1
    try:
        path = path.absolute()
        if "\0" in str(path):
            raise ArtifactError(f"{str(path)!r} is no path, as it has a zero byte: choose another name")
        check_replaceable(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_stale(path, _PARTIAL)
        folder, lock = _locked(path)
        yield folder
        if path.exists():
            _replace(path, folder)
        else:
            folder.rename(path)
        _remove_stale(path, _REPLACED)
    except OSError as error:
        raise ArtifactError(
            f"could not write {path} ({error.strerror or error}); nothing of it was left behind: "
            "check the space and the permissions there"
        ) from error
    finally:
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)
        if lock >= 0:
            os.close(lock)


def replaced(path: Path) -> Path | None:
    """What was at `path`, where a save was killed in the moment in which there was nothing."""
    return next(iter(_siblings(path, _REPLACED)), None)


def check_replaceable(path: Path) -> None:
    """Raise ArtifactError unless there is nothing at `path`, or what a save may delete; nor around it an artifact."""
    if path.is_symlink() or (path.exists() and not path.is_dir()):
        raise ArtifactError(f"{path} exists and is not a folder: choose another name for the artifact")
    if path.is_dir() and any(path.iterdir()):
        try:
            known = manifests.read(path)
        except ArtifactError as error:
            raise ArtifactError(
                f"{path} exists and is not an artifact of this burnish, so it is not replaced: "
                "choose another name or remove it"
            ) from error
        if (other := _not_of(known, path)) is not None:
            raise ArtifactError(
                f"{path} has {other}, which is not of the artifact there and would be deleted with it: "
                "move it away, or choose another name"
            )
    for parent in path.resolve().parents:
        if manifests.is_artifact(parent):
            raise ArtifactError(f"{path} is inside of the artifact {parent}: choose a place beside it")


def _not_of(known: Manifest, root: Path) -> str | None:
    """The first file or folder below `root` that its manifest does not list."""
    files = {MANIFEST_FILE, *known.files}
    folders = {str(parent) for name in files for parent in Path(name).parents}
    for folder, subfolders, names in os.walk(root):
        below = Path(folder).relative_to(root)
        for name in sorted((*subfolders, *names)):
            found = str(below / name)
            if found not in (folders if name in subfolders else files):
                return found
    return None


def _replace(path: Path, folder: Path) -> None:
    """Put `folder` in the place of `path`, and what was there in its own, or away."""
    if _exchange(path, folder):
        return
    old = folder.with_suffix(_REPLACED)
    path.rename(old)
    try:
        folder.rename(path)
    except OSError:
        old.rename(path)
        raise
    shutil.rmtree(old)


def _exchange(one: Path, other: Path) -> bool:
    """Exchange two folders at once. False where the system, or the file system, cannot."""
    exchange = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None) if sys.platform == "linux" else None
    if exchange is None:
        return False
    if exchange(_HERE, os.fsencode(one), _HERE, os.fsencode(other), _EXCHANGE) == 0:
        return True
    number = ctypes.get_errno()
    if number in (errno.ENOSYS, errno.EINVAL):
        return False
    raise OSError(number, os.strerror(number))


# ---------------------------------------------------------------- folders of other saves


def _locked(path: Path) -> tuple[Path, int]:
    """A new folder beside `path`, and a lock on it, which ends with this process; -1 where there are no locks."""
    while True:
        folder = path.with_name(f".{path.name}.{secrets.token_hex(4)}{_PARTIAL}")
        folder.mkdir()
        if sys.platform == "win32":
            return folder, -1
        lock = os.open(folder, os.O_RDONLY)
        fcntl.flock(lock, fcntl.LOCK_EX)
        if folder.exists():
            return folder, lock
        os.close(lock)  # another save took it for a stale one before it was locked


def _siblings(path: Path, suffix: str) -> list[Path]:
    """Folders that saves to `path` have made."""
    try:
        found = sorted(path.absolute().parent.iterdir())
    except OSError:
        return []
    start, length = f".{path.name}.", len(f".{path.name}.") + 8 + len(suffix)
    return [
        each for each in found if each.name.startswith(start) and each.suffix == suffix and len(each.name) == length
    ]


def _remove_stale(path: Path, suffix: str) -> None:
    """Remove what saves to `path` left that were killed: what nobody has a lock on."""
    for folder in _siblings(path, suffix):
        if sys.platform == "win32":
            return
        lock = os.open(folder, os.O_RDONLY)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder, ignore_errors=True)
        except BlockingIOError:
            pass
        finally:
            os.close(lock)
