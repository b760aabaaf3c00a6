"""Builds the native kernels for this machine's instruction sets: `python -m burnish.runtime.native`."""

from __future__ import annotations

import sys

from burnish.ir.errors import BurnishError
from burnish.runtime.native.build import build
from burnish.runtime.native.library import best_level

try:
    build(best_level())
except BurnishError as error:  # all else works without them
    print(f"burnish: {error}", file=sys.stderr)
