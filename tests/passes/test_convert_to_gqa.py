"""Fewer heads of keys and values: exactly where heads are the same in disguise, by calibration text where not."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM

import burnish
from burnish.frontend import read
from burnish.ir.errors import UsageError
from burnish.ir.ops import burnish_ops
from burnish.ir.program import Program
from burnish.ir.text import call_text
from burnish.ir.trace import Trace
from burnish.passes.pipeline import run_passes
from burnish.passes.pipelines import raise_operations
from burnish.passes.transforms.calibration import Calibration, calibration_of
from burnish.passes.transforms.convert_to_gqa import ConvertToGQA
from burnish.passes.transforms.merge_heads import Pairs, Projections, aligned, pairs_of, partition
from burnish.passes.transforms.quality import measure
from burnish.passes.verify import logits_of
from tests.own_modules.causal import NanoGPT
from tests.tolerances import assert_near
from tests.zoo.configs import build

VOCABULARY, HEADS, KV_HEADS, SIZE, WIDTH = 97, 8, 4, 8, 64


def llama(attention_bias: bool = False) -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=WIDTH,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=HEADS,
        num_key_value_heads=KV_HEADS,
        head_dim=SIZE,
        max_position_embeddings=128,
        attention_bias=attention_bias,
        initializer_range=0.15,
    )
    return LlamaForCausalLM(config).eval()


def raised(model: nn.Module) -> Program:
    return run_passes(read(model).program, raise_operations(), Trace())


def text(vocabulary: int = VOCABULARY) -> Calibration:
    """Tokens that go on in a way that can be learnt: each follows from the one before it, mostly."""
    generator = torch.Generator().manual_seed(1)
    ids = [0]
    for jump in torch.randint(0, 4, (1200,), generator=generator).tolist():
        ids.append((5 * ids[-1] + jump) % vocabulary)
    return calibration_of(ids, 128)


def converted(program: Program, **options: object) -> tuple[Program, Trace]:
    trace = Trace()
    return run_passes(program, [ConvertToGQA(**options)], trace), trace  # type: ignore[arg-type]


def attentions(program: Program) -> list[str]:
    return [call_text(node) for node in program.graph.nodes if node.target is burnish_ops.attention.default]


def disguise(model: LlamaForCausalLM, pairs: list[tuple[int, int]]) -> None:
    """Make KV head b of each pair (a, b) a copy of a that is turned by random maps, and its readers undo them."""
    generator = torch.Generator().manual_seed(2)
    shared = HEADS // KV_HEADS
    for layer in model.model.layers:
        attention = layer.self_attn
        keys = attention.k_proj.weight.data.view(KV_HEADS, 2, SIZE // 2, WIDTH)
        values = attention.v_proj.weight.data.view(KV_HEADS, SIZE, WIDTH)
        queries = attention.q_proj.weight.data.view(KV_HEADS, shared, 2, SIZE // 2, WIDTH)
        output = attention.o_proj.weight.data.view(WIDTH, KV_HEADS, shared * SIZE)
        for a, b in pairs:
            change = torch.randn(SIZE, SIZE, generator=generator) + 2 * torch.eye(SIZE)
            values[b] = change @ values[a]
            blocks = output[:, b].reshape(WIDTH, shared, SIZE) @ torch.linalg.inv(change)
            output[:, b] = blocks.reshape(WIDTH, -1)
            factor = torch.complex(*torch.randn(2, SIZE // 2, 1, generator=generator))
            turned = torch.complex(keys[a, 0], keys[a, 1]) * factor
            keys[b, 0], keys[b, 1] = turned.real, turned.imag
            reads = torch.complex(queries[b, :, 0], queries[b, :, 1]) / factor.conj()
            queries[b, :, 0], queries[b, :, 1] = reads.real, reads.imag


def relative(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).abs().max() / expected.abs().max())


def test_attentions_read_fewer_heads() -> None:
    before = raised(llama())
    after, trace = converted(before, kv_heads=1)
    assert attentions(before)[0].startswith("burnish.attention(%rotary_default, %rotary_default_1, %transpose_2, ")
    shapes = [
        [list(read.meta["val"].shape)[1::2] for read in node.args[:3]]
        for node in after.graph.nodes
        if node.target is burnish_ops.attention.default
    ]
    assert shapes == [[[HEADS, SIZE], [1, SIZE], [1, SIZE]]] * 2
    assert [entry.text.split(",")[0] for entry in trace.passes[-1].rewrites] == ["4 -> 1 heads of keys and values"] * 2
    rows = {name: weight.shape[0] for name, weight in after.weights.items() if "kv_heads" in name}
    assert rows["model.layers.0.self_attn.k_proj.weight.1_kv_heads"] == SIZE
    assert rows["model.layers.0.self_attn.v_proj.weight.1_kv_heads"] == SIZE


@pytest.mark.parametrize("pairs", [[(0, 1), (2, 3)], [(0, 2), (3, 1)]])
@pytest.mark.parametrize("calibrated", [False, True])
def test_heads_in_disguise_are_found_and_merged_without_loss(pairs: list[tuple[int, int]], calibrated: bool) -> None:
    model = llama()
    disguise(model, pairs)
    before = raised(model)
    after, trace = converted(before, kv_heads=2, calibration=text() if calibrated else None)
    assert all("exactly" in entry.text for entry in trace.passes[-1].rewrites)
    tokens = torch.randint(VOCABULARY, (2, 30), generator=torch.Generator().manual_seed(3))
    assert relative(logits_of(after, tokens), logits_of(before, tokens)) < 1e-4


def test_heads_that_differ_are_not_called_the_same() -> None:
    _, trace = converted(raised(llama()), kv_heads=2)
    assert not any("exactly" in entry.text for entry in trace.passes[-1].rewrites)


@settings(max_examples=30, deadline=None)
@given(
    kv_heads=st.sampled_from([1, 2, 4]),
    shared=st.integers(1, 3),
    size=st.sampled_from([4, 6, 8]),
    rotated=st.sampled_from([0, 2, 4]),
    interleaved=st.booleans(),
    seed=st.integers(0, 100),
)
def test_turning_heads_changes_nothing(
    kv_heads: int, shared: int, size: int, rotated: int, interleaved: bool, seed: int
) -> None:
    """Each head a group of its own: scores and outputs are as before, whatever the maps."""
    torch.manual_seed(seed)
    width, out = 11, 7
    weights = Projections(
        torch.randn(kv_heads * shared, size, width, dtype=torch.float64),
        torch.randn(kv_heads, size, width, dtype=torch.float64),
        torch.randn(kv_heads, size, width, dtype=torch.float64),
        torch.randn(out, kv_heads * shared, size, dtype=torch.float64),
    )
    x = torch.randn(50, width, dtype=torch.float64)
    pairs = pairs_of(size, rotated, interleaved)
    order = torch.randperm(kv_heads).tolist()
    after = aligned(weights, x.T @ x / 50, [(head,) for head in order], pairs)
    readers = [head * shared + number for head in order for number in range(shared)]
    for new, old in enumerate(readers):
        was = Projections(weights.query[old], weights.key[old // shared], weights.value[old // shared], weights.output)
        now = Projections(after.query[new], after.key[new // shared], after.value[new // shared], after.output)
        torch.testing.assert_close(scores(now, x, pairs), scores(was, x, pairs))
        torch.testing.assert_close(
            after.output[:, new] @ now.value @ x.T, weights.output[:, old] @ was.value @ x.T, rtol=1e-6, atol=1e-6
        )


def scores(head: Projections, x: Tensor, pairs: Pairs) -> Tensor:
    """What each position sees of each, with turns that differ from pair to pair."""
    query, key = x @ head.query.T, x @ head.key.T
    angle = torch.outer(torch.arange(len(x), dtype=torch.float64), 1.0 + torch.arange(len(pairs.real)))
    turn = torch.polar(torch.ones_like(angle), angle)
    q = torch.complex(query[:, pairs.real], query[:, pairs.imaginary]) * turn
    k = torch.complex(key[:, pairs.real], key[:, pairs.imaginary]) * turn
    return (q.conj() @ k.T).real + query[:, pairs.plain] @ key[:, pairs.plain].T


def test_groups_are_the_heads_that_go_together() -> None:
    torch.manual_seed(0)
    key = torch.randn(2, 4, 9, dtype=torch.float64)
    weights = Projections(
        torch.randn(4, 4, 9, dtype=torch.float64),
        torch.cat([key, key.flip(0) * 2]),
        torch.cat([key, key.flip(0)]),
        torch.randn(5, 4, 4, dtype=torch.float64),
    )
    groups, lost = partition(weights, torch.eye(9, dtype=torch.float64), 2, pairs_of(4, 4, False))
    assert [set(group) for group in groups] == [{0, 3}, {1, 2}]
    assert lost < 1e-12
    stuck, more = partition(weights, torch.eye(9, dtype=torch.float64), 2, pairs_of(4, 4, False), movable=False)
    assert stuck == [(0, 1), (2, 3)]
    assert more > 0.01


@pytest.mark.parametrize("attention_bias", [False, True])
def test_refitting_beats_aligning_beats_the_mean(attention_bias: bool) -> None:
    before, calibration = raised(llama(attention_bias)), text()
    programs = [
        converted(before, kv_heads=2, method=method, calibration=calibration)[0]
        for method in ("mean", "aligned", "refit")
    ]
    _, mean, turned, fitted = measure([before, *programs], calibration.held_out)
    assert fitted.divergence < 0.9 * turned.divergence
    assert turned.divergence < 0.9 * mean.divergence


def test_healing_comes_nearer_to_the_original() -> None:
    before, calibration = raised(llama()), text()
    programs = [converted(before, kv_heads=1, heal=steps, calibration=calibration)[0] for steps in (0, 150)]
    _, plain, healed = measure([before, *programs], calibration.tokens)
    assert healed.divergence < 0.9 * plain.divergence


@pytest.mark.parametrize("model_type", ["gpt2", "qwen3", "bloom", "gpt_oss", "gemma2", "gptj", "phi3"])
def test_whole_models(model_type: str) -> None:
    """Packed projections, norms of heads, slopes, sinks, windows and soft caps, interleaved pairs."""
    torch.manual_seed(0)
    before = raised(build(model_type))
    ids = torch.randint(0, before.signature.token_limit, (1200,), generator=torch.Generator().manual_seed(1)).tolist()
    calibration = calibration_of(ids, before.signature.max_length)
    programs = [
        converted(before, kv_heads=1, method=method, calibration=calibration)[0] for method in ("mean", "refit")
    ]
    _, mean, fitted = measure([before, *programs], calibration.held_out)
    assert fitted.divergence < mean.divergence


def test_a_module_that_someone_wrote() -> None:
    torch.manual_seed(0)
    ids = torch.randint(0, 61, (1000,)).tolist()
    compiled = burnish.compile(NanoGPT(), transforms=[ConvertToGQA(2)], calibration=ids)
    assert {state.shape[1] for state in compiled.artifact.states} == {2}
    original, changed = compiled.trace.quality
    assert changed.cache_bytes_a_token * 2 == original.cache_bytes_a_token
    assert (original.divergence, original.agreement) == (0.0, 1.0)
    assert len(compiled.generate([[1, 2, 3]], max_new_tokens=5).tokens[0]) == 5


def test_the_same_text_gives_the_same_weights() -> None:
    before, calibration = raised(llama()), text()
    first, second = (converted(before, kv_heads=2, heal=2, calibration=calibration)[0] for _ in range(2))
    for name, weight in first.weights.items():
        assert torch.equal(weight.materialize(), second.weights[name].materialize()), name


def test_head_counts_that_do_not_divide_are_refused() -> None:
    with pytest.raises(UsageError, match="4 heads of keys and values are no equal groups for 3: 1, 2 are possible"):
        converted(raised(llama()), kv_heads=3)
    with pytest.raises(UsageError, match="at least one head"):
        converted(raised(llama()), kv_heads=0)


def test_nothing_to_do_is_an_error() -> None:
    with pytest.raises(UsageError, match="kv_heads=4: the model has 4 heads of keys and values, and 1 or 2 can"):
        burnish.compile(llama(), transforms=[ConvertToGQA(4)])


def test_a_model_without_attention_is_an_error() -> None:
    class Pointwise(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.head = nn.Embedding(20, 8), nn.Linear(8, 20)

        def forward(self, ids: Tensor) -> Tensor:
            return self.head(self.embed(ids))

    with pytest.raises(UsageError, match="the model has no attention"):
        burnish.compile(Pointwise(), transforms=[ConvertToGQA(1)])


def test_refitting_needs_text() -> None:
    with pytest.raises(UsageError, match="needs calibration text"):
        burnish.compile(llama(), transforms=[ConvertToGQA(1, method="refit")])


class OneBehindTheOther(nn.Module):
    """The second attention reads the output of the first, with nothing between."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(29, 16), nn.Linear(16, 29)
        self.projections = nn.ModuleList(nn.Linear(16, 48) for _ in range(2))
        self.outputs = nn.ModuleList(nn.Linear(16, 16) for _ in range(2))

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embed(ids)
        for projection, output in zip(self.projections, self.outputs, strict=True):
            parts = (part.unflatten(-1, (4, 4)).transpose(1, 2) for part in projection(x).chunk(3, dim=-1))
            x = output(F.scaled_dot_product_attention(*parts, is_causal=True).transpose(1, 2).flatten(2))
        return self.head(x)


@torch.no_grad()
def test_an_attention_reads_what_the_one_before_it_has_become() -> None:
    torch.manual_seed(0)
    model = OneBehindTheOther().eval()
    for projection in model.projections:  # keys and values of two heads are those of the two others
        for rows in (projection.weight, projection.bias):
            for first in (16, 32):
                rows[first + 8 : first + 16] = rows[first : first + 8]
    ids = torch.randint(29, (2, 20))
    with burnish.compile(model, max_length=32, transforms=[burnish.ConvertToGQA(2)]) as compiled:
        (record,) = [each for each in compiled.trace.passes if each.name == "convert-to-gqa"]
        assert ["exactly" in entry.text for entry in record.rewrites] == [True, True]
        assert_near(compiled(ids), model(ids))
