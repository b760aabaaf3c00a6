"""Two layers of each kind: what stays, that it runs, and that passes do to it what they do to the whole."""

from __future__ import annotations

import torch

from burnish.frontend import read
from burnish.ir.interpreter import run
from burnish.ir.program import Program, origin
from burnish.ir.trace import Trace
from burnish.passes.check import check
from burnish.passes.pipeline import run_passes
from burnish.passes.pipelines import default_passes
from burnish.passes.shrink import shrink
from tests.zoo.configs import build


def with_layers(model_type: str, layers: int) -> Program:
    from transformers import AutoConfig, AutoModelForCausalLM

    config = build(model_type).config.to_dict()
    config.update(num_hidden_layers=layers)
    config.pop("layer_types", None)
    torch.manual_seed(0)
    return read(AutoModelForCausalLM.from_config(AutoConfig.for_model(**config)).eval()).program


def layers_of(program: Program) -> list[str]:
    modules = (origin(node).module for node in program.graph.nodes)
    return sorted({module.split(".")[2] for module in modules if module.startswith("model.layers.")}, key=int)


def test_few_layers_stay_and_the_program_runs() -> None:
    whole = with_layers("llama", 9)
    small = shrink(whole)
    check(small, "shrink")
    assert layers_of(whole) == [str(layer) for layer in range(9)]
    assert layers_of(small) == ["0", "1"]
    assert len(small.weights) < len(whole.weights) / 2
    assert run(small, [torch.randint(100, (2, 7))])[0].shape == (2, 7, whole.signature.vocabulary)


def test_what_it_computes_is_the_model_with_fewer_layers() -> None:
    small, fewer = shrink(with_layers("llama", 9)), with_layers("llama", 2)
    fewer.weights = small.weights  # the names are those of the model
    ids = torch.randint(100, (2, 7))
    torch.testing.assert_close(run(small, [ids])[0], run(fewer, [ids])[0])


def test_each_kind_of_layer_stays_twice() -> None:
    whole = with_layers("gemma2", 12)  # with a window, without, with, ...
    small = shrink(whole)
    assert {"0", "1", "2", "3"} <= set(layers_of(small))
    assert len(layers_of(small)) <= 6


def test_a_small_model_is_left_alone() -> None:
    whole = with_layers("llama", 2)
    assert layers_of(shrink(whole)) == ["0", "1"]


def test_passes_do_to_it_what_they_do_to_the_whole() -> None:
    whole = with_layers("llama", 9)
    traces = Trace(), Trace()
    for program, trace in zip((whole, shrink(whole)), traces, strict=True):
        run_passes(program, default_passes("onnxruntime"), trace)
    for large, little in zip(traces[0].passes[2:], traces[1].passes[2:], strict=True):
        assert {entry.text for entry in large.rewrites} == {entry.text for entry in little.rewrites}, large.name
