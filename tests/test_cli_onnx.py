"""ONNX files on the command line: decoders and graphs, before compiling and after."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest

from tests.frontend.onnx.models import FLOAT, model, node, tensor, value
from tests.frontend.onnx.test_decoder import cached, weights
from tests.test_cli import call


@pytest.fixture
def decoder(tmp_path: Path) -> Path:
    path = tmp_path / "sums.onnx"
    onnx.save(cached(), path)
    return path


@pytest.fixture
def graph(tmp_path: Path) -> Path:
    path = tmp_path / "product.onnx"
    nodes = [node("MatMul", ["x", "w"], ["y"])]
    onnx.save(
        model(nodes, [value("x", ["batch", 8], FLOAT)], [value("y", ["batch", 4])], [tensor("w", weights(8, 4))]), path
    )
    return path


def test_a_decoder_compiles_and_writes(decoder: Path, tmp_path: Path) -> None:
    done = call("compile", decoder, "-o", tmp_path / "sums.burnish", "--max-length", 32)
    assert done.exit_code == 0, done.stderr
    assert f"Try it: burnish run {tmp_path / 'sums.burnish'} '1 2 3'" in done.stderr
    done = call("run", tmp_path / "sums.burnish", "1 2 3", "--max-new-tokens", 4)
    assert done.exit_code == 0, done.stderr
    assert len(done.stdout.split()) == 4


def test_a_graph_compiles_and_says_how_it_is_called(graph: Path, tmp_path: Path) -> None:
    done = call("compile", graph, "-o", tmp_path / "product.burnish")
    assert done.exit_code == 0, done.stderr
    assert f'burnish.load("{tmp_path / "product.burnish"}")(x=...)' in done.stderr
    done = call("inspect", tmp_path / "product.burnish")
    assert done.exit_code == 0, done.stderr
    assert "x: float32[batch, 8]" in done.stdout
    assert "batch from 1 on" in done.stdout
    assert "of one run, of the sizes it was traced with" in " ".join(done.stdout.split())
    done = call("run", tmp_path / "product.burnish", "hello")
    assert done.exit_code == 2
    assert "is no language model, with tokens and logits: it takes x and gives y" in done.stderr


@pytest.mark.parametrize("kind", ["decoder", "graph"])
def test_inspect_shows_a_file_before_any_compiling(kind: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    path: Path = request.getfixturevalue(kind)
    done = call("inspect", path, "--html", tmp_path / "page.html", "--dump", tmp_path / "texts")
    assert done.exit_code == 0, done.stderr
    told = {"decoder": "a language model", "graph": "a graph: none of its inputs is called input_ids and has integers"}
    assert told[kind] in done.stdout
    assert "1 MatMul" in done.stdout
    assert "0 captured" in done.stdout
    assert "MatMul" in (tmp_path / "page.html").read_text()
    assert "aten.matmul" in (tmp_path / "texts" / "00-captured.txt").read_text()


def test_a_file_has_no_passes_to_compare(decoder: Path) -> None:
    done = call("inspect", decoder, "--rewrites")
    assert done.exit_code == 2
    assert "is not compiled, and has no passes yet" in done.stderr


@pytest.mark.parametrize("command", [("run",), ("evaluate",)])
def test_commands_for_language_models_say_that_a_graph_is_none(command: tuple[str, ...], graph: Path) -> None:
    done = call(*command, graph, "hello") if command[0] == "run" else call(*command, graph, "--text", graph)
    assert done.exit_code != 0
    assert "no language model" in done.stderr or "Usage" in done.stderr
