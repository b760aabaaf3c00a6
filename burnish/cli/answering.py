"""What commands that generate have in common: their options, and how an answer ends."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from burnish.cli.app import Accuracy, one_of

if TYPE_CHECKING:
    from burnish.runtime.generation import Generation

MaxNewTokens = Annotated[int, typer.Option("--max-new-tokens", "-n", min=1, help="Most tokens to answer.")]
Temperature = Annotated[
    float | None, typer.Option(min=0, help="0 always takes the likeliest token; 1 samples as the model was trained.")
]
TopK = Annotated[int | None, typer.Option(min=0, help="Sample from the k likeliest tokens only.")]
TopP = Annotated[float | None, typer.Option(min=0, max=1, help="Sample from the likeliest tokens that add up to p.")]
MinP = Annotated[
    float | None, typer.Option(min=0, max=1, help="Sample from tokens at least p times as likely as the likeliest.")
]
RepetitionPenalty = Annotated[
    float | None, typer.Option(min=0, help="Above 1 makes tokens that were said before less likely.")
]
Seed = Annotated[int | None, typer.Option(help="Makes sampling repeatable.")]
System = Annotated[str | None, typer.Option(help="A system message, ahead of the prompt.")]

Threads = Annotated[int | None, typer.Option(min=1, help="Processors to use, by an artifact.", show_default="all")]
AccuracyOption = Annotated[
    Accuracy | None,
    typer.Option(
        **one_of(Accuracy),
        help="Of native kernels: fast rounds what is multiplied with integers to 8 bits; else exact.",
    ),
]


def given(**settings: Any) -> dict[str, Any]:
    """Those that were given: the others are as the model says."""
    return {name: value for name, value in settings.items() if value is not None}


def ending(generation: Generation, max_new_tokens: int, max_length: int) -> str | None:
    """Why an answer ended by a limit, and what to do; None where the model ended it."""
    if generation.finish[0] != "length":
        return None
    written = len(generation.tokens[0])
    if written == max_new_tokens:
        return f"ended by --max-new-tokens {max_new_tokens}: -n takes another number"
    return f"ended at {max_length} tokens of prompt and answer, the most that the model was compiled for"


def speed(generation: Generation) -> str:
    """How fast it read and wrote."""
    return (
        f"{generation.prompt_tokens[0]} tokens read at {generation.prefill_tokens_per_second:.0f} a second, "
        f"{len(generation.tokens[0])} written at {generation.tokens_per_second:.1f} a second"
    )
