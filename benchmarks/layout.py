"""Networks on images at batch 1: burnish with its layout passes and without, PyTorch, and ONNX Runtime alone.

    python benchmarks/layout.py [NETWORK ...] [--repeats N] [--threads N]

One interleaved run; medians of milliseconds. PyTorch and ONNX Runtime get as many threads as there are processors. A
repetition during which other processes took more than a small share of the machine does not count.

What was found here (2 cores of a Xeon with AVX-512, onnxruntime 1.32, torch 2.13; CPU time of one thread, the least of
15, since the machine was shared: for the order of things, not as results):

    ms                        ResNet-50   MobileNetV3   ConvNeXt   U-Net
    eager, channels first          89          14.9         96       237
    eager, channels last           81          10.8         86       183
    torch.compile, ch. last        75           9.8         84       169
      with weights packed          65             -         74         -
    ONNX Runtime, exported         56           5.8         78       164
      without its NCHWc            74             -        120         -
    burnish, as it was             80           5.1         79       229
    node by node in PyTorch       111             -         89       257
      with assign-layout           90             -         92       204

and, each beside the other two in turns:

    ONNX Runtime, exported         56           6.3         80       166
    burnish without the passes     56           6.6         81       165
    burnish                        57           6.4         79       158

- ONNX Runtime's CPU provider has no convolution of floats in NHWC here (of its kernels, QLinearConv and NhwcMaxPool of
  integers take that): channels-last convolutions would be two transposes each. Its own blocked layout, NCHWc,
  which it takes at load time, is faster than oneDNN's channels-last ones on each of these but for ConvNeXt with weights
  packed ahead, by 5%: no region of a graph is worth running by PyTorch. The table says that its convolutions are
  blocked, and what was written with channels first stays so: there the pass gains nothing over what the provider does.
- What a compiler can do is to write graphs in which it can stay in blocks. It could not: a convolution without bias was
  given one of zeros, computed from a shape, and nothing was folded into it nor blocked. That was 1.4 times on ResNet-50
  and on U-Net. Pools are blocked where they are their own operators.
- It absorbs a transpose right before or behind a blocked convolution (`channels_last` of its reorders), so that a
  network that is channels-last between its convolutions, as ConvNeXt becomes, pays one copy at each border and no
  more: 42 MB are moved for conversions, not 66. All transposes and reorders of ConvNeXt are 2.5 of 78 ms, though, of
  which the pass saves 0.5; products and GELU are 70.
- A join of channels, of which a part comes from a transposed convolution, leaves the blocks. Its convolution as the sum
  of two makes no join, and the sum is done inside of the second: 8 of 166 ms on U-Net.
- A scale behind a linear is one more reading and writing: 1 of 80 ms on ConvNeXt when it goes into the weights.
- A bias behind a product and a GELU behind that become BiasGelu, which is slower than Gemm with the bias inside and
  GELU by itself: 2 of 80 ms on ConvNeXt.
- By PyTorch, node by node, channels last with the weights stored so is 1.2 times channels first on ResNet-50 and U-Net.
"""

from __future__ import annotations

import argparse
import json
import logging
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "layout.jsonl"
BURNISH, WITHOUT = "burnish", "burnish without its layout passes"
CONTENDERS = (
    BURNISH,
    WITHOUT,
    "eager, channels first",
    "eager, channels last",
    "torch.compile, channels first",
    "torch.compile, channels last",
    "onnxruntime",
)
PASSES = ("fold-scales", "split-joins", "assign-layout")  # that a graph's layout is about
_WARM_UP, _CALLS = 5, 10  # runs that do not count; runs of one turn, of which the median counts


@dataclass(frozen=True)
class Line:
    """What one contender did on one network: the median of the medians of its undisturbed turns."""

    network: str
    contender: str
    milliseconds: float
    fastest: float
    turns: int
    disturbed: int
    threads: int
    device: str
    versions: dict[str, str]


# ---------------------------------------------------------------- one contender, in a process of its own


def prepared(contender: str, name: str, threads: int, folder: Path) -> Callable[[], Any]:
    """What runs the network once. Here, so that a process imports only what its contender needs."""
    import torch

    from tests.networks import network

    torch.set_num_threads(threads)
    module, image = network(name)
    if contender in (BURNISH, WITHOUT):
        import burnish

        keep: Any = None
        if contender == WITHOUT:
            keep = lambda listed: [each for each in listed if each.name not in PASSES]  # noqa: E731
        burnish.compile(module, (image,), passes=keep).save(folder / "it.burnish")
        loaded: Any = burnish.load(folder / "it.burnish", threads=threads)
        return lambda: loaded(image)
    if contender == "onnxruntime":
        import onnxruntime

        torch.onnx.export(module, (image,), folder / "it.onnx", dynamo=True, verbose=False)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        session = onnxruntime.InferenceSession(folder / "it.onnx", options, providers=["CPUExecutionProvider"])
        given = {session.get_inputs()[0].name: image.numpy()}
        return lambda: session.run(None, given)
    if "channels last" in contender:
        module, image = module.to(memory_format=torch.channels_last), image.to(memory_format=torch.channels_last)
    called: Any = torch.compile(module) if contender.startswith("torch.compile") else module

    def run() -> Any:
        with torch.inference_mode():
            return called(image)

    return run


def work(contender: str, name: str, threads: int) -> None:
    """Prepare, say so, and then run a turn for each line that comes in."""
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    sys.path.insert(0, str(ROOT))
    told, sys.stdout = sys.stdout, sys.stderr
    import onnxruntime
    import torch

    with tempfile.TemporaryDirectory() as folder:
        run = prepared(contender, name, threads, Path(folder))
        for _ in range(_WARM_UP):
            run()
        print(json.dumps({"torch": torch.__version__, "onnxruntime": onnxruntime.__version__}), file=told, flush=True)
        for _ in sys.stdin:
            spent, times = time.process_time(), []
            for _ in range(_CALLS):
                started = time.perf_counter()
                run()
                times.append(time.perf_counter() - started)
            answer = {"seconds": times, "spent": time.process_time() - spent}
            print(json.dumps(answer), file=told, flush=True)


class Contender:
    """Such a process."""

    def __init__(self, name: str, network: str, threads: int) -> None:
        self.name = name
        self.turns: list[tuple[float, float]] = []  # the median of its seconds, and what others used of the machine
        command = [sys.executable, __file__, "--work", name, network, str(threads)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.versions = self._answer()

    def turn(self) -> None:
        """Run once more, and note how it went."""
        from burnish.benchmark.machine import Watch

        assert self.process.stdin is not None
        watch = Watch()
        print("go", file=self.process.stdin, flush=True)
        answer = self._answer()
        self.turns.append((statistics.median(answer["seconds"]), watch.others(answer["spent"])))

    def _answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"the contender {self.name} stopped")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def close(self) -> None:
        """End the process."""
        self.process.kill()
        self.process.wait()


def measure(network: str, contenders: Sequence[str], repeats: int, threads: int) -> list[Line]:
    """One interleaved run: `repeats` undisturbed turns each, or twice as many if the machine is not that quiet."""
    from burnish.benchmark.machine import device
    from burnish.benchmark.runner import DISTURBED

    with ExitStack() as stack:
        every = []
        for name in contenders:
            every.append(Contender(name, network, threads))
            stack.callback(every[-1].close)
        for _ in range(2 * repeats):
            for each in every:
                each.turn()
                time.sleep(0.2)  # threads that spin while they wait stop spinning
            quiet = [sum(others <= DISTURBED for _, others in each.turns) for each in every]
            if min(quiet) >= repeats:
                break
        lines = []
        for each in every:
            kept = [seconds for seconds, others in each.turns if others <= DISTURBED]
            counted = kept or [seconds for seconds, _ in each.turns]
            lines.append(
                Line(
                    network=network,
                    contender=each.name,
                    milliseconds=1e3 * statistics.median(counted),
                    fastest=1e3 * min(counted),
                    turns=len(counted),
                    disturbed=len(each.turns) - len(kept),
                    threads=threads,
                    device=device(),
                    versions=each.versions,
                )
            )
        return lines


def main() -> None:
    sys.path.insert(0, str(ROOT))
    from burnish.benchmark.machine import cores
    from tests.networks import NETWORKS

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("networks", nargs="*", default=list(NETWORKS), help="some of them; all, if none is named")
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--threads", type=int, default=cores())
    options = parser.parse_args()
    for network in options.networks:
        lines = measure(network, CONTENDERS, options.repeats, options.threads)
        with RESULTS.open("a") as file:
            file.writelines(json.dumps(asdict(line)) + "\n" for line in lines)
        print(network)
        for line in lines:
            beside = line.milliseconds / lines[0].milliseconds
            noise = f", {line.disturbed} disturbed" if line.disturbed else ""
            print(
                f"  {line.milliseconds:8.2f} ms  {beside:5.2f}  {line.contender} ({line.turns} turns{noise})",
                flush=True,
            )


if __name__ == "__main__":
    if sys.argv[1:2] == ["--work"]:
        work(sys.argv[2], sys.argv[3], int(sys.argv[4]))
    else:
        main()
