"""The command line: what it prints where, and its exit codes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import onnx
import pytest
import tokenizers
import torch
from typer.testing import CliRunner, Result

import burnish
from burnish.cli.commands import app
from burnish.cli.models import find_model
from burnish.inspect.dump import load_dump
from burnish.ir.errors import InvalidModelError, NativeBuildError, UsageError
from burnish.passes.verify import random_tokens, run_step
from burnish.runtime.tokenization import TokenizerData
from tests.runtime.tiny import VOCABULARY, save_tiny

TEMPLATE = (
    "{% for message in messages %}{{ message.role }} w1 {{ message.content }} {% endfor %}"
    "{% if add_generation_prompt %}w2{% endif %}"
)


def words() -> TokenizerData:
    """A tokenizer of the words w0, w1, ... and of the names of roles."""
    vocabulary = {f"w{number}": number for number in range(VOCABULARY - 2)}
    vocabulary |= {"user": VOCABULARY - 2, "system": VOCABULARY - 1}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="w0"))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    return TokenizerData(tokenizer.to_str(), TEMPLATE)


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small artifact with a tokenizer and a chat template."""
    return save_tiny(tmp_path_factory.mktemp("words"), tokenizer=words())[0]


@pytest.fixture(scope="module")
def wordless(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small artifact without a tokenizer."""
    return save_tiny(tmp_path_factory.mktemp("wordless"))[0]


def call(*arguments: object, stdin: str | None = None) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments], input=stdin)


def test_run_answers_on_stdout_and_reports_speed_on_stderr(artifact: Path) -> None:
    done = call("run", artifact, "w5 w6", "--max-new-tokens", 4)
    assert done.exit_code == 0, done.stderr
    assert len(done.stdout.split()) == 4
    assert all(word.startswith("w") for word in done.stdout.split())
    assert "tokens read at" in done.stderr
    assert "4 written at" in done.stderr


def test_run_uses_the_chat_template_unless_told_not_to(artifact: Path) -> None:
    counts = {
        options: int(call("run", artifact, "w5", *options, "-n", 2).stderr.splitlines()[-1].split()[0])
        for options in [(), ("--raw",), ("--system", "w7")]
    }
    assert counts == {(): 4, ("--raw",): 1, ("--system", "w7"): 7}


def test_run_reads_the_prompt_from_standard_input(artifact: Path) -> None:
    typed = call("run", artifact, "-", "-n", 3, stdin="w5 w6")
    assert typed.stdout == call("run", artifact, "w5 w6", "-n", 3).stdout


@pytest.mark.parametrize("encoding", ["ascii", "cp1252"])
def test_what_the_console_cannot_show_is_replaced(tmp_path: Path, encoding: str) -> None:
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel({"\N{BADGER}": 0}, unk_token="\N{BADGER}"))
    tokenizer.add_tokens([chr(0x4E00 + number) for number in range(VOCABULARY - 1)])
    path = save_tiny(tmp_path, tokenizer=TokenizerData(tokenizer.to_str()))[0]
    environment = {**os.environ, "PYTHONIOENCODING": encoding, "PYTHONUTF8": "0"}
    for arguments in (["run", path, "\N{BADGER}", "-n", "3"], ["inspect", path]):
        command = [sys.executable, "-m", "burnish.cli", *map(str, arguments)]
        done = subprocess.run(command, capture_output=True, env=environment, check=False)
        assert done.returncode == 0, done.stderr
        assert done.stdout


def test_the_same_seed_gives_the_same_words(artifact: Path) -> None:
    options = ("--temperature", 2, "--top-k", 0, "--top-p", 0.99, "--min-p", 0.0001, "-n", 12)
    one, again, other = (call("run", artifact, "w5", *options, "--seed", seed).stdout for seed in (1, 1, 2))
    assert one == again
    assert one != other


def test_the_reference_backend_says_the_same(artifact: Path) -> None:
    fast, slow = (call("run", artifact, "w5", "--backend", name).stdout for name in ("onnxruntime", "reference"))
    assert fast == slow


def test_without_a_tokenizer_prompts_are_ids(wordless: Path) -> None:
    done = call("run", wordless, "5 6 7", "-n", 3)
    assert done.exit_code == 0, done.stderr
    assert len([int(word) for word in done.stdout.split()]) == 3
    refused = call("run", wordless, "hello")
    assert refused.exit_code == 2
    assert "token ids" in refused.stderr


def test_inspect_shows_the_artifact_and_its_passes(artifact: Path, tmp_path: Path) -> None:
    done = call("inspect", artifact, "--dump", tmp_path / "dump", "--verify")
    assert done.exit_code == 0, done.stderr
    for text in ("tiny", "vocabulary of 300", "1 × cache f32[batch, 1, capacity, 8]", "32 B a token", "clean"):
        assert text in done.stdout
    assert (tmp_path / "dump" / "01-clean.txt").read_text() == "text of clean\n"
    assert sorted(file.name for file in (tmp_path / "dump").iterdir()) == ["00-captured.txt", "01-clean.txt"]


def test_full_dumps_are_run_and_written_as_onnx(tmp_path: Path) -> None:
    source = tmp_path / "small.py"
    source.write_text(
        "import torch\nclass Small(torch.nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        torch.manual_seed(0)\n"
        "        self.table = torch.nn.Embedding(20, 8)\n"
        "    def forward(self, ids):\n"
        "        return self.table(ids) @ self.table.weight.T\n"
    )
    command = (sys.executable, "-m", "burnish.cli", "compile", "small:Small", "-o", "small.burnish", "--onnx", "onnx")
    command += ("--backend", "onnxruntime")
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "14 of 14 programs as ONNX in onnx" in " ".join(done.stderr.split())
    assert (tmp_path / "onnx" / "13-read-integers.onnx").exists()

    done_dump = call("inspect", tmp_path / "small.burnish", "--dump", tmp_path / "dump", "--full")
    assert done_dump.exit_code == 0, done_dump.stderr
    last = tmp_path / "dump" / "13-read-integers.txt"
    told = " ".join(done_dump.stdout.split())
    assert f"which are all that 14 of them read; run one with: burnish inspect --run {last}" in told
    done_run = call("inspect", "--run", last, "--onnx", tmp_path / "one")
    assert done_run.exit_code == 0, done_run.stderr
    assert "random" not in done_run.stderr
    with burnish.load(tmp_path / "small.burnish", backend="reference") as small:
        tokens = random_tokens(load_dump(last), 2, 24)
        ours = run_step(load_dump(last), tokens, [24], 24)
        assert torch.equal(ours, small(tokens))
    sizes = {
        dim.dim_param
        for each in onnx.load(tmp_path / "one" / "13-read-integers.onnx").graph.input
        for dim in each.type.tensor_type.shape.dim
    }
    assert sizes == {"batch", "sequence", "kept"}
    assert "lowered: " in done_run.stdout
    assert "[2, 24, 20]" in done_run.stdout
    assert sorted(file.name for file in (tmp_path / "one").iterdir()) == [
        "13-read-integers.onnx",
        "13-read-integers.safetensors",
    ]

    call("inspect", tmp_path / "small.burnish", "--dump", tmp_path / "folded")
    refused = call("inspect", "--run", tmp_path / "folded" / last.name)
    assert refused.exit_code == 1
    assert "write it with --full" in refused.stderr


def test_bench_measures_an_artifact_and_keeps_the_numbers(wordless: Path, tmp_path: Path) -> None:
    file = tmp_path / "results.jsonl"
    done = call(
        *("bench", wordless, "--prompt-length", 8, "--new-tokens", 4, "--repeats", 1, "--threads", 1, "--results", file)
    )
    assert done.exit_code == 0, done.stderr
    assert "burnish" in done.stdout
    (line,) = [json.loads(line) for line in file.read_text().splitlines()]
    assert line["contender"] == "burnish"
    assert line["settings"]["prompt_length"] == 8
    assert line["decode_tokens_per_second"] > 0
    assert line["share_of_bandwidth"] is None  # the artifact's trace does not say what a token reads


def test_bench_says_why_there_is_no_share_of_the_bandwidth(wordless: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(results: object) -> None:
        raise NativeBuildError("there is no C++ compiler")

    monkeypatch.setattr("burnish.benchmark.bandwidth.measure_bandwidth", fails)
    arguments = ("--prompt-length", 4, "--new-tokens", 2, "--repeats", 1, "--threads", 1, "--batch", 3)
    done = call("bench", wordless, *arguments)
    assert done.exit_code == 0, done.stderr
    assert "no share of the read bandwidth, which the native library measures: there is no C++ compiler" in done.stderr
    assert "batch 3, greedy: 4 tokens read, 2 written" in done.stdout
    assert "of read" not in done.stdout


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("inspect", "nowhere.burnish"), 1, "nowhere.burnish"),
        (("inspect", "--run", "nowhere.txt"), 2, "cannot read nowhere.txt"),
        (("inspect", "--run", "nowhere.txt", "--dump", "there"), 2, "--run takes the text of one program"),
        (("inspect", "{artifact}", "--full"), 2, "add --dump DIR"),
        (("inspect", "{artifact}", "--onnx", "there"), 2, "burnish compile --onnx writes all"),
        (("run", "nowhere.burnish", "w1"), 1, "no artifact at nowhere.burnish"),
        (("run", "nowhere", "w1"), 2, "there is nothing at 'nowhere'"),
        (("compile", "nowhere", "-o", "x.burnish"), 2, "there is nothing at 'nowhere'"),
        (("compile", "no_such_module:model", "-o", "x.burnish"), 2, "no module 'no_such_module'"),
        (("compile", "json:no_such_name", "-o", "x.burnish"), 2, "nothing named 'no_such_name'"),
        (("compile", "json:JSONDecoder", "-o", "x.burnish"), 1, "JSONDecoder, not an nn.Module"),
        (("compile", "model"), 2, "--output"),
        (("run", "{artifact}", "w1", "--max-length", 10), 2, "when a model is compiled"),
        (("run", "{artifact}", "w1", "--temperature", -1), 2, "temperature"),
        (("run", "{artifact}", "w1", "--raw", "--system", "w1"), 2, "--system needs a chat template"),
        (("run", "{artifact}", " ".join(["w1"] * 500)), 1, "200"),
        (("bench", "{artifact}", "--vs", "eager"), 2, "--model MODEL"),
        (("bench", "{artifact}", "--vs", "llamacpp"), 2, "no contender 'llamacpp'"),
        (("polish",), 2, "polish"),
    ],
)
def test_mistakes_are_one_message_on_stderr(
    artifact: Path, arguments: tuple[object, ...], code: int, words: str
) -> None:
    done = call(*(str(argument).replace("{artifact}", str(artifact)) for argument in arguments))
    assert done.exit_code == code
    assert words in " ".join(done.stderr.split())
    assert done.stdout == ""
    assert "Traceback" not in done.stderr


def test_a_changed_byte_is_an_error_and_debug_shows_its_traceback(tmp_path: Path) -> None:
    path, _ = save_tiny(tmp_path)
    weights = path / "weights.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    done = subprocess.run(
        [sys.executable, "-m", "burnish.cli", "run", str(path), "1"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "weights.safetensors" in done.stderr
    assert "Traceback" not in done.stderr
    debugged = subprocess.run(
        [sys.executable, "-m", "burnish.cli", "--debug", "run", str(path), "1"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert debugged.returncode == 1
    assert "Traceback" in debugged.stderr


def test_help_names_every_command_and_is_quick_to_print() -> None:
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "burnish.cli", "--help"], capture_output=True, text=True, check=True
    )
    for command in ("compile", "run", "inspect", "bench"):
        assert command in done.stdout
        assert call(command, "--help").exit_code == 0
    assert "torch" not in {line.split("|")[-1].strip() for line in done.stderr.splitlines()}


def test_models_are_found_by_path_or_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine.py").write_text(
        "import torch\nmade = torch.nn.Linear(2, 2)\ndef make():\n    return made\nclass Space:\n    make = make\n"
    )
    monkeypatch.chdir(tmp_path)
    assert find_model("mine.py") == Path("mine.py")
    assert isinstance(find_model("mine:made"), torch.nn.Linear)
    assert find_model("mine:make") is find_model("mine:made")
    assert find_model("mine:Space.make") is find_model("mine:made")
    with pytest.raises(InvalidModelError):
        find_model("mine:torch")
    with pytest.raises(UsageError):
        find_model("mine")
    with pytest.raises(UsageError, match=r"(?s)torch.nn:Linear missing .*'in_features'.*give torch.nn:make"):
        find_model("torch.nn:Linear")
    (tmp_path / "broken.py").write_text("import torch\ndef make():\n    return torch.nn.Linear('a', 2)\n")
    (tmp_path / "worse.py").write_text("1 / 0\n")
    (tmp_path / "lacking.py").write_text("import no_such_package\n")
    for name, says in (
        ("broken:make", r"broken:make\(\) fails: TypeError: .*--debug"),
        ("worse:make", "importing worse fails: ZeroDivisionError"),
        ("lacking:make", "importing lacking fails: No module named 'no_such_package'"),
    ):
        with pytest.raises(InvalidModelError, match=says):
            find_model(name)
    (tmp_path / "made.burnish").mkdir()
    (tmp_path / "made.burnish/manifest.json").touch()
    with pytest.raises(UsageError, match=r"made\.burnish is an artifact"):
        find_model("made.burnish")


COUNTING = """
import torch
from torch import nn
class Counting(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding.from_pretrained(torch.eye(10).roll(1, 1))
    def forward(self, ids):
        return self.embedding(ids)
"""  # a file with a module that counts on


def test_a_module_is_compiled_kept_and_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "counting.py").write_text(COUNTING)
    monkeypatch.chdir(tmp_path)
    done = call("compile", "counting:Counting", "-o", "counting.burnish", "--max-length", 20)
    assert done.exit_code == 0, done.stderr
    assert done.stdout == ""
    assert "insert-states" in done.stderr
    assert "burnish run counting.burnish '1 2 3'" in done.stderr
    assert sorted(file.name for file in tmp_path.glob("[!_]*")) == ["counting.burnish", "counting.py"]
    kept = call("run", "counting.burnish", "1 2 3", "-n", 5)
    assert kept.stdout.split() == ["4", "5", "6", "7", "8"]
    passing = call("run", "counting:Counting", "1 2 3", "-n", 5, "--max-length", 20)
    assert passing.stdout == kept.stdout
    assert sorted(file.name for file in tmp_path.glob("[!_]*")) == ["counting.burnish", "counting.py"]


@pytest.mark.parametrize("command", ["run", "chat"])
def test_the_side_of_a_model_whose_frequencies_change_is_chosen_as_it_is_compiled(command: str, artifact: Path) -> None:
    words = ["w5"] if command == "run" else []
    done = call(command, artifact, *words, "--context", "long")
    assert done.exit_code == 2
    assert "--context is chosen when a model is compiled; this is an artifact" in done.stderr
