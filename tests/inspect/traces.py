"""Traces made by hand: a model of layers that are alike, and what passes did to it."""

from __future__ import annotations

from dataclasses import replace

from burnish.ir.trace import Entry, NodeRecord, PassRecord, Trace, Verification

TYPE = "f32[batch, sequence, 64]"
HOSTILE = "x = '</script><script>window.hacked = 1</script><img src=x onerror=\"window.hacked = 1\"><!--' {{DATA}}"


def call(name: str, target: str, reads: tuple[str, ...], module: str = "", **fields: object) -> NodeRecord:
    """A node that computes something in `module`."""
    values: dict[str, object] = {
        "op": "call_function",
        "type": TYPE,
        "call": f"{target}({', '.join('%' + read for read in reads)})",
        "module_type": module.rsplit(".", 1)[-1].title(),
        "source": "model.py:12",
        "code": f"y = {target.split('.')[1]}(x)",
        "history": (),
        "launches": 1,
        "bytes_moved": 1000,
    }
    return NodeRecord(name=name, target=target, reads=reads, module=module, **{**values, **fields})  # type: ignore[arg-type]


def other(op: str, name: str, type: str, *reads: str) -> NodeRecord:
    """An input, a weight or the output."""
    return NodeRecord(name, op, name.replace("_", "."), reads, type, "", "", "", "", "", (), 0, 0)


def record(number: int, name: str, nodes: tuple[NodeRecord, ...], **fields: object) -> PassRecord:
    """The record of a pass, with the totals of its nodes."""
    values: dict[str, object] = {
        "options": {},
        "effect": "reassociates",
        "rewrites": (),
        "refusals": (),
        "notes": (),
        "nodes_before": len(nodes),
        "nodes_after": len(nodes),
        "seconds": 0.25,
        "weight_bytes": 1_000_000,
        "bytes_a_token": 0,
        "launches": sum(node.launches for node in nodes),
        "bytes_moved": sum(node.bytes_moved for node in nodes),
        "text": "",
        "nodes": nodes,
    }
    return PassRecord(number=number, name=name, **{**values, **fields})  # type: ignore[arg-type]


def layered(layers: int = 30) -> Trace:
    """Captured, then a norm raised in each layer, then a pass that only refuses."""
    captured = [other("placeholder", "tokens", "i64[batch, sequence]"), other("get_attr", "embed_weight", "f32[9, 64]")]
    captured.append(
        call("embedding", "aten.embedding.default", ("embed_weight", "tokens"), "model.embed", code=HOSTILE)
    )
    raised = list(captured)
    last = "embedding"
    rewrites = []
    for layer in range(layers):
        norm, mlp = f"model.layers.{layer}.norm", f"model.layers.{layer}.mlp"
        square, root = f"pow_{layer}", f"rsqrt_{layer}"
        captured += [
            call(square, "aten.pow.Tensor_Scalar", (last,), norm),
            call(root, "aten.rsqrt.default", (square,), norm),
            call(f"mul_{layer}", "aten.mul.Tensor", (last, root), norm),
        ]
        raised.append(call(f"rms_norm_{layer}", "burnish.rms_norm", (last,), norm, history=((1, layer),)))
        for nodes, read in ((captured, f"mul_{layer}"), (raised, f"rms_norm_{layer}")):
            nodes += [
                call(f"silu_{layer}", "aten.silu.default", (read,), mlp),
                call(f"neg_{layer}", "aten.neg.default", (f"silu_{layer}",), mlp),
                call(f"add_{layer}", "aten.add.Tensor", (last, f"neg_{layer}"), f"model.layers.{layer}"),
            ]
        rewrites.append(Entry(f"mul_{layer}", f"mul_{layer} (aten.mul.Tensor) in {norm}, model.py:12", "RMS norm"))
        last = f"add_{layer}"
    output = other("output", "output", "", last)
    refusals = (Entry("silu_0", "silu_0 (aten.silu.default) in model.layers.0.mlp", "gate 1 is read elsewhere"),)
    check = Verification(difference=2e-7, tolerance=1e-4, runs="(1, 5) and (2, 9) tokens")
    return Trace(
        [
            record(0, "captured", (*captured, output), effect="exact"),
            record(1, "raise-norms", (*raised, output), rewrites=tuple(rewrites), verification=check),
            record(2, "raise-gates", (*raised, output), refusals=refusals, bytes_a_token=46_080),
        ],
        {"capture": 1.5},
    )


def large(nodes: int = 5000, layers: int = 50) -> Trace:
    """A model whose layers are all unlike, so that no two fold into one; and a pass that changed every tenth node."""
    made = [other("placeholder", "tokens", "i64[batch, sequence]")]
    last = "tokens"
    each = nodes // layers
    for layer in range(layers):
        first = last
        for place in range(each):
            kind = ("norm", "attention", "attention.query", "mlp")[place * 4 // each]
            reads = (last, first) if place % 16 == 15 else (last,)
            size = f"f32[batch, sequence, {64 + layer}]"
            name = f"add_{layer}_{place}"
            made.append(call(name, "aten.add.Tensor", reads, f"model.layers.{layer}.{kind}", type=size))
            last = name
    made.append(other("output", "output", "", last))
    changed = [
        replace(node, call=f"{node.call} # twice") if place % 10 == 0 and node.op == "call_function" else node
        for place, node in enumerate(made)
    ]
    return Trace([record(0, "captured", tuple(made)), record(1, "change", tuple(changed))])
