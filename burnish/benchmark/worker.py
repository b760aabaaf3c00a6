"""One contender in a process of its own, told what to do by lines of JSON on standard input.

Run as a script, in any environment that has the contender's library: it needs nothing else, burnish neither.

    {"prompt": [ids], "new_tokens": 64}  ->  {"prefill": seconds, "decode": seconds, "tokens": [ids], "cpu": seconds}
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


@dataclass(frozen=True)
class Timing:
    """One greedy generation: seconds to the first token, seconds for the others, and all of them."""

    prefill: float
    decode: float
    tokens: list[int]


class Contender(Protocol):
    """Something that generates. Made once for a model; end-of-text tokens never end what it generates."""

    def versions(self) -> dict[str, str]:
        """The libraries that do the work."""
        ...

    def generate(self, prompt: Sequence[int], new_tokens: int) -> Timing:
        """One greedy generation at batch 1, float32."""
        ...


class Burnish:
    """A compiled artifact."""

    def __init__(self, folder: str, threads: int, length: int) -> None:
        from burnish.runtime.model import load

        self.model = load(folder, threads=threads)

    def versions(self) -> dict[str, str]:
        return _versions("burnish", "onnxruntime", "torch")

    def generate(self, prompt: Sequence[int], new_tokens: int) -> Timing:
        done = self.model.generate(
            list(prompt), max_new_tokens=new_tokens, min_new_tokens=new_tokens, do_sample=False, repetition_penalty=1.0
        )
        return Timing(done.prefill_seconds, done.decode_seconds, list(done.tokens[0]))


class Eager:
    """transformers' own `generate`, with its cache, in PyTorch as it comes."""

    options: dict[str, Any] = {}  # noqa: RUF012

    def __init__(self, folder: str, threads: int, length: int) -> None:
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

    def generate(self, prompt: Sequence[int], new_tokens: int) -> Timing:
        clock = _Clock()
        with self.torch.no_grad():
            found = self.model.generate(
                self.torch.tensor([list(prompt)]),
                max_new_tokens=new_tokens,
                min_new_tokens=new_tokens,
                do_sample=False,
                repetition_penalty=1.0,
                streamer=clock,
                **self.options,
            )
        return clock.timing(found[0, len(prompt) :].tolist())


class Inductor(Eager):
    """transformers' `generate` with a static cache, its forward compiled by torch.compile."""

    def prepare(self) -> None:
        # transformers compiles by itself on GPUs only.
        self.options = {"cache_implementation": "static", "disable_compile": True}
        self.model.forward = self.torch.compile(self.model.forward, dynamic=False)


class OrtGenai:
    """onnxruntime-genai, on the model that its own builder made."""

    def __init__(self, folder: str, threads: int, length: int) -> None:
        # Left alone it takes the number of physical cores, which on a virtual machine may be half of what there is.
        config = Path(folder) / "genai_config.json"
        settings = json.loads(config.read_text())
        settings["model"]["decoder"]["session_options"]["intra_op_num_threads"] = threads
        config.write_text(json.dumps(settings, indent=1))
        self.library = importlib.import_module("onnxruntime_genai")
        self.model = self.library.Model(folder)
        self.length = length

    def versions(self) -> dict[str, str]:
        return _versions("onnxruntime-genai", "onnxruntime")

    def generate(self, prompt: Sequence[int], new_tokens: int) -> Timing:
        """As `Contender` says."""
        settings = self.library.GeneratorParams(self.model)
        total = len(prompt) + new_tokens
        settings.set_search_options(max_length=self.length, min_length=total, do_sample=False, repetition_penalty=1.0)
        generator = self.library.Generator(self.model, settings)
        clock = _Clock()
        clock.put(None)
        generator.append_tokens([list(prompt)])
        for _ in range(new_tokens):
            generator.generate_next_token()
            clock.put(None)
        return clock.timing([int(token) for token in generator.get_sequence(0)[len(prompt) : total]])


class LlamaCpp:
    """llama.cpp by its Python binding, on a .gguf file."""

    def __init__(self, folder: str, threads: int, length: int) -> None:
        self.arrays = importlib.import_module("numpy")
        self.model = importlib.import_module("llama_cpp").Llama(
            folder, n_ctx=length, n_threads=threads, n_threads_batch=threads, verbose=False
        )

    def versions(self) -> dict[str, str]:
        return _versions("llama-cpp-python")

    def generate(self, prompt: Sequence[int], new_tokens: int) -> Timing:
        """As `Contender` says. Tokens are chosen here: the binding's samplers cost more than the largest logit."""
        clock, tokens = _Clock(), []
        clock.put(None)
        self.model.reset()
        given = list(prompt)
        for _ in range(new_tokens):
            self.model.eval(given)
            logits = self.model._ctx.get_logits_ith(-1)
            given = [int(self.arrays.ctypeslib.as_array(logits, (self.model.n_vocab(),)).argmax())]
            clock.put(None)
            tokens += given
        return clock.timing(tokens)


class OpenVino:
    """OpenVINO GenAI, on the model that its exporter made."""

    def __init__(self, folder: str, threads: int, length: int) -> None:
        self.arrays = importlib.import_module("numpy")
        self.tensors = importlib.import_module("openvino")
        self.library = importlib.import_module("openvino_genai")
        settings = self.library.SchedulerConfig()
        settings.enable_prefix_caching = False  # each repetition reads the same prompt
        self.model = self.library.LLMPipeline(folder, "CPU", scheduler_config=settings, INFERENCE_NUM_THREADS=threads)

    def versions(self) -> dict[str, str]:
        return _versions("openvino-genai", "openvino")

    def generate(self, prompt: Sequence[int], new_tokens: int) -> Timing:
        """As `Contender` says."""
        library, clock = self.library, _Clock()
        settings = library.GenerationConfig()
        settings.max_new_tokens, settings.ignore_eos, settings.do_sample = new_tokens, True, False

        class Streamer(library.StreamerBase):  # type: ignore[misc, name-defined]
            """Notes when each token comes; sometimes several are given at once."""

            def write(self, tokens: Any) -> Any:
                for _ in tokens if isinstance(tokens, list) else [tokens]:
                    clock.put(None)
                return library.StreamingStatus.RUNNING

            def end(self) -> None:
                """Part of the interface."""

        clock.put(None)
        given = self.tensors.Tensor(self.arrays.array([list(prompt)], dtype=self.arrays.int64))
        found = self.model.generate(given, settings, Streamer())
        return clock.timing([int(token) for token in found.tokens[0]])


CONTENDERS: dict[str, Any] = {
    "burnish": Burnish,
    "eager": Eager,
    "inductor": Inductor,
    "ort-genai": OrtGenai,
    "llama.cpp": LlamaCpp,
    "openvino": OpenVino,
}


class _Clock:
    """When each token came. transformers' `streamer`: `put` is called with the prompt first, then with each token."""

    def __init__(self) -> None:
        self.started = time.perf_counter()
        self.times: list[float] = []

    def put(self, value: Any) -> None:
        self.times.append(time.perf_counter())

    def end(self) -> None:
        """Part of transformers' interface."""

    def timing(self, tokens: list[int]) -> Timing:
        first, last = self.times[1], self.times[-1]
        return Timing(first - self.started, last - first, tokens)


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
        timing = contender.generate(request["prompt"], request["new_tokens"])
        answer = {
            "prefill": timing.prefill,
            "decode": timing.decode,
            "tokens": timing.tokens,
            "cpu": _cpu_seconds() - before,
        }
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
