"""`burnish::fused_elementwise` by a kernel of its own, whose source is made from the body.

Reads each input once and writes each result once. Truth: `burnish::fused_elementwise`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch._dispatch.python import enable_python_dispatcher
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import _disable_current_modes

from burnish.codegen.triton.element_index import Size, equal
from burnish.codegen.triton.emit_elementwise import Emitted, emit
from burnish.codegen.triton.generated import load_source
from burnish.codegen.triton.spec import KernelSpec, pointer
from burnish.ir.body import Group
from burnish.ir.errors import UnsupportedError
from burnish.ir.fused_group import VIEWS, parse_group, run_group
from burnish.ir.shapes import product
from burnish.ir.text import argument_text, dtype_name

MODULES = "burnish.codegen.triton.generated_kernels"  # generated modules are named as if they lay in there


@dataclass(frozen=True)
class Like:
    """A tensor without its elements."""

    dtype: torch.dtype
    shape: tuple[Size, ...]
    strides: tuple[Size, ...]
    offset: Size = 0

    @staticmethod
    def of(tensor: Tensor) -> Like:
        """What `tensor` is like."""
        return Like(tensor.dtype, tuple(tensor.shape), tuple(tensor.stride()), tensor.storage_offset())

    def fake(self) -> Tensor:
        """One with fake elements."""
        return torch.empty_strided(self.shape, self.strides, dtype=self.dtype)

    @property
    def is_aligned(self) -> bool:
        """Whether its first element is at a multiple of 16 bytes, for an allocation that begins at one."""
        return isinstance(self.offset, int) and self.offset * self.dtype.itemsize % 16 == 0


@dataclass(frozen=True)
class Prepared:
    """A kernel, what its results are like, and how to launch it."""

    spec: KernelSpec
    results: tuple[Like, ...]
    emitted: Emitted


def fused_elementwise(inputs: Sequence[Tensor], sizes: Sequence[Size], *, body: str) -> list[Tensor]:
    """As `burnish::fused_elementwise`, in one launch. Raises UnsupportedError for what a kernel cannot say."""
    if isinstance(inputs[0], FakeTensor):
        prepared = prepare(parse_group(body), inputs, inputs[0].fake_mode, sizes)
    else:
        prepared = _prepared_once(body, tuple(map(Like.of, inputs)), tuple(map(int, sizes)))
    outputs = [inputs[0].new_empty_strided(like.shape, like.strides, dtype=like.dtype) for like in prepared.results]
    _launch(prepared, [*inputs, *outputs])
    return outputs


def _launch(prepared: Prepared, tensors: Sequence[Tensor]) -> None:
    emitted = prepared.emitted
    rows: Any = -(-emitted.rows // emitted.block_rows)
    scalars: Any = emitted.scalars.values()
    prepared.spec.launch((rows, emitted.column_blocks, 1), *tensors, *scalars)


def single(target: Any) -> Callable[..., Tensor]:
    """The host function for one op that groups are made of, where it stands alone: a group of one."""
    name = target.overloadpacket.__name__

    def host(*args: Any, **kwargs: Any) -> Tensor:
        tensors: dict[int, str] = {}
        inputs: list[Tensor] = []

        def text(argument: Any) -> str:
            if isinstance(argument, torch.SymInt | torch.SymFloat):
                raise UnsupportedError(f"a kernel of {name} alone takes no size")
            if isinstance(argument, list | tuple):
                return f"[{', '.join(map(text, argument))}]"
            if not isinstance(argument, Tensor):
                return argument_text(argument)
            if id(argument) not in tensors:
                tensors[id(argument)] = f"%x{len(inputs) or ''}"
                inputs.append(argument)
            return tensors[id(argument)]

        given = [*map(text, args), *(f"{key}={text(argument)}" for key, argument in kwargs.items())]
        lines = [f"input {tensors[id(each)]}: {dtype_name(each.dtype)}" for each in inputs]
        call = f"{str(target).removesuffix('.default')}({', '.join(given)})"
        (result,) = fused_elementwise(
            inputs, [], body="\n".join([*lines, f"%{name}: tensor = {call}", f"return [%{name}]"])
        )
        return result

    host.__name__ = name
    return host


_COPY = "input %x: tensor\n%copy: tensor = aten.contiguous(%x)\nreturn [%copy]"


def copy(x: Tensor, out: Tensor | None = None) -> Tensor:
    """The elements of `x` in order, in new memory or in that of `out`, by one launch. Truth: `aten::contiguous`."""
    if out is None:
        return fused_elementwise([x], [], body=_COPY)[0]
    if not out.is_contiguous():
        raise UnsupportedError("what is copied to does not lie in one stretch of memory")
    assert isinstance(x, FakeTensor)
    _launch(prepare(parse_group(_COPY), [x], x.fake_mode), [x, out])
    return out


def elementwise_spec(body: str, inputs: Sequence[Tensor], sizes: Sequence[int] = ()) -> KernelSpec:
    """The kernel for inputs of these types, sizes and strides; their elements do not matter."""
    return _prepared_once(body, tuple(map(Like.of, inputs)), tuple(sizes)).spec


@lru_cache(maxsize=1024)
def _prepared_once(body: str, likes: tuple[Like, ...], sizes: tuple[int, ...]) -> Prepared:
    with _disable_current_modes(), FakeTensorMode() as mode:
        fakes = [like.fake() for like in likes]
    return prepare(parse_group(body), fakes, mode, sizes)


def prepare(group: Group, fakes: Sequence[Tensor], mode: FakeTensorMode, sizes: Sequence[Size] = ()) -> Prepared:
    """The kernel for fake inputs, whose sizes may be symbols. Raises UnsupportedError for what it cannot say."""
    with _disable_current_modes(), enable_python_dispatcher(), mode:
        values = run_group(group, fakes, sizes)  # for the types of what is computed on the way
    results = [_stored(group, name, values[name]) for name in group.results]
    emitted = emit(group, values, [like.strides for like in results])
    digest = hashlib.sha256(emitted.source.encode()).hexdigest()[:16]
    module = load_source(f"{MODULES}.{emitted.name}_{digest}", emitted.source)
    likes = [Like.of(fake) for fake in fakes]
    names = [*group.inputs, *(f"{name}_out" for name in group.results)]
    pointers = {f"{name}_ptr": like for name, like in zip(names, [*likes, *results], strict=True)}
    work = emitted.block_rows * emitted.block
    spec = KernelSpec(
        getattr(module, emitted.name),
        arguments={
            **{name: pointer(like.dtype) for name, like in pointers.items()},
            **dict.fromkeys(emitted.scalars, "i32"),
        },
        constants={"ROWS": emitted.block_rows, "BLOCK": emitted.block},
        aligned=frozenset(name for name, like in pointers.items() if like.is_aligned),
        num_warps=min(8, max(1, work // 256)),
    )
    return Prepared(spec, tuple(results), emitted)


def _stored(group: Group, name: str, value: Tensor) -> Like:
    """How a result is stored: as its op would, or, for a view, in order."""
    step = next(step for step in group.steps if step.name == name)
    if step.target in VIEWS or any(equal(stride, 0) for stride in value.stride()):
        strides = tuple(product(value.shape[axis + 1 :]) for axis in range(value.dim()))
    else:
        strides = tuple(value.stride())
    return Like(value.dtype, tuple(value.shape), strides)
