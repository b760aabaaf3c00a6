"""Passes as text, both ways; lists of passes to change."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import burnish
from burnish.ir.errors import UsageError
from burnish.passes.lower.narrow_floats import NarrowFloats
from burnish.passes.lower.read_integers import ReadIntegers
from burnish.passes.pipelines import default_passes, known_passes
from burnish.passes.spelling import options_of, read_pass, read_passes, spelled, without
from burnish.passes.transforms.drop_layers import DropLayers
from burnish.passes.transforms.quantize import Quantize
from tests.own_modules.bare import Branches


def test_every_pass_is_its_spelling() -> None:
    narrow = [each for backend in ("native", "cuda") for each in default_passes(backend, dtype=torch.bfloat16)]
    for each in [*known_passes(), *default_passes(), *default_passes("onnxruntime"), *narrow]:
        assert read_pass(spelled(each), known_passes()) == each


@pytest.mark.parametrize(
    ("each", "text"),
    [
        (NarrowFloats(torch.float16), "narrow-floats{dtype=float16}"),
        (ReadIntegers("plain"), "read-integers{packing=plain}"),
        (DropLayers((3, "model.layers.7"), refit=True), "drop-layers{layers=[3,model.layers.7],refit=True}"),
        (Quantize("int8", size="80MB", method="gptq"), "quantize{numbers=int8,method=gptq,size='80MB'}"),
    ],
)
def test_options_are_told_where_they_are_not_the_defaults(each: burnish.Quantize, text: str) -> None:
    assert spelled(each) == text
    assert read_pass(text, known_passes()) == each


@given(
    st.lists(st.one_of(st.integers(0, 99), st.from_regex(r"[a-z]+(\.[a-z0-9]+)*", fullmatch=True)), max_size=4),
    st.one_of(st.none(), st.integers(1, 9)),
    st.booleans(),
)
def test_any_options_come_back(layers: list[int | str], count: int | None, refit: bool) -> None:
    each = DropLayers(tuple(layers), count, refit=refit)
    assert read_pass(spelled(each), known_passes()) == each
    differs = {"layers": bool(layers), "count": count is not None, "refit": refit}
    assert set(options_of(each)) == {name for name, told in differs.items() if told}


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("raise-norm", r"no pass 'raise-norm' \(did you mean raise-norms\?\)"),
        ("narrow-floats{type=float16}", r"no option 'type'.*it has dtype"),
        ("clean{speed=1}", "it has none"),
        ("{dtype=float16}", "spells no pass"),
        ("clean}", "spells no pass"),
    ],
)
def test_what_spells_no_pass_is_refused(text: str, told: str) -> None:
    with pytest.raises(UsageError, match=told):
        read_pass(text, known_passes())


def test_lists_are_split_at_commas_outside_of_brackets() -> None:
    found = read_passes("clean, drop-layers{layers=[1,2]},read-integers", known_passes())
    assert [each.name for each in found] == ["clean", "drop-layers", "read-integers"]


def test_passes_are_left_out_by_name() -> None:
    names = [each.name for each in without(default_passes(), ["pack-linears"], until="pack-linears")]
    assert names[-1] == "fuse-projections"
    with pytest.raises(UsageError, match="no pass 'pack'"):
        without(default_passes(), ["pack"])
    with pytest.raises(UsageError, match="no pass 'end'"):
        without(default_passes(), [], until="end")


@torch.no_grad()
def test_a_model_compiles_with_a_list_and_with_what_makes_one() -> None:
    torch.manual_seed(0)
    model = Branches().eval()
    ids = torch.randint(61, (2, 30))
    for passes in (without(default_passes(), ["pack-linears"]), lambda some: without(some, ["pack-linears"])):
        with burnish.compile(model, max_length=40, passes=passes) as compiled:
            assert "pack-linears" not in [record.name for record in compiled.trace.passes]
            torch.testing.assert_close(compiled(ids), model(ids), rtol=0, atol=1e-4)


def test_lists_that_make_no_step_are_refused() -> None:
    model = Branches().eval()
    with pytest.raises(UsageError, match="insert-states has to be among"):
        burnish.compile(model, max_length=40, passes=without(default_passes(), ["insert-states"]))
    with pytest.raises(UsageError, match=r"has no logits_index: .*select-logits"):
        burnish.compile(model, max_length=40, passes=without(default_passes(), ["select-logits"]))
    with pytest.raises(UsageError, match="give passes="):
        burnish.compile(model, max_length=40, passes=default_passes(), quantize="int8")
