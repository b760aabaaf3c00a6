"""Signals: Fourier transforms, windows, and the mel scale."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from burnish.frontend.onnx.call import Call, Operator, Table
from burnish.frontend.onnx.operators.shape import check_size


def _complex(x: Tensor) -> Tensor:
    """Numbers whose last axis has their real and, where it has two elements, their imaginary parts."""
    return x[..., 0] if x.shape[-1] == 1 else torch.complex(x[..., 0].contiguous(), x[..., 1].contiguous())


def _dft(c: Call) -> Tensor:
    x = c.tensor(0)
    rank = x.dim()
    if c.version < 20:
        axis = c.integer("axis", 1) % rank
    else:
        axis = int(c.scalar(2, "the axis")) % rank if c.has(2) else rank - 2
    onesided, inverse = c.flag("onesided"), c.flag("inverse")
    length = c.scalar(1, "the length") if c.has(1) else None
    if length is not None:
        check_size(c, [length])
    numbers = _complex(x)
    found: Tensor
    if inverse and onesided:
        found = torch.fft.irfft(numbers, n=length or 2 * (x.shape[axis] - 1), dim=axis)
        return found.unsqueeze(-1).to(x.dtype)
    if inverse:
        found = torch.fft.ifft(numbers, n=length, dim=axis)
    elif onesided and not numbers.is_complex():
        found = torch.fft.rfft(numbers, n=length, dim=axis)
    else:
        found = torch.fft.fft(numbers, n=length, dim=axis)
        if onesided:
            found = found.narrow(axis, 0, found.shape[axis] // 2 + 1)
    return torch.view_as_real(found).to(x.dtype)


def _stft(c: Call) -> Tensor:
    x, step = c.tensor(0), int(c.scalar(1, "the step"))
    window = c.optional(2)
    if x.dim() == 2:
        x = x.unsqueeze(-1)
    length = int(c.scalar(3, "the length")) if c.has(3) else int(x.shape[1] if window is None else window.shape[0])
    if step < 1 or length < 1:
        raise c.invalid(f"frames of {length} at steps of {step}")
    frames = x.unfold(1, length, step).transpose(-1, -2)  # [B, frames, length, 1 or 2]
    if window is not None:
        frames = frames * window.reshape(-1, 1)
    numbers = _complex(frames)
    if c.flag("onesided", True) and not numbers.is_complex():
        found = torch.fft.rfft(numbers, dim=-1)
    else:
        found = torch.fft.fft(numbers, dim=-1)
        if c.flag("onesided", True):
            found = found[..., : length // 2 + 1]
    return torch.view_as_real(found).to(x.dtype)


def _window(values: Callable[[Tensor], Tensor]) -> Operator:
    """A window as a function of the angle, which goes once around."""

    def run(c: Call) -> Tensor:
        size = int(c.scalar(0, "the size"))
        check_size(c, [size])
        around = size if c.flag("periodic", True) else size - 1
        angles = torch.arange(size, dtype=torch.float64) * (2 * math.pi / max(around, 1))
        return values(angles).to(c.dtype("output_datatype") or torch.float32)

    return run


def _hann(angles: Tensor) -> Tensor:
    return torch.sin(angles / 2) ** 2


def _hamming(angles: Tensor) -> Tensor:
    return 25 / 46 - 21 / 46 * torch.cos(angles)


def _blackman(angles: Tensor) -> Tensor:
    return 0.42 - 0.5 * torch.cos(angles) + 0.08 * torch.cos(2 * angles)


def _mel_weights(c: Call) -> Tensor:
    """Triangles that are equally wide on the mel scale, over the bins of a Fourier transform."""
    names = ("how many bands", "the length", "the rate", "the lowest frequency", "the highest frequency")
    count, length, rate, low, high = (c.scalar(index, name) for index, name in enumerate(names))
    count, bins = int(count), int(length) // 2 + 1
    check_size(c, [count, bins])

    def mel(hertz: float) -> float:
        return float(2595 * np.log1p(hertz / 700) / np.log(10))

    edges = np.arange(count + 2) * ((mel(high) - mel(low)) / (count + 2)) + mel(low)
    hertz = 700 * np.expm1(edges / 2595 * np.log(10))
    places = ((length + 1) * hertz // rate).astype(np.int64)
    found = np.zeros((bins, count))
    axis = np.arange(bins)
    for band in range(count):
        left, centre, right = (int(each) for each in places[band : band + 3])
        if centre == left:
            found[centre, band] = 1
        else:
            rise = (axis >= left) & (axis <= centre)
            found[rise, band] = (axis[rise] - left) / (centre - left)
        if right > centre:
            fall = (axis >= centre) & (axis < right)
            found[fall, band] = (right - axis[fall]) / (right - centre)
    return torch.tensor(found).to(c.dtype("output_datatype") or torch.float32)


TABLE: Table = {
    "DFT": _dft,
    "STFT": _stft,
    "HannWindow": _window(_hann),
    "HammingWindow": _window(_hamming),
    "BlackmanWindow": _window(_blackman),
    "MelWeightMatrix": _mel_weights,
}
