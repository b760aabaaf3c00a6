"""Builds native kernels ahead: for this machine, or with --level and --output for machines that have no compiler."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from burnish.ir.errors import BurnishError
from burnish.runtime.native.build import build, build_ahead
from burnish.runtime.native.levels import LEVELS, PORTABLE
from burnish.runtime.native.library import best_level

parser = argparse.ArgumentParser(prog="python -m burnish.runtime.native", description=__doc__)
parser.add_argument("--level", choices=[*LEVELS, PORTABLE], help="the instruction set; the best of this machine")
parser.add_argument("--output", type=Path, metavar="DIR", help="a folder for the library, in place of the cache's")
given = parser.parse_args()
if given.level and not given.output:
    parser.error("--level needs --output: the cache is for this machine")
try:
    if given.output:
        print(build_ahead(given.level or best_level(), given.output))
    else:
        build(best_level())
except BurnishError as error:
    print(f"burnish: {error}", file=sys.stderr)
    if given.output:
        sys.exit(1)  # else all works without them
