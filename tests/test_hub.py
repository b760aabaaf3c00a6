"""Models by their names on the Hub: found in the local cache, a folder of that name first; nothing is fetched."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from huggingface_hub import constants
from typer.testing import CliRunner

import burnish
from burnish.cli.commands import app
from burnish.frontend import read
from burnish.hub import snapshot
from burnish.ir.errors import InvalidModelError, UsageError
from burnish.preflight import declared_kv_heads
from tests.frontend.test_folder import small_llama

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, and an empty current folder."""
    folder = tmp_path / "hub"
    folder.mkdir()
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(folder))
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return folder


def add(cache: Path, repo: str, ref: str = "main") -> Path:
    """The folder of a model in the cache, laid out as huggingface_hub does."""
    storage = cache / f"models--{repo.replace('/', '--')}"
    (storage / "refs").mkdir(parents=True)
    (storage / "refs" / ref).write_text(COMMIT)
    folder = storage / "snapshots" / COMMIT
    small_llama().save_pretrained(folder)
    return folder


def test_a_model_in_the_cache(cache: Path) -> None:
    folder = add(cache, "org/small")
    assert snapshot("org/small") == folder
    assert snapshot(f"org/small@{COMMIT}") == folder
    source = read("org/small")
    assert source.name == "small"
    assert source.program.signature.vocabulary == 60
    assert declared_kv_heads("org/small") == 2


def test_a_revision(cache: Path) -> None:
    folder = add(cache, "org/small", ref="v1.0")
    assert snapshot("org/small@v1.0") == folder
    with pytest.raises(InvalidModelError, match=r"no model org/small: `hf download org/small` fetches it"):
        read("org/small")
    with pytest.raises(InvalidModelError, match=r"org/small at 'v2': `hf download org/small --revision v2`"):
        read("org/small@v2")


def test_a_name_without_an_organization(cache: Path) -> None:
    folder = add(cache, "small")
    assert snapshot("small") == folder
    assert snapshot("other") is None
    with pytest.raises(InvalidModelError, match="there is no file or folder other"):
        read("other")


def test_a_folder_of_that_name_is_what_is_meant(cache: Path) -> None:
    add(cache, "org/small")
    here = Path("org/small")
    here.mkdir(parents=True)
    with pytest.raises(InvalidModelError, match=r"org/small has no config\.json"):
        read("org/small")


@pytest.mark.parametrize(
    "text", ["/absent/model", "../org/name", "a/b/c", "org/name.gguf/x", "org/name@../main", "module:name", ""]
)
def test_what_is_no_name_is_a_path(text: str) -> None:
    assert snapshot(text) is None


def test_what_is_there_in_part_is_told(cache: Path) -> None:
    folder = add(cache, "org/small")
    (folder / "model.safetensors").unlink()
    with pytest.raises(InvalidModelError, match=r"a part of org/small: model\.safetensors is not there; `hf download"):
        read("org/small")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "model-1.safetensors"}}))
    with pytest.raises(InvalidModelError, match=r"model-1\.safetensors is not there"):
        read("org/small")


def test_the_command_takes_a_name_and_says_what_fetches_it(cache: Path) -> None:
    absent = CliRunner().invoke(app, ["compile", "org/small", "-o", "out.burnish"])
    assert absent.exit_code == 2
    assert "`hf download org/small` fetches it" in absent.output
    add(cache, "org/small")
    command = ["compile", "org/small", "-o", "out.burnish", "--backend", "reference"]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.output
    with burnish.load("out.burnish") as model:
        assert model.artifact.manifest.name == "small"
    wrong = CliRunner().invoke(app, [*command, "--kv-heads", "3"])
    assert "has 2 heads" in wrong.output


def test_the_cache_is_the_one_that_the_environment_names(cache: Path, tmp_path: Path) -> None:
    folder = add(cache, "org/small")
    code = "from burnish.hub import snapshot; import sys; print(snapshot('org/small')); print('torch' in sys.modules)"
    environment = {"HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1", "PYTHONPATH": ":".join(sys.path)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert done.stdout.split() == [str(folder), "False"]


def test_an_absent_model_is_a_mistake_of_the_command() -> None:
    from burnish.cli.models import find_model

    with pytest.raises(UsageError, match="hf download"):
        find_model("org/absent")
