"""The record of a compilation: what each pass did. Made by the pipeline, kept in the artifact, shown by inspect."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Entry:
    """One rewrite made, or one refused, and why."""

    node: str  # name of the node in the graph before the pass
    where: str  # op, module and line of the user's source
    text: str


@dataclass(frozen=True)
class NodeRecord:
    """One node of a program, as text. A node that a pass leaves alone has the same record after it as before."""

    name: str  # a node keeps its name through all passes
    op: str  # "placeholder", "get_attr" (a weight), "call_function", "output"
    target: str  # the op, or the weight's name
    reads: tuple[str, ...]  # names of the nodes that it reads
    type: str  # "f32[batch, sequence, 576]"
    call: str  # what it computes: "aten.linear(%x, @layers.0.weight)"
    module: str  # of the user's model: "model.layers.0.mlp"
    module_type: str  # "LlamaMLP"
    source: str  # "modeling_llama.py:174"
    code: str  # the line of source that called the op
    history: tuple[tuple[int, int], ...]  # the rewrites that led to it: (pass number, place in its rewrites or -1)
    launches: int
    bytes_moved: int  # read and written for one more token (burnish.ir.cost)


@dataclass(frozen=True)
class Verification:
    """The numeric check of one pass."""

    difference: float  # the largest one, relative to the largest logit
    tolerance: float
    runs: str  # what was fed


@dataclass(frozen=True)
class Check:
    """One way in which what runs was compared with the model before `compile` gave it, or was not."""

    fed: str  # "2 rows of 1, 2, 7, 17 tokens, whole"
    by: str  # what ran: "the backend onnxruntime"; empty if nothing did


@dataclass(frozen=True)
class PassRecord:
    """What one pass did."""

    number: int  # 1 for the first pass; 0 is the graph as captured
    name: str
    options: dict[str, str]  # that are not the defaults
    effect: str  # "exact", "reassociates", "lossy"
    rewrites: tuple[Entry, ...]
    refusals: tuple[Entry, ...]
    notes: tuple[str, ...]
    nodes_before: int
    nodes_after: int
    seconds: float | None  # None in an artifact, whose bytes are the same each time that it is made
    weight_bytes: int  # bytes of all weights after the pass
    bytes_a_token: int  # bytes that each token adds to the states of one row; 0 before there are states
    launches: int  # of operations, for one more token
    bytes_moved: int  # read and written for one more token, unfused
    text: str  # the program after the pass, repeated layers folded
    nodes: tuple[NodeRecord, ...] = ()  # the program after the pass, in order
    declarations: str = ""  # what else its full text has (burnish.ir.full_text)
    verification: Verification | None = None
    floor_bytes: int = 0  # that one more token cannot do without (burnish.ir.cost); 0 before there are states
    stage: str = ""  # that the program has reached (burnish.ir.program.Stage); empty in older artifacts

    @property
    def spelling(self) -> str:
        """The pass and its options, as they are given: `narrow-floats{dtype=bfloat16}`."""
        options = ",".join(f"{name}={value}" for name, value in self.options.items())
        return f"{self.name}{{{options}}}" if options else self.name

    def __repr__(self) -> str:
        return (
            f"PassRecord({self.number:02d} {self.name}: {counted(len(self.rewrites), 'rewrite')}, "
            f"{len(self.refusals)} refused, "
            f"{self.nodes_before} → {self.nodes_after} nodes"
            + (")" if self.seconds is None else f", {self.seconds * 1e3:.0f} ms)")
        )


@dataclass(frozen=True)
class QualityRecord:
    """The model after a transform (or before the first), and what it has become on text held out from calibration."""

    name: str  # "original", or the transform with its options
    parameters: int
    weight_bytes: int  # as they are stored
    cache_bytes_a_token: int  # keys and values that one token adds to the caches of one row
    perplexity: float
    divergence: float  # mean Kullback-Leibler divergence of its next-token distributions from the original's, nats
    agreement: float  # share of tokens after which both think the same one likeliest
    tokens: int  # that were predicted


@dataclass
class Trace:
    """All passes of one compilation, in order, and the phases around them (capture, lowering, writing) in seconds.

    An artifact's has no times: `burnish.compile` and `burnish compile` tell them.
    """

    passes: list[PassRecord] = field(default_factory=list)
    phases: dict[str, float] = field(default_factory=dict)
    checks: list[Check] = field(default_factory=list)  # of the whole program; without verification, none
    quality: list[QualityRecord] = field(default_factory=list)  # where there are transforms and calibration text
    context: int = 512  # tokens before the one whose launches and bytes are counted (burnish.ir.states.context_of)
    #                     or 0: they are counted for a graph that is no language model

    @property
    def counted_for(self) -> str:
        """What launches and bytes are counted for."""
        return f"one more token after {self.context:,}" if self.context else "one run, of the sizes it was traced with"

    def __repr__(self) -> str:
        nodes = [str(record.nodes_after) for record in self.passes]
        rewrites = sum(len(record.rewrites) for record in self.passes)
        return (
            f"Trace({counted(max(len(self.passes) - 1, 0), 'pass')}, {counted(rewrites, 'rewrite')}, "
            f"{' → '.join(dict.fromkeys([*nodes[:1], *nodes[-1:]])) or 'no'} nodes"
            + (f", {sum(self.phases.values()):.1f} s)" if self.phases else ")")
        )

    def stages(self) -> str:
        """Which pass brought the program to each stage: "captured → raised (8) → incremental (11) → lowered (13)"."""
        reached: dict[str, int] = {}
        for record in self.passes:
            if record.stage:
                reached.setdefault(record.stage, record.number)
        return " → ".join(f"{stage} ({number})" if number else stage for stage, number in reached.items())

    def _repr_html_(self) -> str:
        from burnish.inspect.html.notebook import trace_html  # for a notebook alone

        return trace_html(self)


def counted(count: int, thing: str) -> str:
    """`1 pass`, `2 passes`."""
    return f"{count} {thing}" if count == 1 else f"{count} {thing}{'es' if thing.endswith('s') else 's'}"
