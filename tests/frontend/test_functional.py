"""Exported graphs made functional node by node: the same graph that tracing them again gives."""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn
from torch.export import Dim, ExportedProgram

from burnish.frontend.functional import functional


class Calls(nn.Module):
    """A function of token ids and of a table."""

    def __init__(self, function: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.randn(11, 8))
        self.norm = nn.BatchNorm1d(8)
        self.function = function

    def forward(self, tokens: Tensor) -> Tensor:
        return self.function(self.table[tokens], self.table)


def export(function: Callable[[Tensor, Tensor], Tensor]) -> ExportedProgram:
    sizes = {"tokens": {0: Dim("batch"), 1: Dim("sequence", min=3, max=64)}}
    with torch.no_grad():
        return torch.export.export(
            Calls(function).eval(), (torch.zeros(3, 7, dtype=torch.int64),), dynamic_shapes=sizes, strict=False
        )


SAME = (torch.ops.aten.detach.default, torch.ops.aten.clone.default)


def operations(graph: fx.Graph) -> list[str]:
    """The tensor operations with all that they read, without assertions, copies and duplicates."""
    graph.eliminate_dead_code()
    texts: dict[fx.Node, str] = {}
    found = set()
    for node in graph.nodes:
        val = node.meta.get("val")
        read = str(fx.node.map_aggregate((node.args, node.kwargs), lambda each: texts.get(each, each)))  # type: ignore[arg-type]
        if isinstance(val, torch.SymInt):
            texts[node] = str(val)
        elif node.target in SAME:
            texts[node] = texts[node.args[0]]
        elif node.op == "call_function" and "_assert" not in str(node.target):
            shape = list(map(str, val.shape)) if isinstance(val, Tensor) else ""
            texts[node] = hashlib.md5(f"{node.target}{read}{shape}".encode()).hexdigest()
            found.add(f"{node.target} {shape} {texts[node]}")
        else:
            texts[node] = node.name
    return sorted(found)


def filled(x: Tensor, table: Tensor) -> Tensor:
    found = x.new_zeros(x.shape)
    found[:, :, :4] = x[:, :, 4:]
    return found


def written(x: Tensor, table: Tensor) -> Tensor:
    y = x * 2
    y.add_(x).mul_(0.5)
    y /= y.sum(-1, keepdim=True)
    return y


def seen_before(x: Tensor, table: Tensor) -> Tensor:
    y = x * 2
    half = y[..., :4]
    y.add_(1)
    return half


def written_elements(x: Tensor, table: Tensor) -> Tensor:
    values, places = x.topk(3, -1)
    values /= values.sum(-1, keepdim=True)
    return values + places


@torch.no_grad()
def without_gradients(x: Tensor, table: Tensor) -> Tensor:
    return x.float().to(torch.float64).sin().to(x.dtype)


def outside_of_autocast(x: Tensor, table: Tensor) -> Tensor:
    with torch.autocast("cpu", enabled=False):
        return (x.float() @ table.T).to(x.dtype)


BY_NODES: list[Callable[[Tensor, Tensor], Tensor]] = [
    lambda x, table: x.reshape(-1, 4).contiguous().flatten(),
    lambda x, table: x.transpose(1, 2).reshape(x.shape[0], -1, 2),  # copies
    lambda x, table: x.view(x.shape[0], x.shape[1], 2, 4).transpose(1, 2).flatten(2),
    lambda x, table: torch.cat(x.chunk(2, -1)[::-1], -1) + x.narrow(-1, 0, 1).expand_as(x),
    lambda x, table: torch.einsum("bsd,vd->bsv", x, table).unflatten(-1, (11, 1)).movedim(-1, 0),
    lambda x, table: x.mT.contiguous() + x.to(torch.float64).mT.type_as(x),
    lambda x, table: nn.functional.dropout(x, 0.5, training=False) + torch.tensor([1.0, 2.0]).repeat(4),
    lambda x, table: nn.functional.silu(nn.functional.linear(x, table)).softmax(-1).detach(),
    lambda x, table: nn.functional.pad(x, (0, 0, 2, 0))[:, : x.shape[1]],
    lambda x, table: x.tensor_split(2, -1)[1] + torch.arange(x.shape[1]).view(-1, 1).expand(x.shape[1], 4),
    written,
    written_elements,
    without_gradients,
    outside_of_autocast,
]


def _reasons(exported: ExportedProgram, caplog: pytest.LogCaptureFixture) -> tuple[fx.Graph, list[str]]:
    with caplog.at_level(logging.INFO, "burnish.frontend.functional"):
        _, graph = functional(exported)
    return graph, [each.message for each in caplog.records if each.name == "burnish.frontend.functional"]


@pytest.mark.parametrize("function", BY_NODES)
def test_the_graph_is_that_of_tracing_again(
    function: Callable[[Tensor, Tensor], Tensor], caplog: pytest.LogCaptureFixture
) -> None:
    exported = export(function)
    graph, reasons = _reasons(exported, caplog)
    assert not reasons
    assert operations(graph) == operations(exported.run_decompositions({}).graph)


@pytest.mark.parametrize(
    ("function", "reason"),
    [
        (filled, "copy_.* writes what is seen elsewhere, too"),
        (seen_before, "add_.* writes what is seen elsewhere, too"),
        (lambda x, table: x + table.add_(1)[0], "writes what is seen elsewhere"),
    ],
)
def test_what_is_written_and_seen_elsewhere_is_traced_again(
    function: Callable[[Tensor, Tensor], Tensor], reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    exported = export(function)
    graph, reasons = _reasons(exported, caplog)
    assert len(reasons) == 1
    assert re.search(reason, reasons[0])
    assert operations(graph) == operations(exported.run_decompositions({}).graph)


def test_places_and_types_are_kept(caplog: pytest.LogCaptureFixture) -> None:
    exported = export(lambda x, table: x.reshape(-1, 4).contiguous() * 2)
    graph, _ = _reasons(exported, caplog)
    calls: list[Any] = [node for node in graph.nodes if node.op == "call_function"]
    assert all("val" in node.meta for node in calls)
    views = [node for node in calls if node.target in (torch.ops.aten.view.default, torch.ops.aten.mul.Tensor)]
    assert len(views) == 2
    assert all(node.meta.get("nn_module_stack") for node in views)
