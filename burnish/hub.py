"""Models of the Hugging Face Hub by their names: those that the local cache has. Nothing is fetched."""

from __future__ import annotations

import json
import re
from pathlib import Path

from burnish.ir.errors import InvalidModelError

_NAME = re.compile(r"(?P<repo>[\w.-]+(?P<slash>/[\w.-]+)?)(@(?P<revision>[\w./-]+))?", re.ASCII)
_DESCRIPTIONS = ("config.json", "adapter_config.json")
_INDEX = "model.safetensors.index.json"


def snapshot(text: str) -> Path | None:
    """The folder of what `text` names, org/name or org/name@revision, in the local cache (HF_HOME, HF_HUB_CACHE).

    None for what is no such name, and for one without an organization that is not there. A folder of that name is for
    the caller to prefer. Raises InvalidModelError, with the command that fetches it, for what is not there, or not
    whole.
    """
    named = _NAME.fullmatch(text)
    if named is None or text.startswith(".") or ".." in text:
        return None
    from huggingface_hub import constants, try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    repo, revision = named["repo"], named["revision"]
    fetch = f"`hf download {repo}{f' --revision {revision}' if revision else ''}`"
    try:
        found = [try_to_load_from_cache(repo, file, revision=revision) for file in _DESCRIPTIONS]
    except HFValidationError:
        return None
    folder = next((Path(path).parent for path in found if isinstance(path, str)), None)
    if folder is None:
        if named["slash"] is None:
            return None
        at = f" at {revision!r}" if revision else ""
        raise InvalidModelError(
            f"there is no file or folder {text}, and the local Hugging Face cache ({constants.HF_HUB_CACHE}) has no "
            f"model {repo}{at}: {fetch} fetches it, if the Hub has it"
        )
    if missing := _missing(folder):
        raise InvalidModelError(
            f"the local Hugging Face cache ({constants.HF_HUB_CACHE}) has a part of {repo}: {missing} is not there; "
            f"{fetch} fetches what is missing"
        )
    return folder


def name_of(text: str) -> str:
    """What a model is called that `snapshot` found: the last part of its name."""
    return text.partition("@")[0].rpartition("/")[2]


def _missing(folder: Path) -> str:
    """A file of weights that is not there yet; nothing if none is. What is wrong otherwise, who reads them says."""
    if not (folder / _INDEX).is_file():
        some = any(path.suffix in (".safetensors", ".bin", ".pt", ".pth") for path in folder.iterdir())
        return "" if some else "model.safetensors"
    try:
        files = set(json.loads((folder / _INDEX).read_text(encoding="utf-8"))["weight_map"].values())
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return ""
    return next((str(file) for file in sorted(map(str, files)) if not (folder / file).is_file()), "")
