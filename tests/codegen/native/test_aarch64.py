"""Kernels for aarch64, with and without the dot product extension: built by a cross compiler, and run by qemu."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from burnish.codegen.native.attention import attention
from burnish.codegen.native.lowerings import KERNELS
from burnish.codegen.native.products import fused_linear
from burnish.codegen.native.spec import ROUNDED, THREADS
from burnish.ir.ops import burnish_ops
from burnish.ir.panel_formats import FORMATS, Format, is_integer
from burnish.ir.panels import RowOrder
from tests.codegen.native.emulation import MISSING, Machine, instructions, machine
from tests.codegen.native.test_products import in_groups, packed
from tests.tolerances import assert_near

aten = torch.ops.aten

pytestmark = [
    pytest.mark.skipif(bool(MISSING), reason=f"there is no {', '.join(MISSING)}"),
    pytest.mark.slow("a cross compiler builds the library twice"),
    pytest.mark.timeout(1200),
]


@pytest.fixture(scope="module", autouse=True)
def level() -> None:
    """These run elsewhere: in place of the folder's instruction sets."""


@pytest.fixture(scope="module")
def with_sdot(tmp_path_factory: pytest.TempPathFactory) -> Machine:
    """A processor that has the dot product extension, and little else."""
    return machine("aarch64-dotprod", "cortex-a76", tmp_path_factory.mktemp("sdot"))


@pytest.fixture(scope="module")
def without(tmp_path_factory: pytest.TempPathFactory) -> Machine:
    """A processor of the first version of aarch64."""
    return machine("aarch64", "cortex-a53", tmp_path_factory.mktemp("without"))


@pytest.fixture(params=["with_sdot", "without"])
def there(request: pytest.FixtureRequest) -> Machine:
    """Each of both."""
    found: Machine = request.getfixturevalue(request.param)
    return found


@pytest.fixture(params=[False, True], ids=["floats", "8 bits"])
def rounded(request: pytest.FixtureRequest) -> Iterator[bool]:
    """Whether activations become int8 where weights are integers."""
    token = ROUNDED.set(request.param)
    yield request.param
    ROUNDED.reset(token)


@pytest.mark.parametrize("form", FORMATS)
def test_products(form: Format, rounded: bool, with_sdot: Machine, without: Machine) -> None:
    """What is right, and what this machine has; the same by both to the last bit, alone and among others."""
    torch.manual_seed(0)
    weight, floats = packed(form, 40, 3, RowOrder())
    x = torch.randn(13, floats.shape[1])
    expected = (in_groups(x) if rounded and is_integer(form) else x).double() @ floats.double().T
    here = fused_linear(x, weight)
    with with_sdot.runs():
        found = fused_linear(x, weight)
        alone = fused_linear(x[6:7], weight)
        three = fused_linear(x[4:7], weight)
    with without.runs():
        again = fused_linear(x, weight)
    assert_near(found, expected.float())
    if not (rounded and form == "bf16"):  # what is multiplied with these may be rounded here
        assert_near(found, here)
    assert torch.equal(alone, found[6:7])
    assert torch.equal(three, found[4:7])
    assert torch.equal(again, found)


@pytest.mark.parametrize("form", ["bf16", "f16", "q4", "q6k"])
def test_what_is_around_a_product(form: Format, there: Machine) -> None:
    torch.manual_seed(1)
    weight, floats = packed(form, 36, 2, RowOrder(pairs=True))
    x, bias, residual = torch.randn(5, floats.shape[1]), torch.randn(36), torch.randn(5, 18)
    options = {"norm": "rms", "eps": 1e-5, "activation": "gelu_tanh", "gated": True}
    with there.runs():
        found = fused_linear(x, weight, bias, residual=residual, **options)  # type: ignore[arg-type]
    assert_near(found, burnish_ops.fused_linear(x, floats, bias, residual=residual, **options))


def test_what_is_no_number_stays_none(rounded: bool, there: Machine) -> None:
    weight, _ = packed("q8", 16, 2, RowOrder())
    x = torch.randn(3, weight.shape[1])
    x[1, 40], x[2, 3] = torch.nan, torch.inf
    with there.runs():
        found = fused_linear(x, weight)
    assert found.isfinite().all(1).tolist() == [True, False, False]
    assert found[1].isnan().all()


@pytest.mark.parametrize("tokens", [2, 20])
@pytest.mark.parametrize("state", [torch.float32, torch.bfloat16, torch.float16])
def test_attention(tokens: int, state: torch.dtype, there: Machine) -> None:
    torch.manual_seed(2)
    query = torch.randn(2, 6, tokens, 24)
    key, value = (torch.randn(2, 2, 300, size).to(state) for size in (24, 40))
    position, options = torch.tensor([130, 0]), {"scale": 24**-0.5, "softcap": 4.0}
    threads = THREADS.set(2)
    with there.runs():
        found = attention(query, key, value, position, **options)
    THREADS.reset(threads)
    assert_near(found, burnish_ops.attention(query, key.float(), value.float(), position, **options))


@pytest.mark.parametrize("name", ["exp", "tanh", "erf", "silu"])
def test_functions(name: str, there: Machine) -> None:
    function = getattr(aten, name).default
    x = torch.cat([torch.linspace(-20, 20, 999), torch.tensor([torch.nan, torch.inf, -torch.inf, -0.0])])
    with there.runs():
        found = KERNELS[function](x)
    torch.testing.assert_close(found, function(x), rtol=2e-6, atol=5e-6, equal_nan=True)


def test_integers_are_multiplied_by_sdot_and_floats_by_fmla(with_sdot: Machine, without: Machine) -> None:
    ahead, plain = instructions(with_sdot.library), instructions(without.library)
    for number, form in enumerate(FORMATS):
        exact = f"void panel_product<{number}, false>"
        assert "fmla" in next(found for name, found in ahead.items() if name.startswith(exact))
        if is_integer(form):
            assert "sdot" in next(
                found for name, found in ahead.items() if name.startswith(exact.replace("false", "true"))
            )
    assert "sdot" not in set().union(*plain.values())
