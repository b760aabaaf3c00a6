"""The contenders by name: what measures and prepares them imports much, and a mistake is told before."""

from __future__ import annotations

from burnish.ir.errors import UsageError
from burnish.ir.similar import did_you_mean

PEERS = (
    "eager",
    "inductor",
    "ort-genai",
    "ort-genai-int4",
    "llama.cpp-q4_0",
    "llama.cpp-q4_1",
    "llama.cpp-q8_0",
    "llama.cpp-bf16",
    "openvino-fp32",
    "openvino-int8",
    "openvino-int4",
)


def parse_peers(text: str) -> list[str]:
    """The contenders in `eager,ort-genai`. Raises UsageError for one that there is not."""
    names = [name.strip() for name in text.split(",") if name.strip()]
    unknown = [name for name in names if name not in PEERS]
    if unknown:
        meant = did_you_mean(unknown[0], PEERS)
        raise UsageError(f"there is no contender {unknown[0]!r}{meant} to compare with: choose from {', '.join(PEERS)}")
    return names
