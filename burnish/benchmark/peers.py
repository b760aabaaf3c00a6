"""What contenders need before they can be measured: a folder that transformers reads, environments, built models.

All of it is made once, in `.venv-peers/` of the current folder, and found there the next time.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import venv
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

from burnish.benchmark import reads
from burnish.benchmark.runner import BenchmarkError, Entrant
from burnish.frontend.gguf_file import open_gguf
from burnish.ir.errors import UsageError

_ROOT = Path(".venv-peers")
_GENAI = "onnxruntime-genai==0.18.0"
_LLAMA_CPP = "llama-cpp-python==0.3.36"
_OPENVINO = ("torch>=2.11,<2.14", "optimum-intel==2.2.0", "nncf==3.4.0", "openvino-genai==2026.4.1.0")
# int4 as the others have it: symmetric, a scale for 32; its exporter leaves the table of tokens, the head, in 8 bits.
_OPENVINO_OPTIONS = {"fp32": [], "int8": [], "int4": ["--group-size", "32", "--ratio", "1.0", "--sym"]}
# What llama.cpp is built for, by the flags that the processor shows. Left to itself it takes AMX wherever the compiler
# does, which virtual machines show and do not allow.
_LLAMA_CPP_FLAGS = {
    "avx512f": "AVX512",
    "avx512vbmi": "AVX512_VBMI",
    "avx512_vnni": "AVX512_VNNI",
    "avx512_bf16": "AVX512_BF16",
}
_FILE_TYPES = {"q4_0": 2, "q4_1": 3, "q8_0": 7, "bf16": 32}  # general.file_type of .gguf files
_REQUANTIZE = """
import sys, llama_cpp
source, target, kind = sys.argv[1:]
options = llama_cpp.llama_model_quantize_default_params()
options.allow_requantize = True
options.ftype = getattr(llama_cpp, "LLAMA_FTYPE_MOSTLY_" + kind)
sys.exit(llama_cpp.llama_model_quantize(source.encode(), target.encode(), options))
"""
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


def prepare(name: str, model: Path, progress: Callable[[str], None]) -> Entrant:
    """The contender, ready to run `model`: a folder with config.json and safetensors, or a .gguf file.

    Raises BenchmarkError if something cannot be installed or built.
    """
    if name in ("eager", "inductor"):
        return Entrant(name, Path(sys.executable), model, reads=reads.of_floats(model))
    if name.startswith("llama.cpp"):
        return _llama_cpp(name, model, progress)
    if name.startswith("openvino"):
        return _openvino(name, model, progress)
    return _ort_genai(name, model, progress)


def _ort_genai(name: str, model: Path, progress: Callable[[str], None]) -> Entrant:
    """onnxruntime-genai with float32 weights, or int4 in blocks of 32 as its builder makes them."""
    folder = transformers_folder(model, progress)
    # Its builder needs torch and transformers; its runtime, the ONNX Runtime that burnish uses too.
    same = [f"{package}=={_public(package)}" for package in ("torch", "transformers", "onnxruntime", "onnx-ir")]
    python = environment("ort-genai", [*same, _GENAI], progress)
    precision = "int4" if name.endswith("-int4") else "fp32"
    built = _ROOT / "models" / f"{_key(model)}-genai-{precision}"
    if not built.exists():
        progress(f"building the {precision} model of onnxruntime-genai")
        with _whole(built) as target:
            builder = [str(python), "-m", "onnxruntime_genai.models.builder", "-i", str(folder), "-o", str(target)]
            _run([*builder, "-p", precision, "-e", "cpu", "-c", str(_ROOT / "cache")])
    return Entrant(name, python, built, "ort-genai", reads=reads.of_onnx(built, reads.remembered(folder)))


def _llama_cpp(name: str, model: Path, progress: Callable[[str], None]) -> Entrant:
    """llama.cpp, on the .gguf file as it is if it has the numbers that `name` ends with, or rounded to these."""
    if model.suffix != ".gguf":
        raise UsageError(f"llama.cpp reads .gguf files, and {model} is none")
    shown = set(Path("/proc/cpuinfo").read_text().split()) if Path("/proc/cpuinfo").exists() else set()
    flags = [f"-DGGML_{option}=ON" for flag, option in _LLAMA_CPP_FLAGS.items() if flag in shown]
    options = " ".join(["-DGGML_NATIVE=OFF", *flags]) if shown else ""
    python = environment("llama.cpp", [_LLAMA_CPP], progress, {"CMAKE_ARGS": options})
    numbers = name.rpartition("-")[2]
    built = _ROOT / "models" / f"{_key(model)}-{numbers}.gguf"
    if open_gguf(model).metadata.get("general.file_type") == _FILE_TYPES[numbers]:
        built = model
    if not built.exists():
        progress(f"rounding the model of llama.cpp to {numbers}")
        with _whole(built) as target:
            _run([str(python), "-c", _REQUANTIZE, str(model), str(target), numbers.upper()])
    return Entrant(name, python, built, "llama.cpp", reads=reads.of_gguf(built))


def _openvino(name: str, model: Path, progress: Callable[[str], None]) -> Entrant:
    """OpenVINO GenAI, on what its exporter makes of the model, with the weights that `name` ends with."""
    folder = transformers_folder(model, progress)
    python = environment("openvino", _OPENVINO, progress)
    weights = name.rpartition("-")[2]
    built = _ROOT / "models" / f"{_key(model)}-openvino-{weights}"
    if not built.exists():
        progress(f"exporting the {weights} model of OpenVINO")
        with _whole(built) as target:
            exporter = [str(python.with_name("optimum-cli")), "export", "openvino", "-m", str(folder)]
            options = ["--task", "text-generation-with-past", "--weight-format", weights, *_OPENVINO_OPTIONS[weights]]
            _run([*exporter, *options, str(target)])
    return Entrant(name, python, built, "openvino", reads=reads.of_openvino(built, reads.remembered(folder)))


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


def environment(
    name: str, packages: Sequence[str], progress: Callable[[str], None], variables: Mapping[str, str] | None = None
) -> Path:
    """The Python of a virtual environment that has `packages`, installed with these environment variables."""
    folder = _ROOT / name
    python = folder / "bin" / "python"
    stamp = folder / "installed.txt"
    wanted = "\n".join(packages)
    if not stamp.exists() or stamp.read_text() != wanted:
        progress(f"installing {packages[-1]}")
        venv.create(folder, with_pip=True, clear=True)
        _run([str(python), "-m", "pip", "install", "--quiet", *packages], variables)
        stamp.write_text(wanted)
    return python


@contextmanager
def _whole(folder: Path) -> Iterator[Path]:
    """A folder or file to write to that becomes `folder` if nothing fails."""
    partial = folder.with_name(f"{folder.name}.partial")
    if partial.is_file():
        partial.unlink()
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


def _run(command: Sequence[str], variables: Mapping[str, str] | None = None) -> None:
    given = {**os.environ, **(variables or {})}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=given)
    if done.returncode != 0:
        last = "\n".join((done.stderr or done.stdout).strip().splitlines()[-8:])
        raise BenchmarkError(f"`{' '.join(command[:5])} …` failed with exit code {done.returncode}:\n{last}")
