"""What hypothesis draws: modules, mostly causal, and the ways in which they are compiled. Small values come first."""

from __future__ import annotations

from typing import Any

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from burnish import default_passes
from tests.fuzz.attention import BIASES, LEAKING, Attention, Term
from tests.fuzz.cases import LOSSY, Case, Pipeline
from tests.fuzz.modules import LEAKS, Block, Chain, Convolution, Leak, Mixer, Model, Scan, Shift

Draw = st.DrawFn


def one_of(draw: Draw, *choices: Any) -> Any:
    """One of the choices; the first is the simplest."""
    return draw(st.sampled_from(choices))


def seldom(draw: Draw, often: int = 5) -> bool:
    """True once in so often."""
    return draw(st.integers(0, often - 1)) == often - 1


@st.composite
def terms(draw: Draw, longest: int, heads: int, leaking: bool) -> tuple[Term, ...]:
    """Conditions and biases of a mask, with one that shows later tokens if it is `leaking`."""
    some = st.integers(1, longest + 3)
    few = st.integers(1, 9)
    numbers = {
        "window": (some,),
        "chunk": (some,),
        "blocks": (few, few),
        "strided": (st.integers(2, 9), some),
        "sinks": (few, some),
        "segments": (some, some),
        "faded": (st.integers(1, 60),),
        "row": (some,),
        "column": (some,),
        "from": (some, some),
        "by head": (some,) * heads,
        "bent": (some,),
        "waves": (few,),
        "later blocks": (few, st.integers(2, 9)),
        "later token": (st.integers(0, longest - 2), few),
        "prefix": (st.integers(2, longest),),
        "ahead": (few,),
        "ahead from": (st.integers(0, longest - 2),),
    }

    def of(kind: str) -> Term:
        return Term(kind, tuple(draw(each) for each in numbers.get(kind, ())))

    conditions = st.sampled_from(sorted(set(numbers) - {*LEAKING, *BIASES}))
    found = [of(kind) for kind in draw(st.lists(conditions, max_size=one_of(draw, 1, 1, 2)))]
    if seldom(draw, 4):
        found.append(of(one_of(draw, *BIASES)))
    if leaking:
        found.append(of(one_of(draw, *LEAKING)))
    return tuple(found)


@st.composite
def attentions(draw: Draw, longest: int, leaking: bool = False) -> Attention:
    heads, kv_heads = one_of(draw, (2, 2), (1, 1), (2, 1), (3, 3), (4, 2), (4, 4))
    spelling = one_of(draw, "sdpa", "matmul", "einsum", "by hand")
    by_sdpa = spelling == "sdpa"
    return Attention(
        heads=heads,
        kv_heads=kv_heads,
        size=one_of(draw, 4, 2, 6),
        terms=draw(terms(longest, heads, leaking)),
        positions=one_of(draw, "arange", "ones", "table"),
        spelling=spelling,
        hides=one_of(draw, "bool", "float") if by_sdpa else one_of(draw, "fill", "add", "where", "large", "log"),
        rotary=one_of(draw, "", "", "", "halves", "pairs"),
        scale=one_of(draw, None, None, 1.0, 0.3),
        softcap=0.0 if by_sdpa or not seldom(draw) else 3.0,
        packed=draw(st.booleans()),
        norms=seldom(draw),
        equal=kv_heads > 1 and seldom(draw, 6),
    )


@st.composite
def mixers(draw: Draw, longest: int, deep: int = 1) -> Mixer:
    """A causal one."""
    kind = one_of(draw, *("shift", "convolution", "scan", "attention", "attention", "chain")[: 6 if deep else 5])
    match kind:
        case "shift":
            return Shift(one_of(draw, 1, 2, 5), one_of(draw, "pad", "join", "cut", "module"))
        case "convolution":
            return Convolution(
                one_of(draw, 3, 2, 4, 1, 7),
                one_of(draw, 1, 1, 2, 3),
                draw(st.booleans()),
                draw(st.booleans()),
                one_of(draw, "pad", "cut", "join"),
            )
        case "scan":
            usual = one_of(draw, "mean", "sum", "gated")
            return Scan(one_of(draw, "product", "greatest", "decayed") if seldom(draw, 8) else usual)
        case "chain":
            parts = draw(mixers(longest, 0)), draw(mixers(longest, 0))
            return Chain(*parts, between=one_of(draw, "", "relu", "tanh", "silu"))
    return draw(attentions(longest))


@st.composite
def blocks(draw: Draw, longest: int) -> Block:
    return Block(
        branches=tuple(draw(mixers(longest)) for _ in range(one_of(draw, 1, 1, 1, 1, 2, 2, 3))),
        norm=one_of(draw, "", "", "", "layer", "rms", "by hand", "unit"),
        join=one_of(draw, "add", "add", "multiply", "gate", "cat"),
        after=one_of(draw, "", "", "", "relu", "tanh", "linear", "gelu", "swiglu"),
        residual=one_of(draw, "", "", "add", "half", "first", "gate"),
        times=2 if seldom(draw, 8) else 1,
    )


@st.composite
def models(draw: Draw, longest: int, leaking: bool = False) -> Model:
    """Causal models, or such with one leak among the rest."""
    found = [draw(blocks(longest)) for _ in range(one_of(draw, 1, 1, 1, 1, 1, 2, 2, 3))]
    behind = draw(mixers(longest, 0)) if seldom(draw, 6) else None
    if leaking:
        leak = Leak(one_of(draw, *LEAKS)) if draw(st.booleans()) else draw(attentions(longest, leaking=True))
        place = draw(st.integers(0, len(found) - 1))
        branches = list(found[place].branches)
        branches.insert(draw(st.integers(0, len(branches))), leak)
        found[place] = Block(tuple(branches), residual=found[place].residual, join="add")
    return Model(
        blocks=tuple(found),
        width=one_of(draw, 8, 12, 10, 16),
        vocabulary=one_of(draw, 29, 23, 32, 37),
        embedding=one_of(draw, "table", "table", "table", "one hot", "bigram"),
        positions=one_of(draw, "", "", "", "table", "counted", "waves"),
        layout=one_of(draw, "rows", "rows", "tokens"),
        head=one_of(draw, "linear", "linear", "tied", "norm", "bare", "hidden"),
        behind=behind,
        seed=draw(st.integers(0, 999)),
    )


PASSES = {target: tuple(each.name for each in default_passes(target)) for target in ("onnxruntime", "cuda", "native")}


@st.composite
def pipelines(draw: Draw) -> Pipeline:
    """The default one, as often as not."""
    if draw(st.booleans()):
        return Pipeline()
    target = one_of(draw, *PASSES)
    names = st.sampled_from(PASSES[target])
    return Pipeline(
        target,
        without=tuple(draw(st.lists(names, max_size=3, unique=True))) if draw(st.booleans()) else (),
        twice=tuple(draw(st.lists(names, max_size=3, unique=True))) if draw(st.booleans()) else (),
        transform=one_of(draw, *LOSSY) if seldom(draw, 4) else one_of(draw, "", "merge heads"),
    )


@st.composite
def cases(draw: Draw) -> tuple[Case, ...]:
    """A module in two ways of compiling it, the default one among them or not. One in six has a leak."""
    longest = one_of(draw, 20, 33, 64, 65, 100, 130, 181, 257, 300)
    leaking = seldom(draw, 6)
    model = draw(models(longest, leaking))
    ways = st.tuples(st.just(Pipeline()) if leaking else pipelines(), st.booleans(), st.integers(0, 999))
    return tuple(Case(model, longest, *draw(ways)) for _ in range(1 if leaking else 2))


def drawn(number: int, count: int) -> list[Case]:
    """`count` cases, no two the same: the same ones for the same number."""
    found: dict[Case, None] = {}
    while len(found) < count:
        # Never all of hypothesis' examples: it tries changes of what it has drawn, and comes back to the same ones.
        @seed(number)
        @settings(
            max_examples=max(count // 2, 2),
            deadline=None,
            database=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(cases())
        def draw(ways: tuple[Case, ...]) -> None:
            found.update(dict.fromkeys(ways))

        draw()
        number += 1_000_003
    return list(found)[:count]
