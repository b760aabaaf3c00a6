"""What the CUDA tools in Triton's wheel say of compiled kernels."""

from __future__ import annotations

import subprocess
import tempfile
from pathlib import Path

import triton

from burnish.codegen.triton.compile import Binary


def spill_bytes(binary: Binary) -> int:
    """Bytes of registers that the machine code puts into memory and takes out again."""
    machine = disassembly(binary)
    return 4 * sum(machine.count(op) for op in ("STL", "LDL"))


def disassembly(binary: Binary) -> str:
    """The machine code as text."""
    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(binary.cubin)
        file.flush()
        done = subprocess.run([str(tool), "-sass", file.name], capture_output=True, text=True, check=True)
    return done.stdout
