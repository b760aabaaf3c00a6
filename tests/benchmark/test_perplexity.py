"""The comparison of perplexities, on a model of one layer."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

import gguf
import pytest
import torch

from tests.frontend.gguf_files import write

FOLDER = Path(__file__).parents[2] / "benchmarks"
TOKENS = torch.randint(0, 64, (2, 40), generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def perplexity() -> Any:
    sys.path.insert(0, str(FOLDER))  # where it finds what it shares with others
    try:
        spec = importlib.util.spec_from_file_location("burnish_benchmarks_perplexity", FOLDER / "perplexity.py")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module  # where dataclasses look for it
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(FOLDER))
    return module


def test_exact_is_what_pytorch_says_and_fast_is_near(perplexity: Any, tmp_path: Path) -> None:
    names = ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_up", "ffn_down", "ffn_gate")
    kinds = {f"blk.0.{name}.weight": gguf.GGMLQuantizationType.Q8_0 for name in names}
    write(tmp_path / "model.gguf", kinds=kinds, sizes={"num_hidden_layers": 1})
    variant = perplexity.Variant(rounded="Q5_1")
    found = perplexity.qualities(perplexity.compile_variant(tmp_path / "model.gguf", variant, tmp_path / "out"), TOKENS)
    assert list(found) == ["PyTorch", "exact", "fast"]
    base = found["PyTorch"].perplexity
    assert abs(found["exact"].perplexity / base - 1) < 1e-5
    assert 1e-6 < abs(found["fast"].perplexity / base - 1) < 0.1
    assert found["exact"].agreement == 1
