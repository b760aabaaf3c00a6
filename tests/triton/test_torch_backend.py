"""`torch.compile(backend="burnish")`, its kernels interpreted."""

from __future__ import annotations

import logging

import pytest
import torch
from torch import Tensor, nn


class Feedforward(nn.Module):
    """A norm written out, an activation with a twist, a product that stays PyTorch's."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(16, 32), nn.Linear(32, 16)
        self.scale = nn.Parameter(torch.rand(16))

    def forward(self, x: Tensor) -> Tensor:
        y = self.down(torch.nn.functional.silu(self.up(x)) * 2 + 1)
        y = y * torch.rsqrt(y.pow(2).mean(-1, keepdim=True) + 1e-5) * self.scale
        return torch.softmax(y + x, -1)


@pytest.fixture
def model() -> Feedforward:
    torch.manual_seed(0)
    torch._dynamo.reset()
    return Feedforward()


def test_it_is_found_by_name_and_keeps_the_numbers(model: Feedforward, caplog: pytest.LogCaptureFixture) -> None:
    compiled = torch.compile(model, backend="burnish")
    with caplog.at_level(logging.INFO, "burnish.torch_backend"), torch.no_grad():
        for rows in (4, 7, 5):  # from the second on with a symbol for the size
            x = torch.randn(rows, 16)
            torch.testing.assert_close(compiled(x), model(x), rtol=1e-5, atol=1e-6)
    told = caplog.text
    assert "silu, mul, add: one kernel" in told
    assert "15 operations became 8, of which 2 kernels of groups" in told
    assert "by PyTorch" not in told


def test_training_goes_through_it(model: Feedforward) -> None:
    x = torch.randn(4, 16, requires_grad=True)
    torch.compile(model, backend="burnish")(x).pow(2).sum().backward()
    assert x.grad is not None
    assert model.scale.grad is not None
    found = [x.grad.clone(), model.scale.grad.clone()]
    x.grad = model.scale.grad = None
    model(x).pow(2).sum().backward()
    torch.testing.assert_close(found, [x.grad, model.scale.grad], rtol=1e-4, atol=1e-6)


def test_a_graph_without_groups_is_left_alone(caplog: pytest.LogCaptureFixture) -> None:
    torch._dynamo.reset()
    with caplog.at_level(logging.INFO, "burnish.torch_backend"), torch.no_grad():
        x = torch.randn(3, 8)
        linear = nn.Linear(8, 8)
        torch.testing.assert_close(torch.compile(linear, backend="burnish")(x), linear(x))
    assert "0 kernels of groups" in caplog.text


def test_a_group_that_has_no_kernel_is_told_once(
    model: Feedforward, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from burnish import torch_backend
    from burnish.ir.errors import UnsupportedError

    def refuses(*inputs: object, **options: object) -> list[Tensor]:
        raise UnsupportedError("it is Monday")

    monkeypatch.setattr(torch_backend, "fused_elementwise", refuses)
    compiled = torch.compile(model, backend="burnish")
    x = torch.randn(4, 16)
    with torch.no_grad():
        for _ in range(2):
            torch.testing.assert_close(compiled(x), model(x), rtol=1e-5, atol=1e-6)
    assert caplog.text.count("runs by PyTorch: it is Monday") == 2  # of two groups, once each
