"""A pytest plugin: kernels are built for x86-64-v3 with what finds reads and writes outside of memory, and overflows.

See test_sanitizers.py, which runs the tests of this folder with it.
"""

from __future__ import annotations

from burnish.runtime.native import build

build._FLAGS = (*build._FLAGS, "-O1", "-g1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")
for level in ("x86-64-v4", "portable"):
    del build.LEVELS[level]
