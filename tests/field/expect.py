"""What llama.cpp makes of prompts, greedily, as JSON: what `tests/field/gemma3.py` compares with.

It runs by the Python that `make bench` puts llama.cpp into:

    .venv-peers/llama.cpp/bin/python tests/field/expect.py MODEL.gguf > tests/field/gemma3.json
"""

from __future__ import annotations

import ctypes
import json
import sys
import tempfile
from collections.abc import Iterator
from typing import Any

import llama_cpp  # type: ignore[import-not-found]
import numpy as np

NEW_TOKENS = 12
PROMPTS = (
    "The capital of France is",
    "Once upon a time there was",
    "def fibonacci(n):\n    ",
    "The three primary colours are",
    "1, 2, 3, 4,",
    "Die Hauptstadt von Deutschland ist",
    "To make a good cup of tea, first",
    "Water boils at",
    "I am writing to you because",
    "In 1969,    people\n\nwalked on",
)


def main(model: str) -> None:
    """Print ids of each prompt, the likeliest tokens behind it, and how far each is ahead of the second.

    "leads" are llama.cpp's own; "exact_leads" those that it has for the same tokens with the same weights in float32,
    when it rounds nothing.
    """
    with tempfile.TemporaryDirectory() as folder:
        widened = f"{folder}/float32.gguf"
        options = llama_cpp.llama_model_quantize_default_params()
        options.ftype, options.allow_requantize = llama_cpp.LLAMA_FTYPE_ALL_F32, True
        if llama_cpp.llama_model_quantize(model.encode(), widened.encode(), ctypes.byref(options)):
            raise SystemExit(f"llama.cpp did not make float32 of {model}")
        rounding, exact = (
            llama_cpp.Llama(file, n_ctx=128, n_threads=1, type_k=0, type_v=0, verbose=False)
            for file in (model, widened)
        )
    found = {
        "llama-cpp-python": llama_cpp.__version__,
        "prompts": [_continued(rounding, exact, each) for each in PROMPTS],
    }
    print(json.dumps(found, indent=1, ensure_ascii=False))


def _continued(rounding: Any, exact: Any, text: str) -> dict[str, Any]:
    ids = rounding.tokenize(text.encode(), add_bos=True, special=True)
    steps = list(_steps(rounding, ids))
    tokens = [token for token, _ in steps]
    leads = {"leads": [lead for _, lead in steps], "exact_leads": [lead for _, lead in _steps(exact, ids, tokens)]}
    return {"text": text, "ids": ids, "tokens": tokens, **leads}


def _steps(llama: Any, ids: list[int], tokens: list[int] | None = None) -> Iterator[tuple[int, float]]:
    """Each token, the likeliest or the one of `tokens`, and how much greater its logit is than any other."""
    llama.reset()
    llama.eval(ids)
    for step in range(NEW_TOKENS):
        pointer = llama_cpp.llama_get_logits_ith(llama.ctx, -1)
        logits = np.ctypeslib.as_array(ctypes.cast(pointer, ctypes.POINTER(ctypes.c_float)), shape=(llama.n_vocab(),))
        token = int(logits.argmax()) if tokens is None else tokens[step]
        yield token, round(float(logits[token] - np.delete(logits, token).max()), 4)
        llama.eval([token])


if __name__ == "__main__":
    main(sys.argv[1])
