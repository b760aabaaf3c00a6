"""Products with weights in panels: each format, against float64."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor

from burnish.codegen.native.choose import embedding
from burnish.codegen.native.operands import from_panels
from burnish.codegen.native.products import attention_projection, fused_linear
from burnish.codegen.native.spec import LEVEL, ROUNDED
from burnish.ir.eight_bit_floats import in_floats_of_8_bits
from burnish.ir.errors import UnsupportedError
from burnish.ir.fused_ops import fused_ops
from burnish.ir.panel_formats import FORMATS, GROUP, Format, is_integer
from burnish.ir.panels import Panels, RowOrder
from burnish.ir.panels import from_panels as unpacked
from burnish.ir.weights import Stored
from burnish.runtime.native.library import best_level, features
from tests.ir.test_panels import weight_for
from tests.tolerances import RELATIVE, assert_near

ACTIVATIONS = ("none", "silu", "gelu", "gelu_tanh", "relu", "sigmoid")


@pytest.fixture(params=[False, True], ids=["floats", "rounded"])
def rounded(request: pytest.FixtureRequest) -> Iterator[bool]:
    """Whether activations become int8 where weights are integers, and bfloat16 where these are and that saves time."""
    token = ROUNDED.set(request.param)
    yield request.param
    ROUNDED.reset(token)


def by_bfloat16() -> bool:
    """Whether kernels multiply pairs of bfloat16."""
    return (LEVEL.get() or best_level()).startswith("x86-64-v4") and "avx512_bf16" in features()


def packed(form: Format, rows: int, groups: int, order: RowOrder) -> tuple[Tensor, Tensor]:
    """A weight of which kernels read the panels, and its floats."""
    weight = weight_for(form, rows, groups)
    panels = Panels(weight, form, order).materialize()
    facts = (form, rows, weight.shape[1], order.head, order.pairs)
    return from_panels(panels, *facts), unpacked(panels, *facts)


def in_groups(x: Tensor) -> Tensor:
    """x as it is in 8 bits, a scale for each 32."""
    parts = x.reshape(*x.shape[:-1], -1, GROUP)
    scale = parts.abs().amax(-1, keepdim=True) / 127
    return (torch.where(scale > 0, (parts / scale).round(), 0.0) * scale).reshape(x.shape)


@pytest.mark.parametrize("form", FORMATS)
def test_every_format_and_number_of_rows(form: Format, rounded: bool) -> None:
    torch.manual_seed(0)
    weight, floats = packed(form, 40, 3, RowOrder())
    for count in (1, 2, 5, 13, 40):
        x = torch.randn(count, floats.shape[1])
        taken = x
        if rounded:
            taken = in_groups(x) if is_integer(form) else x.bfloat16() if form == "bf16" and by_bfloat16() else x
        assert_near(fused_linear(x, weight), (taken.double() @ floats.double().T).float())


def test_activations_become_the_nearest_bfloat16() -> None:
    """Halves to even, in pairs that are not whole groups, and what is no number stays none."""
    if not by_bfloat16():
        pytest.skip("this processor, or this instruction set, has no products of bfloat16")
    token = ROUNDED.set(True)
    between = torch.tensor([1 + 2.0**-8, 1 + 3 * 2.0**-8, -1 - 2.0**-8, 3.4e38, torch.inf, torch.nan, 0.0])
    weight = from_panels(Panels(Stored(torch.eye(7)), "bf16", RowOrder()).materialize(), "bf16", 7, 7)
    for x in between:  # a row each: an infinity times zero is no number
        found = fused_linear(torch.where(torch.eye(7, dtype=torch.bool), x, 0.0), weight).diagonal()
        torch.testing.assert_close(found, x.bfloat16().float().expand(7), rtol=0, atol=0, equal_nan=True)
    ROUNDED.reset(token)


@settings(max_examples=40, deadline=None)
@given(
    form=st.sampled_from(FORMATS),
    rows=st.integers(1, 40),
    groups=st.integers(1, 3),
    count=st.integers(1, 30),
    pairs=st.booleans(),
    norm=st.sampled_from(["none", "rms", "layer"]),
    activation=st.sampled_from(ACTIVATIONS),
    has=st.sets(st.sampled_from(["bias", "norm_weight", "norm_bias", "residual"])),
    softcap=st.sampled_from([0.0, 30.0]),
    scale=st.sampled_from([1.0, 0.5]),
)
def test_what_is_around_a_product(
    form: Format,
    rows: int,
    groups: int,
    count: int,
    pairs: bool,
    norm: str,
    activation: str,
    has: set[str],
    softcap: float,
    scale: float,
) -> None:
    assume(not pairs or (activation != "none" and not softcap))  # a gate has one; a cap enlarges what rounding did
    torch.manual_seed(rows + 100 * count)
    rows = 2 * rows if pairs else rows
    weight, floats = packed(form, rows, groups, RowOrder(pairs=pairs))
    x = torch.randn(2, count, floats.shape[1])
    sizes = {"bias": (rows,), "norm_weight": x.shape[-1:], "norm_bias": x.shape[-1:]}
    sizes["residual"] = (2, count, rows // 2 if pairs else rows)
    vectors = {name: torch.randn(sizes[name]) for name in sorted(has)}
    options = {"norm": norm, "eps": 1e-5, "activation": activation, "gated": pairs, "scale": scale, "softcap": softcap}
    found = fused_linear(x, weight, **vectors, **options)  # type: ignore[arg-type]
    expected = fused_ops.fused_linear(x, floats, **vectors, **options)
    # What an activation makes of a sum carries on how the sum was rounded.
    summed = fused_ops.fused_linear(x, floats, norm=norm, eps=1e-5, norm_weight=vectors.get("norm_weight"))
    most = RELATIVE[torch.float32] * max(float(expected.abs().max()), float(summed.abs().max()))
    torch.testing.assert_close(found, expected, rtol=0, atol=most)


@pytest.mark.parametrize("size", [1, 7, 33])
def test_rows_of_any_length(size: int) -> None:
    """In bfloat16, too, where inputs come in pairs."""
    for form in ("f32", "bf16", "f16", "f8"):
        weight = Stored(torch.randn(5, size))
        source = in_floats_of_8_bits(weight) if form == "f8" else weight
        panels = Panels(source, form, RowOrder()).materialize()  # type: ignore[arg-type]
        x = torch.randn(3, size)
        found = fused_linear(x, from_panels(panels, form, 5, size))
        assert_near(found, x @ unpacked(panels, form, 5, size).T)  # type: ignore[arg-type]


def test_all_floats_of_8_bits() -> None:
    """Those smaller than normal, too, and rows of zeros, which have a scale nevertheless."""
    codes = torch.arange(256, dtype=torch.uint8).view(torch.float8_e4m3fn)
    codes = torch.where(codes.float().isnan(), torch.zeros(()), codes.float())
    rows = torch.stack([codes, codes * 2.0**-30, codes * 2.0**100, torch.zeros(256)])
    source = in_floats_of_8_bits(Stored(rows))
    assert torch.equal(source.materialize(), rows)
    weight = from_panels(Panels(source, "f8", RowOrder()).materialize(), "f8", *rows.shape)
    assert torch.equal(fused_linear(torch.eye(256), weight), rows.T)
    assert torch.equal(embedding(weight, torch.arange(4)), rows)


def test_a_row_is_the_same_alone_and_among_others(rounded: bool) -> None:
    """To the last bit, for each format and place in a tile."""
    for form in FORMATS:
        weight, _ = packed(form, 24, 4, RowOrder())
        x = torch.randn(29, weight.shape[1])
        together = fused_linear(x, weight, norm="rms", eps=1e-6)
        for row in range(29):
            assert torch.equal(fused_linear(x[row : row + 1], weight, norm="rms", eps=1e-6), together[row : row + 1])


def test_what_is_no_number_stays_none(rounded: bool) -> None:
    weight, _ = packed("q8", 16, 2, RowOrder())
    x = torch.randn(3, 2 * GROUP)
    x[1, 40] = torch.nan
    x[2, 3] = torch.inf
    found = fused_linear(x, weight)
    assert found[0].isfinite().all()
    assert found[1].isnan().all()
    assert not found[2].isfinite().any()


def test_a_row_of_zeros(rounded: bool) -> None:
    weight, _ = packed("q4", 16, 2, RowOrder())
    assert not fused_linear(torch.zeros(2, 2 * GROUP), weight).any()


@settings(max_examples=40, deadline=None)
@given(
    form=st.sampled_from(["f32", "bf16", "q8", "q4m", "q5", "q6k"]),
    heads=st.sampled_from([(4, 4), (4, 2), (3, 1)]),
    size=st.sampled_from([8, 16, 24, 48]),
    tokens=st.sampled_from([1, 2, 9]),
    turned=st.sampled_from([0, 4, 8]),
    interleaved=st.booleans(),
    norms=st.booleans(),
    state=st.sampled_from([torch.float32, torch.bfloat16, torch.float16]),
)
def test_projections(
    form: Format,
    heads: tuple[int, int],
    size: int,
    tokens: int,
    turned: int,
    interleaved: bool,
    norms: bool,
    state: torch.dtype,
) -> None:
    queries, kv = heads
    rows = (queries + 2 * kv) * size
    weight, floats = packed(form, rows, 2, RowOrder(head=size))
    x, position = torch.randn(2, tokens, floats.shape[1]), torch.tensor([3, 0])
    states = [torch.randn(2, kv, 14, size).to(state) for _ in range(2)]
    options: dict[str, object] = {"heads": queries, "norm": "rms", "eps": 1e-6, "interleaved": interleaved}
    options |= {"bias": torch.randn(rows), "norm_weight": torch.rand(floats.shape[1])}
    if turned:
        options |= {"cos": torch.randn(2, tokens, turned), "sin": torch.randn(1, tokens, turned).expand(2, -1, -1)}
    if norms:
        options |= {"query_norm": torch.rand(size), "key_norm": torch.rand(size), "head_eps": 1e-5}
    wide = [each.float() for each in states]
    expected = fused_ops.attention_projection(x, floats, *wide, position, **options)
    written = [each.clone() for each in states]
    found = attention_projection(x, weight, *written, position, **options)  # type: ignore[arg-type]
    assert found[1] is written[0]
    assert found[2] is written[1]
    assert_near(found[0], expected[0])
    for mine, theirs in zip(found[1:], expected[1:], strict=True):
        assert_near(mine, theirs.to(state))


def test_nothing_is_written_where_a_state_has_no_room() -> None:
    weight, _ = packed("f32", 24, 1, RowOrder(head=8))
    memory = torch.zeros(3, 2, 1, 4, 8)
    states = (memory[1, 0:1], memory[1, 1:2])
    attention_projection(torch.randn(1, 3, GROUP), weight, *states, torch.tensor([2]), heads=1)
    assert memory[1, :, :, 2:].all()
    assert not memory[[0, 2]].any()


@pytest.mark.parametrize("form", FORMATS)
def test_rows_are_looked_up_in_panels(form: Format) -> None:
    weight, floats = packed(form, 21, 2, RowOrder())
    ids = torch.tensor([[0, 20, 7], [16, 15, 3]])
    assert_near(embedding(weight, ids), floats[ids])


def test_rows_that_there_are_not_are_no_numbers() -> None:
    weight, _ = packed("q8", 21, 2, RowOrder())
    assert embedding(weight, torch.tensor([21, -22, 1 << 40])).isnan().all()
    assert embedding(torch.randn(4, 3), torch.tensor([4, -5])).isnan().all()


def test_a_weight_that_is_computed_has_no_panels() -> None:
    with pytest.raises(UnsupportedError, match="no stored one"):
        fused_linear(torch.randn(1, 32), torch.randn(16, 32))


def test_other_floats_are_refused() -> None:
    weight, _ = packed("f32", 16, 1, RowOrder())
    with pytest.raises(UnsupportedError, match="float32"):
        fused_linear(torch.randn(1, 32).half(), weight)
