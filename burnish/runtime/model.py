"""A compiled model, as users hold it."""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import weakref
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, NoReturn, get_args

from burnish.ir.errors import BurnishError, InvalidInputError, UsageError
from burnish.ir.signature import Signature
from burnish.ir.sizes import size_text
from burnish.runtime.artifact import Artifact, path_of
from burnish.runtime.backends import Accuracy, Backend, Trust, default_backend, executor_of, runs
from burnish.runtime.exportable import Exportable
from burnish.runtime.processors import processors

if TYPE_CHECKING:  # what computes is imported while other threads read the artifact, PyTorch by who asks for tensors
    from burnish.ir.torch_types import Tensor
    from burnish.ir.trace import Trace
    from burnish.runtime.executor import Executor
    from burnish.runtime.generation import Generation, GenerationRun
    from burnish.runtime.prompts import Prompt
    from burnish.runtime.session import Session
    from burnish.runtime.token_ids import Ids
    from burnish.runtime.tokenization import Tokenizer

_log = logging.getLogger(__name__)


class CompiledModel(Exportable):
    """A model that runs without its source code: `load` and `burnish.compile` give one."""

    def __init__(self, artifact: Artifact, executor: Executor, backend: Backend, tokenizer: Tokenizer | None) -> None:
        self.artifact = artifact
        self.backend = backend
        self.tokenizer = tokenizer
        self.executor = executor
        self._cleanup: Callable[[], object] = executor.close
        self._source: CompiledModel | None = None

    @property
    def signature(self) -> Signature:
        """Sizes of the vocabulary and of the longest text."""
        return self.artifact.signature

    @property
    def generation_defaults(self) -> Mapping[str, Any]:
        """The model's own defaults for `generate`."""
        return self.artifact.manifest.generation

    @cached_property
    def trace(self) -> Trace:
        """What each pass of the compilation did."""
        return self.artifact.trace()

    def __call__(
        self,
        ids: Ids | Mapping[str, Any] | None = None,
        *,
        input_ids: Ids | None = None,
        attention_mask: Any = None,
        token_type_ids: Any = None,
    ) -> Tensor:
        """Logits [b, s, vocabulary] of token ids [b, s]; logits i are of the token that follows token i.

        Ids are a tensor, an array or lists, of any integers; or `**tokenizer(texts, padding=True)` of transformers:
        what `attention_mask` leaves out, before a row or behind it, is as if it were not there, and has zeros.

        Raises InvalidInputError for ids that are none, outside the vocabulary, or too many.
        """
        from burnish.runtime.prompts import encoded, id_rows, unmasked
        from burnish.runtime.token_ids import check_ids

        names = {"input_ids": input_ids, "attention_mask": attention_mask, "token_type_ids": token_type_ids}
        ids, mask = encoded(ids, names)
        rows = id_rows(ids)
        spans = unmasked(mask, rows)
        given = check_ids([row[span.start : span.stop] for row, span in zip(rows, spans, strict=True)], self.signature)
        length = len(rows[0])
        if any(len(row) != length for row in rows):
            raise InvalidInputError(
                f"logits are of rows of one length, and these have {[len(row) for row in rows]} tokens: pad them, and "
                "give attention_mask=, or call it for each"
            )
        if all(len(row) == length for row in given):
            return self.session(len(given), capacity=length).append(given, every=True)
        parts = [self.session(capacity=len(row)).append([row], every=True)[0] for row in given]
        logits = parts[0].new_zeros((len(rows), length, parts[0].shape[-1]))
        for row, span, part in zip(logits, spans, parts, strict=True):
            row[span.start : span.stop] = part
        return logits

    def generate(
        self,
        prompt: Prompt | None = None,
        *,
        max_new_tokens: int | None = None,
        do_sample: bool | None = None,
        temperature: float | None = None,
        top_k: int | None = None,
        top_p: float | None = None,
        min_p: float | None = None,
        repetition_penalty: float | None = None,
        seed: int | None = None,
        stop: str | Sequence[str] | None = None,
        stream: Callable[[str], object] | None = None,
        **options: Any,
    ) -> Generation:
        """Continue a prompt, or a batch of prompts of any lengths.

        Options have the names, meanings and order of transformers' `GenerationConfig`. What is None is as the model's
        own generation config says, and where that is silent as transformers' defaults: 20 new tokens, the likeliest
        token each time.

        Args:
            prompt: a text, a conversation ([{"role": "user", "content": "..."}]) or token ids (a list, an array or a
                tensor of integers), or several of one of these; or what a tokenizer of transformers gives. As
                `**tokenizer(texts, padding=True, return_tensors="pt")` it may stand among the options, too: what its
                attention_mask leaves out is padding, and as if it were not there.
            max_new_tokens: the most tokens to add; fewer if the model's longest text is reached.
            do_sample: whether to draw tokens at random; by default if the model does, or if temperature (above 0),
                top_k, top_p or min_p is given.
            temperature: what scores are divided by; 0 for the likeliest token.
            top_k: the number of tokens to draw from; 0 for all, 50 where nobody says.
            top_p: the probability that the tokens to draw from have together.
            min_p: the least probability of a token to draw, as a share of the likeliest one's.
            repetition_penalty: above 1 to make tokens that were already there less likely.
            seed: the same seed gives the same tokens: a row's depend on it and on the place of its prompt among the
                prompts, and not on the other rows.
            stop: texts at which to stop. The text ends before them; the tokens include them.
            stream: called with each piece of the text, where there is one prompt.
            options: num_return_sequences (answers to each prompt); num_beams, length_penalty and early_stopping (beam
                search); min_new_tokens, max_length, min_length, no_repeat_ngram_size, bad_words_ids, eos_token_id,
                suppress_tokens, begin_suppress_tokens, forced_bos_token_id, forced_eos_token_id; and, as OpenAI
                defines them, of the new tokens: frequency_penalty, presence_penalty; logit_bias ({token id: what is
                added to its score}).
                logprobs, prompt_logprobs: of new tokens and of those of the prompt the log-probabilities that the
                model itself gives them, with so many of the likeliest tokens: in `Generation`.

        Raises:
            InvalidInputError: for a prompt that the model cannot take, an unknown option or a bad value.
        """
        given = {
            **options,
            "max_new_tokens": max_new_tokens,
            "do_sample": do_sample,
            "temperature": temperature,
            "top_k": top_k,
            "top_p": top_p,
            "min_p": min_p,
            "repetition_penalty": repetition_penalty,
            "seed": seed,
            "stop_strings": options.get("stop_strings") if stop is None else stop,
        }
        if stream is not None and not callable(stream):
            raise InvalidInputError(f"stream is a function that takes each piece of the text, not {stream!r}")
        run = self._run(prompt, given, streams=stream is not None)
        for piece in run:
            if stream is not None:
                stream(piece)
        return run.result

    def stream(self, prompt: Prompt | None = None, **options: Any) -> GenerationRun:
        """Continue one prompt: iterate what this gives for the pieces of the text, then read its `result`.

        Options as for `generate`.
        """
        if "stop" in options:
            options["stop_strings"] = options.pop("stop")
        return self._run(prompt, options, streams=True)

    def astream(self, prompt: Prompt | None = None, **options: Any) -> GenerationRun:
        """`stream` for `async for`: steps run on another thread, and the event loop goes on meanwhile.

        A model runs one step at a time: have one stream of it after the other, or load it once more.
        """
        return self.stream(prompt, **options)

    def chat_ids(
        self,
        messages: Sequence[Mapping[str, Any]],
        tools: Sequence[Mapping[str, Any]] | None = None,
        add_generation_prompt: bool = True,
        **template_arguments: Any,
    ) -> list[int]:
        """A conversation, [{"role": "user", "content": "..."}, ...], as a prompt for `generate`.

        Args:
            messages: what was said.
            tools: JSON schemas of functions that the model may call.
            add_generation_prompt: whether to end with the words that begin an answer.
            template_arguments: what else the model's template knows, as transformers' apply_chat_template takes it:
                documents, enable_thinking, ...

        Raises InvalidInputError if the model has no tokenizer or no chat template, or if that refuses these.
        """
        if self.tokenizer is None:
            raise InvalidInputError("this model has no tokenizer: give token ids")
        return self.tokenizer.chat_ids(messages, add_generation_prompt, tools=tools, **template_arguments)

    def session(self, batch: int = 1, capacity: int = 0) -> Session:
        """A session of `batch` rows: tokens in, logits out, at one's own pace."""
        from burnish.runtime.session import Session

        return Session(self.executor, self.signature, self.artifact.states, batch, capacity)

    def save(self, path: Path | str) -> None:
        """Save the compiled model as the folder `path`, all of it or nothing.

        An artifact that is there already is replaced; anything else there is refused with an ArtifactError.
        """
        if os.path.realpath(path_of(path)) != os.path.realpath(self.artifact.path):
            self.artifact.copy(path)

    def to(self, device: str) -> CompiledModel:
        """The same model on "cuda" or "cpu"; itself if it is there. Both can be used, and closed, each by itself.

        Raises UsageError if it was not compiled for the device, or if there is none here.
        """
        if device not in ("cpu", "cuda"):
            raise UsageError(f"there is no device {device!r}: there are cpu and cuda")
        if (self.backend == "cuda") == (device == "cuda"):
            return self
        compiled_for = self.artifact.manifest.target
        backend: Backend = "cuda" if device == "cuda" else "native" if compiled_for == "native" else "onnxruntime"
        if not runs(backend, self.artifact):
            raise UsageError(
                f"the model was compiled for {compiled_for}: compile it with target={device!r}"
                + ("" if device == "cuda" else ', or run it by backend="reference"')
            )
        moved = load(self.artifact.path, backend)
        moved._source = self  # whose folder it reads, if that is a temporary one
        return moved

    def close(self) -> None:
        """Free memory, and the files of a model that was never saved. The model cannot run afterwards."""
        self._cleanup()

    def __enter__(self) -> CompiledModel:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __reduce__(self) -> NoReturn:
        raise UsageError(
            "a compiled model has memory and threads of its process, so it is not copied or given to another one: save "
            "it, and load it by its path where it is needed: model.save(path), burnish.load(path)"
        )

    def __repr__(self) -> str:
        manifest = self.artifact.manifest
        token = sum(state.bytes_a_token for state in self.artifact.states)
        return (
            f"CompiledModel({manifest.name!r}, backend={self.backend!r}, vocabulary={self.signature.vocabulary}, "
            f"max_length={self.signature.max_length}, weights={size_text(manifest.weight_bytes)}, "
            f"states={len(self.artifact.states)} ({size_text(token)} a token))"
        )

    def _repr_html_(self) -> str:
        from burnish.inspect.html.notebook import model_html  # for a notebook alone

        trace: Trace | str
        try:
            trace = self.trace
        except (BurnishError, OSError) as error:  # a temporary artifact is gone once its model is closed
            trace = f"its trace cannot be read: {error}"
        return model_html(self.artifact, self.backend, trace)

    def _run(self, prompt: Prompt | None, given: Mapping[str, Any], streams: bool) -> GenerationRun:
        from burnish.runtime.generation import GenerationRun, prepare, tell_side

        prompts, options, room = prepare(prompt, self.signature, self.tokenizer, self.generation_defaults, given)
        tell_side(prompts, self.signature)
        answers = options.num_return_sequences
        if streams and (self.tokenizer is None or len(prompts) != 1 or answers != 1):
            several = f"it has {answers} answers" if len(prompts) == 1 else f"there are {len(prompts)} prompts"
            why = "this model has no tokenizer" if self.tokenizer is None else several
            raise InvalidInputError(f"only the text of one prompt can be streamed, and {why}")
        if streams and options.num_beams > 1:
            raise InvalidInputError("beam search has no text before its end: pass num_beams=1 to see it as it comes")
        session = self.session(len(prompts), capacity=1 + max(map(len, prompts)))
        return GenerationRun(session, options, prompts, room, self.tokenizer, streams)

    def _own(self, folder: Path) -> None:
        """Delete `folder`, and the one around it if that is then empty, with the model."""
        self._cleanup = weakref.finalize(self, _discard, self.executor, folder)


def load(
    path: Path | str | Artifact,
    backend: Backend | None = None,
    threads: int | None = None,
    executors: Mapping[Backend, Callable[[Artifact], Executor]] | None = None,
    accuracy: Accuracy | None = None,
    trust: Trust | None = None,
) -> CompiledModel:
    """Load an artifact that `save` or `burnish compile` wrote.

    Args:
        path: the folder.
        backend: who executes it. "native" on CPUs, which is our own kernels; "onnxruntime" on CPUs; "cuda" on an NVIDIA
            GPU; "reference" for the graph node by node in PyTorch; "triton-interpret" for the GPU's kernels by Triton's
            interpreter, on any machine and slow. If None, what the artifact was compiled for.
        threads: how many processors to use; None for all that this process has. (For the reference backend this sets
            PyTorch's threads for the whole process.)
        executors: what makes the executors of backends that the runtime does not bring.
        accuracy: for native kernels: "fast" rounds what is multiplied with weights of integers to 8 bits, in groups of
            32, as others do: prompts are read at twice the speed; "exact" (None) leaves it in floats.
        trust: for native kernels: "native" runs the machine code that the artifact brings, whoever built it; without
            it (None) that runs only where this user built it, and else this installation's own.

    Raises:
        ArtifactError: something in the folder is missing, was changed, or is from a newer version.
        UsageError: there is no such backend, or the artifact was not compiled for it.
    """
    if backend is not None and backend not in get_args(Backend):
        raise UsageError(f"there is no backend {backend!r}: there are {', '.join(get_args(Backend))}")
    if threads is not None and not (isinstance(threads, int) and 1 <= threads <= processors()):
        raise UsageError(
            f"threads is at least 1 and at most {processors()}, the processors that this process may use, "
            f"not {threads!r}"
        )
    if accuracy not in (None, *get_args(Accuracy)):
        raise UsageError(f"there is no accuracy {accuracy!r}: there are {' and '.join(get_args(Accuracy))}")
    if trust not in (None, *get_args(Trust)):
        raise UsageError(f'trust is "native", for machine code of native kernels, or None, not {trust!r}')
    artifact = path if isinstance(path, Artifact) else Artifact.open(path)
    path = artifact.path
    _ = artifact.signature  # of a language model
    artifact.verify(weights=False)
    chosen: Backend = backend or default_backend(artifact)
    if not runs(chosen, artifact):
        raise UsageError(
            f"{path} was compiled for {artifact.manifest.target} and cannot run by {chosen}: load it with "
            f'backend="{default_backend(artifact)}", or compile the model again'
        )
    for name, given in (("accuracy", accuracy), ("trust", trust)):
        if given is not None and chosen != "native":
            raise UsageError(f"{name}= is for native kernels, and {path} runs by {chosen}: leave it out")
    # The weights, most of the bytes, are verified while the executor is made, and the tokenizer: nothing is computed
    # with them before all are done.
    with ThreadPoolExecutor(2, thread_name_prefix="burnish-load") as pool:
        reading = pool.submit(artifact.tokenizer)
        verifying = pool.submit(artifact.verify, others=False, threads=threads)
        try:
            made = (executors or {}).get(chosen)
            executor = executor_of(artifact, chosen, threads, accuracy, trust) if made is None else made(artifact)
        finally:
            verifying.result()  # a changed byte explains whatever else went wrong
        return CompiledModel(artifact, executor, chosen, reading.result())


def load_temporary(
    path: Path | str,
    backend: Backend | None = None,
    executors: Mapping[Backend, Callable[[Artifact], Executor]] | None = None,
) -> CompiledModel:
    """`load`, but the folder is deleted when the model is closed or no longer used."""
    try:
        model = load(path, backend, executors=executors)
    except BaseException:
        _discard(None, Path(path))
        raise
    model._own(Path(path))
    return model


def hold_temporary(path: Path | str, reason: str) -> CompiledModel:
    """An artifact that cannot run here, for `reason`, to be saved; the folder goes as with `load_temporary`."""
    from burnish.runtime.executor import UnavailableExecutor

    artifact = Artifact.open(path)
    model = CompiledModel(artifact, UnavailableExecutor(reason), default_backend(artifact), artifact.tokenizer())
    model._own(Path(path))
    return model


def _discard(executor: Executor | None, folder: Path) -> None:
    if executor is not None:
        executor.close()
    try:
        shutil.rmtree(folder)
    except OSError as error:  # Windows keeps mapped files
        _log.warning("could not delete the temporary artifact %s: %s", folder, error)
        return
    with contextlib.suppress(OSError):  # not empty: others use it
        os.rmdir(folder.parent)
