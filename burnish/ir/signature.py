"""What a program is given and gives, beside its states."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from burnish.ir.errors import InvalidProgramError

if TYPE_CHECKING:
    from burnish.ir.torch_types import Dtype


@dataclass(frozen=True)
class Input:
    """What a program is given beside its states. Its name is the placeholder's; an axis has the name of its size."""

    name: str
    axes: tuple[int | str, ...]
    dtype_name: str = "int64"

    @property
    def dtype(self) -> Dtype:
        from burnish.ir.torch_types import torch_dtype

        return torch_dtype(self.dtype_name)


TOKENS = Input("tokens", ("batch", "sequence"))
POSITION = Input("position", ("batch",))
LOGITS_INDEX = Input("logits_index", ("kept",))
STEP_INPUTS = (TOKENS, POSITION, LOGITS_INDEX)
"""The inputs of a step program."""


OUTPUTS = ("ids", "top", "logits")
"""What a language model's program can give beside its states, each for [batch, kept]: ids of the greatest logits, the
top of these, the logits."""


@dataclass(frozen=True)
class Interface:
    """The inputs and outputs of a program that is no language model's."""

    inputs: tuple[Input, ...]  # in the order of the placeholders
    outputs: tuple[str, ...]
    names: tuple[str, ...]  # what callers call the inputs: a placeholder's name is an identifier


@dataclass(frozen=True)
class Signature:
    """What a caller must know of the inputs and outputs of a language model."""

    vocabulary: int  # size of the last axis of the logits
    max_length: int  # positions from 0 to max_length - 1 are defined
    token_limit: int  # ids from 0 to token_limit - 1 can be embedded
    logits_dtype_name: str = "float32"
    inputs: tuple[Input, ...] = (TOKENS,)  # in the order of the placeholders, the states' behind
    outputs: tuple[str, ...] = ("logits",)  # some of OUTPUTS, in that order; the logits always
    longer_than: int = 0  # texts of at most so many tokens are computed otherwise by the model that was compiled

    def __post_init__(self) -> None:
        """Raises InvalidProgramError for outputs that no program has."""
        if "logits" not in self.outputs or self.outputs != tuple(name for name in OUTPUTS if name in self.outputs):
            raise InvalidProgramError(
                f"a program gives logits, and ahead of them some of {', '.join(OUTPUTS[:-1])}; not {list(self.outputs)}"
            )

    @property
    def logits_dtype(self) -> Dtype:
        from burnish.ir.torch_types import torch_dtype

        return torch_dtype(self.logits_dtype_name)
