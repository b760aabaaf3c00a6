"""A conversation in a terminal: lines in, answers out, and commands that begin with a slash."""

from __future__ import annotations

import re
import sys
from contextlib import closing, suppress
from typing import TYPE_CHECKING, Any

from burnish.cli.answering import ending
from burnish.cli.console import err, errors, escaped
from burnish.ir.errors import BurnishError, UsageError
from burnish.ir.similar import did_you_mean
from burnish.runtime.chat import Chat

if TYPE_CHECKING:
    from burnish.runtime.model import CompiledModel

_COMMANDS = {
    "/system": "/system TEXT says who the model is, and begins anew; without a text, nobody in particular",
    "/reset": "/reset forgets what was said",
    "/help": "/help shows this",
    "/exit": "/exit ends, as ctrl-d does; ctrl-c stops an answer",
}


def converse(
    compiled: CompiledModel, name: str, system: str | None, max_new_tokens: int, settings: dict[str, Any]
) -> None:
    """Talk with the model, which the user calls `name`, until the input ends. UsageError where it has no template."""
    if compiled.tokenizer is None:
        raise UsageError(f"this model reads and writes token ids: burnish run {name} '1 17 4'")
    if compiled.tokenizer.data.chat_template is None:
        raise UsageError(f"this model has no chat template, it continues texts: burnish run {name} 'Once upon a time'")
    talk = _Talk(Chat(compiled, system), system, max_new_tokens, settings, compiled.signature.max_length)
    terminal = sys.stdin.isatty()
    if terminal:
        with suppress(ImportError):  # systems without it have lines that cannot be edited, and no history
            import readline  # noqa: F401 (input reads by it once it is there)
        err.print("/help lists what else can be typed; ctrl-d ends", style="dim")
    while True:
        try:
            line = input("> " if terminal else "").strip()
        except EOFError:
            if terminal:
                err.print()
            return
        except KeyboardInterrupt:
            err.print("\n/exit or ctrl-d ends", style="dim")
            continue
        if line and not talk.take(line):
            return


class _Talk:
    """What a line does."""

    def __init__(
        self, chat: Chat, system: str | None, max_new_tokens: int, settings: dict[str, Any], max_length: int
    ) -> None:
        self._chat = chat
        self._system = system
        self._max_new_tokens = max_new_tokens
        self._settings = settings
        self._max_length = max_length

    def take(self, line: str) -> bool:
        """Obey or answer; whether there is more to come."""
        command, _, rest = line.partition(" ")
        if re.fullmatch(r"/[A-Za-z]+", command) is None:
            self._answer(line)
        elif command == "/exit":
            return False
        elif command == "/help":
            for text in _COMMANDS.values():
                err.print(text, style="dim")
        elif command in ("/reset", "/system"):
            if command == "/system":
                self._system = rest.strip() or None
            self._chat.reset(self._system)
            err.print("what was said is forgotten", style="dim")
        else:
            errors.print(f"there is no {command}{did_you_mean(command, _COMMANDS)}: there are {', '.join(_COMMANDS)}")
        return True

    def _answer(self, text: str) -> None:
        try:
            with closing(self._chat.say(text, max_new_tokens=self._max_new_tokens, **self._settings)) as pieces:
                for piece in pieces:
                    sys.stdout.write(piece)
                    sys.stdout.flush()
        except KeyboardInterrupt:
            sys.stdout.write("\n")
            err.print("stopped", style="dim")
            return
        except BurnishError as error:
            errors.print(f"[bold red]error:[/bold red] {escaped(str(error))}", soft_wrap=True)
            errors.print("/reset forgets what was said", style="dim")
            return
        sys.stdout.write("\n")
        sys.stdout.flush()
        last = self._chat.last
        assert last is not None
        why = ending(last, self._max_new_tokens, self._max_length)
        if why is not None:
            err.print(why, soft_wrap=True)
        speed = f"{self._chat.fed} tokens read, {len(last.tokens[0])} written at {last.tokens_per_second:.1f} a second"
        err.print(speed, style="dim")
