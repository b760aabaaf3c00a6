"""One contender in a process of its own, told what to do by lines of JSON on standard input.

Run as a script, in any environment that has the contender's library: it needs nothing else, burnish neither.

    {"prompts": [[ids], ...], "new_tokens": 64}
        ->  {"prefill": seconds, "decode": seconds, "tokens": [[ids], ...], "cpu": seconds}

Prompts are of one length, and go through the model together.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

Prompts = Sequence[Sequence[int]]


@dataclass(frozen=True)
class Timing:
    """One greedy generation: seconds to the first token of each row, seconds for the others, and all of them."""

    prefill: float
    decode: float
    tokens: list[list[int]]


class Contender(Protocol):
    """Something that generates. Made once for a model; end-of-text tokens never end what it generates.

    Is given the model, how many threads to take, the length of a row in the end, and the number of rows.
    """

    def versions(self) -> dict[str, str]:
        """The libraries that do the work."""
        ...

    def generate(self, prompts: Prompts, new_tokens: int) -> Timing:
        """One greedy generation, all rows in step."""
        ...


class Burnish:
    """A compiled artifact."""

    def __init__(
        self,
        folder: str,
        threads: int,
        length: int,
        batch: int,
        accuracy: str | None = None,
        trust: str | None = None,
    ) -> None:
        from burnish.runtime.model import load

        self.model = load(folder, threads=threads, accuracy=accuracy, trust=trust)  # type: ignore[arg-type]

    def versions(self) -> dict[str, str]:
        return _versions("burnish", "onnxruntime", "torch")

    def generate(self, prompts: Prompts, new_tokens: int) -> Timing:
        done = self.model.generate(
            [list(row) for row in prompts],
            max_new_tokens=new_tokens,
            min_new_tokens=new_tokens,
            do_sample=False,
            repetition_penalty=1.0,
        )
        return Timing(done.prefill_seconds, done.decode_seconds, [list(row) for row in done.tokens])


class Eager:
    """transformers' own `generate`, with its cache, in PyTorch as it comes."""

    options: dict[str, Any] = {}  # noqa: RUF012

    def __init__(self, folder: str, threads: int, length: int, batch: int) -> None:
        torch, transformers = importlib.import_module("torch"), importlib.import_module("transformers")
        torch.set_num_threads(threads)
        self.torch = torch
        path, options = Path(folder), {"dtype": torch.float32}
        if path.suffix == ".gguf":
            path, options = path.parent, {**options, "gguf_file": path.name}
        self.model = transformers.AutoModelForCausalLM.from_pretrained(str(path), **options).eval()
        self.prepare()

    def prepare(self) -> None:
        """Whatever has to be done to the model before it runs."""

    def versions(self) -> dict[str, str]:
        return _versions("torch", "transformers")

    def generate(self, prompts: Prompts, new_tokens: int) -> Timing:
        clock, ids = _Clock(), self.torch.tensor([list(row) for row in prompts])
        with self.torch.no_grad():
            found = self.model.generate(
                ids,
                attention_mask=self.torch.ones_like(ids),
                max_new_tokens=new_tokens,
                min_new_tokens=new_tokens,
                do_sample=False,
                repetition_penalty=1.0,
                streamer=_Streamer(clock),
                **self.options,
            )
        return clock.timing(found[:, ids.shape[1] :].tolist())


class Inductor(Eager):
    """transformers' `generate` with a static cache, its forward compiled by torch.compile."""

    def prepare(self) -> None:
        # transformers compiles by itself on GPUs only.
        self.options = {"cache_implementation": "static", "disable_compile": True}
        self.model.forward = self.torch.compile(self.model.forward, dynamic=False)


class OrtGenai:
    """onnxruntime-genai, on the model that its own builder made."""

    def __init__(self, folder: str, threads: int, length: int, batch: int) -> None:
        # Left alone it takes the number of physical cores, which on a virtual machine may be half of what there is.
        config = Path(folder) / "genai_config.json"
        settings = json.loads(config.read_text())
        settings["model"]["decoder"]["session_options"]["intra_op_num_threads"] = threads
        config.write_text(json.dumps(settings, indent=1))
        self.library = importlib.import_module("onnxruntime_genai")
        self.model = self.library.Model(folder)
        self.length, self.batch = length, batch

    def versions(self) -> dict[str, str]:
        return _versions("onnxruntime-genai", "onnxruntime")

    def generate(self, prompts: Prompts, new_tokens: int) -> Timing:
        """As `Contender` says."""
        settings = self.library.GeneratorParams(self.model)
        total = len(prompts[0]) + new_tokens
        settings.set_search_options(
            batch_size=self.batch, max_length=self.length, min_length=total, do_sample=False, repetition_penalty=1.0
        )
        generator = self.library.Generator(self.model, settings)
        clock = _Clock()
        generator.append_tokens([list(row) for row in prompts])
        for _ in range(new_tokens):
            generator.generate_next_token()
            clock.tick()
        rows = [generator.get_sequence(row)[len(prompts[0]) : total] for row in range(self.batch)]
        return clock.timing([[int(token) for token in row] for row in rows])


class LlamaCpp:
    """llama.cpp by the C functions that its Python binding has, on a .gguf file, with its own defaults."""

    def __init__(self, folder: str, threads: int, length: int, batch: int) -> None:
        self.arrays, self.library = importlib.import_module("numpy"), importlib.import_module("llama_cpp")
        library, self.count = self.library, batch
        library.llama_backend_init()
        self.model = library.llama_model_load_from_file(folder.encode(), library.llama_model_default_params())
        settings = library.llama_context_default_params()
        settings.n_seq_max = batch
        settings.n_ctx = batch * (-(-length // 256) * 256)  # it divides it among the rows, and rounds to so many
        settings.n_batch = batch * length  # a prompt is one call
        settings.n_threads = settings.n_threads_batch = threads
        self.context = library.llama_init_from_model(self.model, settings)
        self.batch = library.llama_batch_init(batch * length, 0, 1)
        self.vocabulary = library.llama_vocab_n_tokens(library.llama_model_get_vocab(self.model))

    def versions(self) -> dict[str, str]:
        return _versions("llama-cpp-python")

    def generate(self, prompts: Prompts, new_tokens: int) -> Timing:
        """As `Contender` says. Tokens are chosen here: the library's samplers cost more than the largest logit."""
        clock = _Clock()
        self.library.llama_memory_clear(self.library.llama_get_memory(self.context), True)
        rows: list[list[int]] = [[] for _ in prompts]
        given: Prompts = prompts
        for step in range(new_tokens):
            given = [[token] for token in self._feed(given, len(prompts[0]) + step - 1 if step else 0)]
            clock.tick()
            for row, token in zip(rows, given, strict=True):
                row += token
        return clock.timing(rows)

    def _feed(self, given: Prompts, position: int) -> list[int]:
        """The likeliest token after each row's new ones, the first of which is at `position`."""
        batch, at, lasts = self.batch, 0, []
        for row, tokens in enumerate(given):
            for place, token in enumerate(tokens):
                batch.token[at], batch.pos[at] = token, position + place
                batch.n_seq_id[at], batch.seq_id[at][0] = 1, row
                batch.logits[at] = place == len(tokens) - 1
                at += 1
            lasts.append(at - 1)
        batch.n_tokens = at
        failed = self.library.llama_decode(self.context, batch)
        if failed:
            raise RuntimeError(f"llama_decode of {at} tokens gave {failed}")
        found = [self.library.llama_get_logits_ith(self.context, last) for last in lasts]
        return [int(self.arrays.ctypeslib.as_array(logits, (self.vocabulary,)).argmax()) for logits in found]


class OpenVino:
    """OpenVINO GenAI, on the model that its exporter made.

    As it comes: on processors that have instructions for bfloat16 it computes in that, and its caches have 8 bits.
    A row goes through LLMPipeline; several, which that does not take as tokens, through the pipeline beneath it.
    """

    def __init__(self, folder: str, threads: int, length: int, batch: int) -> None:
        self.arrays = importlib.import_module("numpy")
        self.tensors = importlib.import_module("openvino")
        self.library = importlib.import_module("openvino_genai")
        settings = self.library.SchedulerConfig()
        settings.enable_prefix_caching = False  # each repetition reads the same prompts
        settings.max_num_batched_tokens = batch * length  # prompts are one step, as LLMPipeline has it; else 256 tokens
        given = {"INFERENCE_NUM_THREADS": threads}
        if batch == 1:
            self.model = self.library.LLMPipeline(folder, "CPU", scheduler_config=settings, **given)
        else:
            self.model = self.library.ContinuousBatchingPipeline(folder, settings, "CPU", given)

    def versions(self) -> dict[str, str]:
        return _versions("openvino-genai", "openvino")

    def generate(self, prompts: Prompts, new_tokens: int) -> Timing:
        """As `Contender` says."""
        settings = self.library.GenerationConfig()
        settings.max_new_tokens, settings.ignore_eos, settings.do_sample = new_tokens, True, False
        given = [self.tensors.Tensor(self.arrays.array([list(row)], dtype=self.arrays.int64)) for row in prompts]
        return self._one(given[0], settings) if len(given) == 1 else self._several(given, settings)

    def _one(self, given: Any, settings: Any) -> Timing:
        library, clock = self.library, _Clock()

        class Streamer(library.StreamerBase):  # type: ignore[misc, name-defined]
            """Notes when tokens come."""

            def write(self, tokens: Any) -> Any:
                clock.tick()
                return library.StreamingStatus.RUNNING

            def end(self) -> None:
                """Part of the interface."""

        found = self.model.generate(given, settings, Streamer())
        return clock.timing([[int(token) for token in found.tokens[0]]])

    def _several(self, given: Sequence[Any], settings: Any) -> Timing:
        clock = _Clock()
        requests = [self.model.add_request(number, row, settings) for number, row in enumerate(given)]
        rows: list[list[int]] = [[] for _ in given]
        while self.model.has_non_finished_requests():
            self.model.step()
            for row, request in zip(rows, requests, strict=True):
                while request.can_read():
                    for output in request.read().values():
                        row += output.generated_ids
            if all(rows):
                clock.tick()
        return clock.timing(rows)


CONTENDERS: dict[str, Any] = {
    "burnish": Burnish,
    "eager": Eager,
    "inductor": Inductor,
    "ort-genai": OrtGenai,
    "llama.cpp": LlamaCpp,
    "openvino": OpenVino,
}


class _Clock:
    """When the new tokens of all rows were there."""

    def __init__(self) -> None:
        self.started = time.perf_counter()
        self.times: list[float] = []

    def tick(self) -> None:
        """Now."""
        self.times.append(time.perf_counter())

    def timing(self, tokens: list[list[int]]) -> Timing:
        first, last = self.times[0], self.times[-1]
        return Timing(first - self.started, last - first, tokens)


class _Streamer:
    """transformers' interface to whoever wants tokens as they come: the prompt first, then those of each step."""

    def __init__(self, clock: _Clock) -> None:
        self.clock, self.reads_prompt = clock, True

    def put(self, value: Any) -> None:
        if not self.reads_prompt:
            self.clock.tick()
        self.reads_prompt = False

    def end(self) -> None:
        """There is nothing to do."""


def _versions(*names: str) -> dict[str, str]:
    from importlib.metadata import version

    return {name: version(name) for name in names}


def _cpu_seconds() -> float:
    times = os.times()
    return times.user + times.system


def main() -> None:
    """Serve the contender named by the first argument; the second is its settings as JSON."""
    # Libraries print to standard output; the answers have a descriptor of their own.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    contender: Contender = CONTENDERS[sys.argv[1]](**json.loads(sys.argv[2]))
    print(json.dumps({"ready": True, "versions": contender.versions()}), file=answers, flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        before = _cpu_seconds()
        timing = contender.generate(request["prompts"], request["new_tokens"])
        answer = {
            "prefill": timing.prefill,
            "decode": timing.decode,
            "tokens": timing.tokens,
            "cpu": _cpu_seconds() - before,
        }
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
