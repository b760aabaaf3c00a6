"""Fewer layers: found on the residual stream, named or chosen, and gone without a trace."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import GPT2Config, GPT2LMHeadModel, GPTNeoXConfig, GPTNeoXForCausalLM, LlamaConfig, LlamaForCausalLM

import burnish
from burnish.frontend import read
from burnish.ir.errors import UsageError
from burnish.ir.program import Program
from burnish.ir.trace import Trace
from burnish.passes.analyses.layers import find_layers
from burnish.passes.pipeline import run_passes
from burnish.passes.pipelines import insert_states, raise_operations
from burnish.passes.transforms.calibration import calibration_of
from burnish.passes.transforms.drop_layers import DropLayers
from burnish.passes.transforms.quality import measure
from burnish.passes.verify import logits_of

VOCABULARY, LAYERS = 61, 4
LLAMA = LlamaConfig(
    vocab_size=VOCABULARY,
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=LAYERS,
    num_attention_heads=4,
    max_position_embeddings=64,
    initializer_range=0.15,
)
GPT2 = GPT2Config(vocab_size=VOCABULARY, n_embd=32, n_layer=LAYERS, n_head=4, n_positions=64, initializer_range=0.15)
NEOX = GPTNeoXConfig(  # attention and feed-forward side by side
    vocab_size=VOCABULARY,
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=LAYERS,
    num_attention_heads=4,
    max_position_embeddings=64,
    initializer_range=0.15,
)
FAMILIES = {
    "llama": (LlamaForCausalLM, LLAMA, lambda model: model.model.layers, "model.layers"),
    "gpt2": (GPT2LMHeadModel, GPT2, lambda model: model.transformer.h, "transformer.h"),
    "gpt_neox": (GPTNeoXForCausalLM, NEOX, lambda model: model.gpt_neox.layers, "gpt_neox.layers"),
}
TEXT = calibration_of(
    [int(each) for each in torch.randint(0, VOCABULARY, (9 * 64,), generator=torch.Generator().manual_seed(1))], 64
)


def made(family: str) -> Any:
    torch.manual_seed(0)
    kind, config, *_ = FAMILIES[family]
    return kind(config).eval()


def raised(model: nn.Module) -> Program:
    return run_passes(read(model).program, raise_operations(), Trace())


@pytest.fixture(scope="module")
def llama() -> Program:
    return raised(made("llama"))


def tokens() -> Tensor:
    return torch.randint(0, VOCABULARY, (2, 12), generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize("family", FAMILIES)
def test_numbers_are_those_of_a_model_without_the_layer(family: str) -> None:
    model = made(family)
    *_, layers_of, path = FAMILIES[family]
    program = raised(model)
    assert [layer.module for layer in find_layers(program)] == [f"{path}.{number}" for number in range(LAYERS)]
    trace = Trace()
    small = run_passes(program, [DropLayers(layers=[1, f"{path}.2"])], trace)
    assert [layer.module for layer in find_layers(small)] == [f"{path}.0", f"{path}.3"]
    assert [entry.text for entry in trace.passes[-1].rewrites] == [
        f"layer 2 ({path}.2) left out",
        f"layer 1 ({path}.1) left out",
    ]
    assert not any(f"{path}.{gone}." in name for name in small.weights for gone in (1, 2))
    layers = layers_of(model)
    del layers[1:3]
    with torch.no_grad():
        expected = model(tokens(), use_cache=False).logits
    torch.testing.assert_close(logits_of(small, tokens()), expected, rtol=1e-4, atol=1e-4)
    assert len(find_layers(program)) == LAYERS, "the program that it was given stays as it was"


def test_states_of_dropped_layers_go_and_the_others_have_no_gaps(llama: Program) -> None:
    step = run_passes(llama, insert_states(), Trace())
    before = [state.name for state in step.states]
    small = run_passes(step, [DropLayers(layers=[0, 2])], Trace())
    assert len(before) == 2 * LAYERS
    assert sorted(state.name for state in small.states) == ["key_0", "key_1", "value_0", "value_1"]
    with pytest.raises(UsageError, match="before states are inserted"):
        run_passes(step, [DropLayers(count=1, calibration=TEXT)], Trace())


def test_a_layer_that_does_nothing_is_chosen_by_each_method() -> None:
    model = made("llama")
    with torch.no_grad():
        for weight in (model.model.layers[2].self_attn.o_proj.weight, model.model.layers[2].mlp.down_proj.weight):
            weight.mul_(1e-3)
    program = raised(model)
    for method in ("divergence", "influence", "block"):
        trace = Trace()
        run_passes(program, [DropLayers(count=1, method=method, calibration=TEXT)], trace)  # type: ignore[arg-type]
        assert [entry.text.split(":")[0] for entry in trace.passes[-1].rewrites] == [
            "layer 2 (model.layers.2) left out"
        ]


def test_a_block_is_of_neighbours_and_divergence_takes_those_before_it_into_account(llama: Program) -> None:
    trace = Trace()
    run_passes(llama, [DropLayers(count=2, method="block", calibration=TEXT)], trace)
    gone = sorted(int(entry.text.split()[1]) for entry in trace.passes[-1].rewrites)
    assert gone[1] == gone[0] + 1
    chosen = run_passes(llama, [DropLayers(count=1, calibration=TEXT)], Trace())
    others = [run_passes(llama, [DropLayers(layers=[number])], Trace()) for number in range(LAYERS)]
    qualities = measure([llama, chosen, *others], TEXT.tokens[:4])
    assert qualities[1].divergence == min(each.divergence for each in qualities[2:])


def test_refitting_what_stands_before_comes_nearer(llama: Program) -> None:
    plain = run_passes(llama, [DropLayers(layers=[2], calibration=TEXT)], Trace())
    refit = run_passes(llama, [DropLayers(layers=[2], refit=True, calibration=TEXT)], Trace())
    _, far, near = measure([llama, plain, refit], TEXT.tokens)
    assert near.divergence < 0.9 * far.divergence


@pytest.mark.parametrize(
    ("transform", "message"),
    [
        (DropLayers(), "which layers to drop?"),
        (DropLayers(layers=[1], count=1), "either given by layers="),
        (DropLayers(layers=[1], method="block"), "give count= with it"),
        (DropLayers(count=0), "at least one layer"),
        (DropLayers(count=1, method="guess", calibration=TEXT), "no method 'guess'"),  # type: ignore[arg-type]
        (DropLayers(count=1), "needs calibration text"),
        (DropLayers(layers=[1], refit=True), "needs calibration text"),
        (DropLayers(count=LAYERS, calibration=TEXT), "4 layers cannot be dropped of 4"),
        (DropLayers(layers=list(range(LAYERS))), "at least one has to stay"),
        (DropLayers(layers=[LAYERS]), "no layer 4: it has layers 0 to 3, model.layers.0 to model.layers.3"),
        (DropLayers(layers=["model.layers"]), "no layer 'model.layers'"),
    ],
)
def test_what_cannot_be_done_is_said(llama: Program, transform: DropLayers, message: str) -> None:
    with pytest.raises(UsageError, match=re.escape(message)):
        run_passes(llama, [transform], Trace())


class NoLayers(nn.Module):
    """A table of what follows."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(VOCABULARY, VOCABULARY)

    def forward(self, ids: Tensor) -> Tensor:
        return self.table(ids)


def test_a_model_without_layers() -> None:
    with pytest.raises(UsageError, match="the model has no layers"):
        burnish.compile(NoLayers(), transforms=[DropLayers(layers=[0])], max_length=32)
