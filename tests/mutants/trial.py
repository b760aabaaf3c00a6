"""One mutant on the models: each trial is a fork of a process that has exported them, and imports burnish anew."""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.machinery
import json
import logging
import os
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType, ModuleType
from typing import Any

import torch
from torch import Tensor

from tests.mutants.cases import NEW_TOKENS, PROMPTS, Example
from tests.mutants.mutations import ROOT, Mutant

RIGHT, CAUGHT, REFUSED, WRONG = "right", "caught", "refused", "wrong"
_WRONG = 3e-4  # of the largest logit: three times what verification lets pass


@dataclass(frozen=True)
class Outcome:
    """What became of one case.

    kind: RIGHT, a compiled model that gives eager PyTorch's logits; WRONG, one that does not, although nothing was
        said; CAUGHT, an error while compiling or running what compiles without the mutant, or a failed verification;
        REFUSED, a model that is to be refused, and was.
    """

    case: str
    kind: str
    told: str = ""


class _Loader(importlib.abc.SourceLoader):
    def __init__(self, file: str, source: str) -> None:
        self.file, self.source = str(ROOT / file), source

    def get_filename(self, fullname: str) -> str:
        return self.file

    def get_data(self, path: str | bytes) -> bytes:
        return self.source.encode()


class _Finder(importlib.abc.MetaPathFinder):
    """Finds a mutant's modules in place of the files."""

    def __init__(self, mutant: Mutant) -> None:
        self.files = {file.removesuffix(".py").replace("/", "."): file for file in mutant.sources}
        self.sources = mutant.sources

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname not in self.files:
            return None
        file = self.files[fullname]
        loader = _Loader(file, self.sources[file])
        return importlib.machinery.ModuleSpec(fullname, loader, origin=loader.file)


def forked(work: Callable[[], Any], seconds: int) -> Any:
    """What `work` gives, as JSON has it, from a fork of this process; None if it takes more `seconds`.

    ChildProcessError if the fork ends otherwise.
    """
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        status = 1
        try:
            signal.alarm(seconds)
            with tempfile.TemporaryDirectory(dir=os.environ.get("TMPDIR")) as folder:
                os.chdir(folder)  # where failures leave their reproducers
                tempfile.tempdir = folder
                logging.disable(logging.CRITICAL)
                result = work()
            with os.fdopen(writer, "w") as pipe:
                json.dump(result, pipe)
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    os.close(writer)
    with os.fdopen(reader) as pipe:
        text = pipe.read()
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGALRM:
        return None
    if not text:
        raise ChildProcessError(f"the process ended with status {status}")
    return json.loads(text)


def attempt(mutant: Mutant | None, examples: Iterable[Example], every: bool = False) -> list[dict[str, str]]:
    """In a fork: the outcome of each example; none behind the first that sees the mutant, unless `every` one is."""
    assert "burnish" not in sys.modules, "burnish must not be imported before the fork"
    if mutant is not None:
        sys.meta_path.insert(0, _Finder(mutant))
    outcomes: list[dict[str, str]] = []
    try:
        importlib.import_module("burnish.compiler")
    except Exception as error:
        return [{"case": "import", "kind": CAUGHT, "told": _told(error)}]
    for example in examples:
        kind, told = _judge(example)
        outcomes.append({"case": example.case.name, "kind": kind, "told": told})
        if kind == CAUGHT and not every:
            break
    return outcomes


def _judge(example: Example) -> tuple[str, str]:
    import burnish
    from burnish.ir.errors import BurnishError, VerificationError
    from burnish.passes.pipelines import default_passes

    # By ONNX Runtime, whose lowering and executor are Python, as mutants are.
    case, options = example.case, dict[str, Any](backend="onnxruntime")
    if case.fused:
        options = {"passes": default_passes("cuda"), "backend": "reference"}
    try:
        compiled = burnish.compile(example.exported, max_length=case.max_length, **options)
    except VerificationError as error:
        return CAUGHT, _told(error)
    except BurnishError as error:
        return (CAUGHT if example.generated else REFUSED), _told(error)
    except Exception as error:
        return CAUGHT, _told(error)
    with compiled, torch.no_grad():
        try:
            wrong = _difference(compiled, example)
        except Exception as error:  # as loud as a refusal
            return CAUGHT, f"while it ran: {_told(error)}"
    return (WRONG, wrong) if wrong else (RIGHT, "")


def _told(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"


def _difference(compiled: Any, example: Example) -> str:
    """The first way of feeding that gives other logits than eager PyTorch; empty if there is none."""
    ids, logits = example.ids, example.logits
    limit = ids.shape[1]
    short = min(40, limit)
    scale = max(1.0, float(logits.abs().max()))

    def differs(found: Tensor, expected: Tensor) -> bool:
        return found.shape != expected.shape or not bool(((found - expected).abs() <= _WRONG * scale).all())

    for length in (1, 2, 5, short, limit - 1, limit):
        if differs(compiled(ids[:, :length]), logits[:, :length]):
            return f"{length} tokens, whole"
    for pieces in (
        [1] * short,
        [7, 13, 1, 19],
        [limit // 2, 1, limit - limit // 2 - 1],
        [short, *[1] * (limit - short)],
    ):
        session = compiled.session(batch=2)
        total = sum(pieces)
        found = [session.append(part, every=True) for part in ids[:, :total].split(pieces, dim=1)]
        if differs(torch.cat(found, dim=1), logits[:, :total]):
            return f"pieces {pieces if len(pieces) < 5 else 'of one token'}"
    session = compiled.session(batch=2)
    session.append(ids[:, :30])
    session.rewind(11)
    if differs(session.append(ids[:, 11:limit], every=True), logits[:, 11:limit]):
        return "after going back"
    session.rewind(9, row=0)
    session.rewind(20, row=1)
    if differs(session.step([int(ids[0, 9]), int(ids[1, 20])])[:, 0], torch.stack([logits[0, 9], logits[1, 20]])):
        return "after each row went back by itself"
    session.reset()
    if differs(session.append(ids[:, :9], every=True), logits[:, :9]):
        return "after a reset"
    session = compiled.session(batch=2)
    for place in range(min(limit, 80)):  # makes room on its way
        if differs(session.step(ids[:, place].tolist()), logits[:, place : place + 1]):
            return f"step {place}"
    session = compiled.session(batch=2)
    rows = [ids[0, :9].tolist(), ids[1, :20].tolist()]
    if differs(session.append(rows)[:, 0], torch.stack([logits[0, 8], logits[1, 19]])):
        return "rows of unequal lengths"
    following = torch.stack([ids[0, 9], ids[1, 20]])
    if differs(session.step(following.tolist())[:, 0], torch.stack([logits[0, 9], logits[1, 20]])):
        return "a step of rows of unequal lengths"
    if example.generated:
        made = compiled.generate(PROMPTS, max_new_tokens=NEW_TOKENS, do_sample=False).tokens
        if made != example.generated:
            return f"generates {made}"
    return ""


def lines_run(example: Example, files: Sequence[str]) -> list[list[Any]]:
    """In a fork: the lines of `files` that compiling and checking the example runs, [file, line] each."""
    wanted = {str(ROOT / file): file for file in files}
    seen: set[tuple[str, int]] = set()

    def local(frame: FrameType, event: str, _: Any) -> Any:
        seen.add((wanted[frame.f_code.co_filename], frame.f_lineno))
        return local

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        if frame.f_code.co_filename not in wanted:
            return None
        seen.add((wanted[frame.f_code.co_filename], frame.f_lineno))
        return local

    sys.settrace(trace)
    outcomes = attempt(None, [example])
    sys.settrace(None)
    expected = RIGHT if example.generated else REFUSED
    if outcomes[-1]["kind"] != expected:
        raise AssertionError(f"without a mutant: {outcomes[-1]}")
    return [list(each) for each in sorted(seen)]


def third_parties(example: Example) -> list[str]:
    """In a fork: the modules other than burnish's that compiling imports."""
    before = set(sys.modules)
    attempt(None, [example])
    return sorted(
        name for name in set(sys.modules) - before if not name.startswith(("burnish", "tests", "__")) and _found(name)
    )


def _found(name: str) -> bool:
    file = getattr(sys.modules[name], "__file__", None)
    return file is not None and not Path(file).is_relative_to(ROOT)
