"""`burnish chat`."""

from __future__ import annotations

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
    given,
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


@app.command()
def chat(
    model: ArtifactOrModel,
    max_new_tokens: MaxNewTokens = 1024,
    temperature: Temperature = None,
    top_k: TopK = None,
    top_p: TopP = None,
    min_p: MinP = None,
    repetition_penalty: RepetitionPenalty = None,
    seed: Seed = None,
    system: System = None,
    max_length: MaxLength = None,
    context: ContextOption = None,
    tokenizer: TokenizerOption = None,
    trust_remote_code: TrustRemoteCode = False,
    backend: BackendOption = None,
    threads: Threads = None,
    accuracy: AccuracyOption = None,
    trust: TrustOption = None,
) -> None:
    """Talk with a model, which remembers what was said. A MODEL is compiled first, and not kept."""
    with (
        reported(),
        loaded_model(
            model, max_length, backend, threads, accuracy, tokenizer, trust_remote_code, trust, context
        ) as compiled,
    ):
        from burnish.cli.conversation import converse

        settings = given(
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            min_p=min_p,
            repetition_penalty=repetition_penalty,
            seed=seed,
        )
        converse(compiled, model, system, max_new_tokens, settings)
