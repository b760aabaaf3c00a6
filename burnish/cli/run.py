"""`burnish run`."""

from __future__ import annotations

import re
import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from burnish.cli.answering import (
    AccuracyOption,
    MaxNewTokens,
    MinP,
    RepetitionPenalty,
    Seed,
    System,
    Temperature,
    Threads,
    TopK,
    TopP,
    ending,
    given,
    speed,
)
from burnish.cli.app import (
    ArtifactOrModel,
    BackendOption,
    ContextOption,
    MaxLength,
    TokenizerOption,
    TrustOption,
    TrustRemoteCode,
    app,
    reported,
)
from burnish.cli.models import loaded_model
from burnish.ir.errors import UsageError

if TYPE_CHECKING:  # importing torch takes a second or more: not for --help
    from burnish.runtime.generation import Generation
    from burnish.runtime.model import CompiledModel


@app.command()
def run(
    model: ArtifactOrModel,
    prompt: Annotated[
        str | None,
        typer.Argument(
            help="What to say to the model; - reads it from standard input.", show_default="a conversation, as by chat"
        ),
    ] = None,
    max_new_tokens: MaxNewTokens = 256,
    temperature: Temperature = None,
    top_k: TopK = None,
    top_p: TopP = None,
    min_p: MinP = None,
    repetition_penalty: RepetitionPenalty = None,
    seed: Seed = None,
    system: System = None,
    raw: Annotated[bool, typer.Option("--raw", help="Continue the prompt as it is: no chat template.")] = False,
    max_length: MaxLength = None,
    context: ContextOption = None,
    tokenizer: TokenizerOption = None,
    trust_remote_code: TrustRemoteCode = False,
    backend: BackendOption = None,
    threads: Threads = None,
    accuracy: AccuracyOption = None,
    trust: TrustOption = None,
) -> None:
    """Answer PROMPT, word by word. A MODEL is compiled first, and not kept."""
    with reported():
        text = _prompt(model, prompt, raw)
        with loaded_model(
            model, max_length, backend, threads, accuracy, tokenizer, trust_remote_code, trust, context
        ) as compiled:
            settings = given(
                temperature=temperature,
                top_k=top_k,
                top_p=top_p,
                min_p=min_p,
                repetition_penalty=repetition_penalty,
                seed=seed,
            )
            if text is None:
                from burnish.cli.conversation import converse

                converse(compiled, model, system, max_new_tokens, settings)
                return
            generation = _stream(compiled, _inputs(compiled, text, system, raw), max_new_tokens, settings)
            ended = ending(generation, max_new_tokens, compiled.signature.max_length)
        from burnish.cli.console import err  # behind the answer, which does not wait for it

        if ended is not None:
            err.print(ended, soft_wrap=True)
        err.print(speed(generation), style="dim", soft_wrap=True)


def _prompt(model: str, prompt: str | None, raw: bool) -> str | None:
    """The prompt; None where there is none, and somebody at a terminal to talk with.

    An empty one asks for nothing, and a model answers it with noise: UsageError.
    """
    write = f"burnish run {model} 'Why is the sky blue?'"
    if prompt is None:
        if not sys.stdin.isatty() or raw:
            raise UsageError(f"there is no prompt: {write}, or - in its place to read standard input")
        return None
    text = sys.stdin.read() if prompt == "-" else prompt
    if not (text if raw else text.strip()):
        what = "standard input" if prompt == "-" else "the prompt"
        raise UsageError(f"{what} is empty, and a model has no answer to that: {write}")
    return text


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
