"""Kernels and what a plan may say: any one thing of a launch is changed, and it is refused or stays in its memory."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from burnish.codegen.native import choose, codes, copies, gathers, mixture, rows, spec, state_writes
from burnish.codegen.native.attention import attention
from burnish.codegen.native.convolution import conv1d
from burnish.codegen.native.elementwise import pointwise
from burnish.codegen.native.products import attention_projection, fused_linear
from burnish.codegen.native.spec import LEVEL
from burnish.ir.errors import ArtifactError
from burnish.ir.panels import RowOrder
from burnish.runtime.memory import View
from burnish.runtime.native.launcher import NativeLauncher
from burnish.runtime.native.library import Slot, best_level, library
from burnish.runtime.plan import Kernel
from burnish.runtime.plan_runner import BoundLaunch
from burnish.runtime.torch_memory import view_of
from tests.codegen.native.test_mixture import packed as experts_packed
from tests.codegen.native.test_products import packed
from tests.codegen.native.ways import cases

KEY = "changed-0123456789abcdef"
GUARD = 0 if "libasan" in os.environ.get("LD_PRELOAD", "") else 256  # bytes: AddressSanitizer has some of its own


@dataclass(frozen=True)
class Given:
    """A launch by its parts. `values`: what slots have, by their names."""

    name: str
    values: dict[str, object]

    def slots(self) -> Sequence[Slot]:
        return library(LEVEL.get() or best_level()).kernels[self.name].slots

    def changed(self, name: str, value: object) -> Given:
        return replace(self, values={**self.values, name: value})

    def run(self) -> None:
        """Raises ArtifactError, or what is beside the memory of its operands is as before."""
        tensors = {name: guarded(each) for name, each in self.values.items() if isinstance(each, Tensor)}
        kinds = {name: f"*{str(each.dtype).removeprefix('torch.')}" for name, (each, _) in tensors.items()}
        constants = {name: each for name, each in self.values.items() if name not in tensors}
        kernel = Kernel(spec.MODULE, self.name, kinds, constants, [], 0, 0)  # type: ignore[arg-type]
        launcher = NativeLauncher({KEY: kernel}, library(LEVEL.get() or best_level()), 3)
        try:
            launcher.prepare([BoundLaunch(KEY, (1, 1, 1), [view_of(each) for each, _ in tensors.values()])])()
        finally:
            launcher.close()
        for name, (_, memory) in tensors.items():
            assert not GUARD or bool((memory[:GUARD] == 77).all() and (memory[-GUARD:] == 77).all()), name


def guarded(x: Tensor) -> tuple[Tensor, Tensor]:
    """A copy of x in memory that begins and ends with it, and that memory with its guards."""
    last = sum((size - 1) * stride for size, stride in zip(x.shape, x.stride(), strict=True)) if x.numel() else -1
    memory = torch.full((2 * GUARD + (last + 1) * x.itemsize,), 77, dtype=torch.uint8)
    inner = memory[GUARD : GUARD + (last + 1) * x.itemsize].view(x.dtype)
    inner.copy_(x.as_strided((last + 1,), (1,)))
    return inner.as_strided(x.shape, x.stride()), memory


class _Recorded(NativeLauncher):
    """Keeps what is launched."""

    found: list[Given] = []  # noqa: RUF012  # of all, for the test that set it

    def prepare(self, launches: Sequence[BoundLaunch]) -> Callable[[], None]:
        for each in launches:
            kernel, _ = self._kernels[each.kernel]
            given = [value.owner if isinstance(value, View) else value for value in each.arguments]
            values = {**kernel.constants, **dict(zip(kernel.arguments, given, strict=True))}
            self.found.append(Given(kernel.function, values))
        return super().prepare(launches)


def _attend(tokens: int, mask: str) -> Tensor:
    key, value = torch.randn(2, 2, 200, 20), torch.randn(2, 2, 200, 24)
    extras = {"sinks": torch.randn(4), "slopes": torch.randn(4), "bias": torch.randn(2, 1, tokens, 200)}
    position = torch.tensor([150, 3])
    return attention(torch.randn(2, 4, tokens, 20), key, value, position, scale=0.5, mask=mask, extent=9, **extras)


def _project() -> object:
    weight, _ = packed("q4m", 4 * 16, 2, RowOrder(head=16))
    state, turns = torch.zeros(2, 1, 12, 16, dtype=torch.float16), torch.randn(1, 3, 8)
    vectors = [torch.randn(64), torch.randn(64), None, torch.randn(16), torch.randn(16)]
    position = torch.tensor([2, 9])
    x = torch.randn(2, 3, 64)
    return attention_projection(x, weight, state, state.clone(), position, *vectors, turns, turns, heads=2, norm="rms")


def _samples() -> list[Given]:
    """Launches of all kernels."""
    x, ids, aten = torch.randn(3, 4, 40), torch.tensor([[1, -2, 5]]), torch.ops.aten
    linear, gate = packed("q8", 40, 2, RowOrder())[0], packed("bf16", 40, 2, RowOrder(pairs=True))[0]
    lines, place = torch.randn(5, 64), torch.randint(0, 4, (3, 2, 40))
    fused_linear(lines, linear, torch.randn(40), torch.randn(64), residual=torch.randn(5, 40), norm="rms", eps=1e-6)
    fused_linear(lines, gate, gated=True, activation="silu")
    _project()
    for tokens, mask in ((2, "causal"), (2, "chunk"), (11, "window"), (1, "none")):
        _attend(tokens, mask)
    choose.embedding(torch.randn(7, 9), ids)
    choose.embedding(linear, ids)
    choose.argmax(x, -1)
    choose.top_scores(x, 5)
    mixture.topk(x, 5)
    copies.copy(x.transpose(0, 2))
    copies.positions(ids, torch.tensor([4]))
    pointwise(aten.add.Tensor)(x, x[:, :1].half())
    pointwise(aten.masked_fill.Scalar)(x, x > 0, 1.5)
    rows.layer_norm(x, [40], torch.randn(40), torch.randn(40))
    rows.softmax(x, -1)
    rows.reduction(aten.sum.dim_IntList, "sum")(x, [1])
    rows.rotary(x, torch.randn(4, 16), torch.randn(4, 16))
    for write in (state_writes.cache_write, state_writes.ring_write):
        write(torch.zeros(2, 2, 9, 5), torch.randn(2, 2, 3, 5), torch.tensor([7, 1]), 2)
    state_writes.ring_positions(torch.zeros(2, 3).long(), torch.tensor([7, 1]), 9)
    mixture.moe_linear(torch.randn(5, 1, 64), experts_packed(3, 20, 64, "q4")[0], torch.randn(3, 20), place[0, :, :5].T)
    conv1d(torch.randn(2, 6, 30), torch.randn(4, 3, 4), torch.randn(4), groups=2)
    conv1d(torch.randn(2, 30, 6).transpose(1, 2), torch.randn(6, 1, 4), groups=6)
    gathers.cumsum(x > 0, 1)
    gathers.gather(x, 1, place)
    gathers.scatter_source(x, 1, place, torch.randn(place.shape))
    gathers.scatter_value(x, 1, place, 3)
    for numbers in ("int8", "fp8"):
        scales = codes.code_scales(x, numbers)
        codes.from_codes(codes.to_codes(x, scales, numbers), scales)
    return _Recorded.found


@pytest.fixture(scope="module")
def samples(level: str) -> list[Given]:
    torch.manual_seed(0)
    _Recorded.found = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(spec, "NativeLauncher", _Recorded)
        return _samples()


def test_what_host_functions_launch_is_taken(samples: list[Given], level: str) -> None:
    for each in samples:
        each.run()
    assert {each.name for each in samples} == library(level).kernels.keys()


NUMBERS = (-(2**63), -(2**40), -1, 0, 1, 2, 3, 7, 16, 31, 64, 2**31, 2**40, 2**61, 2**62, 2**63 - 1)


def changes_of(sample: Given, slot: Slot) -> st.SearchStrategy[object]:
    """Other values of a slot."""
    value = sample.values[slot.name]
    if slot.words:
        return st.sampled_from(slot.words)
    if slot.kind == "f":
        return st.sampled_from([0.0, -1.0, "nan", "inf", 1e300])
    if isinstance(value, int):
        return st.sampled_from([*NUMBERS, value - 1, value + 1, 2 * value, -value])
    if not isinstance(value, Tensor):
        return st.sampled_from([torch.zeros(64), torch.zeros(64, dtype=torch.int64), None])
    flat = value.flatten()
    others: list[object] = [None, flat[:-1].clone(), flat[:0].clone(), flat.double(), flat.int()]
    if value.dtype == torch.int64:
        others += [torch.full_like(value, number) for number in NUMBERS]
    return st.sampled_from(others)


@cases
@given(data=st.data())
def test_what_is_changed_is_refused_or_stays_in_its_memory(samples: list[Given], data: st.DataObject) -> None:
    for sample in samples:
        slot = data.draw(st.sampled_from(sample.slots()))
        changed = sample.changed(slot.name, data.draw(changes_of(sample, slot), label=f"{sample.name} {slot.name}"))
        with suppress(ArtifactError):
            changed.run()


@pytest.mark.parametrize(
    ("kernel", "name", "value", "said"),
    [
        ("fused_linear", "size_k", 96, "bytes for x, and the plan gives"),
        ("fused_linear", "x_stride", -64, "strides that are not negative"),
        ("fused_linear", "rows", -1, "sizes that are not negative"),
        ("fused_linear", "out", None, "takes 800 bytes for out, and the plan gives 0"),
        ("fused_linear", "x", torch.zeros(5, 64).int(), "takes float32 for x, and the plan gives int32"),
        ("attention", "kv_heads", 0, "kv_heads that heads can be shared among"),
        ("attention", "heads", 0, "kv_heads that heads can be shared among"),
        ("attention", "kv_heads", 3, "kv_heads that heads can be shared among"),
        ("gather", "ids", torch.zeros(1, 3), "takes int64 for ids"),
        ("elementwise", "size_0", 2**62, "memory can have"),
        ("elementwise", "size_0", 2**40, "results whose elements are apart"),
    ],
)
def test_refusals_say_what_was_expected(samples: list[Given], kernel: str, name: str, value: object, said: str) -> None:
    sample = next(each for each in samples if each.name == kernel)
    with pytest.raises(ArtifactError, match=f"kernel {KEY} .*{said}"):
        sample.changed(name, value).run()


def test_what_is_written_is_apart(samples: list[Given]) -> None:
    """A kernel that read a place and then wrote over it would have checked another one."""
    x = torch.zeros(3, 40)
    kernel = Kernel(spec.MODULE, "argmax", {"x": "*float32", "out": "*int64"}, {"rows": 3, "size": 40}, [], 0, 0)
    launcher = NativeLauncher({KEY: kernel}, library(best_level()), 1)
    with pytest.raises(ArtifactError, match="writes out, and the plan gives the same memory for something else"):
        launcher.prepare([BoundLaunch(KEY, (1, 1, 1), [view_of(x), view_of(x.view(torch.int64).view(-1)[:3])])])
    launcher.close()
