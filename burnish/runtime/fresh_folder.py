"""A folder that is there as a whole or not at all."""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from burnish.ir.errors import ArtifactError
from burnish.runtime import manifest as manifests
from burnish.runtime.manifest import MANIFEST_FILE


@contextmanager
def fresh_folder(path: Path) -> Iterator[Path]:
    """A new folder beside `path` that becomes `path` at the end; on an error, it is removed."""
    check_replaceable(path)
    path = path.absolute()
    marked = secrets.token_hex(4)
    folder = path.with_name(f".{path.name}.{marked}.partial")
    try:
        folder.mkdir(parents=True)
        yield folder
        if path.exists():
            old = path.with_name(f".{path.name}.{marked}.replaced")
            path.rename(old)
            try:
                folder.rename(path)
            except OSError:
                old.rename(path)
                raise
            shutil.rmtree(old)
        else:
            folder.rename(path)
    except OSError as error:
        raise ArtifactError(
            f"could not write {path} ({error.strerror or error}); nothing of it was left behind: "
            "check the space and the permissions there"
        ) from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def check_replaceable(path: Path) -> None:
    """ArtifactError if something is at `path` that an artifact must not replace."""
    if path.is_symlink() or (path.exists() and not path.is_dir()):
        raise ArtifactError(f"{path} exists and is not a folder: choose another name for the artifact")
    if path.is_dir() and any(path.iterdir()):
        try:
            manifests.decode((path / MANIFEST_FILE).read_bytes(), str(path / MANIFEST_FILE))
        except (ArtifactError, OSError) as error:
            raise ArtifactError(
                f"{path} exists and is not an artifact of this burnish, so it is not replaced: "
                "choose another name or remove it"
            ) from error
