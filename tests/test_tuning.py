"""`burnish tune` with a clock that is none: what is tried, what is chosen, the file, and what compiling makes of it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
from typer.testing import CliRunner

import burnish
from burnish.cli.commands import app
from burnish.codegen.triton import lower, targets, tile_timer
from burnish.codegen.triton.tile_file import VERSION, TileFile, Winner, read_tiles, winners_for, write_tiles
from burnish.codegen.triton.tiles import ProductTiles, PromptTiles, SplitTiles
from burnish.codegen.triton.tune import Trial, fastest
from burnish.ir.errors import UsageError
from burnish.runtime.artifact import Artifact
from burnish.runtime.kernel_files import read_plan
from burnish.runtime.plan import Kernel
from burnish.tuning import tune
from tests.zoo.configs import build

without_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="says what happens where there is no GPU")


class Clock:
    """The last candidate is fastest, ten times as fast as the table's tiles."""

    def __init__(self) -> None:
        self.seen: list[list[Trial]] = []

    def __call__(self, trials: Sequence[Trial]) -> list[float | None]:
        self.seen.append(list(trials))
        seconds: list[float | None] = [1e-4 - 1e-6 * number for number in range(len(trials))]
        if len(trials) > 1:
            seconds[-1] = 1e-5
        return seconds


@pytest.fixture(scope="module")
def tuned() -> tuple[TileFile, Clock]:
    clock = Clock()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(targets, "this_architecture", lambda: 90)
        return tune(build("llama"), measure=clock), clock


@pytest.fixture
def file(tuned: tuple[TileFile, Clock], tmp_path: Path) -> Path:
    write_tiles(tmp_path / "tiles.json", tuned[0])
    return tmp_path / "tiles.json"


def test_each_problem_is_tried_once_with_the_tables_tiles_first(tuned: tuple[TileFile, Clock]) -> None:
    seen = tuned[1].seen
    keys = [trials[0].problem.key for trials in seen]
    assert len(keys) == len(set(keys))
    assert {trials[0].problem.function.__name__ for trials in seen} == {
        *("attention_projection_kernel", "decode_attention_kernel", "flash_attention_kernel", "fused_linear_kernel")
    }
    for trials in seen:
        assert 1 <= len(trials) <= 14  # of so small a model, some have one that fits
        tiles = [trial.tiles for trial in trials]
        assert len(tiles) == len(set(tiles))
        assert all(trial.launches and trial.sizes["capacity"] == 1024 + trial.sizes["sequence"] for trial in trials)


def test_trials_leave_nothing_behind_in_the_plan(tuned: tuple[TileFile, Clock]) -> None:
    """Each candidate is planned as if it were the only one: into the same memory."""
    for trials in tuned[1].seen:
        buffers = [[each.buffer for each in trial.launches[0].arguments if hasattr(each, "buffer")] for trial in trials]
        splits = {isinstance(trial.tiles, SplitTiles) and trial.tiles.splits > 1 for trial in trials}
        assert len({tuple(each) for each in buffers}) == len(splits)


def test_the_fastest_wins_where_it_is_faster_by_more_than_measurements_differ(tuned: tuple[TileFile, Clock]) -> None:
    found, clock = tuned
    winners = found.architectures["sm_90"]
    for trials in clock.seen:
        winner = winners[trials[0].problem.key]
        assert winner.tiles == trials[-1].tiles
        assert (winner.microseconds, winner.table_microseconds) == pytest.approx((10.0 if trials[1:] else 100.0, 100.0))
        first, *others = trials
        nobody: list[float | None] = [1e-4, *(0.98e-4 for _ in others)]
        assert fastest(trials, lambda _, given=nobody: given).tiles == first.tiles  # type: ignore[misc]
        unfit: list[float | None] = [1e-4, *(None for _ in others)]
        assert fastest(trials, lambda _, given=unfit: given).tiles == first.tiles  # type: ignore[misc]
        with pytest.raises(UsageError, match="does not fit this GPU"):
            fastest(trials, lambda given: [None for _ in given])


def test_a_file_keeps_what_there_was_of_other_models_and_gpus(tuned: tuple[TileFile, Clock], file: Path) -> None:
    found = read_tiles(file)
    assert found == tuned[0]
    winner = Winner(SplitTiles(2, 32, 4, 3), 1.0, 2.0)
    both = found.with_winners(80, {"a": winner}).with_winners(90, {"b": winner})
    write_tiles(file, both)
    again = read_tiles(file)
    assert again.architectures["sm_80"] == {"a": winner}
    assert again.architectures["sm_90"] == {**found.architectures["sm_90"], "b": winner}


def test_several_architectures_take_what_they_agree_on(tmp_path: Path) -> None:
    one, two = Winner(SplitTiles(2, 32, 4, 3), 1.0, 2.0), Winner(SplitTiles(4, 32, 4, 3), 1.0, 2.0)
    tiles = TileFile(VERSION, {}).with_winners(90, {"a": one, "b": one, "c": one})
    write_tiles(
        tmp_path / "t.json", tiles.with_winners(80, {"a": msgspec.structs.replace(one, microseconds=3.0), "b": two})
    )
    both = winners_for(tmp_path / "t.json", (80, 90))
    assert both == {"a": msgspec.structs.replace(one, microseconds=3.0), "b": None, "c": None}
    assert set(winners_for(tmp_path / "t.json", (90,))) == {"a", "b", "c"}


def constants(kernel: Kernel) -> dict[str, Any]:
    """Those that are tiles."""
    names = {"ROWS", "BLOCK_N", "BLOCK_K", "BLOCK", "SPLITS"}
    return {name: value for name, value in kernel.constants.items() if name in names}


def test_compile_plans_by_the_winners_and_says_so(
    tuned: tuple[TileFile, Clock], file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lower, "compile_all", lambda specs, architecture: {})  # what it costs is tested elsewhere
    winners = tuned[0].architectures["sm_90"]
    with burnish.compile(build("llama"), target="cuda:sm_90", tiles=file, verify=False) as compiled:
        compiled.save(tmp_path / "a.burnish")
        notes = compiled.trace.passes[-1].notes
    assert f"burnish tune has {len(winners)} winners for these GPUs, {len(winners)} of them for this model" in notes
    assert sum(note.startswith("tuned: ") for note in notes) == len(winners)
    found = [constants(kernel) for kernel in read_plan(Artifact.open(tmp_path / "a.burnish")).kernels.values()]
    for winner in winners.values():
        match winner.tiles:
            case ProductTiles(rows, block_n, block_k):
                wanted = {"ROWS": rows, "BLOCK_N": block_n, "BLOCK_K": block_k}
            case PromptTiles(rows, block):
                wanted = {"ROWS": rows, "BLOCK": block}
            case SplitTiles(splits, block):
                wanted = {"SPLITS": splits, "BLOCK": block}
        assert any(wanted.items() <= each.items() for each in found), wanted
    assert read_tiles(tmp_path / "a.burnish" / "kernels" / "tiles.json") == tuned[0]


def test_a_winner_that_is_no_candidate_is_refused(tuned: tuple[TileFile, Clock], file: Path) -> None:
    data = file.read_bytes().replace(b'"block_n": 16', b'"block_n": 2048').replace(b'"block_n": 32', b'"block_n": 2048')
    file.write_bytes(data)
    with pytest.raises(UsageError, match=r"none of those that fit there: write the file by burnish tune"):
        burnish.compile(build("llama"), target="cuda:sm_90", tiles=file, verify=False)


def test_what_several_architectures_cannot_share_is_told(tuned: tuple[TileFile, Clock], tmp_path: Path) -> None:
    """Winners of sm_90, of which sm_80 has all but one, and one that only an sm_90 can take."""
    winners = dict(tuned[0].architectures["sm_90"])
    lost, odd = [key for key in winners if key.startswith("fused_linear_kernel") and "rows 65-" in key][:2]
    winners[odd] = msgspec.structs.replace(winners[odd], tiles=ProductTiles(128, 64, 64, 4, 4, descriptors=True))
    file = TileFile(VERSION, {}).with_winners(90, winners)
    write_tiles(tmp_path / "t.json", file.with_winners(80, {key: each for key, each in winners.items() if key != lost}))
    target = lower.target_of((80, 90), winners_for(tmp_path / "t.json", (80, 90)))
    trials = {each[0].problem.key: each for each in tuned[1].seen}
    for key in (lost, odd):
        table = trials[key][0].tiles
        assert target.tiles(trials[key][0].problem, table, [each.tiles for each in trials[key]]) == table
    assert target.skipped.keys() == {lost, odd}
    assert target.skipped[lost] == "the GPUs have no winner in common"
    assert target.skipped[odd].endswith("is no candidate for all of these GPUs")
    assert not target.used


def test_winners_of_other_models_change_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lower, "compile_all", lambda specs, architecture: {})
    other = Winner(SplitTiles(2, 32, 4, 3), 1.0, 2.0)
    write_tiles(tmp_path / "t.json", TileFile(VERSION, {}).with_winners(90, {"decode_attention_kernel-0: bf16": other}))
    with burnish.compile(build("llama"), target="cuda:sm_90", tiles=tmp_path / "t.json", verify=False) as compiled:
        notes = compiled.trace.passes[-1].notes
    assert "burnish tune has 1 winners for these GPUs, 0 of them for this model" in notes


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is not JSON"),
        ("[]", "no file of tiles of version 1"),
        ('{"version": 2, "architectures": {}}', "version 1, but of 2: write it by this burnish's tune"),
        ('{"version": 1}', "malformed file of tiles: Object missing required field `architectures`"),
        ('{"version": 1, "architectures": {"sm_90": {"a": {"tiles": {"type": "cube"}}}}}', r"Invalid value 'cube'"),
        ('{"version": 1, "architectures": {"sm_80": {}}}', "has tiles for sm_80, not for sm_90: run burnish tune on"),
    ],
)
def test_files_that_are_none(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "t.json").write_text(text)
    with pytest.raises(UsageError, match=message):
        burnish.compile(build("llama"), target="cuda:sm_90", tiles=tmp_path / "t.json")


def test_tiles_are_for_gpus_and_have_to_be_there(file: Path) -> None:
    with pytest.raises(UsageError, match="has tiles for GPUs: give target='cuda'"):
        burnish.compile(build("llama"), tiles=file)
    with pytest.raises(UsageError, match=r"cannot read the file of tiles nothing\.json"):
        burnish.compile(build("llama"), target="cuda:sm_90", tiles="nothing.json")


@without_gpu
def test_tuning_needs_a_gpu() -> None:
    with pytest.raises(UsageError, match="run on a machine with one"):
        tune(build("llama"))
    with pytest.raises(UsageError, match="measured on this machine's GPU"):
        tune(build("llama"), target="cuda:sm_90")


def test_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "small_llama.py").write_text(
        "from tests.zoo.configs import build\ndef make():\n    return build('llama')\n"
    )
    monkeypatch.chdir(tmp_path)
    arguments = ["tune", "small_llama:make", "-o", "t.json"]
    if not torch.cuda.is_available():
        refused = CliRunner().invoke(app, arguments)
        assert refused.exit_code == 2
        assert "run on a machine with one" in refused.stderr
    monkeypatch.setattr(targets, "this_architecture", lambda: 90)
    monkeypatch.setattr(tile_timer, "GpuTimer", lambda architecture: Clock())
    for _ in range(2):  # the second adds to what is there
        done = CliRunner().invoke(app, arguments)
        assert done.exit_code == 0, done.stderr
    assert re.search(r"t\.json: \d+ tiles for sm_90", done.stderr)
    assert read_tiles("t.json").architectures.keys() == {"sm_90"}
