"""Why a pass left something as it was: the nearest misses, at a place, with reasons and lines."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from typer.testing import CliRunner

from burnish.cli.commands import app
from burnish.frontend.capture import capture
from burnish.inspect.table import WIDTH, plain_text
from burnish.inspect.where import Site, Where
from burnish.inspect.why import Obstacle, Why, why
from burnish.inspect.why_view import why_view
from burnish.ir.errors import UsageError
from burnish.ir.program import Program
from tests.own_modules.not_causal import Bidirectional


class Norm(nn.Module):
    """An RMS norm."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(8))

    def forward(self, x: Tensor) -> Tensor:
        return self.weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6))


class ClampedNorm(Norm):
    """Almost an RMS norm."""

    def forward(self, x: Tensor) -> Tensor:
        mean = x.pow(2).mean(-1, keepdim=True)
        return self.weight * (x * torch.rsqrt(mean.clamp(min=1e-6)))


class Gate(nn.Module):
    """A gate for all channels, and a gelu with another number than the square root of 2."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.gate = nn.Linear(8, 8, bias=False), nn.Linear(8, 1)

    def forward(self, x: Tensor) -> Tensor:
        up = self.up(x)
        up = 0.5 * up * (1 + torch.erf(up / 1.4))
        return torch.sigmoid(self.gate(x)) * up


class Layer(nn.Module):
    """Two norms around a gate."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.mlp, self.after = Norm(), Gate(), ClampedNorm()

    def forward(self, x: Tensor) -> Tensor:
        return x + self.after(self.mlp(self.norm(x)))


class Model(nn.Module):
    """Three layers without attention."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(20, 8)
        self.layers = nn.ModuleList(Layer() for _ in range(3))

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embedding(ids)
        for layer in self.layers:
            x = layer(x)
        return F.linear(x, self.embedding.weight)


@pytest.fixture(scope="module")
def program() -> Program:
    return capture(Model(), max_length=32)


def line(code: str) -> str:
    """`file:line` of the first line of this file that has `code`."""
    lines = Path(__file__).read_text(encoding="utf-8").splitlines()
    return f"{Path(__file__).name}:{1 + next(number for number, text in enumerate(lines) if code in text)}"


def nearest(told: Why, rule: str) -> Obstacle:
    """The first candidate's obstacle to a rule."""
    return next(obstacle for obstacle in told.missed[0].obstacles if obstacle.rule == rule)


def test_the_nearest_miss_names_what_was_expected_found_and_the_line(program: Program) -> None:
    told = why(program, "raise-norms")
    assert len([each for each in told.rewritten if each.rewritten == "RMS norm"]) == 3
    assert [each.site.module for each in told.missed[:3]] == [f"layers.{number}.after" for number in range(3)]
    miss = nearest(told, "RMS norm")
    assert (miss.matched, miss.refused, miss.text) == (2, False, "expected add, found aten.clamp.default")
    assert miss.culprit.source == line("mean.clamp(min=1e-6)")
    assert "torch.rsqrt(mean.clamp" in miss.culprit.code


def test_layers_are_told_once_and_the_view_fits(program: Program) -> None:
    text = plain_text(why_view(why(program, "raise-norms")))
    assert max(len(line) for line in text.splitlines()) <= WIDTH
    words = " ".join(text.split())
    assert "Rewritten: 6" in words
    assert "3 ×, first: mul" in words
    assert "RMS norm: 2 of 7 ops: expected add, found aten.clamp.default" in words
    assert "layers.1.after" not in words


@pytest.mark.parametrize(
    ("where", "modules"),
    [
        ("layers.1.after", ["layers.1.after"]),
        ("layers.*.after", [f"layers.{number}.after" for number in range(3)]),
        ("after", [f"layers.{number}.after" for number in range(3)]),
        (line("mean.clamp(min=1e-6)"), [f"layers.{number}.after" for number in range(3)]),
        (f"/somewhere/{line('mean.clamp(min=1e-6)')}", [f"layers.{number}.after" for number in range(3)]),
        ("clamp_1", ["layers.1.after"]),
        ("aten::clamp", [f"layers.{number}.after" for number in range(3)]),
    ],
)
def test_where_is_a_module_a_line_a_node_or_an_op(program: Program, where: str, modules: list[str]) -> None:
    told = why(program, "raise-norms", where)
    assert not told.rewritten
    assert told.rewrites_elsewhere == 6
    assert [each.site.module for each in told.missed if each.nearness > 0] == modules


def test_a_line_inside_of_what_was_rewritten_or_beside_what_was_not(program: Program) -> None:
    told = why(program, "raise-norms", "layers.0.norm")
    assert {each.rewritten for each in told.rewritten} == {"RMS norm", "RMS norm's weight"}
    assert not told.missed  # what went into them is no candidate
    told = why(program, "raise-norms", line("mean = x.pow(2)"))
    assert not told.candidates
    assert told.missed[0].site.module == "layers.0.after"
    assert f"beside {told.where}" in plain_text(why_view(told))


def test_guards_give_their_reasons(program: Program) -> None:
    told = why(program, "raise-activations", "layers.2.mlp")
    reasons = {obstacle.rule: obstacle for each in told.missed for obstacle in each.obstacles if obstacle.refused}
    assert reasons["gelu"].text == "sqrt(2) is 1.4142136, and here it is 1.4"
    assert reasons["gelu"].culprit.source == line("0.5 * up")
    gated = reasons["gated activation"]
    assert gated.text == "a factor that is repeated to the product's shape"
    assert gated.culprit.module == "layers.2.mlp.gate"
    assert told.missed[0].nearness == 2


def test_where_no_pattern_begins_it_says_what_does_and_what_there_is(program: Program) -> None:
    told = why(program, "raise-convolutions", "layers.*.mlp")
    assert not told.candidates
    text = " ".join(plain_text(why_view(told)).split())
    assert "No op at layers.*.mlp is one that the pass begins with" in text
    assert "it begins with: aten.cat" in text
    assert "aten.linear (6 ×)" in text
    text = plain_text(why_view(why(program, "raise-attention")))
    assert "softmax(q k^T) v -> burnish::attention" in text
    assert "The pass found nothing to do." in text


def test_a_pass_that_is_no_list_of_rules_tells_its_refusals() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding, self.one, self.two = nn.Embedding(8, 4), nn.Linear(4, 4), nn.Linear(4, 4, bias=False)

        def forward(self, ids: Tensor) -> Tensor:
            x = self.embedding(ids)
            return self.one(x) + self.two(x)

    told = why(Tied(), "14", max_length=16)
    assert told.pass_name == "pack-linears"
    (missed,) = told.missed
    assert missed.obstacles[0].text == "some of the projections of this input have a bias and some have none"
    assert missed.site.source == line("return self.one(x)")


def test_a_pass_that_ends_in_an_error_tells_it() -> None:
    program = capture(Bidirectional(), max_length=16)
    told = why(program, "select-logits")
    assert told.ended_by == "select-logits"
    assert told.error.startswith("NotCausalError: ")
    assert "not_causal.py" in told.error
    later = why(program, "pack-linears", "anything")
    assert (later.ended_by, later.error) == ("select-logits", told.error)
    assert "It did not run: select-logits ended with an error" in plain_text(why_view(later))


@pytest.mark.parametrize(
    ("name", "where", "message"),
    [
        ("raise-norm", None, r"no pass 'raise-norm' \(did you mean raise-norms"),
        ("0", None, "no pass '0'"),
        ("raise-norms", "layers.*.mpl", r"did you mean layers\.\*\.mlp.*The modules are .*layers\.\*\.after"),
        ("raise-rotary", "pow_1", r"raise-norms \(pass 5\) took away pow_1"),
    ],
)
def test_what_is_not_there_is_refused_with_what_is(
    program: Program, name: str, where: str | None, message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        why(program, name, where)


def test_a_part_of_a_path_is_whole_names() -> None:
    site = Site("mul_1", "aten.mul.Tensor", "model.layers.10.mlp.act", source="model.py:7")
    for text in ("model", "layers.10", "layers.*.mlp", "mlp.act", "mul", "aten.mul", "aten.mul.*", "a/b/model.py:7"):
        assert Where(text).holds(site), text
    for text in ("layers.1", "lay", "layers.*.act", "mul_10", "model.py:70", "other/odel.py:7", "linear"):
        assert not Where(text).holds(site), text


def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    where = f"{__name__}:Model"
    done = CliRunner().invoke(app, ["why", where, "raise-norms", "after", "--max-length", "32"])
    assert done.exit_code == 0, done.stderr
    assert "expected add, found aten.clamp.default" in " ".join(done.stdout.split())
    wrong = CliRunner().invoke(app, ["why", where, "raise-morms"])
    assert wrong.exit_code == 2
    assert "did you mean raise-norms" in " ".join(wrong.stderr.split())


class Shortcut(nn.Module):
    """A convolution, and a norm over its channels between permutes."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution, self.norm = nn.Conv2d(16, 16, 3, padding=1), nn.LayerNorm(16)

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(3):
            x = x + self.norm(self.convolution(x).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        return x


def test_of_a_layout_it_says_what_the_other_would_have_cost(tmp_path: Path) -> None:
    image = torch.randn(1, 16, 8, 8)
    told = why(Shortcut(), "assign-layout", "add", example_inputs=(image,))
    assert [each.site.op for each in told.rewritten] == ["aten.add.Tensor"] * 3
    text = plain_text(why_view(told), 160)
    assert "in the order [0, 2, 3, 1]: " in text
    assert "more would be moved in the order [0, 1, 2, 3]" in text
    torch.onnx.export(Shortcut(), (image,), tmp_path / "it.onnx", dynamo=True, verbose=False)
    result = CliRunner().invoke(app, ["why", str(tmp_path / "it.onnx"), "assign-layout"])
    assert result.exit_code == 0, result.output
    assert "more would be moved" in result.output.replace("\n", " ")
    assert why(Shortcut(), "cancel-transposes", example_inputs=(image,)).pass_name == "cancel-transposes"
