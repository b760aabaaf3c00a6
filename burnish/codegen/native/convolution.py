"""`aten::conv1d` by the native kernel."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from burnish.codegen.native.operands import need_floats
from burnish.codegen.native.spec import launch
from burnish.ir.errors import UnsupportedError


def conv1d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Sequence[int] = (1,),
    padding: Sequence[int] = (0,),
    dilation: Sequence[int] = (1,),
    groups: int = 1,
) -> Tensor:
    """As `aten::conv1d` of x[B, C, T], without padding and with each token's result."""
    need_floats(x, weight, bias)
    if list(stride) != [1] or list(padding) != [0] or x.dim() != 3:
        raise UnsupportedError(
            f"a convolution with stride {list(stride)} and padding {list(padding)}: the kernel takes 1 and 0"
        )
    batch, channels = x.shape[0], weight.shape[0]
    inputs, taps = weight.shape[1:]
    tokens = x.shape[2] - (taps - 1) * dilation[0]
    out = x.new_empty((batch, channels, tokens))
    launch(
        "convolution",
        x=x,
        weight=weight.contiguous(),
        bias=None if bias is None else bias.contiguous(),
        out=out,
        batch=batch,
        channels=channels,
        groups=groups,
        inputs=inputs,
        taps=taps,
        dilation=dilation[0],
        tokens=tokens,
        **{f"x_stride_{letter}": x.stride(axis) for axis, letter in enumerate("bct")},
    )
    return out
