"""Integers found again in floats that were made from them."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from burnish.ir.program import Program
from burnish.ir.quantization import as_quantized
from burnish.ir.trace import Trace
from burnish.ir.weights import Stored, Weights, nbytes
from burnish.passes.lower.read_integers import ReadIntegers
from burnish.passes.pipeline import run_passes
from burnish.passes.transforms.quantize_exact import found_again
from burnish.passes.transforms.quantize_rounding import Grid, nearest
from burnish.passes.transforms.transform import weight_bytes
from burnish.passes.verify import logits_of
from tests.passes.test_quantize import quantized, small, text

ASYMMETRIC = Grid(4, 32, symmetric=False)


def on_levels(rows: int, groups: int, seed: int, whole: bool, scales: torch.dtype) -> torch.Tensor:
    """A weight[rows, groups * 32] of scale * (u - zero), u from 0 to 15."""
    generator = torch.Generator().manual_seed(seed)
    u = torch.randint(0, 16, (rows, groups, 32), generator=generator).float()
    scale = ((torch.rand(rows, groups, 1, generator=generator) + 0.1) / 50).to(scales).float()
    zero = torch.rand(rows, groups, 1, generator=generator) * 14 + 0.5
    return ((u - (zero.round() if whole else zero)) * scale).flatten(1)


@settings(max_examples=40, deadline=None)
@given(
    rows=st.integers(1, 4),
    groups=st.integers(1, 4),
    seed=st.integers(0, 99),
    whole=st.booleans(),
    scales=st.sampled_from([torch.float16, torch.float32]),
)
def test_levels_are_found_again(rows: int, groups: int, seed: int, whole: bool, scales: torch.dtype) -> None:
    weight = on_levels(rows, groups, seed, whole, scales)
    found = found_again(weight, ASYMMETRIC)
    assert found is not None
    torch.testing.assert_close(found.materialize(), weight, rtol=1e-6, atol=1e-6)
    if scales is torch.float16:
        assert found.scales.dtype is torch.float16


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_also_in_floats_of_16_bits(dtype: torch.dtype) -> None:
    meant = on_levels(8, 4, 0, whole=False, scales=torch.float16)
    weight = meant.to(dtype).float()
    found = found_again(weight, ASYMMETRIC)
    assert found is not None
    largest = weight.reshape(-1, 32).abs().amax(-1)
    change = (found.materialize() - weight).reshape(-1, 32).abs().amax(-1)
    assert bool((change <= 2 * torch.finfo(dtype).eps / 2 * largest).all())


@pytest.mark.parametrize("grid", [Grid(4, 32), Grid(4, 64), Grid(4, 64, symmetric=False)])
def test_what_was_rounded_once_is_not_rounded_again(grid: Grid) -> None:
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(6, 128, generator=generator)
    weight[0, :64], weight[1, 64:] = 0.0, 0.5
    once = nearest(weight, grid).materialize()
    found = found_again(once, grid)
    assert found is not None
    torch.testing.assert_close(found.materialize(), once, rtol=1e-6, atol=1e-6)


def test_what_is_on_no_levels_is_not_found() -> None:
    generator = torch.Generator().manual_seed(0)
    assert found_again(torch.randn(4, 64, generator=generator), ASYMMETRIC) is None
    on_grid = on_levels(4, 2, 0, whole=False, scales=torch.float16)
    assert found_again(on_grid, Grid(4, 64, symmetric=False)) is None  # another scale for each half
    assert found_again(on_grid, Grid(4, 32)) is None  # zero is no level
    assert found_again(on_grid, Grid(8, 32)) is None
    on_grid[3, 40] *= 1.001
    assert found_again(on_grid, ASYMMETRIC) is None


def dequantized_model() -> Program:
    """The small llama with what its linears multiply by on grids of 4 bits, as plain floats; but for one."""
    program = small(tied=False)
    weights = dict(program.weights)
    for number, name in enumerate(sorted(weights)):
        if name.endswith("proj.weight") and not name.endswith("0.mlp.up_proj.weight"):
            rows, size = weights[name].shape
            weights[name] = Stored(on_levels(rows, size // 32, number, False, torch.float16))
    return replace(program, weights=Weights(weights))


@pytest.mark.parametrize("method", ["nearest", "gptq", "awq"])
def test_a_model_of_dequantized_weights_loses_nothing_in_them(method: str) -> None:
    before = dequantized_model()
    after, record = quantized(before, head="float", method=method, calibration=text())
    texts = [entry.text for entry in record.rewrites]
    assert texts.count("int4, a scale and a minimum for each 32, found again, to the rounding of float32") == 13
    assert len(texts) == 14
    up = "model.layers.0.mlp.up_proj.weight"
    weights = {name.removesuffix(".int4"): weight for name, weight in after.weights.items()}
    restored = {name: weight for name, weight in weights.items() if as_quantized(weight) is not None and name != up}
    for name, weight in restored.items():
        torch.testing.assert_close(weight.materialize(), before.weights[name].materialize(), rtol=1e-6, atol=1e-6)
    tokens = torch.tensor([[1, 5, 2, 9]])
    without = replace(after, weights=after.weights.replaced(f"{up}.int4", before.weights[up]))
    torch.testing.assert_close(logits_of(without, tokens), logits_of(before, tokens), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("options", [{}, {"symmetric": True}, {"numbers": "int8"}, {"numbers": "int8", "group": 32}])
@pytest.mark.parametrize("made", [small, dequantized_model])
def test_the_report_counts_what_the_artifact_stores(made: object, options: dict[str, object]) -> None:
    after, _ = quantized(made(), **options)  # type: ignore[operator]
    lowered = run_passes(after, [ReadIntegers()], Trace())
    assert weight_bytes(after) == sum(nbytes(weight) for weight in lowered.weights.values())
