"""Options for what changes a model, as transforms."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from burnish.cli.app import one_of
from burnish.cli.flags import flag
from burnish.ir.errors import UsageError

if TYPE_CHECKING:  # importing torch takes a second or more: not for --help
    from burnish.passes.transforms.quantize import Quantize
    from burnish.passes.transforms.transform import Transform

_PANEL = "What changes the model"
KVHeadsOption = Annotated[
    int | None,
    typer.Option(metavar="N", help="Merge heads of keys and values to N; 1 is MQA.", rich_help_panel=_PANEL),
]
HealOption = Annotated[
    int, typer.Option(metavar="STEPS", min=0, help="With --kv-heads: train what changed.", rich_help_panel=_PANEL)
]
DropLayersOption = Annotated[
    str | None,
    typer.Option(
        metavar="COUNT|NUMBERS",
        help="Leave out so many layers, chosen by the text; or those given: 3,5 (one: 3,).",
        rich_help_panel=_PANEL,
    ),
]


class CacheNumbers(StrEnum):
    """Of keys and values that are remembered."""

    INT8 = "int8"
    FP8 = "fp8"


class Head(StrEnum):
    """Numbers of the embedding, and of what gives the logits."""

    INT8 = "int8"
    INT4 = "int4"
    FLOAT = "float"


class Method(StrEnum):
    """How weights are rounded."""

    NEAREST = "nearest"
    GPTQ = "gptq"
    AWQ = "awq"


class Pattern(StrEnum):
    """Which weights become zero."""

    TWO_OF_FOUR = "2:4"


SparsifyOption = Annotated[
    Pattern | None,
    typer.Option(
        **one_of(Pattern),
        help="Of each four weights in a row make two zero.",
        rich_help_panel=_PANEL,
        show_default="not",
    ),
]
GroupOption = Annotated[
    str | None,
    typer.Option(metavar="32|64|128|row", help="With --quantize: weights that share a scale.", rich_help_panel=_PANEL),
]
MethodOption = Annotated[
    Method | None,
    typer.Option(
        **one_of(Method),
        help="With --quantize: how to round.",
        rich_help_panel=_PANEL,
        show_default="gptq with --calibration, or nearest",
    ),
]
SymmetricOption = Annotated[
    bool, typer.Option("--symmetric", help="With --quantize int4: no zero points.", rich_help_panel=_PANEL)
]
HeadOption = Annotated[
    Head | None,
    typer.Option(
        **one_of(Head),
        help="With --quantize: the embedding and what gives logits.",
        rich_help_panel=_PANEL,
        show_default="as all others",
    ),
]
SizeOption = Annotated[
    str | None,
    typer.Option(
        metavar="SIZE",
        help="With --quantize: more bits for what loses most, while all weights fit (80MB).",
        rich_help_panel=_PANEL,
    ),
]
QuantizeCacheOption = Annotated[
    CacheNumbers | None,
    typer.Option(
        **one_of(CacheNumbers), help="Remember keys and values in 8 bits.", rich_help_panel=_PANEL, show_default="not"
    ),
]
CalibrationOption = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        exists=True,
        dir_okay=False,
        help="Text to choose and fit by; an eighth says the cost.",
        rich_help_panel=_PANEL,
    ),
]


def check_flags(
    kv_heads: int | None,
    heal: int,
    drop_layers: str | None,
    quantize: str | None,
    group: str | None,
    method: Method | None,
    symmetric: bool,
    head: Head | None,
    size: str | None,
    calibrated: bool,
) -> None:
    """UsageError where flags contradict, or lack what they need; before PyTorch is imported."""
    how = _given(group=group, quantize_method=method, symmetric=symmetric or None, head=head, size=size)
    if how and quantize is None:
        raise UsageError(f"{', '.join(how)}: how --quantize rounds; give that, too: --quantize int4")
    if group is not None and group != "row":
        _group(group)
    if kv_heads is not None and kv_heads < 1:
        raise UsageError(f"--kv-heads is at least 1, not {kv_heads}")
    if heal and kv_heads is None:
        raise UsageError("--heal trains what --kv-heads changed: give both")
    needs = {
        f"--heal {heal}": bool(heal),
        f"--drop-layers {drop_layers}": drop_layers is not None and isinstance(_drop_layers(drop_layers), int),
        f"--quantize-method {method}": method in (Method.GPTQ, Method.AWQ),
        f"--size {size}": size is not None,
    }
    for what, needed in needs.items():
        if needed and not calibrated:
            raise UsageError(f"{what} needs calibration text: add --calibration FILE")


def quantize_of(
    numbers: str | None,
    on_gpu: bool,
    group: str | None,
    method: Method | None,
    symmetric: bool,
    head: Head | None,
    size: str | None,
) -> Quantize | None:
    """The transform that --quantize and the options beside it name; None without, and for `numbers` alone `on_gpu`.

    There `compile` chooses what kernels read. `check_flags` has seen them.
    """
    beside = _given(group=group, quantize_method=method, symmetric=symmetric or None, head=head, size=size)
    if numbers is None:
        return None
    if on_gpu and not beside:
        return None
    from burnish.passes.transforms.quantize import Quantize

    return Quantize(
        numbers,  # type: ignore[arg-type]  # a Quantization, or a text of a file that check_options has seen
        group=None if group is None else _group(group),
        method=None if method is None else method.value,
        symmetric=symmetric,
        head=None if head is None else head.value,
        size=size,
    )


def _group(text: str) -> int | Literal["row"]:
    if text == "row":
        return "row"
    if not text.isdecimal():
        raise UsageError(f"--group takes 32, 64, 128 or row, not {text!r}")
    return int(text)


def transforms_of_flags(
    kv_heads: int | None,
    heal: int,
    drop_layers: str | None,
    sparsify: Pattern | None,
    quantize: Quantize | None,
    quantize_cache: CacheNumbers | None,
) -> list[Transform]:
    """The transforms that these flags name, which `check_flags` has seen."""
    found: list[Transform] = []
    if drop_layers is not None:
        from burnish.passes.transforms.drop_layers import DropLayers

        which = _drop_layers(drop_layers)
        found.append(DropLayers(count=which) if isinstance(which, int) else DropLayers(layers=which))
    if kv_heads is not None:
        from burnish.passes.transforms.convert_to_gqa import ConvertToGQA

        found.append(ConvertToGQA(kv_heads, heal=heal))
    if sparsify is not None:
        from burnish.passes.transforms.sparsify import Sparsify

        found.append(Sparsify("2:4"))
    if quantize is not None:
        found.append(quantize)
    if quantize_cache is not None:
        from burnish.passes.transforms.quantize_cache import QuantizeCache

        found.append(QuantizeCache(quantize_cache.value))
    return found


def overridden(before: Sequence[Transform], by: Sequence[Transform], quantized: bool) -> list[Transform]:
    """A file's transforms with those of flags: of a kind that both have, the flags'. In an order that makes sense."""
    kinds = {type(each).__name__ for each in by} | ({"Quantize"} if quantized else set())
    return sorted([*(each for each in before if type(each).__name__ not in kinds), *by], key=lambda each: each.place)


def _given(**options: object) -> list[str]:
    """Which of the options were given, as they are written."""
    return [flag(name) for name, value in options.items() if value is not None]


def _drop_layers(text: str) -> int | tuple[int, ...]:
    """How many layers, or which."""
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() for part in parts if part) or not any(parts):
        raise UsageError(f"--drop-layers takes a count (3) or numbers of layers (3,5), not {text!r}")
    return int(parts[0]) if len(parts) == 1 else tuple(int(part) for part in parts if part)
