"""Models whose rotary frequencies change at a length: the side that they are compiled for, and texts on the other."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import tokenizers
from typer.testing import CliRunner, Result

import burnish
from burnish.cli.commands import app
from burnish.runtime.chat import Chat
from burnish.runtime.tokenization import TokenizerData
from tests.frontend.test_hugging_face import phi3_longrope

CHANGE = 24  # tokens, of the model
TEMPLATE = "{% for message in messages %}{{ message.content }} {% endfor %}"


def call(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments], env={"COLUMNS": "300"})


def test_the_command_takes_the_side(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder, artifact = tmp_path / "model", tmp_path / "long.burnish"
    phi3_longrope().save_pretrained(folder)
    made = call("compile", folder, "-o", artifact, "--context", "long", "--backend", "reference")
    assert made.exit_code == 0, made.stderr
    with burnish.load(artifact) as model:
        assert (model.signature.max_length, model.signature.longer_than) == (64, CHANGE)
        caplog.clear()
        model.generate([1] * (CHANGE + 1), max_new_tokens=1)
        assert not caplog.messages
        model.generate([[1] * (CHANGE + 1), [1] * CHANGE], max_new_tokens=1)
        assert "compiled for texts of more than 24 tokens, and a text begins with 24" in caplog.text
    refused = call("compile", folder, "-o", tmp_path / "none.burnish", "--context", "short", "--max-length", "30")
    assert refused.exit_code != 0
    assert "--context short is for texts of up to 24 tokens, and --max-length is 30" in refused.stderr
    assert "for --context long" in refused.stderr


def test_a_conversation_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel({f"w{i}": i for i in range(97)}, unk_token="w0"))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    words = TokenizerData(tokenizer.to_str(), TEMPLATE)
    with burnish.compile(phi3_longrope(), context="long", backend="reference", verify=False, tokenizer=words) as model:
        caplog.clear()
        caplog.set_level(logging.WARNING)
        chat = Chat(model)
        for text in ("w1 w2", "w3"):
            list(chat.say(text, max_new_tokens=2))
    assert caplog.text.count("a text begins with 2") == 1
    assert len(caplog.messages) == 1
