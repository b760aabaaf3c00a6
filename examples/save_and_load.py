"""Save a compiled model, and run it in a process that has neither transformers nor the model's source.

python examples/save_and_load.py
"""

import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from own_module import Model

import burnish

ELSEWHERE = """
import sys
import burnish

with burnish.load(sys.argv[1]) as model:
    print(model.generate([1, 2, 3], max_new_tokens=8).tokens[0])
assert "transformers" not in sys.modules and "own_module" not in sys.modules
"""

torch.manual_seed(0)
with tempfile.TemporaryDirectory() as folder, burnish.compile(Model().eval(), max_length=128) as compiled:
    path = Path(folder) / "tiny.burnish"
    compiled.save(path)
    print(*sorted(str(file.relative_to(path)) for file in path.rglob("*") if file.is_file()), sep="\n")
    print(compiled.generate([1, 2, 3], max_new_tokens=8).tokens[0])
    subprocess.run([sys.executable, "-c", ELSEWHERE, str(path)], check=True)
