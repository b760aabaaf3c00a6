"""Whole networks: how many conversions of layout are left, what they move, and the same outputs."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.export import Dim

import burnish
from burnish.passes.layout.assign_layout import AssignLayout
from burnish.runtime.compiled_module import CompiledModule
from tests.networks import SMALL, network
from tests.optimized_onnx import optimized_nodes

CONVOLUTIONAL = tuple(SMALL)


def compiled_and_wanted(module: nn.Module, inputs: tuple[Tensor, ...], backend: str) -> tuple[CompiledModule, Any, Any]:
    """An artifact, what it gives, and what the module does. It has been compared at compiling, too."""
    compiled = burnish.compile(module, inputs, backend=backend)
    with torch.no_grad():
        wanted = module(*inputs)
    return compiled, compiled(*inputs), wanted


def conversions(compiled: CompiledModule) -> tuple[int, int]:
    """How many assign-layout found as the network is written, and how many it left."""
    (record,) = (each for each in compiled.trace.passes if each.name == AssignLayout.name)
    before, after = re.findall(r"(\d+) that move", record.notes[0]) if record.notes else (0, 0)
    return int(before), int(after)


@pytest.mark.parametrize("backend", ["onnxruntime", "reference"])
@pytest.mark.parametrize("name", CONVOLUTIONAL)
def test_networks_give_the_same(name: str, backend: str) -> None:
    module, image = network(name, SMALL)
    compiled, found, wanted = compiled_and_wanted(module, (image,), backend)
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)
    compiled.close()


@pytest.mark.parametrize("backend", ["onnxruntime", "reference"])
@pytest.mark.parametrize("name", CONVOLUTIONAL)
def test_for_any_number_of_rows(name: str, backend: str) -> None:
    module, image = network(name, SMALL)
    shapes = {"pixels": {0: Dim("rows")}}
    with burnish.compile(module, (image.expand(2, -1, -1, -1),), dynamic_shapes=shapes, backend=backend) as compiled:
        images = torch.randn(3, *image.shape[1:])
        with torch.no_grad():
            torch.testing.assert_close(compiled(images), module(images), rtol=1e-4, atol=1e-4)
        assert backend == "onnxruntime" or conversions(compiled)[1] <= 2


@pytest.mark.parametrize("name", CONVOLUTIONAL)
def test_channels_last_networks_are_converted_at_their_borders(name: str) -> None:
    module, image = network(name, SMALL)
    with burnish.compile(module, (image,), backend="reference") as compiled:
        assert conversions(compiled)[1] <= 2


def test_onnx_runtime_keeps_what_it_blocks_by_itself() -> None:
    """The pass leaves ResNet-50 as it is written: its convolutions are all in blocks, as far as the pool."""
    module, image = network("ResNet-50", SMALL)
    with burnish.compile(module, (image,)) as compiled:
        record = compiled.trace.passes[-1]
        assert not record.rewrites
        assert conversions(compiled) == (2, 2)
        operators = optimized(compiled)
        assert operators["nchwc.ReorderInput"] == 0
        assert operators["nchwc.ReorderOutput"] == 1
        assert operators["Conv"] == operators["BatchNormalization"] == operators["Transpose"] == 0


def test_the_transposes_of_convnext_are_absorbed_by_blocked_convolutions() -> None:
    module, image = network("ConvNeXt", SMALL)
    with burnish.compile(module, (image,), passes=lambda listed: listed[:-1]) as compiled:
        as_written = optimized(compiled)["Transpose"]
    with burnish.compile(module, (image,)) as compiled:
        before, after = conversions(compiled)
        assert after <= before / 1.5
        assert as_written > 4
        assert optimized(compiled)["Transpose"] <= 2


def optimized(compiled: CompiledModule) -> Counter[str]:
    """The operators that ONNX Runtime makes of an artifact when it loads it; those on blocks as nchwc.NAME."""
    return Counter("nchwc." * node.domain.endswith("nchwc") + node.op_type for node in optimized_nodes(compiled))


# ---------------------------------------------------------------- transformers


def _vit() -> tuple[nn.Module, Tensor]:
    from transformers import ViTConfig, ViTModel

    return ViTModel(ViTConfig(**_SIZES, image_size=32, patch_size=8)), torch.randn(2, 3, 32, 32)


def _clip_image() -> tuple[nn.Module, Tensor]:
    from transformers import CLIPVisionConfig, CLIPVisionModel

    return CLIPVisionModel(CLIPVisionConfig(**_SIZES, image_size=32, patch_size=8)), torch.randn(2, 3, 32, 32)


def _clip_text() -> tuple[nn.Module, Tensor]:
    from transformers import CLIPTextConfig, CLIPTextModel

    config = CLIPTextConfig(**_SIZES, vocab_size=99, max_position_embeddings=16, eos_token_id=98, bos_token_id=97)
    return CLIPTextModel(config), torch.randint(0, 97, (2, 16))


def _whisper() -> tuple[nn.Module, Tensor]:
    from transformers import WhisperConfig, WhisperModel

    config = WhisperConfig(
        vocab_size=64,
        d_model=64,
        encoder_layers=2,
        decoder_layers=1,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        encoder_ffn_dim=128,
        decoder_ffn_dim=128,
        max_source_positions=50,
        num_mel_bins=20,
        **{"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1},
    )
    return WhisperModel(config).encoder, torch.randn(2, 20, 100)


_SIZES: dict[str, int] = {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 128,
}


@pytest.mark.parametrize(("make", "left"), [(_vit, 1), (_clip_image, 1), (_clip_text, 2), (_whisper, 1)])
def test_attention_loses_the_transposes_around_heads(make: Callable[[], tuple[nn.Module, Tensor]], left: int) -> None:
    """What is left brings what convolutions give into rows, or is of indices (CLIP's end of text)."""
    torch.manual_seed(0)
    module, given = make()
    module.eval()
    compiled, found, wanted = compiled_and_wanted(module, (given,), "onnxruntime")
    values = found if isinstance(found, dict) else {"": found}
    expected = wanted.last_hidden_state if not isinstance(wanted, Tensor) else wanted
    torch.testing.assert_close(next(iter(values.values())), expected, rtol=1e-4, atol=1e-4)
    operators = optimized(compiled)
    assert operators["MultiHeadAttention"] == 2
    assert operators["Transpose"] <= left
    compiled.close()


def test_a_decoder_s_step_has_no_transposes_in_its_layers() -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes = {**_SIZES, "num_key_value_heads": 2, "vocab_size": 99, "max_position_embeddings": 64}
    torch.manual_seed(0)
    with burnish.compile(LlamaForCausalLM(LlamaConfig(**sizes)).eval(), backend="onnxruntime") as compiled:
        assert optimized(compiled)["Transpose"] == 0
