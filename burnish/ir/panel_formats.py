"""How weights of products lie in memory for CPUs: panels of 16 rows, in the order in which they are multiplied.

`burnish/runtime/native/cpp/formats.h` reads them. In a panel, inputs come one behind the other, each with its 16 rows:

    f32, f16   [K][16]
    bf16       [K / 2][16][2]
    f8         scales float32 [16], then float8_e4m3fn [K][16]: a number is its row's scale times one
    f8b        the same for each 128 inputs, of which there are whole ones
    integers   for each 32 inputs: scales [16], minima [16] where the format has them, and the numbers: of 8 bits int8
               [8 steps][16][4]; of 4 bits bytes [4][16][4] of two numbers each, the low half of step 2i, the high half
               of step 2i + 1; of 5 and 6 bits the same of their low 4 bits, and behind it bytes [1 or 2][16][4] of
               what is above: those of 5 bits have a bit of each step, those of 6 bits two bits of each of 4 steps;
               of 2 bits bytes [2][16][4] alone, of 4 steps each

    q8, q4, q5     a number is scale * q, of 4 and 5 bits stored as u = q + 8, q + 16; scales are float16
    q4m, q5m       scale * u + minimum, float16 both
    q8f, q4f       as q8 and q4m, with scales and minima in float32
    q4k, q5k, q6k  scales and minima (of q6k there are none) are float16 for 256 inputs, [16] each in front of these,
                   times int8 for each 32 inputs, or of q6k, for each 16, [2][16]
    q2k            as these for each 16: a scale in the low half of a byte, and what the minimum takes off above

K is filled up with zeros to whole steps, or to whole 256 inputs, N to whole panels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import torch

Floats = Literal["f32", "bf16", "f16", "f8", "f8b"]
Format = Literal[Floats, "q8", "q8f", "q4", "q4m", "q4f", "q5", "q5m", "q4k", "q5k", "q6k", "q2k"]
FORMATS: tuple[Format, ...] = get_args(Format)
PANEL, GROUP = 16, 32
SCALED = 128  # inputs of f8b that share a scale

FLOATS: dict[Format, torch.dtype] = {"f32": torch.float32, "bf16": torch.bfloat16, "f16": torch.float16}


@dataclass(frozen=True)
class Integers:
    """A format of integers. Scales in bytes come in `runs` for each 32 inputs, and are times halves for 256."""

    bits: int
    scales: torch.dtype = torch.float16
    minima: bool = False
    runs: int = 1

    @property
    def blocked(self) -> bool:
        """Whether 256 inputs have halves in front of them."""
        return self.scales == torch.int8

    @property
    def paired(self) -> bool:
        """Whether a scale and a minimum share a byte."""
        return self.bits == 2

    @property
    def parts(self) -> int:
        """Scales, and minima if there are any."""
        return 2 if self.minima else 1

    @property
    def part_bytes(self) -> int:
        """Bytes of the scales, or minima, of 32 inputs."""
        return PANEL * self.scales.itemsize * self.runs // (2 if self.paired else 1)

    @property
    def group_bytes(self) -> int:
        """Bytes of 32 inputs."""
        return self.parts * self.part_bytes + 64 * self.bits

    @property
    def unit(self) -> int:
        """Inputs that a row is filled up to a multiple of."""
        return 8 * GROUP if self.blocked else GROUP

    @property
    def unit_bytes(self) -> int:
        """Bytes of so many inputs."""
        return self.parts * 2 * PANEL + 8 * self.group_bytes if self.blocked else self.group_bytes

    @property
    def added(self) -> int:
        """What is added to numbers to store them without a sign."""
        return 0 if self.minima or self.bits == 8 else 2 ** (self.bits - 1)


INTEGERS: dict[Format, Integers] = {
    "q8": Integers(8),
    "q8f": Integers(8, torch.float32),
    "q4": Integers(4),
    "q4m": Integers(4, minima=True),
    "q4f": Integers(4, torch.float32, minima=True),
    "q5": Integers(5),
    "q5m": Integers(5, minima=True),
    "q4k": Integers(4, torch.int8, minima=True),
    "q5k": Integers(5, torch.int8, minima=True),
    "q6k": Integers(6, torch.int8, runs=2),
    "q2k": Integers(2, torch.int8, minima=True, runs=2),
}


# Bits, inputs that share a scale, and whether there are minima. 2 and 3 bits are 4 here; files of 3 are rare.
BY_K_QUANT: dict[tuple[int, int, bool], Format] = {
    (4, 32, True): "q4k",
    (5, 32, True): "q5k",
    (6, 16, False): "q6k",
    (4, 16, False): "q6k",
    (4, 16, True): "q2k",
}


def is_integer(form: Format) -> bool:
    """Whether a format is of integers."""
    return form in INTEGERS


def _unit(form: Format) -> int:
    return INTEGERS[form].unit if is_integer(form) else 2 if form == "bf16" else 1


def filled(form: Format, size: int) -> int:
    """Elements of a row of `size`, with what it is filled up with."""
    return -(-size // _unit(form)) * _unit(form)


def panel_bytes(form: Format, size: int) -> int:
    """Bytes of one panel of rows of `size` elements."""
    if is_integer(form):
        return filled(form, size) // _unit(form) * INTEGERS[form].unit_bytes
    if form == "f8":
        return PANEL * (4 + size)
    if form == "f8b":
        return PANEL * (4 * (size // SCALED) + size)
    return filled(form, size) * PANEL * FLOATS[form].itemsize
