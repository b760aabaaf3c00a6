"""Bad input of every kind, each as a function that gives it to burnish: run by tests, listed in docs/errors.md."""

from __future__ import annotations

import json
import os
import pickle
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from huggingface_hub import constants
from torch import Tensor, nn

import burnish
from burnish.ir.errors import (
    ArtifactError,
    BurnishError,
    InvalidInputError,
    InvalidModelError,
    NativeBuildError,
    NotCausalError,
    UsageError,
    WeightError,
)
from burnish.ir.states import State, StateKind
from burnish.runtime.executor_cuda import CudaExecutor
from burnish.runtime.hashing import digest
from burnish.runtime.model import CompiledModel
from burnish.runtime.native.build import build
from burnish.runtime.native.levels import levels_here
from burnish.runtime.plan import Plan
from burnish.runtime.states import States
from burnish.runtime.torch_memory import ON_CPU
from tests.frontend.gguf_files import write as write_gguf
from tests.runtime.texts import tokenizer_data
from tests.runtime.tiny import MAX_LENGTH, VOCABULARY, save_tiny


@dataclass(frozen=True)
class Case:
    """`give` is called with an empty folder and raises `error`."""

    what: str
    error: type[BurnishError]
    give: Callable[[Path], object]


CASES: list[Case] = []


def case(what: str, error: type[BurnishError]) -> Callable[[Callable[[Path], object]], Callable[[Path], object]]:
    """The decorated function gives burnish `what`, and burnish raises `error`."""

    def add(give: Callable[[Path], object]) -> Callable[[Path], object]:
        CASES.append(Case(what, error, give))
        return give

    return add


def with_model(use: Callable[[CompiledModel], object]) -> Callable[[Path], object]:
    """A case of a small compiled model that is used wrongly."""

    def give(folder: Path) -> None:
        with burnish.load(save_tiny(folder)[0]) as model:
            use(model)

    return give


# ---------------------------------------------------------------- what a compiled model is given

case("token ids of another dtype", InvalidInputError)(with_model(lambda model: model(torch.zeros(1, 4))))
case("token ids of another rank", InvalidInputError)(
    with_model(lambda model: model(torch.zeros(1, 1, 4, dtype=torch.int64)))
)
case("an id outside the vocabulary", InvalidInputError)(with_model(lambda model: model.generate([1, VOCABULARY, 2])))
case("a prompt over the maximum length", InvalidInputError)(
    with_model(lambda model: model.generate([1] * (MAX_LENGTH + 1)))
)
case("an empty prompt", InvalidInputError)(with_model(lambda model: model.generate([])))
case("a text, where there is no tokenizer", InvalidInputError)(with_model(lambda model: model.generate("hello")))
case("an option that does not exist", InvalidInputError)(with_model(lambda model: model.generate([1], temprature=0.5)))
case("an option with a value out of range", InvalidInputError)(with_model(lambda model: model.generate([1], top_p=1.5)))


# ---------------------------------------------------------------- exports


def with_export(path: str, **options: Any) -> Callable[[Path], object]:
    """A case of a small compiled model that is exported."""

    def give(folder: Path) -> None:
        with burnish.load(save_tiny(folder)[0]) as model:
            model.export(folder / path, **options)

    return give


case("a file to export to that is none of ONNX's", UsageError)(with_export("out.bin"))
case("a flavor of operators that there is not", UsageError)(with_export("out.onnx", flavor="cuda"))
case("an export for onnxruntime-genai without a tokenizer", UsageError)(with_export("out", genai=True))


# ---------------------------------------------------------------- artifacts


def with_artifact(damage: Callable[[Path], object]) -> Callable[[Path], object]:
    """A case of a small artifact that is damaged and then loaded."""

    def give(folder: Path) -> None:
        path, _ = save_tiny(folder)
        damage(path)
        burnish.load(path).close()

    return give


def change_byte(file: Path) -> None:
    """Turn one bit of a file's last byte."""
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)


def change_manifest(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change the manifest and its checksum, as somebody who forges it would."""
    file = path / "manifest.json"
    manifest = json.loads(file.read_bytes())["manifest"]
    change(manifest)
    body = json.dumps(manifest)
    file.write_text(f'{{"format_version": 3, "sha256": "{digest(body.encode())}", "manifest": {body}}}')


def reshape(manifest: dict[str, Any]) -> None:
    """Let a weight have another shape than its file says."""
    manifest["weights"]["head.weight"]["shape"] = [8, VOCABULARY]


def leave_folder(manifest: dict[str, Any]) -> None:
    """Name a file outside of the artifact."""
    manifest["files"]["../../secret.txt"] = manifest["files"]["step.json"]


def newer(path: Path) -> None:
    """Claim to be of a later format."""
    file = path / "manifest.json"
    file.write_text(file.read_text().replace('"format_version": 3', '"format_version": 99'))


case("no artifact there", ArtifactError)(lambda folder: burnish.load(folder / "nothing.burnish"))
case("a folder that is no artifact", ArtifactError)(lambda folder: burnish.load(folder))
case("an artifact with a changed byte", ArtifactError)(
    with_artifact(lambda path: change_byte(path / "weights.safetensors"))
)
case("an artifact with a changed manifest", ArtifactError)(
    with_artifact(lambda path: change_byte_of_manifest(path / "manifest.json"))
)
case("an artifact with a missing file", ArtifactError)(with_artifact(lambda path: (path / "step.json").unlink()))
case("an artifact with a truncated file", ArtifactError)(
    with_artifact(lambda path: (path / "weights.safetensors").write_bytes(b"short"))
)
case("an artifact of a newer format", ArtifactError)(with_artifact(newer))
case("a path that leaves the folder", ArtifactError)(with_artifact(lambda path: change_manifest(path, leave_folder)))
case("a shape that disagrees with its weights", ArtifactError)(
    with_artifact(lambda path: change_manifest(path, reshape))
)


def change_byte_of_manifest(file: Path) -> None:
    """Change a number in the manifest and leave its checksum."""
    file.write_text(file.read_text().replace(f'"vocabulary": {VOCABULARY}', f'"vocabulary": {VOCABULARY + 1}'))


@case("saving over something that is no artifact", ArtifactError)
def _save_over(folder: Path) -> None:
    (folder / "precious").mkdir()
    (folder / "precious" / "thesis.tex").touch()
    with burnish.load(save_tiny(folder)[0]) as model:
        model.save(folder / "precious")


@case("saving over an artifact that holds more", ArtifactError)
def _save_over_notes(folder: Path) -> None:
    path, _ = save_tiny(folder / "one")
    (path / "notes.txt").touch()
    with burnish.load(save_tiny(folder / "other")[0]) as model:
        model.save(path)


@case("saving into an artifact", ArtifactError)
def _save_into(folder: Path) -> None:
    path, _ = save_tiny(folder)
    with burnish.load(path) as model:
        model.save(path / "copy.burnish")


case("a model for another process", UsageError)(with_model(pickle.dumps))


def with_template(template: str) -> Callable[[Path], object]:
    """A case of a model whose chat template is this."""

    def give(folder: Path) -> None:
        with burnish.load(save_tiny(folder, tokenizer=tokenizer_data(template))[0]) as model:
            model.chat_ids([{"role": "user", "content": "hello"}])

    return give


case("a chat template that takes too much", InvalidInputError)(with_template("{{ 'a' * 10**10 }}"))
case("a chat template that is none", ArtifactError)(with_template("{% for %}"))


# ---------------------------------------------------------------- models


class Peeking(nn.Module):
    """Each token sees the next one."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(32, 8)
        self.head = nn.Linear(8, 32)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embedding(ids)
        return self.head(x + x.roll(-1, dims=1))


class NotLogits(nn.Module):
    """Gives one number a text."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(32, 8)

    def forward(self, ids: Tensor) -> Tensor:
        return self.embedding(ids).mean((1, 2))


@cache
def hugging_face_folder() -> Path:
    """A tiny Llama as save_pretrained writes it."""
    import tempfile

    import transformers

    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=64,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=32,
    )
    folder = Path(tempfile.mkdtemp(prefix="burnish-tests-")) / "tiny-llama"
    transformers.LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def with_folder(damage: Callable[[Path], object], **options: Any) -> Callable[[Path], object]:
    """A case of a folder of Hugging Face's that is damaged and then compiled."""

    def give(folder: Path) -> None:
        copy = Path(shutil.copytree(hugging_face_folder(), folder / "model"))
        damage(copy)
        burnish.compile(copy, **options).close()

    return give


def truncate(file: Path) -> None:
    """Keep the first half of a file."""
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def rename_architecture(path: Path) -> None:
    """Let config.json name a model that transformers does not have."""
    config = json.loads((path / "config.json").read_text())
    config.update(model_type="no_such_model", architectures=["NoSuchModelForCausalLM"])
    (path / "config.json").write_text(json.dumps(config))


def code_of_its_own(path: Path) -> None:
    """Let config.json name code in the folder as the model."""
    rename_architecture(path)
    config = json.loads((path / "config.json").read_text())
    config["auto_map"] = {"AutoConfig": "configuration_mine.Config", "AutoModelForCausalLM": "modeling_mine.Model"}
    (path / "config.json").write_text(json.dumps(config))


def adapter_alone(folder: Path) -> None:
    """Compile a folder that has an adapter, and no model."""
    config = {"peft_type": "LORA", "base_model_name_or_path": "no-such-org/no-such-model", "r": 8}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    (folder / "adapter_model.safetensors").write_bytes(b"")
    with mock.patch.object(constants, "HF_HUB_CACHE", str(folder / "hub")):
        burnish.compile(folder)


def unknown_quantization(path: Path) -> None:
    """Let config.json say that the weights are quantized by a method that is not read."""
    config = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps(config | {"quantization_config": {"quant_method": "aqlm"}}))


def million_layers(path: Path) -> None:
    """Let config.json say that there are so many."""
    config = json.loads((path / "config.json").read_text())
    config.update(num_hidden_layers=10**6, layer_types=None)
    (path / "config.json").write_text(json.dumps(config))


case("something that is no model", InvalidModelError)(lambda _: burnish.compile(42))
case("a path where nothing is", InvalidModelError)(lambda folder: burnish.compile(folder / "nothing"))
case("a file that is no .gguf file", InvalidModelError)(lambda _: burnish.compile(__file__))


@case("one of several .gguf files", InvalidModelError)
def one_of_several(folder: Path) -> None:
    write_gguf(folder / "model.gguf", split=9)
    (folder / "model-00001-of-00003.gguf").unlink()
    burnish.compile(folder / "model-00002-of-00003.gguf")


case("a module that gives no logits", InvalidModelError)(lambda _: burnish.compile(NotLogits()))
case("a module that is not causal", NotCausalError)(lambda _: burnish.compile(Peeking(), max_length=16))
case("a folder of an unknown architecture", InvalidModelError)(with_folder(rename_architecture))
case("a folder whose code is its own", InvalidModelError)(with_folder(code_of_its_own))
case("a folder with an adapter whose base model is not at hand", InvalidModelError)(adapter_alone)
case("a folder that is quantized by an unknown method", InvalidModelError)(with_folder(unknown_quantization))
case("a folder with more layers than tensors", InvalidModelError)(with_folder(million_layers))
case("a folder without weights", InvalidModelError)(with_folder(lambda path: (path / "model.safetensors").unlink()))
case("a folder with a truncated weight file", WeightError)(
    with_folder(lambda path: truncate(path / "model.safetensors"))
)
case("more tokens than the model was made for", UsageError)(with_folder(lambda _: None, max_length=1000))
case("a context that the model does not have", UsageError)(with_folder(lambda _: None, context="long"))


def for_target(**options: Any) -> Callable[[Path], object]:
    """A case of options that do not fit the model's target."""
    return lambda _: burnish.compile(nn.Identity(), **options)


case("an architecture that is not known", UsageError)(for_target(target="cuda:sm_70"))
case("a target that does not exist", UsageError)(for_target(target="rocm"))
case("an instruction set that does not exist", UsageError)(for_target(target="cpu:x86-64-v5"))
case("a backend that does not execute the target", UsageError)(for_target(target="cuda:sm_90", backend="onnxruntime"))
case("half precision by ONNX Runtime", UsageError)(for_target(dtype=torch.bfloat16, backend="onnxruntime"))
case("a quantization that does not exist", UsageError)(for_target(target="cuda:sm_90", quantize="int3"))
case("an artifact for another backend", UsageError)(
    lambda folder: burnish.load(save_tiny(folder)[0], backend="triton-interpret")
)
case("an accuracy for a backend that has none", UsageError)(
    lambda folder: burnish.load(save_tiny(folder)[0], accuracy="exact")
)


case("trust in what runs no machine code of an artifact", UsageError)(
    lambda folder: burnish.load(save_tiny(folder)[0], trust="native")
)


@case("more threads than processors", UsageError)
def _too_many_threads(folder: Path) -> None:
    path, _ = save_tiny(folder)
    with mock.patch("burnish.runtime.model.processors", return_value=4):
        burnish.load(path, threads=1000)


@case("native kernels where there is no compiler", NativeBuildError)
def _no_compiler(folder: Path) -> None:
    with mock.patch.dict(os.environ, {"PATH": str(folder), "CXX": "", "BURNISH_CACHE": str(folder)}):
        build(levels_here()[-1])


class NoAttention(nn.Module):
    """A causal model that remembers nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(32, 8)
        self.head = nn.Linear(8, 32)

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(self.embedding(ids))


def changed(*transforms: Any) -> Callable[[Path], object]:
    """A case of transforms that cannot be done to a small model, which has no attention."""
    return lambda _: burnish.compile(NoAttention(), max_length=16, transforms=transforms)


case("a cache of numbers that there are not", UsageError)(changed(burnish.QuantizeCache("int2")))  # type: ignore[arg-type]
case("a cache in 8 bits where there is none", UsageError)(changed(burnish.QuantizeCache()))
case("transforms in an order that does not fit", UsageError)(changed(burnish.QuantizeCache(), burnish.Quantize("int8")))
case("a transform that needs text, without one", UsageError)(changed(burnish.Quantize("int4", method="gptq")))
case("calibration text that is not there", InvalidInputError)(
    lambda _: burnish.compile(NoAttention(), transforms=[burnish.Sparsify()], calibration="nowhere.txt")
)


@case("heads of keys and values that cannot be made", UsageError)
def _heads(folder: Path) -> None:
    (folder / "config.json").write_text('{"num_key_value_heads": 6}')
    burnish.compile(folder, transforms=[burnish.ConvertToGQA(4)])


case("the folder of a tokenizer that is none", InvalidModelError)(
    lambda _: burnish.compile(NoAttention(), tokenizer="nowhere")
)


@case("an artifact for another GPU", UsageError)
def _another_gpu(_: Path) -> None:
    with mock.patch("burnish.runtime.executor_cuda.this_architecture", return_value=120):
        CudaExecutor(Plan([], {}), {80: {}, 90: {}}, {})


@case("a batch that the machine has no memory for", UsageError)
def _too_large_a_batch(_: Path) -> None:
    cache = State("key_0", StateKind.CACHE, ("batch", 8, "capacity", 128), "bfloat16", 2)
    with mock.patch("burnish.runtime.device_memory.machine_bytes", return_value=16 << 30):
        States.allocate([cache], 4096, 8192, ON_CPU)


# ---------------------------------------------------------------- files of tiles


def with_tiles(content: str | None) -> Callable[[Path], object]:
    """A case of a model that is compiled for an H100 by a file of tiles with this content; None: there is no file."""

    def give(folder: Path) -> None:
        file = folder / "tiles.json"
        if content is not None:
            file.write_text(content)
        burnish.compile(hugging_face_folder(), target="cuda:sm_90", tiles=file)

    return give


def one_winner(tiles: str) -> str:
    """A file with these tiles for a kernel."""
    winner = f'{{"tiles": {tiles}, "microseconds": 1.0, "table_microseconds": 2.0}}'
    return f'{{"version": 1, "architectures": {{"sm_90": {{"rms_norm_kernel-0: bfloat16": {winner}}}}}}}'


case("a file of tiles that is not there", UsageError)(with_tiles(None))
case("a file of tiles that is not JSON", UsageError)(with_tiles("rows 64"))
case("a file of tiles of another version", UsageError)(with_tiles('{"version": 2, "architectures": {}}'))
case("a file of tiles for another GPU", UsageError)(with_tiles('{"version": 1, "architectures": {"sm_80": {}}}'))
case("tiles of a kind that does not exist", UsageError)(with_tiles(one_winner('{"type": "cube"}')))
case("tiles with a field that does not exist", UsageError)(
    with_tiles(one_winner('{"type": "prompt", "rows": 64, "block": 64, "num_warps": 4, "num_stages": 2, "swizzle": 3}'))
)
case("a file of tiles for a CPU", UsageError)(
    lambda folder: burnish.compile(hugging_face_folder(), tiles=folder / "tiles.json")
)


def message(case: Case, folder: Path) -> str:
    """What burnish says, in one line, without the places of `folder` and of this project."""
    try:
        case.give(folder)
    except case.error as error:
        text = str(error)
        for place in (folder, hugging_face_folder().parent, Path(__file__).parents[1]):
            text = text.replace(f"{place}/", "").replace(str(place), ".")
        return " ".join(text.split())
    raise AssertionError(f"{case.what}: no {case.error.__name__}")


def row(case: Case, text: str) -> str:
    """The case as a row of the table in docs/errors.md; of a long message, the beginning."""
    text = text if len(text) <= 400 else f"{text[:200].rsplit(' ', 1)[0]} …"
    return f"| {case.what} | `{case.error.__name__}` | {text.replace('|', '/').replace('<', '&lt;')} |"
