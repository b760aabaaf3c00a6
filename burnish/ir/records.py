"""Programs as records: each node as text, once for all passes that leave it alone."""

from __future__ import annotations

from torch import fx

from burnish.ir.cost import CostCounter
from burnish.ir.program import Program, origin
from burnish.ir.text import call_text, symbol_names, type_text
from burnish.ir.trace import NodeRecord

_KEY = "record"  # in a node's meta: the type and the text that its record was made from, and the record


def node_records(program: Program) -> tuple[NodeRecord, ...]:
    """A record for each node, in order. A node that is as it was when it was last recorded keeps its record."""
    symbols = symbol_names(program)
    counter = CostCounter(program)
    stepwise = bool(program.states)
    records = []
    for node in program.graph.nodes:
        call = call_text(node) if node.op == "call_function" else ""
        reads = tuple(argument.name for argument in node.all_input_nodes)
        val, key = (
            node.meta.get("val"),
            (call, reads, node.meta.get("history", ()), stepwise, node.target, layout_of(node)),
        )
        known = node.meta.get(_KEY)
        if known is None or known[0] is not val or known[1] != key:
            known = node.meta[_KEY] = (val, key, _record(node, call, reads, symbols, counter))
        records.append(known[2])
    return tuple(records)


def _record(
    node: fx.Node, call: str, reads: tuple[str, ...], symbols: dict[str, str], counter: CostCounter
) -> NodeRecord:
    place = origin(node)
    cost = counter.cost(node)
    return NodeRecord(
        name=node.name,
        op=node.op,
        target=node.target if isinstance(node.target, str) else call.split("(")[0],
        reads=reads,
        type="" if node.op == "output" else type_text(node.meta.get("val"), symbols),
        call=call,
        module=place.module,
        module_type=place.module_type,
        source=f"{place.file.rsplit('/', 1)[-1]}:{place.line}" if place.file else "",
        code=place.code,
        history=tuple(node.meta.get("history", ())),
        launches=cost.launches,
        bytes_moved=cost.bytes_moved,
        layout=layout_of(node),
    )


def layout_of(node: fx.Node) -> str:
    """How a node's value was decided to lie in memory; empty if nobody decided."""
    return str(node.meta.get("layout", ""))
