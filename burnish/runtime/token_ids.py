"""Token ids as people bring them, lists, arrays and tensors of any integers, as lists of integers."""

from __future__ import annotations

import operator
import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias, TypeGuard

import numpy as np

from burnish.ir.dtypes import name_of
from burnish.ir.errors import InvalidInputError
from burnish.ir.signature import Signature

if TYPE_CHECKING:  # for those alone who have tensors
    from numpy.typing import NDArray

    from burnish.ir.torch_types import Tensor

Ids: TypeAlias = "Tensor | NDArray[Any] | Sequence[Sequence[int]] | Sequence[NDArray[Any]] | Sequence[Tensor]"


def is_tensor(value: object) -> TypeGuard[Tensor]:
    """Whether it is one of PyTorch's, which is not imported to find out: whoever made one did."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.Tensor)


def is_array(value: object) -> TypeGuard[Tensor | NDArray[Any]]:
    """Whether it is a tensor or an array, with a dtype and a shape."""
    return isinstance(value, np.ndarray) or is_tensor(value)


def check_ids(ids: Ids, signature: Signature, before: Sequence[int] = ()) -> list[list[int]]:
    """`ids` as a list of rows, after checking that the model can take them behind `before` tokens a row.

    Raises InvalidInputError, which says what is wrong and where.
    """
    if is_array(ids):
        rows: list[list[int]] = integers(ids)
        if ids.ndim != 2:
            raise InvalidInputError(f"token ids are [batch, tokens], not of shape {list(ids.shape)}")
    else:
        listed = isinstance(ids, Iterable) and not isinstance(ids, str | bytes)
        strange = [row for row in ids if not is_row(row)] if listed else [ids]
        if strange:
            raise InvalidInputError(f"token ids are a list for each row, [[1, 2, 3]] for one, and not {strange[0]!r}")
        rows = [row_of(row) for row in ids]
    if not rows:
        raise InvalidInputError("there are no token ids: the batch has no row")
    for number, row in enumerate(rows):
        _check_row(row, number, signature, before[number] if number < len(before) else 0)
    return rows


def is_row(value: object) -> bool:
    """Whether it can be the ids of a row: a list, or an array of rank 1."""
    if is_array(value):
        return value.ndim == 1
    return isinstance(value, Iterable) and not isinstance(value, str | bytes | bytearray)


def row_of(ids: Any) -> list[int]:
    """The ids of a row, numpy's integers among them as Python's; what is no integer stays as it is."""
    if is_array(ids):
        found: list[int] = integers(ids)
        return found
    return [token if type(token) is int else _plain(token) for token in ids]


def integers(array: Tensor | NDArray[Any]) -> Any:
    """An array as lists. Raises InvalidInputError where it is not of integers."""
    name = name_of(array.dtype)
    if not name.startswith(("int", "uint")):
        raise InvalidInputError(
            f"token ids are integers, not {array.dtype}: convert them with "
            f"{'.long()' if is_tensor(array) else '.astype(int)'} if they are ids"
        )
    return array.tolist()


def check_id(token: object, number: int, place: int, signature: Signature) -> None:
    """Raise InvalidInputError unless it is an id of the vocabulary."""
    if not isinstance(token, int) or isinstance(token, bool):
        raise InvalidInputError(
            f"row {number} has {token!r} at place {place}: token ids are integers, not {type(token).__name__}"
        )
    if not 0 <= token < signature.token_limit:
        known = f"the model knows the ids 0 to {signature.token_limit - 1}"
        raise InvalidInputError(f"row {number} has the id {token} at place {place}: {known}")


def _plain(token: Any) -> Any:
    """An integer of numpy's, or a tensor of one, as Python's."""
    try:
        return token if isinstance(token, bool) else operator.index(token)
    except TypeError:
        return token


def _check_row(row: list[int], number: int, signature: Signature, before: int) -> None:
    if not row:
        raise InvalidInputError(f"row {number} is empty: give it at least one token id")
    if before + len(row) > signature.max_length:
        already = f" behind the {before} it has" if before else ""
        raise InvalidInputError(
            f"row {number} has {len(row)} tokens{already}, and the model was compiled for at most "
            f"{signature.max_length}: shorten it, or compile with a larger max_length"
        )
    for place, token in enumerate(row):
        check_id(token, number, place, signature)
