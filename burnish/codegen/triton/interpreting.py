"""Whether Triton interprets kernels in this process, which is settled as it is imported."""

from __future__ import annotations

import os
import sys

from burnish.ir.errors import UsageError


def interpret() -> None:
    """Have kernels interpreted in this process. Raises UsageError where Triton was imported to compile them."""
    if os.environ.get("TRITON_INTERPRET") == "1":
        return
    if "triton" in sys.modules:
        raise UsageError(
            "a process either interprets Triton's kernels or compiles them, from the first import of triton on: "
            "set TRITON_INTERPRET=1 in its environment before it starts"
        )
    os.environ["TRITON_INTERPRET"] = "1"
