"""`torch.compile(backend="burnish")` where its kernels cannot run."""

from __future__ import annotations

import pytest
import torch


def test_tensors_on_the_cpu_run_by_pytorch_and_that_is_told(caplog: pytest.LogCaptureFixture) -> None:
    compiled = torch.compile(lambda x: (x * 2 + 1).relu().sum(-1), backend="burnish")
    x = torch.randn(3, 8)
    torch.testing.assert_close(compiled(x), (x * 2 + 1).relu().sum(-1))
    assert "runs by PyTorch: its tensors are on cpu, and kernels are for cuda" in caplog.text
