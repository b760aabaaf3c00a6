"""Options for what changes a model, as transforms."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from burnish.ir.errors import UsageError

if TYPE_CHECKING:  # importing torch takes a second or more: not for --help
    from burnish.passes.transforms.drop_layers import DropLayers
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


def recipe_of(
    kv_heads: int | None,
    heal: int,
    drop_layers: str | None,
    quantize_cache: CacheNumbers | None,
    calibration: Path | None,
    recipe: Path | None,
) -> Recipe:
    """The transforms that these options name, in their order. Raises UsageError where options contradict."""
    named = kv_heads is not None or drop_layers is not None or bool(heal) or quantize_cache is not None
    if recipe is None and not named:
        from burnish.recipe import Recipe

        return Recipe([], calibration)
    from burnish.passes.transforms.convert_to_gqa import ConvertToGQA
    from burnish.passes.transforms.quantize_cache import QuantizeCache
    from burnish.recipe import Recipe, read_recipe

    if recipe is not None:
        if named:
            raise UsageError(
                "--recipe says what changes the model: leave out --kv-heads, --heal, --drop-layers and --quantize-cache"
            )
        found = read_recipe(recipe)
        return Recipe(found.transforms, calibration or found.calibration)
    if heal and kv_heads is None:
        raise UsageError("--heal trains what --kv-heads changed: give both")
    dropped = [] if drop_layers is None else [_drop_layers(drop_layers)]
    merged = [] if kv_heads is None else [ConvertToGQA(kv_heads, heal=heal)]
    rounded = [] if quantize_cache is None else [QuantizeCache(quantize_cache.value)]
    return Recipe([*dropped, *merged, *rounded], calibration)


def _drop_layers(text: str) -> DropLayers:
    from burnish.passes.transforms.drop_layers import DropLayers

    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() for part in parts if part) or not any(parts):
        raise UsageError(f"--drop-layers takes a count (3) or numbers of layers (3,5), not {text!r}")
    if len(parts) == 1:
        return DropLayers(count=int(parts[0]))
    return DropLayers(layers=tuple(int(part) for part in parts if part))
