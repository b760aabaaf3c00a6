"""`burnish run`."""

from __future__ import annotations

import re
import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from burnish.cli.app import Accuracy, ArtifactOrModel, BackendOption, MaxLength, app, reported
from burnish.cli.models import loaded_model
from burnish.ir.errors import UsageError

if TYPE_CHECKING:  # importing torch takes a second or more: not for --help
    from burnish.runtime.generation import Generation
    from burnish.runtime.model import CompiledModel


@app.command()
def run(
    model: ArtifactOrModel,
    prompt: Annotated[str, typer.Argument(help="What to say to the model; - reads it from standard input.")],
    max_new_tokens: Annotated[int, typer.Option("--max-new-tokens", "-n", min=1, help="Most tokens to answer.")] = 256,
    temperature: Annotated[
        float | None,
        typer.Option(min=0, help="0 always takes the likeliest token; 1 samples as the model was trained."),
    ] = None,
    top_k: Annotated[int | None, typer.Option(min=0, help="Sample from the k likeliest tokens only.")] = None,
    top_p: Annotated[
        float | None, typer.Option(min=0, max=1, help="Sample from the likeliest tokens that add up to p.")
    ] = None,
    min_p: Annotated[
        float | None, typer.Option(min=0, max=1, help="Sample from tokens at least p times as likely as the likeliest.")
    ] = None,
    repetition_penalty: Annotated[
        float | None, typer.Option(min=0, help="Above 1 makes tokens that were said before less likely.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Makes sampling repeatable.")] = None,
    system: Annotated[str | None, typer.Option(help="A system message, ahead of the prompt.")] = None,
    raw: Annotated[bool, typer.Option("--raw", help="Continue the prompt as it is: no chat template.")] = False,
    max_length: MaxLength = None,
    backend: BackendOption = None,
    threads: Annotated[
        int | None, typer.Option(min=1, help="Processors to use, by an artifact.", show_default="all")
    ] = None,
    accuracy: Annotated[
        Accuracy | None,
        typer.Option(help="Of native kernels: fast rounds what is multiplied with integers to 8 bits; else exact."),
    ] = None,
) -> None:
    """Answer PROMPT, word by word. A MODEL is compiled first, and not kept."""
    with reported():
        text = sys.stdin.read() if prompt == "-" else prompt
        with loaded_model(model, max_length, backend, threads, accuracy) as compiled:
            inputs = _inputs(compiled, text, system, raw)
            settings = {
                "temperature": temperature,
                "top_k": top_k,
                "top_p": top_p,
                "min_p": min_p,
                "repetition_penalty": repetition_penalty,
                "seed": seed,
            }
            chosen = {name: value for name, value in settings.items() if value is not None}
            generation = _stream(compiled, inputs, max_new_tokens, chosen)
        from burnish.cli.console import err  # behind the answer, which does not wait for it

        err.print(_speed(generation), style="dim")


def _inputs(compiled: CompiledModel, text: str, system: str | None, raw: bool) -> str | list[int]:
    """What to generate from: a conversation where the model has a template for it, the text, or the ids in it."""
    tokenizer = compiled.tokenizer
    if tokenizer is not None and tokenizer.data.chat_template is not None and not raw:
        messages = [{"role": "system", "content": system}] if system is not None else []
        ids: list[int] = compiled.chat_ids([*messages, {"role": "user", "content": text}])
        return ids
    if system is not None:
        raise UsageError("--system needs a chat template, which " + ("--raw turns off" if raw else "is not there"))
    if tokenizer is not None:
        return text
    if re.fullmatch(r"\s*\d+(\s+\d+)*\s*", text) is None:
        raise UsageError("this model has no tokenizer: the prompt has to be token ids, such as '1 17 4'")
    return [int(number) for number in text.split()]


def _stream(
    compiled: CompiledModel, inputs: str | list[int], max_new_tokens: int, settings: dict[str, Any]
) -> Generation:
    """Print the answer as it comes; what was generated."""

    def show(piece: str) -> None:
        sys.stdout.write(piece)
        sys.stdout.flush()

    if compiled.tokenizer is None:
        generation = compiled.generate(inputs, max_new_tokens=max_new_tokens, **settings)
        show(" ".join(str(token) for token in generation.tokens[0]))
    else:
        generation = compiled.generate(inputs, max_new_tokens=max_new_tokens, stream=show, **settings)
    show("\n")
    return generation


def _speed(generation: Generation) -> str:
    tokens = len(generation.tokens[0])
    return (
        f"{generation.prompt_tokens[0]} tokens read at {generation.prefill_tokens_per_second:.0f} a second, "
        f"{tokens} written at {generation.tokens_per_second:.1f} a second"
    )
