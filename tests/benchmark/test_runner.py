"""The benchmark's own machinery, with contenders whose speed is known."""

from __future__ import annotations

import dataclasses
import itertools
import json
import re
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from burnish.benchmark import peers, runner, worker
from burnish.benchmark.bandwidth import Bandwidth
from burnish.benchmark.compare import records, results_view
from burnish.benchmark.machine import Watch, cores, device
from burnish.benchmark.names import parse_peers
from burnish.benchmark.peers import prepare, transformers_folder
from burnish.benchmark.runner import (
    BenchmarkError,
    Entrant,
    Reads,
    Repetition,
    Result,
    Settings,
    append,
    measure,
    same_tokens,
)
from burnish.inspect.table import plain_text
from burnish.ir.errors import UsageError
from burnish.runtime.native.speed import Peak
from tests.benchmark.test_reads import write_gguf

# Sleeps instead of computing: 1 ms a token of the prompt, 5 ms a new token; the "half" one takes twice as long.
FAKES = """
import time
from burnish.benchmark import worker

class Fake:
    def __init__(self, folder, threads, length, batch, accuracy="none"):
        self.accuracy = accuracy
        self.scale = 2.0 if folder.endswith("half") else 1.0
        print("libraries talk on standard output")
        if folder.endswith("broken"):
            raise RuntimeError("no such model")
    def versions(self):
        return {"fake": self.accuracy}
    def generate(self, prompts, new_tokens):
        with open(LOG, "a") as log:
            started = time.monotonic()
            clock = worker._Clock()
            time.sleep(self.scale * 0.001 * len(prompts[0]))
            clock.tick()
            time.sleep(self.scale * 0.005 * (new_tokens - 1))
            clock.tick()
            print(started, time.monotonic(), file=log)
        return clock.timing([[row[0]] * new_tokens for row in prompts])

worker.CONTENDERS["fake"] = Fake
worker.main()
"""


@pytest.fixture
def log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Makes the runner start the fakes; the file in which each of their runs leaves its start and end."""
    log = tmp_path / "log"
    script = tmp_path / "fakes.py"
    script.write_text(FAKES.replace("LOG", repr(str(log))))
    monkeypatch.setattr(runner, "worker", SimpleNamespace(__file__=str(script)))
    monkeypatch.setattr(runner, "_SETTLE", 0.0)
    monkeypatch.setattr(runner, "DISTURBED", 2.0)  # nothing is: the sleeping fakes leave the machine to other tests
    return log


def entrant(kind: str) -> Entrant:
    return Entrant("fake", Path(sys.executable), Path(kind))


def test_contenders_run_in_turns_and_their_speeds_come_out(log: Path) -> None:
    settings = Settings(prompt_length=40, new_tokens=5, repeats=3, threads=1)
    whole, half = measure([entrant("whole"), entrant("half")], settings, lambda *_: None)
    assert [len(result.repetitions) for result in (whole, half)] == [3, 3]
    assert whole.versions == {"fake": "none"}
    # Sleeps only ever take longer than asked: 1000 and 200 a second are the most there can be.
    assert 500 < whole.prefill_tokens_per_second <= 1000
    assert 100 < whole.decode_tokens_per_second <= 200
    assert 1.5 < whole.decode_tokens_per_second / half.decode_tokens_per_second < 2.5
    assert [len(row) for row in whole.repetitions[0].tokens] == [5]

    spans = sorted(tuple(float(number) for number in line.split()) for line in log.read_text().splitlines())
    assert len(spans) == 2 * (runner._WARM_UP + 3)
    assert all(earlier[1] <= later[0] for earlier, later in itertools.pairwise(spans))


def test_a_batch_has_different_prompts_and_counts_the_tokens_of_all_rows(log: Path) -> None:
    settings = Settings(prompt_length=40, new_tokens=5, repeats=1, threads=1, batch=3)
    (found,) = measure([entrant("whole")], settings, lambda *_: None)
    rows = found.repetitions[0].tokens
    assert len({row[0] for row in rows}) == 3
    assert 1500 < found.prefill_tokens_per_second <= 3000
    assert 300 < found.decode_tokens_per_second <= 600


def test_a_contender_is_told_its_accuracy(log: Path) -> None:
    fast = dataclasses.replace(entrant("whole"), accuracy="fast")
    (found,) = measure([fast], Settings(4, 2, 1, 1), lambda *_: None)
    assert found.versions == {"fake": "fast"}


def test_a_contender_that_fails_is_reported_with_its_last_words(log: Path) -> None:
    with pytest.raises(BenchmarkError, match="no such model"):
        measure([entrant("broken")], Settings(4, 2, 1, 1), lambda *_: None)


def test_the_prompt_given_is_the_prompt_used(log: Path) -> None:
    (found,) = measure([entrant("whole")], Settings(3, 2, 1, 1), lambda *_: None, prompts=[[9, 2, 3]])
    assert found.repetitions[0].tokens == [[9, 9]]
    with pytest.raises(UsageError, match="3 tokens"):
        measure([entrant("whole")], Settings(4, 2, 1, 1), lambda *_: None, prompts=[[1, 2, 3]])
    with pytest.raises(UsageError, match="2 of 3"):
        measure([entrant("whole")], Settings(3, 2, 1, 1, batch=2), lambda *_: None, prompts=[[1, 2, 3]])


@pytest.mark.parametrize("settings", [Settings(0, 2, 1), Settings(4, 1, 1), Settings(4, 2, 0), Settings(4, 2, batch=0)])
def test_settings_that_measure_nothing_are_refused(settings: Settings) -> None:
    with pytest.raises(UsageError):
        measure([], settings, lambda *_: None)


def result(name: str, others: list[float], decode: float = 1.0, tokens: tuple[int, ...] = (1, 2, 3)) -> Result:
    repetitions = [Repetition(0.5, decode * (1 + share), share, [list(tokens)]) for share in others]
    return Result(name, {name: "1"}, repetitions, Settings(100, 3, len(others), 2), Reads(3_000_000_000, 10))


def test_disturbed_repetitions_are_dropped_and_counted() -> None:
    quiet = result("quiet", [0.0, 0.5, 0.01, 0.02, 0.9])
    assert (len(quiet.kept), quiet.dropped, quiet.reliable) == (3, 2, True)
    assert quiet.decode_tokens_per_second == pytest.approx(2 / 1.01)
    loud = result("loud", [0.5, 0.6, 0.0])
    assert (len(loud.kept), loud.dropped, loud.reliable) == (1, 2, False)
    hopeless = result("hopeless", [0.5, 0.6])
    assert (len(hopeless.kept), hopeless.dropped, hopeless.reliable) == (2, 0, False)


def test_a_record_says_what_was_measured_on_what(tmp_path: Path) -> None:
    first, slow = result("burnish", [0.0] * 3), result("eager", [0.0] * 3, decode=2.0, tokens=(1, 2, 9))
    bandwidth = Bandwidth({3_000_001_010: 6e9}, 8e9, Peak(2, 90e9, 92e9))
    whole, line = records([first, slow], "smol", bandwidth, "batch8")
    assert whole["date"] == line["date"]
    assert (line["decode_tokens_per_second"], line["prefill_tokens_per_second"]) == (1.0, 200.0)
    assert (line["same_tokens"], line["same_tokens_as"]) == (2, "burnish")
    assert (line["share_of_bandwidth"], line["scenario"]) == (0.5, "batch8")
    assert line["device"] == device()
    append(tmp_path / "results" / "cpu.jsonl", [line])
    append(tmp_path / "results" / "cpu.jsonl", [line])
    lines = (tmp_path / "results" / "cpu.jsonl").read_text().splitlines()
    assert [json.loads(each) for each in lines] == [line, line]
    text = plain_text(results_view([first, slow]))
    assert "2.00 ×" in text
    assert "2 of 3" in text


def test_decoding_is_a_share_of_what_the_machine_reads() -> None:
    """Two tokens in a second, each of weights and of 101 tokens before it."""
    first = result("burnish", [0.0] * 3)
    assert first.bytes_per_second == pytest.approx(2 * 3_000_001_010)
    bandwidth = Bandwidth({3_000_001_010: 12e9}, 8e9, Peak(2, 90e9, 92e9))
    assert bandwidth.share(first) == pytest.approx(0.5)
    uncounted = dataclasses.replace(result("eager", [0.0] * 3), reads=None)
    assert bandwidth.share(uncounted) is None
    text = plain_text(results_view([first, uncounted], bandwidth))
    assert re.search(r"^ *burnish +2\.0 +50% ", text, re.M)
    text = " ".join(text.split())
    assert "2 threads read 12.0 GB/s of 3000 MB, over and over; one thread, 8.0 of 3000 MB" in text
    assert "compute 92 GFLOP/s, and one 90: they share a core, or others use the machine" in text


def test_rows_share_weights_and_not_caches() -> None:
    assert Reads(1000, 10).step(Settings(100, 20, batch=8)) == 1000 + 8 * 110 * 10


def test_the_same_tokens_are_those_of_every_row() -> None:
    one, two = result("one", [0.0]), result("two", [0.0])
    one.repetitions[0].tokens, two.repetitions[0].tokens = [[1, 2, 3], [4, 5, 6]], [[1, 2, 3], [4, 9, 6]]
    assert same_tokens(two, one) == 1


def test_others_are_a_share_of_the_machine() -> None:
    watch = Watch()
    sum(range(2_000_000))
    assert 0.0 <= watch.others(measured=0.0) <= 1.5
    assert cores() >= 1


def test_contenders_are_named() -> None:
    assert parse_peers("eager, ort-genai") == ["eager", "ort-genai"]
    assert parse_peers("") == []
    with pytest.raises(UsageError, match=r"'vllm'.*eager, inductor, ort-genai"):
        parse_peers("eager,vllm")


def test_llama_cpp_is_compared_with_on_gguf_files_only(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"llama\.cpp reads \.gguf files"):
        prepare("llama.cpp-q8_0", tmp_path, lambda what: None)


def test_low_bit_contenders_are_run_by_workers_that_there_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is installed and built is asked for once each; nothing is, here."""
    commands: list[list[str]] = []

    def note(command: list[str], variables: dict[str, str] | None = None) -> None:
        commands.append(command)
        if command[-1].isupper():  # rounding writes the file that it is told to
            shutil.copy(command[-3], command[-2])
        elif "-o" in command:
            Path(command[command.index("-o") + 1]).mkdir(parents=True)

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(peers, "_run", note)
    monkeypatch.setattr(peers.venv, "create", lambda folder, **options: folder.mkdir(parents=True))
    model = tmp_path / "tiny.gguf"
    write_gguf(model, file_type=3)
    names = ("llama.cpp-q4_0", "llama.cpp-q4_1", "llama.cpp-q8_0")
    found = [prepare(name, model, lambda what: None) for name in names]
    assert [each.kind for each in found] == ["llama.cpp"] * 3
    assert all(each.kind in worker.CONTENDERS and each.model.exists() for each in found)
    assert [command[-1] for command in commands] == ["llama-cpp-python==0.3.36", "Q4_0", "Q8_0"]
    assert found[1].model == model  # which has these numbers


def test_a_model_that_others_cannot_read_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "model.bin"
    file.touch()
    with pytest.raises(UsageError, match=r"neither a folder nor a \.gguf file"):
        transformers_folder(file, lambda _: None)
