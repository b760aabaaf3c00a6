"""Small modules captured as programs, for the tests of passes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.export.graph_signature import InputKind

from burnish.ir.program import Origin, Program, Signature
from burnish.ir.weights import Stored, Weights


class _Logits(nn.Module):
    """A model as a function of its tokens alone."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, tokens: Tensor) -> Tensor:
        out = self.model(tokens, use_cache=False) if hasattr(self.model, "config") else self.model(tokens)
        return getattr(out, "logits", out)


def captured(model: nn.Module, max_length: int = 64) -> Program:
    """`model` (ids int64[batch, sequence] -> a tensor) as a captured program."""
    sizes = {"tokens": {0: torch.export.Dim("batch"), 1: torch.export.Dim("sequence")}}
    with torch.no_grad():
        exported = torch.export.export(
            _Logits(model.eval()), (torch.zeros(3, 11, dtype=torch.long),), strict=False, dynamic_shapes=sizes
        ).run_decompositions({})
    tensors = {**exported.state_dict, **exported.constants}
    weights, names = Weights(), {}
    for spec in exported.graph_signature.input_specs:
        if spec.kind is not InputKind.USER_INPUT:
            target = str(spec.target)
            names[spec.arg.name] = weights.add(target.removeprefix("model."), Stored(tensors[target].detach()))
    graph, mapping = fx.Graph(), {}
    for node in exported.graph.nodes:
        if node.name in names:
            copied = graph.create_node("get_attr", names[node.name], name=node.name)
        elif node.op == "output":
            copied = graph.output(tuple(fx.map_arg(node.args[0], mapping.__getitem__)))
        else:
            copied = graph.node_copy(node, mapping.__getitem__)
        copied.meta = {"val": node.meta.get("val"), "origin": Origin()}
        mapping[node] = copied
    program = Program(graph, weights, Signature(97, max_length, 97))
    program.batch, program.sequence = (str(size) for size in _tokens_first(graph).meta["val"].shape)
    return program


def _tokens_first(graph: fx.Graph) -> Any:
    return next(node for node in graph.nodes if node.op == "placeholder")
