"""onnxruntime-web runs exported models in Node: `npm install onnxruntime-web` in a folder that NODE_PATH names."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

import burnish
from tests.export.running import Exported
from tests.export.test_models import FLAVORS, PROMPT
from tests.zoo.configs import build

SCRIPT = Path(__file__).with_name("web.cjs")


def _has_web() -> bool:
    node = shutil.which("node")
    if node is None:
        return False
    asked = [node, "-e", "require.resolve('onnxruntime-web')"]
    return subprocess.run(asked, capture_output=True, check=False).returncode == 0


@pytest.mark.skipif(not _has_web(), reason="needs node, and NODE_PATH with npm's onnxruntime-web")
@pytest.mark.parametrize("flavor", FLAVORS)
@pytest.mark.parametrize("model_type", ["llama", "mistral"])
def test_onnxruntime_web_gives_the_same_tokens(model_type: str, flavor: Any, tmp_path: Path) -> None:
    model = burnish.compile(build(model_type), max_length=64, verify=False)
    file = model.export(tmp_path / "out.onnx", flavor)
    task = {"ids": PROMPT, "count": 32, "states": Exported(file).states}
    done = subprocess.run(["node", SCRIPT, file, json.dumps(task)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == list(model.generate(PROMPT, max_new_tokens=32, eos_token_id=[]).tokens[0])
