"""What changes the model, from Python, from the command line and from a file; and what it says of its cost."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM
from typer.testing import CliRunner, Result

import burnish
from burnish.cli.commands import app
from burnish.cli.transforms import quantize_of
from burnish.config import read_config, transforms_of, write_config
from burnish.inspect.html import report
from burnish.inspect.table import plain_text, trace_view
from burnish.ir.errors import InvalidInputError, UsageError
from burnish.runtime.artifact import Artifact
from tests import captures

VOCABULARY = 61


def llama() -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=64,
        initializer_range=0.15,
    )
    return LlamaForCausalLM(config).eval()


def ids(count: int = 900) -> list[int]:
    generator = torch.Generator().manual_seed(1)
    found = [0]
    for jump in torch.randint(0, 4, (count - 1,), generator=generator).tolist():
        found.append((5 * found[-1] + jump) % VOCABULARY)
    return found


ALL = [burnish.DropLayers(count=1), burnish.ConvertToGQA(kv_heads=2, heal=2), burnish.Quantize("int4")]


def compiled(path: Path | str) -> None:
    """All transforms that take text, and an artifact of what they leave."""
    with captures.anew(), burnish.compile(llama(), transforms=ALL, calibration=ids()) as made:
        made.save(path)


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("transformed") / "small.burnish"
    compiled(path)
    return path


def test_all_together_and_what_each_costs(artifact: Path) -> None:
    quality = Artifact.open(artifact).trace().quality
    assert [each.name.split("(")[0] for each in quality] == ["original", "DropLayers", "ConvertToGQA", "Quantize"]
    original, dropped, merged, quantized = quality
    # 2 x layers x KV heads x head size x bytes of a float32.
    assert original.cache_bytes_a_token == 2 * 3 * 4 * 8 * 4
    assert dropped.cache_bytes_a_token == 2 * 2 * 4 * 8 * 4
    assert merged.cache_bytes_a_token == 2 * 2 * 2 * 8 * 4
    assert (original.divergence, original.agreement) == (0.0, 1.0)
    assert 0 < dropped.divergence < merged.divergence
    assert quantized.weight_bytes < 0.5 * merged.weight_bytes
    assert merged.parameters < dropped.parameters < original.parameters
    with burnish.load(artifact) as loaded:
        assert sum(state.bytes_a_token for state in loaded.artifact.states) == merged.cache_bytes_a_token
        assert len(loaded.generate([1, 2, 3], max_new_tokens=4, min_new_tokens=4).tokens[0]) == 4


def test_the_cost_is_shown(artifact: Path) -> None:
    trace = Artifact.open(artifact).trace()
    shown = plain_text(trace_view(trace))
    assert "What the transforms cost" in shown
    assert f"{trace.quality[-1].perplexity:,.3f}" in shown
    page = report(trace, "small")
    assert page.count("<circle") == len(trace.quality)
    assert " style=" not in page[page.index('<details class="quality"') : page.index("</details>")]  # by its policy
    assert "<circle" in trace._repr_html_()


@pytest.mark.slow("everything is compiled a second time, in another process")
def test_another_process_makes_the_same_byte_for_byte(artifact: Path, tmp_path: Path) -> None:
    program = "from tests import conftest, test_transforms; from sys import argv; test_transforms.compiled(argv[1])"
    seed = "1" if os.environ.get("PYTHONHASHSEED") != "1" else "2"
    again = tmp_path / "again.burnish"
    subprocess.run(
        [sys.executable, "-c", program, str(again)],
        cwd=Path(__file__).parents[1],
        env={**os.environ, "PYTHONHASHSEED": seed},
        check=True,
    )
    files = [{file.relative_to(folder) for file in folder.rglob("*") if file.is_file()} for folder in (artifact, again)]
    assert files[0] == files[1]
    assert [file for file in files[0] if (artifact / file).read_bytes() != (again / file).read_bytes()] == []


def test_quantize_on_a_cpu_is_the_last_transform() -> None:
    with burnish.compile(llama(), quantize="int8", calibration=ids()) as compiled:
        assert [each.name.split("(")[0] for each in compiled.trace.quality] == ["original", "Quantize"]


@pytest.mark.parametrize(
    ("transforms", "calibration", "message"),
    [
        ([burnish.ConvertToGQA(kv_heads=3)], None, "kv_heads=3: the model has 4 heads of keys and values, and 1 or 2"),
        ([burnish.ConvertToGQA(kv_heads=4)], None, "kv_heads=4: the model has 4 heads"),
        ([burnish.ConvertToGQA(kv_heads=0)], None, "at least one head"),
        ([burnish.DropLayers(layers=[7])], None, "no layer 7: it has layers 0 to 2"),
        ([burnish.DropLayers(count=3)], ids(), "3 layers cannot be dropped of 3"),
        ([burnish.DropLayers(count=1)], None, "needs calibration text"),
        ([burnish.Quantize("int8"), burnish.DropLayers(layers=[0])], None, "give them the other way"),
        ([burnish.QuantizeCache(), burnish.Quantize("int8")], None, "comes after QuantizeCache"),
        ([burnish.DropLayers(layers=[0]), burnish.DropLayers(layers=[0])], None, "given twice"),
        ([], ids(), "no transform that takes it"),
    ],
)
def test_what_cannot_be_done_is_said(transforms: list[object], calibration: list[int] | None, message: str) -> None:
    with pytest.raises(UsageError, match=re.escape(message)):
        burnish.compile(llama(), transforms=transforms, calibration=calibration)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("calibration", "error", "message"),
    [
        ([], InvalidInputError, "empty"),
        ([1, 2, 3], InvalidInputError, "has 3 tokens"),
        ([VOCABULARY] * 900, InvalidInputError, f"has the id {VOCABULARY}"),
        (["a text"], UsageError, "no tokenizer"),
        ("nowhere.txt", InvalidInputError, "no file nowhere.txt"),
    ],
)
def test_texts_that_are_none(calibration: object, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=re.escape(message)):
        burnish.compile(llama(), transforms=ALL, calibration=calibration)  # type: ignore[arg-type]


def test_a_config_is_read_as_it_was_written(tmp_path: Path) -> None:
    file, text = tmp_path / "burnish.toml", tmp_path / "text.txt"
    options = {"target": "cuda:sm_90", "max_length": 64, "verify": "full", "calibration": text}
    transforms = [burnish.DropLayers(layers=["model.layers.1", 2]), burnish.ConvertToGQA(2, heal=3)]
    write_config(file, options, [*transforms, burnish.QuantizeCache("fp8")])
    found = read_config(file)
    assert found.options == options
    assert transforms_of(found.transforms, file) == [*transforms, burnish.QuantizeCache("fp8")]


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ("transforms = 3", "transforms are tables"),
        ("[[transforms]]\nname = 'Shrink'", "transform 'Shrink': there are DropLayers"),
        ("[[transforms]]\nname = 'quantize'", "(did you mean Quantize?)"),
        ("[[transforms]]\nkv_heads = 2", "a transform without a name"),
        ("[[transforms]]\nname = 'ConvertToGQA'", "ConvertToGQA needs kv_heads"),
        ("[[transforms]]\nname = 'ConvertToGQA'\nheads = 2", "no option 'heads' (did you mean kv_heads?)"),
        ("calibration = 3", "calibration is a path, not 3"),
        ("max_length = true", "max_length is an integer, not True"),
        ("verify = 1", "verify is true or false or a text, not 1"),
        ("model = 'x'", "has 'model'"),
        ("max_lenght = 3", "has 'max_lenght' (did you mean max_length?): there are target, backend"),
        ("[[transforms", "is not TOML"),
    ],
)
def test_configs_that_are_none(config: str, message: str, tmp_path: Path) -> None:
    file = tmp_path / "burnish.toml"
    file.write_text(config)
    with pytest.raises(UsageError, match=re.escape(message)):
        transforms_of(read_config(file).transforms, file)


def call(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_from_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1]))
    model, small, again, config = "tests.test_transforms:llama", *(tmp_path / name for name in ("a", "b", "c.toml"))
    done = call(
        "compile",
        model,
        "-o",
        small,
        "--drop-layers",
        "1,",
        "--kv-heads",
        2,
        "--quantize-cache",
        "int8",
        "--save-config",
        config,
    )
    assert done.exit_code == 0, done.output
    assert call("compile", model, "-o", again, "--config", config).exit_code == 0
    shapes = [[state.shape for state in Artifact.open(path).states] for path in (small, again)]
    assert shapes[0] == shapes[1]
    assert len(shapes[0]) == 8  # keys and values of two layers, and their scales
    less = call("compile", model, "-o", again, "--config", config, "--kv-heads", 1)  # a flag wins
    assert less.exit_code == 0, less.output
    assert f"{config} says target, transforms" in " ".join(less.stderr.split())
    one = [state.shape for state in Artifact.open(again).states]
    assert len(one) == 8
    assert one != shapes[0]


def test_numbers_from_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1]))
    config = tmp_path / "numbers.toml"
    options = "--quantize int4 --group 32 --quantize-method nearest --symmetric --head int8 --sparsify 2:4"
    done = call(
        "compile", "tests.test_transforms:llama", "-o", tmp_path / "a", *options.split(), "--save-config", config
    )
    assert done.exit_code == 0, done.output
    rounding = burnish.Quantize("int4", group=32, method="nearest", symmetric=True, head="int8")
    found = read_config(config)
    assert found.options == {"target": "cpu"}
    assert transforms_of(found.transforms, config) == [burnish.Sparsify("2:4"), rounding]
    names = [record.name for record in Artifact.open(tmp_path / "a").trace().passes]
    assert names.index("sparsify") < names.index("quantize")


@pytest.mark.parametrize(
    ("numbers", "on_gpu", "options", "expected"),
    [
        (None, False, {}, None),
        ("int8", False, {}, burnish.Quantize("int8")),
        ("int4", True, {}, None),  # a pass rounds to the nearest
        ("int4", True, {"symmetric": True}, burnish.Quantize("int4", symmetric=True)),
        ("int8", False, {"group": "row"}, burnish.Quantize("int8", group="row")),
        ("int4", False, {"size": "80MB"}, burnish.Quantize("int4", size="80MB")),
    ],
)
def test_what_quantize_and_its_options_mean(
    numbers: str | None, on_gpu: bool, options: dict[str, object], expected: object
) -> None:
    given = {"group": None, "method": None, "symmetric": False, "head": None, "size": None, **options}
    assert quantize_of(numbers, on_gpu, **given) == expected  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--group 32", "--group: how --quantize rounds; give that, too: --quantize int4"),
        ("--symmetric --size 80MB", "--symmetric, --size: how --quantize rounds"),
        ("--quantize int8 --group many", "takes 32, 64, 128 or row"),
        ("--quantize int8 --group 48", "there are no groups of 48"),
        ("--quantize int8 --size 80MB", "--size 80MB needs calibration text: add --calibration FILE"),
        ("--quantize int8 --quantize-method gptq", "--quantize-method gptq needs calibration text: add --calibration"),
        ("--heal 3", "--heal trains what --kv-heads changed: give both"),
        ("--kv-heads 2 --heal 3", "--heal 3 needs calibration text: add --calibration FILE"),
        ("--drop-layers 2", "--drop-layers 2 needs calibration text: add --calibration FILE"),
        ("--drop-layers first", "takes a count (3)"),
        ("--kv-heads 0", "--kv-heads is at least 1, not 0"),
        ("--calibration {here}", "--calibration FILE is for what changes the model: add --quantize int4, --kv-heads 1"),
    ],
)
def test_options_of_numbers_that_contradict(
    options: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1]))
    done = call("compile", "tests.test_transforms:llama", "-o", tmp_path / "no", *options.format(here=__file__).split())
    assert done.exit_code == 2
    assert message in " ".join(done.stderr.split())


def test_evaluation_of_two(artifact: Path, tmp_path: Path) -> None:
    with burnish.compile(llama()) as original, burnish.load(artifact) as small:
        held_out = ids()[-200:]
        first, second = burnish.evaluate([original, small], held_out)
        assert (first.quality.divergence, first.quality.agreement) == (0.0, 1.0)
        assert second.quality.divergence > 0
        assert second.weight_bytes < first.weight_bytes
        assert second.cache_bytes_a_token < first.cache_bytes_a_token
        assert min(first.tokens_per_second, second.tokens_per_second) > 0
        logits = original(torch.tensor([held_out[:64]]))[0, :-1]
        alone = burnish.evaluate([original], held_out[:64])[0].quality.perplexity
        loss = torch.nn.functional.cross_entropy(logits, torch.tensor(held_out[1:64]))
        assert alone == pytest.approx(float(loss.exp()), rel=1e-5)
        for wrong, message in ((held_out[:3], "at least 16"), ([99] * 20, "has the id 99"), ([], "empty")):
            with pytest.raises(InvalidInputError, match=message):
                burnish.evaluate([original], wrong)
    (tmp_path / "text").write_text("words")
    done = call("evaluate", artifact, "--text", tmp_path / "text")
    assert done.exit_code == 2
    assert "no tokenizer" in done.stderr
