"""What contenders need before they can be measured: a folder that transformers reads, environments, built models.

All of it is made once, in `.venv-peers/` of the current folder, and found there the next time.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import venv
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

from burnish.benchmark.runner import BenchmarkError, Entrant
from burnish.ir.errors import UsageError

PEERS = ("eager", "inductor", "ort-genai")
_ROOT = Path(".venv-peers")
_GENAI = "onnxruntime-genai==0.18.0"
# transformers does not save a model that came from a .gguf file: its weights go into a fresh one.
_CONVERT = """
import sys, torch, transformers
source, file, target = sys.argv[1:]
loaded = transformers.AutoModelForCausalLM.from_pretrained(source, gguf_file=file, dtype=torch.float32)
config = transformers.AutoConfig.from_pretrained(source, gguf_file=file)
model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32)
model.load_state_dict(loaded.state_dict())
model.save_pretrained(target)
transformers.AutoTokenizer.from_pretrained(source, gguf_file=file).save_pretrained(target)
"""


def parse_peers(text: str) -> list[str]:
    """The contenders in `eager,ort-genai`. Raises UsageError for one that there is not."""
    names = [name.strip() for name in text.split(",") if name.strip()]
    unknown = [name for name in names if name not in PEERS]
    if unknown:
        raise UsageError(f"there is no contender {unknown[0]!r} to compare with: choose from {', '.join(PEERS)}")
    return names


def prepare(name: str, model: Path, progress: Callable[[str], None]) -> Entrant:
    """The contender, ready to run `model`: a folder with config.json and safetensors, or a .gguf file.

    Raises BenchmarkError if something cannot be installed or built.
    """
    if name != "ort-genai":
        return Entrant(name, Path(sys.executable), model)
    folder = transformers_folder(model, progress)
    # Its builder needs torch and transformers; its runtime, the ONNX Runtime that burnish uses too.
    same = [f"{package}=={_public(package)}" for package in ("torch", "transformers", "onnxruntime", "onnx-ir")]
    python = environment(name, [*same, _GENAI], progress)
    built = _ROOT / "models" / f"{_key(model)}-genai"
    if not built.exists():
        progress("building the model of onnxruntime-genai")
        with _whole(built) as target:
            builder = [str(python), "-m", "onnxruntime_genai.models.builder", "-i", str(folder), "-o", str(target)]
            _run([*builder, "-p", "fp32", "-e", "cpu", "-c", str(_ROOT / "cache")])
    return Entrant(name, python, built)


def transformers_folder(model: Path, progress: Callable[[str], None]) -> Path:
    """`model` itself if transformers can read it, or its float32 weights and tokenizer in a folder of their own."""
    if model.is_dir():
        return model
    if model.suffix != ".gguf":
        raise UsageError(f"{model} is neither a folder nor a .gguf file: the others cannot read it")
    folder = _ROOT / "models" / _key(model)
    if not folder.exists():
        progress("writing float32 weights for onnxruntime-genai")
        with _whole(folder) as target:
            _run([sys.executable, "-c", _CONVERT, str(model.parent), model.name, str(target)])
    return folder


def environment(name: str, packages: Sequence[str], progress: Callable[[str], None]) -> Path:
    """The Python of a virtual environment that has `packages`."""
    folder = _ROOT / name
    python = folder / "bin" / "python"
    stamp = folder / "installed.txt"
    wanted = "\n".join(packages)
    if not stamp.exists() or stamp.read_text() != wanted:
        progress(f"installing {packages[-1]}")
        venv.create(folder, with_pip=True, clear=True)
        _run([str(python), "-m", "pip", "install", "--quiet", *packages])
        stamp.write_text(wanted)
    return python


@contextmanager
def _whole(folder: Path) -> Iterator[Path]:
    """A folder to write to that becomes `folder` if nothing fails."""
    partial = folder.with_name(f"{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.parent.mkdir(parents=True, exist_ok=True)
    yield partial
    partial.rename(folder)


def _public(package: str) -> str:
    """The version of an installed package without what says how it was built: 2.13.0 of 2.13.0+cpu."""
    return version(package).split("+")[0]


def _key(model: Path) -> str:
    """A name for `model` that changes with it."""
    file = model if model.is_file() else model / "config.json"
    stamp = f"{model.resolve()} {file.stat().st_size} {file.stat().st_mtime_ns}"
    return f"{model.stem}-{hashlib.sha256(stamp.encode()).hexdigest()[:8]}"


def _run(command: Sequence[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        last = "\n".join((done.stderr or done.stdout).strip().splitlines()[-8:])
        raise BenchmarkError(f"`{' '.join(command[:5])} …` failed with exit code {done.returncode}:\n{last}")
