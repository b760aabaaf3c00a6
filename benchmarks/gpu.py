"""burnish beside torch.compile on this machine's NVIDIA GPU: `python benchmarks/gpu.py [PART ...]`, 8 minutes.

Parts: numbers (against float64, always first), 1b, 8b (decoding), prefill, int4. Models have the shapes of Llama-3.2-1B
and Llama-3-8B and random weights in bfloat16. Each row is written to benchmarks/results as it is measured; a part that
the time left does not allow is skipped, and the file says so.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from transformers import LlamaConfig, LlamaForCausalLM, StaticCache

import burnish
from burnish.ir.errors import UsageError
from burnish.runtime.executor_cuda import this_architecture
from burnish.runtime.model import CompiledModel
from burnish.runtime.session import Session

PARTS = {"numbers": 30.0, "1b": 120.0, "8b": 180.0, "prefill": 90.0, "int4": 60.0}  # seconds that each needs
CONTEXT, NEW, ROUNDS, PROMPT, ROOM = 512, 32, 5, 2048, 4096
TARGETS = {"share of bandwidth": 0.7, "times torch.compile": 1.0}
_COMMON = {"vocab_size": 128256, "num_attention_heads": 32, "num_key_value_heads": 8, "rope_theta": 500000.0}
SHAPES: dict[str, dict[str, Any]] = {
    "1b": {
        **_COMMON,
        **{"hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16, "head_dim": 64},
        "tie_word_embeddings": True,
    },
    "8b": {**_COMMON, "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32, "head_dim": 128},
}


@dataclass
class Budget:
    """The seconds that there are."""

    seconds: float
    clock: Callable[[], float] = time.monotonic
    started: float = field(init=False)

    def __post_init__(self) -> None:
        self.started = self.clock()

    def allows(self, seconds: float) -> bool:
        """Whether so many are left."""
        return self.started + self.seconds - self.clock() >= seconds


@dataclass
class Results:
    """What was measured, in a file that is whole after each row."""

    file: Path
    about: dict[str, Any]
    rows: list[dict[str, Any]] = field(default_factory=list)

    def add(self, **row: Any) -> None:
        """Add a row."""
        self.rows.append(row)
        print(json.dumps(row), flush=True)
        self.file.parent.mkdir(parents=True, exist_ok=True)
        self.file.write_text(json.dumps({**self.about, "targets": TARGETS, "rows": self.rows}, indent=1) + "\n")


def bytes_a_token(shape: dict[str, Any], batch: int, context: int, bits: int = 16) -> int:
    """What one step of decoding must read: each weight of a product once, and the keys and values of every row."""
    hidden, head = shape["hidden_size"], shape["head_dim"]
    heads, kv = shape["num_attention_heads"], shape["num_key_value_heads"]
    layer = (2 * heads + 2 * kv) * head * hidden + 3 * hidden * shape["intermediate_size"]
    weights = shape["num_hidden_layers"] * layer + shape["vocab_size"] * hidden
    scales = 0 if bits == 16 else weights // 32 * 2
    cache = 2 * 2 * shape["num_hidden_layers"] * kv * head * batch * context
    return weights * bits // 8 + scales + cache


def random_model(shape: dict[str, Any]) -> LlamaForCausalLM:
    """A model in bfloat16 on the GPU, its weights drawn there."""
    config = LlamaConfig(**shape, max_position_embeddings=ROOM)
    with torch.device("meta"):
        model = LlamaForCausalLM(config)
    model = model.bfloat16().to_empty(device="cuda")
    model.tie_weights()
    with torch.no_grad():
        for weight in model.parameters():
            weight.fill_(1.0) if weight.dim() == 1 else weight.normal_(0.0, 0.02)
    model.model.rotary_emb = type(model.model.rotary_emb)(config).to("cuda")
    return model.eval()


class Peer:
    """transformers' model with its static cache, compiled by torch.compile."""

    def __init__(self, model: LlamaForCausalLM, batch: int, mode: str | None) -> None:
        self.model, self.batch = model, batch
        self.cache = StaticCache(config=model.config, max_cache_len=ROOM)
        self.name = "cache" if "cache" in model.forward.__code__.co_varnames else "past_key_values"
        self.forward = torch.compile(self._forward, mode=mode, dynamic=False)

    def _forward(self, ids: torch.Tensor, position: torch.Tensor) -> torch.Tensor:
        given = {self.name: self.cache, "position_ids": position, "use_cache": True, "logits_to_keep": 1}
        return self.model(input_ids=ids, **given).logits.argmax(-1)

    @torch.no_grad()
    def read(self, ids: torch.Tensor) -> None:
        """A whole prompt, from an empty cache."""
        self.cache.reset()
        position = torch.arange(ids.shape[1], device="cuda").expand(self.batch, -1)
        self._forward(ids.cuda(), position)

    @torch.no_grad()
    def read_compiled(self, ids: torch.Tensor) -> None:
        """The same by the compiled forward."""
        self.cache.reset()
        position = torch.arange(ids.shape[1], device="cuda").expand(self.batch, -1)
        self.forward(ids.cuda(), position)

    @torch.no_grad()
    def decode(self, count: int) -> None:
        """Greedy steps behind the prompt."""
        ids = torch.ones(self.batch, 1, dtype=torch.int64, device="cuda")
        for step in range(count):
            position = torch.full((self.batch, 1), CONTEXT + step, device="cuda")
            torch.compiler.cudagraph_mark_step_begin()
            ids = self.forward(ids, position).clone()
            ids.cpu()  # as whoever looks for the end of a text does


def seconds(run: Callable[[], object]) -> float:
    """How long `run` takes, with all that it leaves to the GPU."""
    torch.cuda.synchronize()
    started = time.perf_counter()
    run()
    torch.cuda.synchronize()
    return time.perf_counter() - started


def interleaved(runs: dict[str, Callable[[], object]], rounds: int = ROUNDS) -> dict[str, float]:
    """The median of each, in turns, after two rounds that do not count."""
    found: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(rounds + 2):
        for name, run in runs.items():
            took = seconds(run)
            if number >= 2:
                found[name].append(took)
    return {name: statistics.median(each) for name, each in found.items()}


def copy_bandwidth() -> float:
    """Bytes a second, read and written, of a copy of 2 GiB on the device."""
    source = torch.empty(2**31, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    return 2 * source.nbytes / interleaved({"copy": lambda: target.copy_(source)})["copy"]


def compiled(model: LlamaForCausalLM, quantize: Any = None) -> CompiledModel:
    """The model by burnish; its weights go through the CPU."""
    return burnish.compile(model.cpu(), target="cuda", dtype=torch.bfloat16, quantize=quantize, verify=False)


def prompt(batch: int, length: int) -> torch.Tensor:
    """Random ids."""
    return torch.randint(1000, (batch, length), generator=torch.Generator().manual_seed(0))


def check_numbers(results: Results) -> None:
    """Two layers against float64; nothing else is measured where they are apart."""
    shape = {**SHAPES["1b"], "num_hidden_layers": 2, "vocab_size": 4096}
    model, ids = random_model(shape), prompt(2, 300)
    with compiled(model) as mine:
        session = mine.session(2)
        found = [session.append(ids[:, :290], every=True)]
        found += [session.append(ids[:, at : at + 1]) for at in range(290, 300)]
    with torch.no_grad():
        right = model.double().cuda()(ids.cuda(), use_cache=False).logits.cpu()
    error = float((torch.cat(found, 1).double() - right).abs().max() / right.abs().max())
    results.add(part="numbers", error_of_largest_logit=error, allowed=0.04)
    if not error <= 0.04:
        sys.exit(f"the numbers are wrong: {error:.3f} of the largest logit; nothing was measured")


def kernels_of_a_step(session: Session) -> int:
    """Kernels that the GPU runs for one token."""
    activities = [torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=activities) as profile:
        session.step([1] * session.batch, wanted="ids")
    events = [event for event in profile.events() if event.device_type == torch.autograd.DeviceType.CUDA]
    return sum("Memcpy" not in event.name and "Memset" not in event.name for event in events)


def decoding(name: str, results: Results, bandwidth: float, bits: int = 16, peer: bool = True) -> None:
    """Tokens a second at batch 1 and 16 after 512 tokens; of int4 at batch 1, without a peer."""
    shape, model = SHAPES[name], random_model(SHAPES[name])
    with compiled(model, None if bits == 16 else f"int{bits}") as mine:
        if peer:
            model.cuda()
        for batch in (1, 16) if bits == 16 else (1,):
            session = mine.session(batch, capacity=CONTEXT + NEW)
            session.append(prompt(batch, CONTEXT))

            def burnish_run(session: burnish.Session = session, batch: int = batch) -> None:
                session.rewind(CONTEXT)
                for _ in range(NEW):
                    session.step([1] * batch, wanted="ids")

            runs: dict[str, Callable[[], object]] = {"burnish": burnish_run}
            if peer:
                other = Peer(model, batch, "reduce-overhead")
                other.read(prompt(batch, CONTEXT))
                runs["torch.compile"] = lambda other=other: other.decode(NEW)  # type: ignore[misc]
            took = interleaved(runs)
            moved = bytes_a_token(shape, batch, CONTEXT + NEW // 2, bits)
            row = {"part": name if bits == 16 else f"int{bits}", "model": name, "batch": batch, "bits": bits}
            for who, each in took.items():
                rate, share = batch * NEW / each, moved * NEW / each / bandwidth
                results.add(**row, who=who, tokens_per_second=rate, bytes_a_step=moved, share_of_copy=share)
            kernels, counted = kernels_of_a_step(session), mine.trace.passes[-1].launches
            results.add(**row, kernels_a_step=kernels, by_the_cost_model=counted, layers=shape["num_hidden_layers"])


def prefill(results: Results) -> None:
    """2,048 tokens of the 1B shape, and the attention of its and of the 8B shape alone."""
    from burnish.codegen.triton.kernels.flash_attention import flash_attention

    for name, shape in SHAPES.items():
        heads, kv, size = shape["num_attention_heads"], shape["num_key_value_heads"], shape["head_dim"]
        query, key, value = (
            torch.randn(1, count, PROMPT, size, device="cuda", dtype=torch.bfloat16) for count in (heads, kv, kv)
        )
        position = torch.zeros(1, dtype=torch.int64, device="cuda")

        def mine(given: Any = (query, key, value, position), scale: float = size**-0.5) -> Any:
            return [flash_attention(*given, scale=scale) for _ in range(20)]

        def theirs(given: Any = (query, key, value)) -> Any:
            sdpa = torch.nn.functional.scaled_dot_product_attention
            return [sdpa(*given, is_causal=True, enable_gqa=True) for _ in range(20)]

        for who, each in interleaved({"burnish": mine, "sdpa": theirs}).items():
            results.add(part="prefill", model=name, what="attention of a layer", who=who, seconds=each / 20)
    model, ids = random_model(SHAPES["1b"]), prompt(1, PROMPT)
    with compiled(model) as by_burnish:
        session, other = by_burnish.session(1, capacity=PROMPT), Peer(model.cuda(), 1, None)

        def whole() -> None:
            session.reset()
            session.append(ids, wanted="ids")

        for who, each in interleaved({"burnish": whole, "torch.compile": lambda: other.read_compiled(ids)}).items():
            results.add(part="prefill", model="1b", what="whole", who=who, tokens_per_second=PROMPT / each)


def table(rows: Sequence[dict[str, Any]]) -> Table:
    """The rows with figures, a target beside each share."""
    found = Table("part", "model", "batch", "who", "tokens/s", "share of copy", "target", "ms")
    for row in rows:
        if "who" not in row:
            continue
        share, target = row.get("share_of_copy"), TARGETS["share of bandwidth"]
        found.add_row(
            *(str(row.get(name, "")) for name in ("part", "model", "batch", "who")),
            f"{row['tokens_per_second']:,.0f}" if "tokens_per_second" in row else "",
            "" if share is None else f"{share:.0%}",
            "" if share is None else f"{target:.0%}",
            f"{1000 * row['seconds']:.3f}" if "seconds" in row else "",
        )
    return found


def arguments(given: Sequence[str]) -> argparse.Namespace:
    """What the command line says."""
    parser = argparse.ArgumentParser(description="burnish beside torch.compile on this machine's GPU")
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}; all if none")
    parser.add_argument("--seconds", type=float, default=480.0, help="that it may take (480)")
    found = parser.parse_args(given)
    unknown = [part for part in found.parts if part not in PARTS]
    if unknown:
        parser.error(f"there is no part {unknown[0]!r}: there are {', '.join(PARTS)}")
    return found


def main(given: Sequence[str]) -> None:
    """Measure the parts that are named, or all."""
    options = arguments(given)
    try:
        this_architecture()
    except UsageError as reason:
        print(f"the benchmark needs an NVIDIA GPU: {reason}", file=sys.stderr)
        sys.exit(2)
    budget, now, device = Budget(options.seconds), datetime.now(UTC), torch.cuda.get_device_name()
    folder = Path(__file__).parent / "results"
    versions = {name: version(name) for name in ("torch", "triton", "transformers", "cuda-core", "cuda-bindings")}
    about = {"date": f"{now:%Y-%m-%d}", "device": device, "versions": {"python": platform.python_version(), **versions}}
    results = Results(folder / f"gpu-{now:%Y-%m-%d}-{device.replace(' ', '-').lower()}.json", about)
    bandwidth = copy_bandwidth()
    results.add(part="copy", bytes_per_second=bandwidth)
    check_numbers(results)
    measures: dict[str, Callable[[], None]] = {
        "1b": lambda: decoding("1b", results, bandwidth),
        "8b": lambda: decoding("8b", results, bandwidth),
        "prefill": lambda: prefill(results),
        "int4": lambda: decoding("1b", results, bandwidth, bits=4, peer=False),
    }
    for part, measure in measures.items():
        if options.parts and part not in options.parts:
            continue
        if not budget.allows(PARTS[part]):
            results.add(part=part, skipped=f"less than {PARTS[part]:.0f} seconds were left")
            continue
        measure()
        torch.cuda.empty_cache()
    Console(width=120).print(table(results.rows))
    print(f"wrote {results.file}")


if __name__ == "__main__":
    main(sys.argv[1:])
