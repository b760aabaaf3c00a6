"""Generated kernels of fused groups against their reference."""

from __future__ import annotations

import inspect

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from burnish.codegen.plan.planner import fallbacks
from burnish.codegen.triton.fused_elementwise import elementwise_spec, fused_elementwise, single
from burnish.codegen.triton.lower import plan
from burnish.ir.errors import UnsupportedError
from burnish.ir.fused_group import POINTWISE
from burnish.ir.ops import burnish_ops
from tests.triton.planned import assert_steps_match, fused, interpreted

aten = torch.ops.aten


def assert_kernel_matches(lines: list[str], results: str, tolerance: float = 1e-5, /, **inputs: Tensor) -> None:
    """The kernel of a body, its types left out, against the reference."""
    body = body_of(lines, results, *inputs)
    expected = burnish_ops.fused_elementwise(list(inputs.values()), [], body=body)
    found = fused_elementwise(list(inputs.values()), [], body=body)
    for one, other in zip(found, expected, strict=True):
        assert (one.dtype, one.shape, one.stride()) == (other.dtype, other.shape, other.stride())
        torch.testing.assert_close(one, other, rtol=tolerance, atol=tolerance)


def body_of(lines: list[str], results: str, *inputs: str) -> str:
    calls = [line.replace(" = ", ": f32[1] = ", 1) for line in lines]
    return "\n".join([*(f"input %{name}: f32[1]" for name in inputs), *calls, f"return [{results}]"])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
@pytest.mark.parametrize("size", [1, 7, 64, 300, 5000])
def test_rows_of_any_length(size: int, dtype: torch.dtype) -> None:
    """Short rows several a program, long ones in loops."""
    assert_kernel_matches(
        [
            "%norm = burnish.rms_norm(%x, %weight, 1e-05)",
            "%scaled = aten.mul.Tensor(%norm, 0.25)",
            "%softmax = aten.softmax.int(%scaled, -1)",
            f"%layer_norm = aten.layer_norm(%softmax, [{size}], %weight, %x_row, 0.1)",
            "%mean = aten.mean.dim(%layer_norm, [-1], True)",
            "%largest = aten.amax(%scaled, [-1])",
            "%result = aten.sub.Tensor(%layer_norm, %mean)",
        ],
        "%result, %largest, %softmax",
        1e-5 if dtype == torch.float32 else 4e-3,
        x=torch.randn(3, 2, size, dtype=dtype),
        weight=torch.rand(size, dtype=dtype) + 0.5,
        x_row=torch.randn(size, dtype=dtype),
    )


UNARY = [
    *("abs", "ceil", "clone", "cos", "elu", "erf", "exp", "expm1", "floor", "gelu", "hardsigmoid", "hardswish"),
    *("hardtanh", "leaky_relu", "log_sigmoid", "mish", "neg", "relu", "relu6", "sigmoid", "silu", "sin"),
    *("softplus", "square", "tanh", "contiguous"),
]
OF_POSITIVES = ["log", "log1p", "reciprocal", "rsqrt", "sqrt"]


@pytest.mark.parametrize("names", [UNARY, OF_POSITIVES], ids=["any", "positive"])
def test_functions_of_one_number(names: list[str]) -> None:
    x = torch.randn(5, 9) * 3
    lines = [f"%y_{name} = aten.{name}(%x)" for name in names]
    results = ", ".join(f"%y_{name}" for name in names)
    assert_kernel_matches(lines, results, x=x if names is UNARY else x.abs() + 0.1)


def test_functions_with_numbers() -> None:
    calls = [
        *("aten.add.Tensor(%x, %y, alpha=2)", "aten.add.Scalar(%x, 3)", "aten.sub.Tensor(%x, 1.5)"),
        *("aten.sub.Scalar(%x, 2)", "aten.rsub.Scalar(%x, 1.0)", "aten.mul.Scalar(%x, -2)", "aten.div.Scalar(%x, 3)"),
        *("aten.div.Tensor(%x, %y)", "aten.clamp(%x, -0.5, 1)", "aten.clamp_min(%x, 0.1)", "aten.clamp_max(%x, 0)"),
        *("aten.gelu(%x, approximate='tanh')", "aten.leaky_relu(%x, 0.3)", "aten.elu(%x, 0.5)"),
        *("aten.pow.Tensor_Scalar(%x, 3)", "aten.pow.Tensor_Scalar(%y, -0.5)", "aten.pow.Tensor_Scalar(%y, 1.7)"),
        *(
            "aten.softplus(%x, 2.0, 1.0)",
            "aten.max.other(%x, %y)",
            "aten.min.other(%x, %y)",
            "aten.maximum(%x, %y)",
            "aten.minimum(%x, %y)",
        ),
        *(f"burnish.gated_activation(%x, %y, '{name}')" for name in ("silu", "gelu", "gelu_tanh", "relu", "sigmoid")),
    ]
    lines = [f"%r{number} = {call}" for number, call in enumerate(calls)]
    assert_kernel_matches(
        lines, ", ".join(f"%r{number}" for number in range(len(calls))), x=torch.randn(4, 6), y=torch.rand(4, 1) + 0.3
    )


def test_truth_values_and_whole_numbers() -> None:
    lines = [
        "%more = aten.gt.Tensor(%x, %y)",
        "%even = aten.eq.Scalar(%ids, 2)",
        "%both = aten.logical_and(%more, %even)",
        "%either = aten.bitwise_or.Tensor(%more, %even)",
        "%neither = aten.logical_not(%either)",
        "%less = aten.bitwise_not(%more)",
        "%some = aten.logical_or(%x, %even)",
        "%all = aten.bitwise_and.Tensor(%less, %some)",
        "%limited = aten.where.ScalarSelf(%more, 0.5, %x)",
        "%filled = aten.masked_fill.Scalar(%x, %more, -inf)",
        "%chosen = aten.where.self(%more, %x, %y)",
        "%zeroed = aten.where.ScalarOther(%even, %ids, 0)",
        "%cast = aten.to.dtype(%ids, f32)",
        "%narrow = aten._to_copy(%x, dtype=f16)",
        "%wide = aten.to.dtype(%narrow, f32)",
        "%shifted = aten.add.Tensor(%ids, 1)",
        "%product = aten.mul.Tensor(%x, %both)",
        "%count = aten.sum.dim_IntList(%more, [-1])",
    ]
    assert_kernel_matches(
        lines,
        "%both, %neither, %all, %limited, %filled, %chosen, %zeroed, %cast, %wide, %shifted, %product, %count",
        x=torch.randn(3, 5),
        y=torch.randn(5),
        ids=torch.randint(4, (3, 5)),
    )


def test_every_pointwise_op_is_tested() -> None:
    source = inspect.getsource(inspect.getmodule(test_every_pointwise_op_is_tested))  # type: ignore[arg-type]
    untested = {
        str(op).removesuffix(".default")
        for op in POINTWISE
        if f"{str(op).removesuffix('.default')}(" not in source
        and str(op).split(".")[1] not in (*UNARY, *OF_POSITIVES)
        and str(op).split(".")[1] not in ("eq", "ne", "lt", "le", "gt", "ge")
    }
    assert not untested


@pytest.mark.parametrize("interleaved", [False, True])
@pytest.mark.parametrize("turned", [16, 8])
def test_a_rotary_embedding_behind_a_norm_of_heads(turned: int, interleaved: bool) -> None:
    assert_kernel_matches(
        [
            "%heads = aten.transpose.int(%x, 1, 2)",
            "%norm = aten.layer_norm(%heads, [16], %weight, None, 1e-06)",
            f"%rotary = burnish.rotary(%norm, %cos, %sin, {interleaved})",
        ],
        "%rotary",
        x=torch.randn(2, 3, 4, 16),
        weight=torch.randn(16),
        cos=torch.randn(2, 1, 3, turned),
        sin=torch.randn(2, 1, 3, turned),
    )


def test_rows_are_looked_up() -> None:
    assert_kernel_matches(
        [
            "%positions = burnish.positions(%ids, %position)",
            "%cos = burnish.lookup(%table, %positions)",
            "%embedding = aten.embedding(%weight, %ids)",
            "%scaled = aten.mul.Tensor(%embedding, 8.0)",
        ],
        "%scaled, %cos",
        ids=torch.randint(11, (2, 5)),
        position=torch.tensor([3, 0]),
        table=torch.randn(16, 1, 8),
        weight=torch.randn(11, 12),
    )
    assert_kernel_matches(
        ["%sum = aten.add.Tensor(%x, %y)", "%kept = aten.index_select(%sum, 1, %index)"],
        "%kept",
        x=torch.randn(2, 5, 12),
        y=torch.randn(2, 5, 12),
        index=torch.tensor([4, 1, 1]),
    )


@pytest.mark.parametrize("axis", [0, 1, -1])
def test_values_are_joined(axis: int) -> None:
    shapes = [[2, 3, 4] for _ in range(3)]
    shapes[0][axis], shapes[2][axis] = 5, 1
    assert_kernel_matches(
        ["%exp = aten.exp(%b)", f"%joined = aten.cat([%a, %exp, %c], {axis})", "%sin = aten.sin(%joined)"],
        "%sin",
        **{name: torch.randn(shape) for name, shape in zip("abc", shapes, strict=True)},
    )


def test_one_of_joined_values_is_read() -> None:
    """As the first of what a stack joins; the others are not read."""
    assert_kernel_matches(
        [
            "%exp = aten.exp(%b)",
            "%joined = aten.cat([%a, %exp, %c], 1)",
            "%first = aten.select.int(%joined, 1, 2)",
            "%sum = aten.sum.dim_IntList(%joined, [1])",
            "%result = aten.add.Tensor(%first, %sum)",
        ],
        "%result",
        a=torch.randn(3, 2, 4),
        b=torch.randn(3, 1, 4),
        c=torch.randn(3, 3, 4),
    )


@pytest.mark.parametrize("keep", [False, True])
def test_a_few_are_added_up(keep: bool) -> None:
    """As the experts of a token."""
    assert_kernel_matches(
        [
            "%weighted = aten.mul.Tensor(%experts, %weights)",
            f"%sum = aten.sum.dim_IntList(%weighted, [1], {keep})",
            "%result = aten.add.Tensor(%sum, %residual)",
            "%norm = burnish.rms_norm(%result, None, 1e-05)",
        ],
        "%result, %norm",
        experts=torch.randn(3, 4, 20),
        weights=torch.rand(3, 4, 1),
        residual=torch.randn((3, 1, 20) if keep else (3, 20)),
    )


def test_views_between_operations() -> None:
    assert_kernel_matches(
        [
            "%pieces = aten.split_with_sizes(%x, [4, 6, 2], -1)",
            "%middle = getitem(%pieces, 1)",
            "%last = getitem(%pieces, 2)",
            "%exp = aten.exp(%middle)",
            "%part = aten.slice.Tensor(%exp, -1, 1, 5, 2)",
            "%row = aten.select.int(%y, 0, -1)",
            "%more = aten.unsqueeze(%row, 1)",
            "%wide = aten.expand(%more, [2, 3, 2])",
            "%sum = aten.add.Tensor(%part, %wide)",
            "%result = aten.mul.Tensor(%sum, %last)",
            "%flat = aten.reshape(%result, [6, 2])",
            "%doubled = aten.add.Tensor(%flat, %flat)",
        ],
        "%doubled",
        x=torch.randn(2, 3, 12),
        y=torch.randn(4, 2, 2),
    )


def test_all_elements_of_a_vector_and_of_wide_rows() -> None:
    """Without a reduction, columns are spread over programs."""
    assert_kernel_matches(["%y = aten.silu(%x)"], "%y", x=torch.randn(1300))
    assert_kernel_matches(["%y = aten.add.Tensor(%x, %z)"], "%y", x=torch.randn(2, 2500), z=torch.randn(2, 1))


def test_one_operation_alone_is_a_group_of_one() -> None:
    x, y = torch.randn(3, 5), torch.randn(5)
    for found, expected in (
        (single(aten.add.Tensor)(x, y, alpha=2), x + 2 * y),
        (single(aten.mul.Tensor)(x, x), x * x),
        (single(aten.softmax.int)(x, -1), x.softmax(-1)),
        (single(burnish_ops.rms_norm.default)(x[:, :4], None, 1e-5), burnish_ops.rms_norm(x[:, :4], None, 1e-5)),
    ):
        torch.testing.assert_close(found, expected)


STEPS = st.sampled_from(
    [
        "aten.add.Tensor({0}, {1})",
        "aten.mul.Tensor({0}, {1})",
        "aten.sigmoid({0})",
        "aten.softmax.int({0}, -1)",
        "burnish.rms_norm({0}, None, 0.01)",
        "aten.mean.dim({0}, [-1], True)",
        "aten.slice.Tensor({0}, 0, 0, 1)",
        "aten.where.self(%mask, {0}, {1})",
    ]
)


@settings(max_examples=25, deadline=None)
@given(data=st.data(), rows=st.integers(1, 3), size=st.integers(2, 20), leading=st.integers(1, 2))
def test_small_graphs(data: st.DataObject, rows: int, size: int, leading: int) -> None:
    shape = (leading, rows, size)
    names, lines, computed = ["%a", "%b", "%c"], [], []
    for number in range(data.draw(st.integers(1, 6))):
        step = data.draw(STEPS).format(*(data.draw(st.sampled_from(names)) for _ in range(2)))
        lines.append(f"%s{number} = {step}")
        names.append(f"%s{number}")
        if "slice" not in step:
            computed.append(f"%s{number}")
    if not computed:
        return
    inputs = {
        "a": torch.randn(shape),
        "b": torch.randn(leading, size, rows).transpose(1, 2),
        "c": torch.randn(rows, 1),
        "mask": torch.rand(shape) > 0.5,
    }
    body = body_of(lines, computed[-1], *inputs)
    try:
        found = fused_elementwise(list(inputs.values()), [], body=body)
    except UnsupportedError as reason:
        if "different numbers of rows" not in str(reason):  # a mean of fewer rows than the result has
            raise
        return
    expected = burnish_ops.fused_elementwise(list(inputs.values()), [], body=body)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("lines", "results", "reason"),
    [
        (["%y = aten.to.dtype(%x, f64)"], "%y", "a fused kernel has no torch.float64, which %y is"),
        (["%a = aten.exp(%x)", "%b = aten.exp(%z)"], "%a, %b", "they have different numbers of rows"),
        (["%a = aten.pow.Tensor_Scalar(%x, 9)"], "%a", "a fused kernel has no power of 9"),
    ],
)
def test_what_a_kernel_cannot_say_is_told_before_a_launch(lines: list[str], results: str, reason: str) -> None:
    inputs = {"x": torch.ones(2, 4), "z": torch.ones(3, 3)}
    with pytest.raises(UnsupportedError, match=reason):
        fused_elementwise(list(inputs.values()), [], body=body_of(lines, results, *inputs))


def test_equal_layers_have_one_kernel() -> None:
    program = fused("glm4")
    bodies = [node.kwargs["body"] for node in program.graph.nodes if "body" in node.kwargs]
    assert len(bodies) == 5
    assert len(set(bodies)) == 3  # positions and embedding; behind attention; behind the feed-forward layer


@pytest.mark.parametrize("model_type", ["falcon", "olmo2", "persimmon", "gemma3_text"])
def test_whole_models(model_type: str) -> None:
    program = fused(model_type)
    launches, _ = plan(program)
    assert_steps_match(program, interpreted(program, launches), 2, [5, 1, 3])
    kernels = [kernel.function for kernel in launches.kernels.values() if kernel.function.startswith("fused_")]
    assert len(kernels) >= 3
    assert not [node for node in fallbacks(launches) if node.startswith("fused_elementwise")]


def test_a_kernel_says_what_it_is() -> None:
    body = body_of(["%y = aten.silu(%x)  # layers.*.act | SiLU | model.py:3 | x = act(x)"], "%y", "x")
    source = inspect.getsource(inspect.getmodule(elementwise_spec(body, [torch.ones(2, 32)]).function.fn))  # type: ignore[arg-type]
    assert "# %y: f32[1] = aten.silu(%x)\n#     layers.*.act model.py:3: x = act(x)\n" in source


def test_a_body_cannot_put_anything_else_into_a_kernel() -> None:
    """Types, places and names are from anywhere: comments stay comments, names have to be names."""
    lines = ['%y = aten.silu(%x)  # m | M | model.py:3 | "x\\nimport os"']
    body = body_of(lines, "%y", "x").replace("f32[1] = aten", "f32[1]\rimport os\r = aten")
    spec = elementwise_spec(body, [torch.ones(2, 32)])
    source = inspect.getsource(inspect.getmodule(spec.function.fn))  # type: ignore[arg-type]
    assert [line for line in source.splitlines() if "import os" in line and "#" not in line.split("import os")[0]] == []
    with pytest.raises(UnsupportedError, match="%2x cannot be a name in a kernel"):
        fused_elementwise([torch.ones(2, 4)], [], body=body_of(["%y = aten.silu(%2x)"], "%y", "2x"))
    names = body_of(["%row = aten.silu(%columns)", "%tl = aten.exp(%row)"], "%row, %tl", "columns")
    x = torch.randn(3, 5)
    found = fused_elementwise([x], [], body=names)
    torch.testing.assert_close(found, burnish_ops.fused_elementwise([x], [], body=names), rtol=1e-5, atol=1e-6)
