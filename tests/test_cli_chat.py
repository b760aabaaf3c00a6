"""A conversation: what is fed, what is remembered, what ends it; and how a single answer says why it ended."""

from __future__ import annotations

import os
import select
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

import burnish
from burnish.cli.commands import app
from burnish.ir.errors import InvalidInputError
from burnish.ir.states import State
from burnish.runtime.chat import Chat
from burnish.runtime.model import CompiledModel
from tests.runtime.tiny import MAX_LENGTH, save_tiny
from tests.test_cli import words
from tests.test_cli_shell import CALL

TEMPLATE = (
    "{% for message in messages %}{% if message.role == 'assistant' %}w2 {% else %}{{ message.role }} w1 {% endif %}"
    "{{ message.content }} {% endfor %}{% if add_generation_prompt %}w2{% endif %}"
)


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("words"), tokenizer=replace(words(), chat_template=TEMPLATE))[0]


@pytest.fixture
def model(artifact: Path) -> Iterator[CompiledModel]:
    with burnish.load(artifact) as loaded:
        yield loaded


def call(*arguments: object, stdin: str | None = None) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments], input=stdin)


def test_a_turn_feeds_what_is_new_and_says_what_the_whole_text_would(model: CompiledModel) -> None:
    chat, messages = Chat(model, "w9"), [{"role": "system", "content": "w9"}]
    before = 0
    for text in ("w5 w6", "w7", "w8 w8 w8"):
        messages.append({"role": "user", "content": text})
        expected = model.generate(model.chat_ids(messages), max_new_tokens=6)
        assert "".join(chat.say(text, max_new_tokens=6)) == expected.text
        assert chat.last is not None
        assert chat.last.tokens == expected.tokens
        messages.append({"role": "assistant", "content": expected.text})
        whole = len(model.chat_ids(messages[:-1]))
        assert chat.fed == whole - before
        before = whole + 5  # the last token of an answer is chosen and not fed
    assert chat.messages == messages
    chat.reset()
    assert (
        "".join(chat.say("w5", max_new_tokens=6))
        == model.generate(model.chat_ids([{"role": "user", "content": "w5"}]), max_new_tokens=6).text
    )


@pytest.mark.parametrize("rewinds", [True, False])
def test_a_stopped_answer_is_kept_as_far_as_it_came(
    model: CompiledModel, rewinds: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    chat = Chat(model)
    monkeypatch.setattr(State, "can_rewind", property(lambda state: rewinds))
    with closing(chat.say("w5", max_new_tokens=50)) as pieces:
        said = next(pieces) + next(pieces)
    assert chat.messages == [{"role": "user", "content": "w5"}, {"role": "assistant", "content": said}]
    messages = [*chat.messages, {"role": "user", "content": "w6"}]
    answer = "".join(chat.say("w6", max_new_tokens=5))
    assert answer == model.generate(model.chat_ids(messages), max_new_tokens=5).text
    assert (chat.fed == len(model.chat_ids(messages))) == (not rewinds)


def test_a_conversation_that_is_too_long_is_refused_and_goes_on(model: CompiledModel) -> None:
    chat = Chat(model)
    with pytest.raises(InvalidInputError, match=f"at most {MAX_LENGTH}"):
        list(chat.say(" ".join(["w5"] * MAX_LENGTH)))
    assert chat.messages == []
    assert list(chat.say("w5", max_new_tokens=2))


def test_lines_are_answered_and_commands_obeyed(artifact: Path) -> None:
    lines = "w5\n\n/system w9\nw5\n/rest\n/help\n/reset\nw5\n/exit\nw6\n"
    done = call("chat", artifact, "-n", 3, stdin=lines)
    assert done.exit_code == 0, done.stderr
    assert len(done.stdout.splitlines()) == 3
    first, second, third = done.stdout.splitlines()
    assert second == third
    assert first == call("run", artifact, "w5", "-n", 3).stdout.strip()
    assert second == call("run", artifact, "w5", "-n", 3, "--system", "w9").stdout.strip()
    assert done.stderr.count("what was said is forgotten") == 2
    assert "there is no /rest (did you mean /reset?)" in done.stderr
    assert "/exit ends" in done.stderr
    assert done.stderr.count("ended by --max-new-tokens 3: -n takes another number") == 3
    assert "4 tokens read, 3 written at" in done.stderr


def test_an_error_is_told_and_the_conversation_goes_on(artifact: Path) -> None:
    done = call("chat", artifact, "-n", 2, stdin=" ".join(["w5"] * 300) + "\nw5\n")
    assert done.exit_code == 0, done.stderr
    assert "error: row 0 has 303 tokens" in done.stderr
    assert len(done.stdout.splitlines()) == 1


def test_without_a_template_or_a_tokenizer_there_is_no_conversation(tmp_path: Path) -> None:
    data = words()
    for name, tokenizer, told in (
        ("a", None, "burnish run {path} '1 17 4'"),
        ("b", type(data)(data.tokenizer_json), "burnish run {path} 'Once upon a time'"),
    ):
        path, _ = save_tiny(tmp_path / name, tokenizer=tokenizer)
        done = call("chat", path)
        assert done.exit_code == 2
        assert told.format(path=path) in done.stderr


@pytest.mark.slow("a process at a terminal, whose answers take their time")
@pytest.mark.skipif(sys.platform == "win32", reason="there are no pseudo terminals")
def test_at_a_terminal_ctrl_c_stops_the_answer_and_the_arrow_brings_a_line_back(artifact: Path) -> None:
    import pty

    ours, theirs = pty.openpty()
    command = [sys.executable, "-c", SLOW + CALL, "run", str(artifact), "-n", "150"]
    process = subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True)
    os.close(theirs)
    seen = ""

    def wait_for(text: str) -> None:
        nonlocal seen
        end = time.monotonic() + 60
        while text not in seen:
            assert time.monotonic() < end, seen
            if select.select([ours], [], [], 1)[0]:
                seen += os.read(ours, 4096).decode()
            elif text == BYE:
                process.send_signal(2)  # what came before Python began to wait for a key is seen at the next key only
        seen = seen[seen.index(text) + len(text) :]

    wait_for("> ")
    os.write(ours, b"w5\n")
    wait_for(" w")  # of the answer
    process.send_signal(2)
    wait_for("stopped")
    wait_for("> ")
    os.write(ours, b"\x1b[A\n")
    wait_for("w5")
    wait_for(" w")
    process.send_signal(2)
    wait_for("> ")
    process.send_signal(2)
    wait_for(BYE)
    os.write(ours, b"/exit\n")
    assert process.wait(60) == 0
    os.close(ours)


BYE = "/exit or ctrl-d ends"
SLOW = """
import time
from burnish.runtime import sampling
chosen = sampling.Sampler.choose
def slowly(self, *arguments):
    time.sleep(0.05)
    return chosen(self, *arguments)
sampling.Sampler.choose = slowly
"""


# ---------------------------------------------------------------- run


def test_run_says_which_limit_ended_an_answer(artifact: Path) -> None:
    cut = call("run", artifact, "w5", "-n", 3)
    assert "ended by --max-new-tokens 3: -n takes another number" in cut.stderr
    full = call("run", artifact, "w5", "-n", 10_000)
    assert f"ended at {MAX_LENGTH} tokens of prompt and answer, the most that the model was compiled for" in full.stderr
    with burnish.load(artifact) as model:
        first = model.generate(model.chat_ids([{"role": "user", "content": "w5"}]), max_new_tokens=1).tokens[0][0]
    ended = save_tiny(artifact.parent / "ends", tokenizer=words(), generation={"eos_token_id": first})[0]
    assert "ended" not in call("run", ended, "w5", "-n", 3).stderr


@pytest.mark.parametrize("arguments", [("",), (" \n",), ("-",), ("", "--raw")])
def test_an_empty_prompt_is_refused_before_anything_is_loaded(arguments: tuple[str, ...]) -> None:
    done = call("run", "nowhere.burnish", *arguments, stdin=" ")
    assert done.exit_code == 2
    assert "empty, and a model has no answer to that: burnish run nowhere.burnish 'Why is" in done.stderr


def test_without_a_prompt_and_without_a_terminal_there_is_none() -> None:
    done = call("run", "nowhere.burnish", stdin="")
    assert done.exit_code == 2
    assert "there is no prompt: burnish run nowhere.burnish 'Why is the sky blue?', or -" in done.stderr
