"""Products and tables of integers by ONNX Runtime, against their references.

ONNX Runtime rounds activations to 8 bits, with one scale for each block of a row (`accuracy_level=4`): each is off by
at most half a step, max |x| / 254 in its block. So a product is off by at most the sum of |weight| * max |x| / 254,
and that is the tolerance. Such errors are about 0.5% of a product's norm, and of a whole model add up as noise does: 2%
of the norm of the logits behind the 15 products of a model of two layers; 4% is what is allowed.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, fx

from burnish.frontend import read
from burnish.ir.interpreter import run
from burnish.ir.program import Program
from burnish.ir.quantization import Quantized
from burnish.ir.quantized_ops import block_of, in_blocks, stored_bits
from burnish.ir.trace import Trace
from burnish.ir.weights import Stored
from burnish.passes.pipeline import run_passes
from burnish.passes.pipelines import lower_for_onnxruntime, make_incremental
from tests.codegen.programs import VOCABULARY, Maker, OnnxStep, aten, ops
from tests.passes.lower.test_read_integers import quantized, tied, with_integers
from tests.zoo.configs import build

KINDS = [(8, "none"), (6, "none"), (5, "none"), (5, "minima"), (4, "none"), (4, "whole"), (4, "minima")]


def parts(m: Maker, weight: Quantized, name: str = "weight") -> list[fx.Node | None]:
    """Values, scales, zero points and offsets of a weight in blocks."""
    blocks = in_blocks(weight)
    assert blocks is not None
    found = {part: m.weight(f"{name}.{part}", each.materialize()) for part, each in blocks.parts.items()}
    return [found.get(part) for part in ("values", "scales", "zeros", "offsets")]


def inputs(tokens: Tensor) -> dict[str, Tensor]:
    rows = tokens.shape[0]
    return {
        "tokens": tokens,
        "position": torch.zeros(rows, dtype=torch.int64),
        "logits_index": torch.zeros(1, dtype=torch.int64),
    }


def both(program: Program, folder: Path, tokens: Tensor) -> tuple[Tensor, Tensor]:
    """The first result by the reference and by ONNX Runtime."""
    given = inputs(tokens)
    return run(program, list(given.values()))[0], OnnxStep(program, folder)(given)[0]


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rows=st.integers(1, 40),
    groups=st.integers(1, 5),
    kind=st.sampled_from(KINDS),
    group=st.sampled_from([16, 32, 64, 96]),
    bias=st.booleans(),
    tokens=st.integers(1, 20),
)
def test_products(
    tmp_path: Path, rows: int, groups: int, kind: tuple[int, str], group: int, bias: bool, tokens: int
) -> None:
    weight = quantized(rows, groups, kind[0], group, kind[1])
    m = Maker()
    x = m.embed(groups * group)
    last = m.weight("bias", m.random(rows)) if bias else None
    node = m.call(ops.quantized_linear.default, x, *parts(m, weight), last, bits=stored_bits(weight))
    ids = torch.arange(2 * tokens).reshape(2, -1) % VOCABULARY
    right, found = both(m.step(node), tmp_path, ids)
    values = m.weights["embedding"].materialize()[ids]
    block = block_of(kind[0], group, groups * group)
    assert block is not None
    step = values.reshape(*ids.shape, -1, block).abs().amax(-1).repeat_interleave(block, -1) / 254
    # Minima are multiplied with x itself, not with what it was rounded to.
    multiplied = weight.materialize() if kind[1] != "minima" else replace(weight, minima=None).materialize()
    bound = step @ multiplied.abs().T
    assert ((found - right).abs() <= 1.01 * bound + 1e-3).all()


@pytest.mark.parametrize("size", [24, 72])
def test_a_row_may_end_within_a_block(tmp_path: Path, size: int) -> None:
    m = Maker()
    table = parts(m, quantized(VOCABULARY, 1, 8, size))
    x = m.call(ops.quantized_embedding.default, *table, m.tokens, bits=8, size=size)
    product = m.call(ops.quantized_linear.default, x, *table, None, bits=8)
    right, found = both(m.step(m.call(aten.cat.default, [x, product], -1)), tmp_path, torch.tensor([[1, 2, 22]]))
    torch.testing.assert_close(found[..., :size], right[..., :size])
    torch.testing.assert_close(found[..., size:], right[..., size:], rtol=0, atol=float(right.abs().max()) * 0.02)


@pytest.mark.parametrize("kind", KINDS)
def test_rows_of_tables_are_exact(tmp_path: Path, kind: tuple[int, str]) -> None:
    m = Maker()
    weight = quantized(VOCABULARY, 3, kind[0], 32, kind[1])
    bits = stored_bits(weight)
    node = m.call(ops.quantized_embedding.default, *parts(m, weight), m.tokens, bits=bits, size=96)
    right, found = both(m.step(node), tmp_path, torch.tensor([[0, 22, 7], [3, 3, 1]]))
    torch.testing.assert_close(found, right, rtol=1e-6, atol=1e-6)


def test_a_table_and_a_head_are_stored_once(tmp_path: Path) -> None:
    program = run_passes(tied(quantized(VOCABULARY, 2, 4, 32)), lower_for_onnxruntime(), Trace())
    step = OnnxStep(program, tmp_path)
    assert step.op_types() == ["GatherBlockQuantized", "MatMulNBits"]
    assert (tmp_path / "weights.safetensors").stat().st_size < 3 * 4096 + VOCABULARY * (32 + 8)


def test_sums_of_blocks_are_made_once_for_all_products(tmp_path: Path) -> None:
    m = Maker()
    x = m.embed(64)
    weights = [parts(m, quantized(5, 2, 4, 32, "minima", seed=seed), f"w{seed}") for seed in (0, 1)]
    products = [m.call(ops.quantized_linear.default, x, *weight, None, bits=4) for weight in weights]
    step = OnnxStep(m.step(m.call(aten.cat.default, products, -1)), tmp_path)
    assert step.op_types().count("ReduceSum") == 1


@pytest.mark.parametrize(("bits", "group"), [(4, 32), (8, 0)])
@pytest.mark.parametrize("model_type", ["llama", "qwen3"])
def test_whole_models(tmp_path: Path, model_type: str, bits: int, group: int) -> None:
    whole = with_integers(read(build(model_type)).program, bits, group)
    program = run_passes(whole, [*make_incremental(), *lower_for_onnxruntime()], Trace())
    step = OnnxStep(program, tmp_path)
    assert "MatMulNBits" in step.op_types()
    given = inputs(torch.tensor([[1, 5, 2, 9, 4, 4], [7, 3, 8, 1, 2, 6]]))
    given["logits_index"] = torch.arange(6)
    given |= {state.name: torch.zeros(state.concrete_shape(2, 16)) for state in program.states}
    right = run(program, [given[node.name] for node in program.placeholders])[0]
    found = step(given)[0]
    assert float((found - right).norm() / right.norm()) < 0.04


def test_floats_stay_products_of_floats(tmp_path: Path) -> None:
    program = run_passes(tied(Stored(torch.randn(VOCABULARY, 64))), lower_for_onnxruntime(), Trace())
    assert OnnxStep(program, tmp_path).op_types() == ["Gather", "FusedMatMul"]
