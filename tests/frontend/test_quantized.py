"""Quantized checkpoints are read as the numbers that they have, and each that is not read is named."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    GptOssConfig,
    GptOssForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
    Qwen3MoeConfig,
    Qwen3MoeForCausalLM,
)
from transformers.core_model_loading import Transpose, WeightConverter
from transformers.integrations.mxfp4 import convert_moe_packed_tensors

import burnish
from burnish.frontend import conversions, read
from burnish.frontend.checkpoint import read_checkpoint
from burnish.ir.errors import InvalidModelError, WeightError
from burnish.ir.interpreter import run
from burnish.ir.panels import format_of
from burnish.ir.quantization import kept, why_not_kept
from tests.frontend.quantized_models import FORMATS, SIZES, Format, write
from tests.frontend.test_folder import TOKENS
from tests.tolerances import assert_near

BY_NAME = {each.name: each for each in FORMATS}


@pytest.mark.parametrize("form", FORMATS, ids=lambda form: form.name)
def test_weights_are_the_numbers_of_the_file(tmp_path: Path, form: Format) -> None:
    meant = write(tmp_path, form)
    model, weights = read_checkpoint(tmp_path, False)
    assert weights is not None
    assert weights.keys() == meant.keys()
    assert type(model.model.layers[0].mlp.up_proj) is torch.nn.Linear
    for name, expected in meant.items():
        found = weights[name].materialize()
        assert found.dtype is torch.float32
        assert torch.equal(found, expected), name
        if not name.endswith("_proj.weight"):
            continue
        integers = kept(weights[name])
        assert (integers is not None) is form.kept
        if integers is None:
            assert form.kind in why_not_kept(weights[name])
        else:
            assert torch.equal(integers.materialize(), expected)
            assert format_of(integers, None)[0] not in ("f32", "f16", "bf16")  # which would be 4 or 8 times as large


def logits_of(meant: dict[str, Tensor]) -> Tensor:
    """What transformers' own model gives with these weights."""
    model = LlamaForCausalLM(LlamaConfig(**SIZES, tie_word_embeddings=False, attn_implementation="eager")).eval()
    model.load_state_dict(meant)
    with torch.no_grad():
        logits: Tensor = model(TOKENS).logits
    return logits


def test_a_program_gives_the_logits_of_the_floats_that_are_meant(tmp_path: Path) -> None:
    meant = write(tmp_path, BY_NAME["gptq-act-order"])
    assert_near(run(read(tmp_path).program, [TOKENS])[0], logits_of(meant))


@pytest.mark.parametrize("form", FORMATS, ids=lambda form: form.name)
def test_native_kernels_compute_with_what_the_file_has(tmp_path: Path, form: Format) -> None:
    meant = write(tmp_path, form)
    with burnish.compile(tmp_path, backend="native", verify=False) as compiled:
        found = compiled(TOKENS)
        (record,) = [record for record in compiled.trace.passes if record.name == "keep-integers"]
    assert_near(found, logits_of(meant))
    if form.kept:
        assert len(record.rewrites) == 7
    else:
        assert sum(form.kind in each.text for each in record.refusals) == 7


@pytest.mark.parametrize("kind", ["mixtral", "qwen3_moe"])
@pytest.mark.parametrize("name", ["gptq-int4", "awq-gemm", "fbgemm", "packed-int4-zeros", "bitsandbytes-nf4"])
def test_experts_that_a_file_has_one_by_one(tmp_path: Path, kind: str, name: str) -> None:
    torch.manual_seed(0)
    options: dict[str, Any] = {**SIZES, "num_experts_per_tok": 2, "moe_intermediate_size": 64}
    model = (
        MixtralForCausalLM(MixtralConfig(**options, num_local_experts=4))
        if kind == "mixtral"
        else Qwen3MoeForCausalLM(Qwen3MoeConfig(**options, num_experts=4, head_dim=32))
    ).eval()
    meant = write(tmp_path / "packed", BY_NAME[name], model)
    floats = tmp_path / "floats"
    model.save_pretrained(floats)
    save_file(meant, floats / "model.safetensors", {"format": "pt"})
    expected = AutoModelForCausalLM.from_pretrained(floats, dtype=torch.float32, attn_implementation="eager")
    with burnish.compile(tmp_path / "packed", backend="native", verify=False) as compiled, torch.no_grad():
        assert_near(compiled(TOKENS), expected(TOKENS).logits)
        (record,) = [record for record in compiled.trace.passes if record.name == "keep-integers"]
    if BY_NAME[name].kept:
        assert sum("experts" in each.node for each in record.rewrites) == 2


def test_experts_that_do_not_fit_together(tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = MixtralConfig(**SIZES, num_experts_per_tok=2, num_local_experts=4)
    write(tmp_path, BY_NAME["fbgemm"], MixtralForCausalLM(config))
    lost = "model.layers.0.block_sparse_moe.experts.2.w3.weight"
    edit(tmp_path, lambda tensors: [tensors.pop(name) for name in (lost, f"{lost}_scale")])
    with pytest.raises(WeightError, match=r"the matrices of .*experts\.gate_up_proj, .* are not .* all there"):
        read(tmp_path)


def test_a_conversion_that_is_not_known_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, BY_NAME["fbgemm"])
    renamed = {UP: UP.replace("up_proj", "lifted")}
    edit(tmp_path, lambda tensors: rename(tensors, renamed))
    turning = WeightConverter(["mlp.lifted.weight"], ["mlp.up_proj.weight"], [Transpose(0, 1)])
    monkeypatch.setattr(conversions, "get_model_conversion_mapping", lambda _: [turning])
    with pytest.raises(InvalidModelError, match=r"lifted\.weight' another one by Transpose, which is not done"):
        read(tmp_path)


def gpt_oss(folder: Path) -> GptOssForCausalLM:
    """A small gpt-oss, whose experts are in MXFP4 in `folder`."""
    torch.manual_seed(0)
    config = GptOssConfig(
        **SIZES | {"hidden_size": 64, "intermediate_size": 96},
        head_dim=16,
        num_local_experts=4,
        num_experts_per_tok=2,
        sliding_window=4,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
    )
    model = GptOssForCausalLM(config).eval()
    model.save_pretrained(folder)
    tensors = {name: tensor.clone() for name, tensor in load_file(folder / "model.safetensors").items()}
    for name in [
        name for name in tensors if name.endswith("experts.gate_up_proj") or name.endswith("experts.down_proj")
    ]:
        experts, inputs, outputs = tensors.pop(name).shape
        blocks = torch.randint(0, 256, (experts, outputs, inputs // 32, 16), dtype=torch.uint8)
        scales = torch.randint(118, 124, (experts, outputs, inputs // 32), dtype=torch.uint8)
        tensors |= {f"{name}_blocks": blocks, f"{name}_scales": scales}
        model.get_parameter(name).data = convert_moe_packed_tensors(blocks, scales, dtype=torch.float32)
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    text = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(text | {"quantization_config": {"quant_method": "mxfp4"}}))
    model.set_attn_implementation("eager")
    return model


def test_experts_in_mxfp4(tmp_path: Path) -> None:
    """Beside what transformers makes of them."""
    model = gpt_oss(tmp_path)
    with burnish.compile(tmp_path, backend="native", verify=False) as compiled, torch.no_grad():
        assert_near(compiled(TOKENS), model(TOKENS).logits)
        (record,) = [record for record in compiled.trace.passes if record.name == "pack-panels"]
    assert sum(each.text.endswith("in panels of q5") for each in record.rewrites) == 2
    edit(tmp_path, lambda tensors: tensors.update({f"{GATE_UP}_scales": torch.zeros(4, 192, 3, dtype=torch.uint8)}))
    with pytest.raises(WeightError, match=rf"{GATE_UP}_scales' is uint8 \[4, 192, 3\], and uint8 \[4, 192, 2\]"):
        read(tmp_path)


@pytest.mark.parametrize("name", ["gptq-int4", "awq-gemm", "gptq-int8", "int8-rows", "fbgemm", "bitsandbytes-nf4"])
def test_onnx_runtime_computes_with_floats_and_says_so(tmp_path: Path, name: str) -> None:
    meant = write(tmp_path, BY_NAME[name])
    with burnish.compile(tmp_path, backend="onnxruntime", verify=False) as compiled:
        assert_near(compiled(TOKENS), logits_of(meant))
        (record,) = [record for record in compiled.trace.passes if record.name == "read-integers"]
    says = "only Quantize('keep') keeps here: floats" if BY_NAME[name].kept else BY_NAME[name].kind
    says = "only native kernels read the floats of 8 bits" if name == "fbgemm" else says
    assert any(says in each.text for each in record.refusals)


@pytest.mark.parametrize("name", ["gptq-int4", "awq-gemm", "gptq-int8", "int8-rows"])
def test_onnx_runtime_keeps_integers_when_asked(tmp_path: Path, name: str) -> None:
    meant = write(tmp_path, BY_NAME[name])
    keep = [burnish.Quantize("keep")]  # the same graph by PyTorch: ONNX Runtime rounds activations
    with burnish.compile(tmp_path, backend="reference", transforms=keep, verify=False) as compiled:
        assert_near(compiled(TOKENS), logits_of(meant))
        (record,) = [record for record in compiled.trace.passes if record.name == "read-integers"]
    assert record.rewrites


# ---------------------------------------------------------------- what is not read


def with_settings(folder: Path, **settings: Any) -> None:
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"] |= settings
    (folder / "config.json").write_text(json.dumps(config))


@pytest.mark.parametrize("method", ["hqq", "aqlm", "quip", "eetq", "torchao", "vptq", "higgs", "quark", "spqr"])
def test_other_methods_are_refused_by_name(tmp_path: Path, method: str) -> None:
    write(tmp_path, BY_NAME["awq-gemm"])
    (tmp_path / "model.safetensors").unlink()  # before weights are looked for
    with_settings(tmp_path, quant_method=method)
    with pytest.raises(InvalidModelError, match=rf"quantized by {method!r}; what is read: awq, bitsandbytes, .*gptq"):
        read(tmp_path)


@pytest.mark.parametrize(
    ("form", "settings", "says"),
    [
        ("gptq-int4", {"bits": 3}, "bits=3"),
        ("gptq-int4", {"checkpoint_format": "marlin"}, "checkpoint_format='marlin'"),
        ("awq-gemm", {"version": "gemv"}, "version='gemv'"),
        ("awq-gemm", {"bits": 8}, "bits=8"),
        ("packed-int4", {"format": "marlin-24"}, "format='marlin-24'"),
        ("packed-int4", {"format": "mxfp8-quantized"}, "format='mxfp8-quantized'"),
        ("packed-int4", {"quantization_status": "frozen"}, "quantization_status='frozen'"),
        ("packed-int4", {"transform_config": {"config_groups": {"a": {}}}}, "transform_config"),
        ("packed-int4", {"sparsity_config": {"format": "sparse-24-bitmask"}}, "sparsity_config"),
        ("fp8-blocks", {"expert_dtype": "fp4"}, "expert_dtype='fp4'"),
    ],
)
def test_other_settings_are_refused_by_name(tmp_path: Path, form: str, settings: dict[str, Any], says: str) -> None:
    write(tmp_path, BY_NAME[form])
    with_settings(tmp_path, **settings)
    with pytest.raises(InvalidModelError, match=f"{tmp_path.name}.*{says}"):
        read(tmp_path)


UP, GATE_UP = "model.layers.0.mlp.up_proj", "model.layers.0.mlp.experts.gate_up_proj"


def rename(tensors: dict[str, Tensor], modules: dict[str, str]) -> None:
    for old, new in modules.items():
        for name in [name for name in tensors if name.startswith(f"{old}.")]:
            tensors[new + name.removeprefix(old)] = tensors.pop(name)


def edit(folder: Path, change: Callable[[dict[str, Tensor]], object]) -> None:
    tensors = {name: tensor.clone() for name, tensor in load_file(folder / "model.safetensors").items()}
    change(tensors)
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})


@pytest.mark.parametrize(
    ("form", "part", "tensor", "says"),
    [
        ("gptq-int4", "scales", None, "needs a qweight and scales"),
        ("gptq-int4", "qzeros", None, rf"no tensor '{UP}\.qzeros'"),
        ("gptq-int4", "qzeros", torch.zeros(4, 31, dtype=torch.int32), r"int32 \[4, 31\], and int32 \[4, 32\]"),
        ("gptq-int4", "scales", torch.zeros(4, 256, dtype=torch.int32), "and float16 or bfloat16 or float32"),
        ("gptq-int4", "g_idx", torch.full((128,), 4, dtype=torch.int32), "names other groups than the 4"),
        ("gptq-int4", "scales", torch.zeros(3, 256).half(), r"qzeros' is int32 \[4, 32\], and int32 \[3, 32\]"),
        ("awq-gemm", "qzeros", torch.zeros(2, 33, dtype=torch.int32), r"int32 \[2, 32\] is expected"),
        ("packed-int4", "weight_shape", None, "weight_shape"),
        ("packed-int4", "weight_shape", torch.tensor([256, 100]), "not 2, 4 or 8 bits of each"),
        ("packed-int4", "weight_scale", None, "no weight_scale"),
        ("packed-int4", "weight_scale", torch.zeros(256, 3).half(), r"\[256, 128\], and its scales \[256, 3\]"),
        ("gptq-int4", "scales", torch.zeros(0, 256).half(), "a tensor without elements"),
        ("int8-rows", "weight", torch.zeros(8, dtype=torch.int8), "and no matrix"),
        ("mlx-int4", "biases", None, rf"no tensor '{UP}\.biases'"),
        ("mlx-int4", "biases", torch.zeros(256, 3).half(), r"float16 \[256, 3\]"),
        ("ct-mxfp4", "weight_scale", torch.zeros(256, 3).byte(), r"uint8 \[256, 4\] is expected"),
        ("ct-nvfp4", "weight_scale", torch.zeros(256, 8), r"float8_e4m3fn \[256, 8\] is expected"),
        ("fbgemm", "weight_scale", None, "has no weight_scale_inv or weight_scale"),
        ("fbgemm", "weight_scale", torch.zeros(255, 1), "no size of blocks"),
        ("fp8-blocks", "weight_scale_inv", torch.zeros(2, 3), r"\[2, 3\], and .* \[3, 1\] is expected"),
        ("bitsandbytes-int8", "SCB", torch.zeros(255), r"SCB' is float32 \[255\]"),
        ("bitsandbytes-int8", "weight_format", torch.tensor(1, dtype=torch.uint8), "laid out for a GPU"),
        ("bitsandbytes-nf4", "weight.quant_state.bitsandbytes__nf4", None, "no quant_state"),
        ("bitsandbytes-nf4", "weight.quant_state.bitsandbytes__nf4", torch.zeros(3).byte(), "no JSON"),
        ("bitsandbytes-nf4", "weight.absmax", torch.zeros(3), r"absmax' is float32 \[3\]"),
        ("bitsandbytes-nf4-nested", "weight.nested_absmax", torch.zeros(3), r"nested_absmax' is float32 \[3\]"),
    ],
)
def test_parts_that_do_not_fit_are_named(
    tmp_path: Path, form: str, part: str, tensor: Tensor | None, says: str
) -> None:
    write(tmp_path, BY_NAME[form])

    def change(tensors: dict[str, Tensor]) -> None:
        del tensors[f"{UP}.{part}"]
        if tensor is not None:
            tensors[f"{UP}.{part}"] = tensor

    edit(tmp_path, change)
    with pytest.raises(WeightError, match=says) as raised:
        read(tmp_path)
    assert UP in str(raised.value)


def test_biases_that_a_model_has_no_place_for(tmp_path: Path) -> None:
    """AutoGPTQ writes zeros for linears without one."""
    write(tmp_path, BY_NAME["gptq-int4"])
    edit(tmp_path, lambda tensors: tensors.update({f"{UP}.bias": torch.zeros(256).half()}))
    assert read_checkpoint(tmp_path, False)[1] is not None
    edit(tmp_path, lambda tensors: tensors.update({f"{UP}.bias": torch.ones(256).half()}))
    with pytest.raises(WeightError, match=rf"no place for the tensor '{UP}\.bias'"):
        read(tmp_path)


def test_bits_of_some_modules_of_their_own(tmp_path: Path) -> None:
    """MLX, whose first versions wrote `quantization` alone."""
    meant = write(tmp_path, BY_NAME["mlx-int4"])
    weight, expected = BY_NAME["mlx-int2"].pack(torch.randn(256, 128))
    edit(tmp_path, lambda tensors: tensors.update({f"{UP}.{part}": each for part, each in weight.items()}))
    config = json.loads((tmp_path / "config.json").read_text())
    config["quantization"] = config.pop("quantization_config") | {UP: {"bits": 2, "group_size": 32}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    _, weights = read_checkpoint(tmp_path, False)
    assert weights is not None
    assert torch.equal(weights[f"{UP}.weight"].materialize(), expected)
    down = f"{UP.replace('up', 'down')}.weight"
    assert torch.equal(weights[down].materialize(), meant[down])
    config["quantization"][UP]["bits"] = 3
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(InvalidModelError, match="bits=3"):
        read(tmp_path)


def test_blocks_may_be_larger_than_a_weight(tmp_path: Path) -> None:
    meant = write(tmp_path, BY_NAME["fp8-blocks"])
    with_settings(tmp_path, weight_block_size=[10**12, 128])
    edit(
        tmp_path,
        lambda tensors: [tensors.update({name: torch.rand(1, 1)}) for name in tensors if name.endswith("_inv")],
    )
    with pytest.raises(WeightError, match="expected"):  # the ones of 256 inputs have two
        read(tmp_path)
    edit(tmp_path, lambda tensors: tensors.update({f"{UP.replace('up', 'down')}.weight_scale_inv": torch.rand(1, 2)}))
    _, weights = read_checkpoint(tmp_path, False)
    assert weights is not None
    assert weights.keys() == meant.keys()
    assert weights[f"{UP.replace('up', 'down')}.weight"].materialize().shape == (128, 256)


def test_an_adapter_of_a_quantized_model(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """What it changes becomes floats, which is told; the rest stays integers."""
    meant = write(tmp_path / "base", BY_NAME["gptq-int4"])
    (tmp_path / "adapter").mkdir()
    config = {"peft_type": "LORA", "base_model_name_or_path": str(tmp_path / "base"), "r": 4, "lora_alpha": 4}
    (tmp_path / "adapter" / "adapter_config.json").write_text(json.dumps(config))
    down, up = torch.randn(4, 128), torch.randn(256, 4)
    factors = {f"base_model.model.{UP}.lora_A.weight": down, f"base_model.model.{UP}.lora_B.weight": up}
    save_file(factors, tmp_path / "adapter" / "adapter_model.safetensors", {"format": "pt"})
    program = read(tmp_path / "adapter").program
    assert f"1 weights with an adapter become floats, such as {UP}.weight" in caplog.text
    meant[f"{UP}.weight"] = meant[f"{UP}.weight"] + up @ down
    assert_near(run(program, [TOKENS])[0], logits_of(meant))
    assert sum(kept(weight) is not None for weight in program.weights.values()) == 6


def test_settings_in_a_file_of_their_own(tmp_path: Path) -> None:
    """As the first versions of AutoGPTQ wrote them."""
    meant = write(tmp_path, BY_NAME["gptq-int4"])
    config = json.loads((tmp_path / "config.json").read_text())
    settings = config.pop("quantization_config")
    del settings["quant_method"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "quantize_config.json").write_text(json.dumps(settings))
    _, weights = read_checkpoint(tmp_path, False)
    assert weights is not None
    assert torch.equal(weights[f"{UP}.weight"].materialize(), meant[f"{UP}.weight"])


def test_a_missing_weight_is_told_by_its_name(tmp_path: Path) -> None:
    write(tmp_path, BY_NAME["gptq-int4"])

    def change(tensors: dict[str, Tensor]) -> None:
        for part in ("qweight", "qzeros", "scales", "g_idx"):
            del tensors[f"{UP}.{part}"]

    edit(tmp_path, change)
    with pytest.raises(WeightError, match=rf"no tensor '{UP}\.weight'"):
        read(tmp_path)
