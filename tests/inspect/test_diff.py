"""What differs between passes and between artifacts: little text for little change, and nothing for none."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from typer.testing import CliRunner, Result

import burnish
from burnish.cli.commands import app
from burnish.inspect.diff import diff_artifacts, diff_passes, pieces, values_differ
from burnish.inspect.diff_view import artifact_diff_view, program_diff_view
from burnish.inspect.table import plain_text
from burnish.inspect.text_diff import text_diff
from burnish.ir.errors import UsageError
from burnish.runtime.artifact import Artifact


class Layer(nn.Module):
    """A norm, causal attention, and a gate."""

    def __init__(self, size: int, activation: str) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.q, self.k, self.v, self.o = (nn.Linear(size, size, bias=False) for _ in range(4))
        self.activation = getattr(F, activation)

    def forward(self, x: Tensor) -> Tensor:
        normed = self.weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6))
        q, k, v = (each(normed).unsqueeze(1) for each in (self.q, self.k, self.v))
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=0.25)
        return x + self.activation(self.o(mixed.squeeze(1)))


class Model(nn.Module):
    """A decoder of such layers."""

    def __init__(self, layers: int = 3, size: int = 16, activation: str = "silu") -> None:
        super().__init__()
        self.embedding = nn.Embedding(20, size)
        self.layers = nn.ModuleList(Layer(size, activation) for _ in range(layers))

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embedding(ids)
        for layer in self.layers:
            x = layer(x)
        return F.linear(x, self.embedding.weight)


@pytest.fixture(scope="module")
def make(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Artifact]:
    """An artifact of `Model` with these arguments, made once."""
    folder = tmp_path_factory.mktemp("artifacts")

    def make(name: str = "plain", change: Callable[[nn.Module], object] | None = None, **arguments: object) -> Artifact:
        path = folder / f"{name}.burnish"
        if not path.exists():
            torch.manual_seed(0)
            model = Model(**arguments)  # type: ignore[arg-type]
            if change is not None:
                with torch.no_grad():
                    change(model)
            with burnish.compile(model, max_length=32, backend="reference") as compiled:
                compiled.save(path)
        return Artifact.open(path)

    return make


def call(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_one_pass_shows_what_it_changed(make: Callable[..., Artifact]) -> None:
    trace = make().trace()
    diff = diff_passes(trace, "raise-norms")
    assert (diff.before, diff.after) == ("04 raise-attention", "05 raise-norms")
    assert diff.ops["burnish.rms_norm"] == (0, 3)
    assert diff.ops["aten.rsqrt"] == (3, 0)
    text = plain_text(program_diff_view(diff), 200)
    assert "+3 burnish.rms_norm" in text
    assert "-3 aten.rsqrt" in text
    assert any(line.startswith("+  %layers.rms_norm: f32[batch, sequence, 16]") for line in text.splitlines())
    assert diff.text.removed < 12  # three layers are told once


def test_two_passes_by_number_or_name(make: Callable[..., Artifact]) -> None:
    trace = make().trace()
    by_number, by_name = diff_passes(trace, "04", "06"), diff_passes(trace, "raise-attention", "raise-rotary")
    assert by_number == by_name
    assert by_number.text == diff_passes(trace, "5").text  # pass 6 does nothing here
    nothing = diff_passes(trace, "raise-rotary")
    assert nothing.same
    assert "the programs are the same" in plain_text(program_diff_view(nothing))
    for wrong, message in (
        ("99", "00 captured, 01 clean"),
        ("raise-norm", "did you mean raise-norms"),
        ("0", "no pass"),
    ):
        with pytest.raises(UsageError, match=message):
            diff_passes(trace, wrong)


def test_equal_artifacts_are_equal(make: Callable[..., Artifact]) -> None:
    diff = diff_artifacts(make(), make("again"))
    assert diff.same
    assert "are equal" in plain_text(artifact_diff_view(diff, "a", "b"))


def test_more_layers_are_few_lines(make: Callable[..., Artifact]) -> None:
    diff = diff_artifacts(make(), make("deep", layers=7))
    assert diff.program.text.added <= 6
    assert "raise-norms: rewrites 6 → 14" in diff.passes
    assert {group.what for group in diff.states} == {"added: cache f32[batch, 1, capacity, 16]"}
    added = next(group for group in diff.weights if group.what == "added: f32[48, 16]")
    assert added.names == {"layers.*.q+k+v.weight": 4}
    assert all(not group.what.startswith("removed") for group in diff.weights)


def test_other_sizes_are_told_once_and_not_line_by_line(make: Callable[..., Artifact]) -> None:
    diff = diff_artifacts(make(), make("wide", size=24))
    assert diff.program.text.sizes["16", "24"] > 10
    assert diff.program.text.added <= 4
    assert not diff.program.ops
    assert {"f32[16] became f32[24]", "f32[48, 16] became f32[72, 24]"} <= {group.what for group in diff.weights}
    text = plain_text(artifact_diff_view(diff, "a", "b"), 200)
    assert "16 → 24 in " in text
    assert "3 × cache f32[batch, 1, capacity, 16] became" in text or "6 × cache" in text


def test_one_value_of_one_weight_is_found(make: Callable[..., Artifact]) -> None:
    def change(model: nn.Module) -> None:
        model.get_parameter("layers.1.weight")[3] += 0.5

    diff = diff_artifacts(make(), make("changed", change))
    (group,) = diff.weights
    assert (group.what, group.names) == ("some of the values", {"layers.*.weight": 1})
    assert group.largest == 0.5
    assert (diff.settings, diff.passes, diff.states) == ({}, (), ())
    assert diff.program.same


def test_another_op_is_one_line(make: Callable[..., Artifact]) -> None:
    diff = diff_artifacts(make(), make("relu", activation="relu"))
    assert not diff.weights
    changed = [line for hunk in diff.program.text.hunks for line in hunk.lines if line[0] != " "]
    called = [(line[0], line.partition(" = ")[2].partition("(")[0]) for line in changed]
    assert called == [("-", "aten.silu"), ("-", "aten.add.Tensor"), ("+", "aten.relu"), ("+", "aten.add.Tensor")]


def test_weights_are_compared_by_bits() -> None:
    def differ(one: list[float], two: list[float], dtype: torch.dtype = torch.float32) -> tuple[int, float]:
        return values_differ(*(torch.tensor(each, dtype=dtype).split(2) for each in (one, two)))

    assert differ([1, 2, 3], [1, 2, 3]) == (0, 0.0)
    assert differ([1, 2, 3], [0, 2, 7], torch.bfloat16) == (2, 4.0)
    assert differ([0.0], [-0.0]) == (1, 0.0)
    assert differ([float("nan")], [float("nan")]) == (0, 0.0)
    assert differ([True, False], [True, True], torch.bool) == (1, 1.0)


def test_weights_are_read_by_pieces(make: Callable[..., Artifact], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("burnish.inspect.diff._PIECE", 100)
    artifact = make()
    for name, weight in artifact.weights.items():
        read = list(pieces(artifact, name))
        assert max(len(piece) for piece in read) <= 25
        assert torch.equal(torch.cat(read), weight.materialize().reshape(-1))


def test_names_that_count_differently_are_not_news() -> None:
    before = "%a.add: f32[4] = add(%x, 1)\n%a.add_1: f32[4] = add(%a.add, 2)\nreturn [%a.add_1]"
    after = "%a.add: f32[4] = mul(%x, 3)\n%a.add_1: f32[4] = add(%x, 1)\n%a.add_2: f32[4] = add(%a.add_1, 2)\n"
    diff = text_diff(before, after + "return [%a.add_2]")
    assert [line for hunk in diff.hunks for line in hunk.lines if line[0] != " "] == ["+%a.add: f32[4] = mul(%x, 3)"]
    assert diff.hunks[0].heading == "@@ -1,3 +1,4 @@"


def test_a_swapped_operand_and_a_rare_number_are_news() -> None:
    lines = [f"%n{place}: f32[4] = sub(%a, %b)" for place in "abcdefgh"]
    swapped = [*lines[:4], "%ne: f32[4] = sub(%b, %a)", *lines[5:]]
    diff = text_diff("\n".join(lines), "\n".join(swapped))
    assert (diff.added, diff.removed, diff.sizes) == (1, 1, {})
    shifted = [line.replace("f32[4]", "f32[5]") for line in lines[:2]] + lines[2:]
    assert text_diff("\n".join(lines), "\n".join(shifted)).added == 2
    moved = [f"{line}  # layers.1 model.py:7" for line in lines], [f"{line}  # layers.2 model.py:9" for line in lines]
    assert text_diff(*("\n".join(each) for each in moved)).same


def test_the_command(make: Callable[..., Artifact]) -> None:
    first, second = make(), make("deep", layers=7)
    done = call("inspect", first.path, "--diff", "05")
    assert done.exit_code == 0, done.stderr
    assert "+++ 05 raise-norms" in done.stdout
    assert call("inspect", first.path, "--diff", "04", "05").stdout == done.stdout
    done = call("inspect", first.path, second.path)
    assert done.exit_code == 0, done.stderr
    assert "+++ deep.burnish 13 read-integers" in done.stdout
    assert "raise-norms: rewrites 6 → 14" in done.stdout
    assert "are equal" in call("inspect", first.path, first.path).stdout
    wrong = call("inspect", first.path, "--diff", "clear")
    assert wrong.exit_code == 2
    assert "did you mean clean" in " ".join(wrong.stderr.split())
    assert call("inspect", first.path, "nowhere.burnish").exit_code == 1
    both = call("inspect", first.path, "--diff", "05", "--rewrites")
    assert (both.exit_code, both.stdout) == (2, "")


def test_settings_are_compared(make: Callable[..., Artifact]) -> None:
    first, second = make(), make("again")
    second.manifest.signature.max_length = 64
    second.interface = type(first.signature)(20, 64, 20)
    second.manifest.generation["temperature"] = 0.5
    diff = diff_artifacts(first, second)
    assert diff.settings == {"longest text": ("32", "64"), "generation": ("none", "temperature=0.5")}
    assert "longest text: 32 → 64" in plain_text(artifact_diff_view(diff, "a", "b"))
