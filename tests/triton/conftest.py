"""Kernels under Triton's interpreter. A process either interprets or compiles, so these have one of their own.

TRITON_INTERPRET=1 pytest tests/triton
"""

from __future__ import annotations

import os

# Without it there is nothing to collect here: `make test` runs this folder by itself.
collect_ignore_glob = [] if os.environ.get("TRITON_INTERPRET") == "1" else ["test_*.py"]
