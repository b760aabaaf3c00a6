"""Options for what changes a model, as transforms."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from burnish.ir.errors import UsageError

if TYPE_CHECKING:  # importing torch takes a second or more: not for --help
    from burnish.cli.app import Quantization
    from burnish.passes.transforms.drop_layers import DropLayers
    from burnish.passes.transforms.quantize import Quantize
    from burnish.recipe import Recipe

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
    typer.Option(help="Of each four weights in a row make two zero.", rich_help_panel=_PANEL, show_default="not"),
]
GroupOption = Annotated[
    str | None,
    typer.Option(metavar="32|64|128|row", help="With --quantize: weights that share a scale.", rich_help_panel=_PANEL),
]
MethodOption = Annotated[
    Method | None,
    typer.Option(
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
    typer.Option(help="Remember keys and values in 8 bits.", rich_help_panel=_PANEL, show_default="not"),
]
CalibrationOption = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="Text to choose and fit by; an eighth says the cost.", rich_help_panel=_PANEL),
]
RecipeOption = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="All of these from a file, burnish.toml by custom.", rich_help_panel=_PANEL),
]
SaveRecipeOption = Annotated[
    Path | None, typer.Option(metavar="FILE", help="Write these options as such a file.", rich_help_panel=_PANEL)
]


def quantize_of(
    numbers: Quantization | None,
    on_gpu: bool,
    group: str | None,
    method: Method | None,
    symmetric: bool,
    head: Head | None,
    size: str | None,
) -> Quantize | None:
    """The transform that --quantize and the options beside it name; None without, and for `numbers` alone `on_gpu`.

    There `compile` chooses what kernels read. Raises UsageError where options contradict.
    """
    beside = _given(group=group, quantize_method=method, symmetric=symmetric or None, head=head, size=size)
    if numbers is None:
        if beside:
            raise UsageError(f"{', '.join(beside)}: how --quantize rounds; give that, too")
        return None
    if on_gpu and not beside:
        return None
    from burnish.passes.transforms.quantize import Quantize

    return Quantize(
        numbers.value,
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


def recipe_of(
    kv_heads: int | None,
    heal: int,
    drop_layers: str | None,
    sparsify: Pattern | None,
    quantize: Quantize | None,
    quantize_cache: CacheNumbers | None,
    calibration: Path | None,
    recipe: Path | None,
) -> Recipe:
    """The transforms that these options name, in their order. Raises UsageError where options contradict."""
    named = _given(
        kv_heads=kv_heads,
        heal=heal or None,
        drop_layers=drop_layers,
        sparsify=sparsify,
        quantize=quantize,
        quantize_cache=quantize_cache,
    )
    if recipe is None and not named:
        from burnish.recipe import Recipe

        return Recipe([], calibration)
    from burnish.passes.transforms.convert_to_gqa import ConvertToGQA
    from burnish.passes.transforms.quantize_cache import QuantizeCache
    from burnish.passes.transforms.sparsify import Sparsify
    from burnish.recipe import Recipe, read_recipe

    if recipe is not None:
        if named:
            raise UsageError(f"--recipe says what changes the model: leave out {', '.join(named)}")
        found = read_recipe(recipe)
        return Recipe(found.transforms, calibration or found.calibration)
    if heal and kv_heads is None:
        raise UsageError("--heal trains what --kv-heads changed: give both")
    dropped = [] if drop_layers is None else [_drop_layers(drop_layers)]
    merged = [] if kv_heads is None else [ConvertToGQA(kv_heads, heal=heal)]
    sparse = [] if sparsify is None else [Sparsify("2:4")]
    rounded = [] if quantize is None else [quantize]
    cache = [] if quantize_cache is None else [QuantizeCache(quantize_cache.value)]
    return Recipe([*dropped, *merged, *sparse, *rounded, *cache], calibration)


def _given(**options: object) -> list[str]:
    """Which of the options were given, as they are written."""
    return [f"--{name.replace('_', '-')}" for name, value in options.items() if value is not None]


def _drop_layers(text: str) -> DropLayers:
    from burnish.passes.transforms.drop_layers import DropLayers

    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() for part in parts if part) or not any(parts):
        raise UsageError(f"--drop-layers takes a count (3) or numbers of layers (3,5), not {text!r}")
    if len(parts) == 1:
        return DropLayers(count=int(parts[0]))
    return DropLayers(layers=tuple(int(part) for part in parts if part))
