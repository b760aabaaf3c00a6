"""Mistakes are told before anything is done, in the spelling of who made them, with what works instead."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner, Result

import burnish
from burnish.cli.commands import app
from burnish.cli.flags import in_flags
from burnish.ir.errors import ArtifactError, BurnishError, UsageError
from burnish.preflight import check_destination, check_heads
from burnish.runtime import target_names
from tests.test_cli_shell import burnish_command
from tests.test_transforms import llama


def call(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A folder that says what it is, and has no weights: whoever reads it fails in another way."""
    folder = tmp_path / "model"
    folder.mkdir()
    config = {"model_type": "llama", "num_attention_heads": 12, "num_key_value_heads": 6}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.fixture
def text(tmp_path: Path) -> Path:
    file = tmp_path / "text.txt"
    file.write_text("a text")
    return file


MISTAKES = [
    ("--quantize int44", 2, "'int44' (did you mean int4?) is none of int8, int4"),
    ("--quantize-cache fp-8", 2, "'fp-8' (did you mean fp8?) is none of int8, fp8"),
    ("--backend onnx-runtime", 2, "(did you mean onnxruntime?) is none of"),
    ("--dtype bf16", 2, "'bf16' is none of float32, bfloat16, float16"),
    ("--target cdua", 2, "there is no target 'cdua' (did you mean cuda?)"),
    ("--target cuda:sm_91", 2, "there is no architecture 'sm_91' to compile for; known are sm_80"),
    ("--target cpu:x86-64-v5", 2, "there is no instruction set 'x86-64-v5' to compile for (did you mean x86-64-v4 or"),
    (
        "--target cpu:x86-64-v3,cpu:arm64",
        2,
        "there is no instruction set 'arm64' to compile for: there are x86-64-v4-amx",
    ),
    ("--target x86-64-v4", 2, "there is no target 'x86-64-v4' (did you mean cpu:x86-64-v4 or"),
    ("--target cpu:x86-64-v3 --backend onnxruntime", 2, "cpu:x86-64-v3 is executed by the backend native, not by onnx"),
    ("--backend cuda", 2, "--backend cuda needs --target cuda, or --target cuda:sm_90 for the GPU of that name"),
    ("--target cuda:sm_90 --backend native", 2, "--target cuda:sm_90 is executed by the backend cuda"),
    ("--quantize int4 --calibration nowhere.txt", 2, "'nowhere.txt' does not exist"),
    ("--quantize int4 --calibration {empty}", 1, "calibration text is empty"),
    ("--quantize int4 --quantize-method awq", 2, "add --calibration FILE"),
    ("--tiles {text}", 2, "has tiles for GPUs: give --target cuda, or leave tiles out"),
    ("--tokenizer nowhere", 2, "'nowhere' does not exist"),
    ("--config nowhere.toml", 2, "'nowhere.toml' does not exist"),
    ("--kv-heads 4", 2, "--kv-heads 4: the model has 6 heads of keys and values, and 1 or 2 or 3 can be made of them"),
    ("--kv-heads 6", 2, "--kv-heads 6: the model has 6 heads of keys and values, and 1 or 2 or 3 can be made of them"),
    ("-o {text}", 1, "exists and is not a folder"),
    ("-o {text}/a.burnish", 1, "is a file"),
    ("-o {model}", 1, "is not an artifact of this burnish, so it is not replaced"),
]


@pytest.mark.parametrize(("options", "code", "message"), MISTAKES)
def test_a_mistake_is_told_before_the_model_is_read(
    options: str, code: int, message: str, model: Path, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def reached(*_: object, **__: object) -> None:
        raise AssertionError("the model was compiled")

    monkeypatch.setattr("burnish.cli.compile.compiled_model", reached)
    (tmp_path / "empty.txt").touch()
    names = {"text": text, "model": model, "empty": tmp_path / "empty.txt"}
    done = call("compile", model, "-o", tmp_path / "a.burnish", *options.format(**names).split())
    assert done.exit_code == code
    assert message in " ".join(re.sub(r"[│╭╮╰╯─]", " ", done.stderr).split())
    assert not (tmp_path / "a.burnish").exists()


def test_a_mistake_is_told_without_pytorch(model: Path, tmp_path: Path) -> None:
    """What takes the time: on a machine that does nothing else the rest is a third of a second."""
    code = "import sys; from burnish.cli import main\ntry: main()\nfinally: print('torch' in sys.modules)"
    for options in ("--kv-heads 4", "--target cuda:sm_91", "--quantize int8 --size 1MB", "-o /proc/a.burnish"):
        command = [sys.executable, "-c", code, "compile", str(model), "-o", str(tmp_path / "a"), *options.split()]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode in (1, 2)
        assert done.stdout == "False\n"


def test_target_cuda_without_a_gpu_names_one(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(target_names, "_has_driver", lambda: False)
    done = call("compile", model, "-o", tmp_path / "a", "--target", "cuda")
    assert done.exit_code == 2
    assert "For another one name it, --target cuda:sm_90 (known are sm_80" in done.stderr
    if not torch.cuda.is_available():
        with pytest.raises(UsageError, match="For another one name it, target='cuda:sm_90'"):
            burnish.compile(model, target="cuda")


PYTHON = [
    ({"quantize": "int44"}, "there is no quantization 'int44' (did you mean int4?)"),
    ({"backend": "onnx"}, "there is no backend 'onnx'"),
    ({"verify": "all"}, "verify is True, False, 'shrunk' or 'full', not 'all'"),
    ({"transforms": [burnish.ConvertToGQA(3)]}, "kv_heads=3: the model has 4 heads of keys and values, and 1 or 2 can"),
    ({"transforms": [burnish.ConvertToGQA(1, heal=2)]}, "give calibration=, or leave heal out"),
    ({"transforms": [burnish.Quantize("int5")]}, "no weights of 'int5' (did you mean int"),  # type: ignore[arg-type]
    ({"transforms": [burnish.Quantize("int4", method="gptq")]}, "give calibration=, or method='nearest'"),
    ({"transforms": [burnish.DropLayers(count=1)]}, "give calibration="),
    ({"transforms": [burnish.Sparsify(method="wanda")]}, "give calibration=, or method='magnitude'"),
    ({"transforms": [burnish.QuantizeCache("int2")]}, "no caches of 'int2'"),  # type: ignore[arg-type]
    ({"transforms": [burnish.QuantizeCache(), burnish.Quantize()]}, "give them the other way"),
    ({"transforms": [burnish.Sparsify()], "calibration": "nowhere.txt"}, "there is no file nowhere.txt"),
    ({"tokenizer": "nowhere"}, "there is no folder nowhere to read a tokenizer from"),
]


@pytest.mark.parametrize(("options", "message"), PYTHON)
def test_python_is_told_in_its_names_before_a_model_is_captured(
    options: dict[str, object], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def reached(*_: object, **__: object) -> None:
        raise AssertionError("the model was captured")

    monkeypatch.setattr("burnish.frontend.hugging_face.capture", reached)
    with pytest.raises(BurnishError, match=re.escape(message)):
        burnish.compile(llama(), **options)


def test_heads_are_refused_where_the_model_says_how_many_it_has(tmp_path: Path) -> None:
    def said(config: object) -> None:
        (tmp_path / "config.json").write_text(json.dumps(config))
        check_heads(tmp_path, 4)

    for unknown in ({}, [], {"text_config": 3}, {"num_key_value_heads": [6, 3]}, {"n_head": 6, "multi_query": True}):
        said(unknown)
    said({"num_key_value_heads": 8})
    said({"num_key_value_heads": 6, "num_global_key_value_heads": 4})
    for known in ({"num_key_value_heads": 6}, {"n_head": 6}, {"text_config": {"num_attention_heads": 6}}):
        with pytest.raises(UsageError, match="1 or 2 or 3"):
            said(known)
    with pytest.raises(UsageError, match="there are no fewer"):
        said({"num_key_value_heads": 1})


def test_a_place_that_cannot_be_written_to(tmp_path: Path) -> None:
    check_destination(tmp_path / "new" / "folder" / "a.burnish")
    closed = Path("/proc/nowhere/a.burnish")
    if sys.platform == "linux":
        with pytest.raises(ArtifactError, match=r"a\.burnish cannot be written: /proc: "):
            check_destination(closed)


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ("give calibration=, or leave heal out", "give --calibration FILE, or leave heal out"),
        ('by backend="reference" or backend="native"', "by --backend reference or --backend native"),
        ("leave dtype=torch.bfloat16 out", "leave --dtype bfloat16 out"),
        ("max_length is 1000, and a larger max_length", "--max-length is 1000, and a larger --max-length"),
        ("top_p=1.5 is", "--top-p 1.5 is"),
        ("ConvertToGQA(kv_heads=1, heal=3) found nothing", "ConvertToGQA(kv_heads=1, heal=3) found nothing"),
        ("row 0 has 3 tokens, subtarget='x'", "row 0 has 3 tokens, subtarget='x'"),
    ],
)
def test_messages_are_in_the_shells_spelling(message: str, expected: str) -> None:
    assert in_flags(message) == expected


# ---------------------------------------------------------------- a file of options, a tokenizer, progress

OWN = """
from torch import nn
def make():
    return nn.Embedding(300, 300)
"""


def test_a_file_in_the_current_folder_says_what_flags_do_not(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(OWN)
    (tmp_path / "burnish.toml").write_text('backend = "reference"\nmax_length = 7\n')
    done = burnish_command("compile", "own:make", "-o", "a.burnish", "--max-length", "9", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "burnish.toml says backend" in done.stderr
    with burnish.load(tmp_path / "a.burnish") as found:
        assert found.backend == "reference"
        assert found.signature.max_length == 9
    (tmp_path / "burnish.toml").write_text("backnd = 3")
    wrong = burnish_command("compile", "own:make", "-o", "b.burnish", folder=tmp_path)
    assert wrong.returncode == 2
    assert "burnish.toml has 'backnd' (did you mean backend?)" in wrong.stderr
    for phase in ("capture", "passes", "lower", "write", "load", "verify"):
        assert re.search(rf"^{phase}: \d+\.\d s$", done.stderr, re.MULTILINE)


def test_a_module_is_given_a_tokenizer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers import PreTrainedTokenizerFast

    from tests.runtime.texts import BOS, EOS, TEMPLATE, byte_tokenizer

    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=byte_tokenizer(), bos_token=BOS, eos_token=EOS, chat_template=TEMPLATE
    )
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    (tmp_path / "own_with_words.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    options = ("--max-length", 32, "--backend", "reference")
    done = call("compile", "own_with_words:make", "-o", "a.burnish", *options, "--tokenizer", "tokenizer")
    assert done.exit_code == 0, done.stderr
    with burnish.load(tmp_path / "a.burnish") as found:
        assert found.tokenizer is not None
        assert found.tokenizer.data.chat_template == TEMPLATE
    (tmp_path / "empty").mkdir()
    none = call("compile", "own_with_words:make", "-o", "b.burnish", *options, "--tokenizer", "empty")
    assert none.exit_code == 1
    assert "empty has no tokenizer that transformers reads" in none.stderr
    given = call("run", tmp_path / "a.burnish", "w", "--tokenizer", "tokenizer")
    assert given.exit_code == 2
    assert "this is an artifact" in given.stderr


def test_what_is_left_is_estimated() -> None:
    from burnish.cli.progress import Estimate

    now = [0.0]
    estimate = Estimate(lambda: now[0])
    estimate.begin("capture")
    assert (estimate.done, estimate.left()) == (0.0, "")
    now[0] = 60.0
    estimate.begin("passes")
    capture = estimate.done
    assert estimate.left() == f"about {60 * (1 - capture) / capture / 60:.0f} min left"
    now[0] = 20.0
    assert estimate.left() == f"about {20 * (1 - capture) / capture:.0f} s left"
    estimate.begin("pass raise-norms (8 of 14)")
    middle = estimate.done
    estimate.begin("lower")
    assert middle == pytest.approx((capture + estimate.done) / 2)
    now[0] = 600.0
    assert estimate.left().endswith("min left")
    estimate.begin("verify")
    assert 0.5 < estimate.done < 1.0
