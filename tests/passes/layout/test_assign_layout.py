"""Layouts by the tables of backends: what goes channels last, what stays, and what is told of it."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from burnish.ir.errors import UsageError
from burnish.ir.records import node_records
from burnish.ir.weights import Permute
from burnish.passes.base import Log
from burnish.passes.layout.assign_layout import AssignLayout
from tests.passes.layout.graphs import graph, permutes, rewritten, text_of

IMAGE = (1, 3, 8, 8)


def _convolutions(x: Tensor, first: nn.Module, second: nn.Module) -> Tensor:
    return torch.relu(second(torch.relu(first(x))))


LAYERS = (nn.Conv2d(3, 16, 3), nn.Conv2d(16, 16, 3))


def test_convolutions_go_channels_last_for_pytorch_as_text() -> None:
    program = graph(_convolutions, IMAGE, *LAYERS)
    assert text_of(program) == "\n".join(
        [
            "%0: f32[1, 16, 6, 6] = aten.conv2d(%x, @layers.0.weight, @layers.0.bias)",
            "%1: f32[1, 16, 6, 6] = aten.relu(%0)",
            "%2: f32[1, 16, 4, 4] = aten.conv2d(%1, @layers.1.weight, @layers.1.bias)",
            "%3: f32[1, 16, 4, 4] = aten.relu(%2)",
        ]
    )
    after, log = rewritten(program, AssignLayout("pytorch"))
    assert text_of(after) == "\n".join(
        [
            "%0: f32[1, 8, 8, 3] = aten.permute(%x, [0, 2, 3, 1])",
            "%1: f32[1, 8, 8, 3] = aten.clone(%0, memory_format=torch.contiguous_format)",
            "%2: f32[1, 3, 8, 8] = aten.permute(%1, [0, 3, 1, 2])",
            "%3: f32[16, 3, 3, 3] = aten.permute(@layers.0.weight.0231, [0, 3, 1, 2])",
            "%4: f32[1, 16, 6, 6] = aten.conv2d(%2, %3, @layers.0.bias)",
            "%5: f32[1, 6, 6, 16] = aten.permute(%4, [0, 2, 3, 1])",
            "%6: f32[1, 6, 6, 16] = aten.relu(%5)",
            "%7: f32[1, 16, 6, 6] = aten.permute(%6, [0, 3, 1, 2])",
            "%8: f32[16, 16, 3, 3] = aten.permute(@layers.1.weight.0231, [0, 3, 1, 2])",
            "%9: f32[1, 16, 4, 4] = aten.conv2d(%7, %8, @layers.1.bias)",
            "%10: f32[1, 4, 4, 16] = aten.permute(%9, [0, 2, 3, 1])",
            "%11: f32[1, 16, 4, 4] = aten.permute(%10, [0, 3, 1, 2])",
            "%12: f32[1, 16, 4, 4] = aten.clone(%11, memory_format=torch.contiguous_format)",
            "%13: f32[1, 16, 4, 4] = aten.relu(%12)",
        ]
    )
    assert log.notes == ["conversions: 0 that move 0 B before, 2 that move 3.6 kB after"]
    told = {entry.node: entry.text for entry in log.rewrites}
    assert told["relu"] == "in the order [0, 2, 3, 1]: 9.2 kB more would be moved in the order [0, 1, 2, 3]"
    assert [entry.text for entry in log.refusals] == [
        "converted, to lie in the order [0, 1, 2, 3] for relu_1 (aten.relu.default): 0 B more would be moved if that "
        "worked in the order [0, 2, 3, 1]"
    ]
    assert isinstance(after.weights["layers.0.weight.0231"], Permute)


def test_onnx_runtime_blocks_them_itself() -> None:
    program = graph(_convolutions, IMAGE, *LAYERS)
    after, log = rewritten(program, AssignLayout("onnxruntime"))
    assert text_of(after) == text_of(program)
    assert not log.rewrites
    assert log.notes == ["conversions: 2 that move 3.6 kB before, 2 that move 3.6 kB after"]
    layouts = [record.layout for record in node_records(after) if record.op == "call_function"]
    assert layouts == ["", "blocks of channels", "", "blocks of channels"]  # of convolutions nothing is decided


def test_a_shortcut_between_norms_over_channels_goes_channels_last() -> None:
    def block(x: Tensor, convolution: nn.Module, norm: nn.Module) -> Tensor:
        for _ in range(3):
            x = x + torch.relu(norm(convolution(x).permute(0, 2, 3, 1))).permute(0, 3, 1, 2)
        return x

    layers = nn.Conv2d(16, 16, 3, padding=1, groups=16), nn.LayerNorm(16)
    program = graph(block, (1, 16, 8, 8), *layers)
    after, log = rewritten(program, AssignLayout("onnxruntime"))
    assert [entry.text for entry in log.rewrites if "as it" in entry.text] == []
    behind_convolutions = [node for node in permutes(after) if node.args[0].target is torch.ops.aten.conv2d.default]
    in_front = [node for node in permutes(after) if any("conv2d" in str(user.target) for user in node.users)]
    assert len(behind_convolutions) == 3
    assert len(permutes(after)) - len(behind_convolutions) - len(in_front) == 2  # at the borders


def test_attention_between_transposes_is_left() -> None:
    def attention(x: Tensor) -> Tensor:
        heads = x.view(2, 5, 4, 8).transpose(1, 2)
        return nn.functional.scaled_dot_product_attention(heads, heads, heads).transpose(1, 2).reshape(2, 5, 32)

    program = graph(attention, (2, 5, 32))
    for backend in ("onnxruntime", "pytorch"):
        after, log = rewritten(program, AssignLayout(backend))
        assert text_of(after) == text_of(program)
        assert log.notes == []


def test_attention_with_heads_behind_tokens_is_told_so() -> None:
    """Heads that are transposed for another reason: nothing is carried out twice."""

    def attention(x: Tensor) -> Tensor:
        heads = torch.relu(x.view(2, 5, 4, 8).transpose(1, 2))
        return nn.functional.scaled_dot_product_attention(heads, heads, heads).transpose(1, 2).reshape(2, 5, 32)

    after, log = rewritten(graph(attention, (2, 5, 32)), AssignLayout("onnxruntime"))
    assert log.notes[0].endswith("0 that move 0 B after")
    assert "%1: f32[2, 5, 4, 8] = aten.relu(%0)" in text_of(after)


def test_a_backend_without_a_table_is_refused() -> None:
    with pytest.raises(UsageError, match="no layouts are known of 'tpu': there are tables of onnxruntime, pytorch"):
        AssignLayout("tpu").run(graph(torch.relu, IMAGE), Log())
