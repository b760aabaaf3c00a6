"""Each architecture of GGUF files computes what the model of transformers did that the file was written from."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch

from burnish.frontend.gguf import model_of
from burnish.frontend.gguf_file import open_gguf
from burnish.frontend.gguf_models import ARCHITECTURES, REFUSED
from burnish.ir.errors import InvalidModelError, UsageError, WeightError
from burnish.ir.quantization import kept
from tests.frontend.gguf_files import MODELS, assert_same, write


def test_every_architecture_has_a_case() -> None:
    assert {case.architecture or name for name, case in MODELS.items()} == ARCHITECTURES.keys()


def test_the_guide_lists_them() -> None:
    guide = (Path(__file__).parents[2] / "docs" / "guide.md").read_text(encoding="utf-8")
    (listed,) = re.findall(r"architectures of `\.gguf` files that are read,(.*?)\.\s", guide, re.DOTALL)
    assert set(re.findall(r"`([^`]+)`", listed)) == ARCHITECTURES.keys()


@pytest.mark.parametrize(("name", "why"), [("mamba", "traced for no other length"), ("deci", "of different sizes")])
def test_architectures_that_cannot_be_read(tmp_path: Path, name: str, why: str) -> None:
    assert not REFUSED.keys() & ARCHITECTURES.keys()
    write(tmp_path / "model.gguf", name=name)
    with pytest.raises(InvalidModelError, match=f"the architecture '{name}' is not read: .*{why}"):
        model_of(open_gguf(tmp_path / "model.gguf"))


SLOW = {"gemma3n": "its four streams are a large graph, and nothing else has them"}


@pytest.mark.parametrize(
    "case", [pytest.param(case, marks=pytest.mark.slow(SLOW[case]) if case in SLOW else ()) for case in MODELS]
)
def test_the_program_computes_the_same(tmp_path: Path, case: str) -> None:
    assert_same(tmp_path / "model.gguf", write(tmp_path / "model.gguf", case))


def apart(tensors: dict[str, np.ndarray]) -> None:
    """Each expert's matrices in tensors of their own, as in files until 2024."""
    for name in [name for name in tensors if "_exps" in name]:
        for number, values in enumerate(tensors.pop(name)):
            tensors[name.replace("_exps", f".{number}")] = values


def gates_joined(tensors: dict[str, np.ndarray]) -> None:
    """Gates and what they are for in one tensor."""
    for layer in (0, 1):
        parts = [tensors.pop(f"blk.{layer}.ffn_{part}_exps.weight") for part in ("gate", "up")]
        tensors[f"blk.{layer}.ffn_gate_up_exps.weight"] = np.concatenate(parts, axis=1)


def projections_joined(tensors: dict[str, np.ndarray]) -> None:
    """Queries, keys and values in one tensor."""
    for layer in (0, 1):
        for part in ("weight", "bias"):
            if f"blk.{layer}.attn_q.{part}" in tensors:
                parts = [tensors.pop(f"blk.{layer}.attn_{kind}.{part}") for kind in "qkv"]
                tensors[f"blk.{layer}.attn_qkv.{part}"] = np.concatenate(parts)


@pytest.mark.parametrize(
    ("case", "change"),
    [
        ("mixtral", apart),
        ("qwen2moe", gates_joined),
        ("phi2", projections_joined),
        ("llama", projections_joined),
        ("starcoder2", projections_joined),
    ],
)
def test_tensors_that_are_joined_or_apart(
    tmp_path: Path, case: str, change: Callable[[dict[str, np.ndarray]], None]
) -> None:
    assert_same(tmp_path / "model.gguf", write(tmp_path / "model.gguf", case, change=change))


def test_integers_of_experts_apart_are_kept(tmp_path: Path) -> None:
    names = [f"blk.0.ffn_{part}.{number}.weight" for part in ("gate", "up", "down") for number in range(4)]
    kinds = dict.fromkeys(names, gguf.GGMLQuantizationType.Q8_0)
    write(tmp_path / "model.gguf", "mixtral", change=apart, kinds=kinds)
    _, weights = model_of(open_gguf(tmp_path / "model.gguf"))
    for name in ("gate_up", "down"):
        weight = weights[f"model.layers.0.mlp.experts.{name}_proj"]
        found = kept(weight)
        assert found is not None
        torch.testing.assert_close(found.materialize().reshape(weight.shape), weight.materialize())


def test_an_architecture_that_an_older_gguf_does_not_know(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "model.gguf", "smollm3")
    monkeypatch.setattr("burnish.frontend.gguf_tensors.MODEL_ARCH_NAMES", {})
    with pytest.raises(UsageError, match="does not know the architecture 'smollm3' yet: pip install -U gguf"):
        model_of(open_gguf(tmp_path / "model.gguf"))


def test_sizes_of_experts_that_are_not_said(tmp_path: Path) -> None:
    said = dict.fromkeys(("qwen2moe.expert_feed_forward_length", "qwen2moe.expert_shared_feed_forward_length"))
    sizes = {"intermediate_size": 96, "moe_intermediate_size": 48, "shared_expert_intermediate_size": 96}
    model = write(tmp_path / "model.gguf", "qwen2moe", said, sizes=sizes)
    assert_same(tmp_path / "model.gguf", model)


@pytest.mark.parametrize("pattern", [3, [True, False]])
def test_layers_with_a_window_as_the_file_says(tmp_path: Path, pattern: Any) -> None:
    types = {"layer_types": ["sliding_attention", "sliding_attention" if pattern == 3 else "full_attention"]}
    said = {"gemma2.attention.sliding_window_pattern": pattern, "gemma2.attention.sliding_window": 5}
    model = write(tmp_path / "model.gguf", "gemma2", said, sizes=types | {"sliding_window": 5})
    assert_same(tmp_path / "model.gguf", model)


def test_an_epsilon_of_norms_that_an_architecture_has_not(tmp_path: Path) -> None:
    model = write(tmp_path / "model.gguf", "command-r", {"command-r.attention.layer_norm_rms_epsilon": 0.5})
    assert_same(tmp_path / "model.gguf", model)


def test_an_expert_that_is_missing(tmp_path: Path) -> None:
    def change(tensors: dict[str, np.ndarray]) -> None:
        apart(tensors)
        del tensors["blk.1.ffn_up.2.weight"]

    write(tmp_path / "model.gguf", "mixtral", change=change)
    with pytest.raises(WeightError, match=r"no tensor 'blk\.1\.ffn_gate_exps\.weight'"):
        model_of(open_gguf(tmp_path / "model.gguf"))


def test_yarn_of_latents(tmp_path: Path) -> None:
    rope = {"rope_type": "yarn", "factor": 4.0, "rope_theta": 5000.0, "original_max_position_embeddings": 16}
    rope |= {"mscale": 0.5, "mscale_all_dim": 0.5, "beta_fast": 16.0, "beta_slow": 2.0}
    said = {"type": "yarn", "factor": 4.0, "original_context_length": 16, "yarn_log_multiplier": 0.05}
    said |= {"yarn_beta_fast": 16.0, "yarn_beta_slow": 2.0, "yarn_ext_factor": 1.0}
    metadata = {f"deepseek2.rope.scaling.{name}": value for name, value in said.items()}
    model = write(tmp_path / "model.gguf", "deepseek2", metadata, sizes={"rope_parameters": rope})
    assert_same(tmp_path / "model.gguf", model)


@pytest.mark.parametrize(
    ("case", "entry", "value", "message"),
    [
        ("deepseek2", "expert_gating_func", 3, r"is 3; 1 \(softmax\) and 2 \(sigmoid\) are read"),
        ("deepseek-v2", "expert_weights_norm", True, "softmax of experts has in no model of transformers"),
        ("command-r", "logit_scale", None, "logit_scale is missing"),
        ("qwen2moe", "expert_used_count", None, "expert_used_count is missing"),
        ("gemma2", "attention.sliding_window_pattern", [True], "has 1 values, and there are 2 layers"),
        ("lfm2", "attention.head_count_kv", [0, 2, 4], "one number of heads is read, and 0 for convolutions"),
        ("gpt2", "attention.layer_norm_epsilon", None, "layer_norm_epsilon is missing"),
        ("olmo2", "attention.head_count_kv", [2, 4], "is list, not one number: layers that differ in it"),
        ("smollm3", "feed_forward_length", [64, 64, 32, 64], "is list, not one number: layers that differ in it"),
    ],
)
def test_settings_that_an_architecture_does_not_have(
    tmp_path: Path, case: str, entry: str, value: Any, message: str
) -> None:
    name = f"{MODELS[case].architecture or case}.{entry}"
    write(tmp_path / "model.gguf", case, {name: value})
    with pytest.raises(InvalidModelError, match=message) as raised:
        model_of(open_gguf(tmp_path / "model.gguf"))
    assert name in str(raised.value)


@pytest.mark.parametrize("case", MODELS)
def test_every_tensor_is_read_or_named(tmp_path: Path, case: str) -> None:
    def change(tensors: dict[str, np.ndarray]) -> None:
        tensors["blk.0.somebodys_own.weight"] = np.ones(4, np.float32)

    write(tmp_path / "more.gguf", case, change=change)
    with pytest.raises(WeightError, match=r"no place for 1 tensors \(blk\.0\.somebodys_own\.weight\)"):
        model_of(open_gguf(tmp_path / "more.gguf"))
    write(tmp_path / "less.gguf", case, change=lambda tensors: tensors.pop("blk.1.attn_output.weight", None))
    if "blk.1.attn_output.weight" in open_gguf(tmp_path / "more.gguf").tensors:
        with pytest.raises(WeightError, match=r"no tensor 'blk\.1\.attn_output\.weight'"):
            model_of(open_gguf(tmp_path / "less.gguf"))
