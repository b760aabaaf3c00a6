"""One node of a graph, with its operands, as the functions of `operators` see it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
import torch

from burnish.frontend.onnx.dtypes import torch_dtype
from burnish.frontend.onnx.numbers import Numbers
from burnish.ir.errors import InvalidModelError, UnsupportedError

Value = torch.Tensor | Numbers
Result = Value | None | tuple[Value | None, ...] | list[Value | None]


@dataclass(frozen=True)
class Graph:
    """A graph, or the body of an operator, with its attributes decoded."""

    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    steps: tuple[Step, ...]
    constants: Mapping[str, Value]  # what is known before anything runs, by name


@dataclass(frozen=True)
class Step:
    """A node: what it is called, what it reads and what it writes; "" for what is left out."""

    name: str
    domain: str
    operator: str
    version: int  # of the operator's set that the file imports
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Any]  # Python numbers, texts, lists of them, arrays of numpy, `Graph`s
    origin: tuple[str, str, str, int, str]  # the fields of `Origin`
    kinds: tuple[ir.DataType | None, ...] = ()  # of the inputs, where the file says them

    @property
    def label(self) -> str:
        """The node as messages name it."""
        kind = f"{self.domain}.{self.operator}" if self.domain else self.operator
        return f"the node {self.name!r} ({kind})"


@dataclass(frozen=True)
class Call:
    """A step with its operands' values, and what runs the bodies in its attributes."""

    step: Step
    operands: tuple[Value | None, ...]
    run: Callable[[Graph, Sequence[Value]], list[Value]]
    exporting: bool = False

    @property
    def version(self) -> int:
        return self.step.version

    @property
    def count(self) -> int:
        """How many outputs are there, used or not."""
        return len(self.step.outputs)

    def wants(self, index: int) -> bool:
        """Whether an optional output is asked for."""
        return index < len(self.step.outputs) and self.step.outputs[index] != ""

    # ---------------------------------------------------------------- operands

    def has(self, index: int) -> bool:
        """Whether an optional operand is given."""
        return index < len(self.operands) and self.operands[index] is not None

    def value(self, index: int) -> Value:
        """An operand that has to be there."""
        if not self.has(index):
            raise self.invalid(f"its input {index} is missing")
        found = self.operands[index]
        assert found is not None
        return found

    def tensor(self, index: int) -> torch.Tensor:
        """An operand as a tensor."""
        found = self.value(index)
        return found.tensor() if isinstance(found, Numbers) else found

    def optional(self, index: int) -> torch.Tensor | None:
        """An operand as a tensor, if it is given."""
        return self.tensor(index) if self.has(index) else None

    def tensors(self) -> list[torch.Tensor]:
        """All operands as tensors."""
        return [self.tensor(index) for index in range(len(self.operands))]

    def kind(self, index: int) -> ir.DataType | None:
        """The element type of an operand as the file says it, where it does."""
        return self.step.kinds[index] if index < len(self.step.kinds) else None

    def numbers(self, index: int) -> Numbers | None:
        """An operand, if its elements are known."""
        found = self.operands[index] if index < len(self.operands) else None
        return found if isinstance(found, Numbers) else None

    def known(self, index: int, what: str) -> list[Any]:
        """The elements of an operand. Raises UnsupportedError if they are computed from data."""
        found = self.value(index)
        if isinstance(found, Numbers):
            return found.list
        if not self.exporting:
            elements: list[Any] = found.reshape(-1).tolist()
            return elements
        raise self.unsupported(
            f"{what} is computed from data, and a graph whose shapes are known before it runs needs it as a constant "
            "or computed from sizes of axes"
        )

    def scalar(self, index: int, what: str) -> Any:
        """The one element of an operand."""
        found = self.known(index, what)
        if len(found) != 1:
            raise self.invalid(f"{what} has {len(found)} elements, and one is expected")
        return found[0]

    def axes(self, index: int, attribute: str = "axes") -> list[int] | None:
        """Axes, which are an operand in later versions and an attribute in earlier ones; None if left out."""
        if self.has(index):
            return [int(axis) for axis in self.known(index, attribute)]
        return self.integers(attribute)

    # ---------------------------------------------------------------- attributes

    def _attribute(self, name: str, kinds: tuple[type, ...], expected: str) -> Any:
        found = self.step.attributes.get(name)
        if found is not None and not isinstance(found, kinds):
            raise self.invalid(f"its attribute {name} is {type(found).__name__}, and {expected} is expected")
        return found

    def integer(self, name: str, default: int) -> int:
        found = self._attribute(name, (int,), "an integer")
        return default if found is None else int(found)

    def flag(self, name: str, default: bool = False) -> bool:
        return self.integer(name, int(default)) != 0

    def real(self, name: str, default: float) -> float:
        found = self._attribute(name, (float, int), "a number")
        return default if found is None else float(found)

    def text(self, name: str, default: str) -> str:
        found = self._attribute(name, (str,), "a text")
        return default if found is None else str(found)

    def integers(self, name: str) -> list[int] | None:
        found = self._attribute(name, (list,), "a list")
        return None if found is None else [int(each) for each in found]

    def reals(self, name: str) -> list[float] | None:
        found = self._attribute(name, (list,), "a list")
        return None if found is None else [float(each) for each in found]

    def texts(self, name: str) -> list[str] | None:
        found = self._attribute(name, (list,), "a list of texts")
        return None if found is None else [str(each) for each in found]

    def array(self, name: str) -> np.ndarray[Any, Any] | None:
        found = self._attribute(name, (Numbers,), "a tensor")
        return None if found is None else found.array

    def dtype(self, name: str) -> torch.dtype | None:
        """An attribute that names an element type."""
        found = self._attribute(name, (int,), "an element type")
        return None if found is None else torch_dtype(found, self.step.label)

    def graph(self, name: str) -> Graph:
        """An attribute that is the body of the operator."""
        found = self._attribute(name, (Graph,), "a graph")
        if found is None:
            raise self.invalid(f"it has no body {name}")
        assert isinstance(found, Graph)
        return found

    def required(self, name: str) -> Any:
        """An attribute that has to be there."""
        found = self.step.attributes.get(name)
        if found is None:
            raise self.invalid(f"its attribute {name} is missing")
        return found

    # ---------------------------------------------------------------- refusals

    def invalid(self, what: str) -> InvalidModelError:
        """The error for a node that is not ONNX."""
        return InvalidModelError(f"{self.step.label}: {what}")

    def unsupported(self, what: str) -> UnsupportedError:
        """The error for a node that is ONNX, and that is not taken."""
        return UnsupportedError(f"{self.step.label}: {what}")


Operator = Callable[[Call], Result]
Table = dict[str, Operator]
