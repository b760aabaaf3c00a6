"""Several KV heads as one, in closed form: which maps leave an attention as it is, and which of them make heads agree.

The values of a head can be turned by any invertible map that the output projection undoes; keys by any that the queries
undo and that commutes with the rotary embedding: a rotation and scaling of each frequency's pair of elements, that is,
a complex number. So the heads of a group are projections of one shared head wherever they agree up to such maps, and
where they do not, the shared head is the principal component of all of them, weighed by what reads them.

Weights are float64 here and have the bias as their last column: what they multiply ends in a one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations
from math import comb

import torch
from torch import Tensor

_MOST_PARTITIONS = 2000

Cost = Callable[[tuple[int, ...]], float]


@dataclass(frozen=True)
class Projections:
    """An attention's weights: query[Hq, D, K], key[Hkv, D, K], value[Hkv, Dv, K], output[out, Hq, Dv]."""

    query: Tensor
    key: Tensor
    value: Tensor
    output: Tensor


@dataclass(frozen=True)
class Pairs:
    """The elements of a head that rotary embedding turns, int64[R / 2] each, and those that it leaves, int64[D - R]."""

    real: Tensor
    imaginary: Tensor
    plain: Tensor


def pairs_of(size: int, rotated: int, interleaved: bool) -> Pairs:
    """The pairs of a head of `size` elements, the first `rotated` of which are turned."""
    numbers = torch.arange(rotated)
    if interleaved:
        real, imaginary = numbers[0::2], numbers[1::2]
    else:
        real, imaginary = numbers[: rotated // 2], numbers[rotated // 2 :]
    return Pairs(real, imaginary, torch.arange(rotated, size))


def mean_pooled(weights: Projections, groups: Sequence[Sequence[int]]) -> Projections:
    """Each group's mean, whatever its heads are (Ainslie et al., 2023)."""
    return Projections(
        _in_order(weights.query, groups, len(weights.key)),
        torch.stack([weights.key[list(group)].mean(0) for group in groups]),
        torch.stack([weights.value[list(group)].mean(0) for group in groups]),
        _in_order(weights.output.transpose(0, 1), groups, len(weights.key)).transpose(0, 1),
    )


def aligned(weights: Projections, moment: Tensor, groups: Sequence[Sequence[int]], pairs: Pairs | None) -> Projections:
    """Each group's heads turned so that they agree as well as they can, as one.

    `moment`[K, K] is the mean of x x^T. Without `pairs`, keys have norms of their own, and stay as their mean.
    """
    query, output = weights.query.clone(), weights.output.clone()
    shared = query.shape[0] // weights.key.shape[0]
    keys, values = [], []
    for group in groups:
        joined, maps = _merge_values(weights, moment, group)
        values.append(joined)
        for head, change in zip(group, maps, strict=True):
            reads = slice(head * shared, (head + 1) * shared)
            output[:, reads] = output[:, reads] @ change
        if pairs is None:
            keys.append(weights.key[list(group)].mean(0))
        else:
            keys.append(_merge_keys(weights, moment, group, pairs, query))
    turned = Projections(query, weights.key, weights.value, output)
    in_order = mean_pooled(turned, groups)
    return Projections(in_order.query, torch.stack(keys), torch.stack(values), in_order.output)


def partition(
    weights: Projections, moment: Tensor, groups: int, pairs: Pairs | None, movable: bool = True
) -> tuple[list[tuple[int, ...]], float]:
    """The equal groups of KV heads that lose least by `aligned`, and the share of keys and values that is lost.

    Neighbours, if heads are not `movable`.
    """
    count = len(weights.key)
    size = count // groups
    costs: dict[tuple[int, ...], float] = {}

    def cost(group: tuple[int, ...]) -> float:
        if group not in costs:
            costs[group] = _loss(weights, moment, group, pairs)
        return costs[group]

    if not movable:
        neighbours = [tuple(range(start, start + size)) for start in range(0, count, size)]
        return neighbours, sum(map(cost, neighbours))
    total = _number_of_partitions(count, size)
    found = _best(tuple(range(count)), size, cost) if total <= _MOST_PARTITIONS else _greedy(count, size, cost)
    return found, sum(map(cost, found))


def _best(heads: tuple[int, ...], size: int, cost: Cost) -> list[tuple[int, ...]]:
    """The best of all partitions: the first head with each choice of others, and the best of what is left."""
    if not heads:
        return []
    first, rest = heads[0], heads[1:]
    options = []
    for others in combinations(rest, size - 1):
        group = (first, *others)
        left = _best(tuple(head for head in rest if head not in others), size, cost)
        options.append((cost(group) + sum(map(cost, left)), [group, *left]))
    return min(options)[1]


def _greedy(count: int, size: int, cost: Cost) -> list[tuple[int, ...]]:
    """A head, and one after the other those that join it at the least cost; then the same with those that are left."""
    left: list[int] = list(range(count))
    found: list[tuple[int, ...]] = []
    while left:
        group: tuple[int, ...] = (left.pop(0),)
        while len(group) < size:
            group = min((tuple(sorted((*group, head))) for head in left), key=cost)
            left = [head for head in left if head not in group]
        found.append(group)
    return found


def _number_of_partitions(count: int, size: int) -> int:
    total, left = 1, count
    while left:
        total *= comb(left - 1, size - 1)
        left -= size
    return total


def _in_order(weight: Tensor, groups: Sequence[Sequence[int]], count: int) -> Tensor:
    """Query heads[Hq, ...] by the groups of the KV heads that they read."""
    by_head = weight.reshape(count, -1, *weight.shape[1:])
    return torch.cat([by_head[head] for group in groups for head in group])


def _merge_values(weights: Projections, moment: Tensor, group: Sequence[int]) -> tuple[Tensor, list[Tensor]]:
    """One head[Dv, K] for the values of a group, and for each of its heads the map[Dv, Dv] from one to the other."""
    roots = [_root(_reads_of_values(weights, head)) for head in group]
    stacked = torch.cat([root @ weights.value[head] for root, head in zip(roots, group, strict=True)])
    size = weights.value.shape[1]
    _, vectors = torch.linalg.eigh(stacked @ moment @ stacked.T)
    principal = vectors[:, -size:]
    maps = [torch.linalg.solve(root, part) for root, part in zip(roots, principal.split(size), strict=True)]
    return principal.T @ stacked, maps


def _merge_keys(weights: Projections, moment: Tensor, group: Sequence[int], pairs: Pairs, query: Tensor) -> Tensor:
    """One head[D, K] for the keys of a group; turns the rows of `query` that read them."""
    shared = query.shape[0] // weights.key.shape[0]
    found = torch.zeros_like(weights.key[0])
    if len(pairs.real):
        stacked, sizes = _complex_keys(weights, moment, group, pairs)  # [m, R / 2, K], [m, R / 2]
        _, vectors = torch.linalg.eigh(_by_pair(stacked, moment))
        principal = vectors[..., -1]  # [R / 2, m]
        joined = torch.einsum("fm,mfk->fk", principal.conj(), stacked)
        found[pairs.real], found[pairs.imaginary] = joined.real, joined.imag
        for number, head in enumerate(group):
            factor = (principal[:, number] / sizes[number]).conj()
            for reader in range(head * shared, (head + 1) * shared):
                rows = torch.complex(query[reader, pairs.real], query[reader, pairs.imaginary])
                rows = rows * factor.unsqueeze(-1)
                query[reader, pairs.real], query[reader, pairs.imaginary] = rows.real, rows.imag
    if len(pairs.plain):
        roots = [_root(_reads_of_keys(weights, moment, head, pairs)) for head in group]
        stacked = torch.cat([r @ weights.key[head][pairs.plain] for r, head in zip(roots, group, strict=True)])
        _, vectors = torch.linalg.eigh(stacked @ moment @ stacked.T)
        size = len(pairs.plain)
        principal = vectors[:, -size:]
        found[pairs.plain] = principal.T @ stacked
        for root, part, head in zip(roots, principal.split(size), group, strict=True):
            change = torch.linalg.solve(root, part).T
            for reader in range(head * shared, (head + 1) * shared):
                query[reader, pairs.plain] = change @ query[reader, pairs.plain]
    return found


def _complex_keys(weights: Projections, moment: Tensor, group: Sequence[int], pairs: Pairs) -> tuple[Tensor, Tensor]:
    """The rotated keys of a group as complex numbers[m, R / 2, K], times the size of what reads them[m, R / 2]."""
    shared = weights.query.shape[0] // weights.key.shape[0]
    keys, sizes = [], []
    for head in group:
        reads = weights.query[head * shared : (head + 1) * shared]
        energy = torch.einsum("hdk,kl,hdl->d", reads, moment, reads)
        size = (energy[pairs.real] + energy[pairs.imaginary]).sqrt().clamp_min(1e-12)
        key = weights.key[head]
        keys.append(torch.complex(key[pairs.real], key[pairs.imaginary]) * size.unsqueeze(-1))
        sizes.append(size)
    return torch.stack(keys), torch.stack(sizes)


def _by_pair(stacked: Tensor, moment: Tensor) -> Tensor:
    """For each pair of elements, how the heads of a group go together: [R / 2, m, m], Hermitian."""
    return torch.einsum("mfk,kl,nfl->fmn", stacked, moment.to(stacked.dtype), stacked.conj())


def _reads_of_values(weights: Projections, head: int) -> Tensor:
    """What the output projection makes of a head's values: [Dv, Dv]."""
    shared = weights.query.shape[0] // weights.key.shape[0]
    reads = weights.output[:, head * shared : (head + 1) * shared]
    return torch.einsum("ohd,ohe->de", reads, reads)


def _reads_of_keys(weights: Projections, moment: Tensor, head: int, pairs: Pairs) -> Tensor:
    """What queries make of the elements of a head's keys that are not turned: [D - R, D - R]."""
    shared = weights.query.shape[0] // weights.key.shape[0]
    reads = weights.query[head * shared : (head + 1) * shared][:, pairs.plain]
    return torch.einsum("hdk,kl,hel->de", reads, moment, reads)


def _root(square: Tensor) -> Tensor:
    """The symmetric root of a positive semidefinite matrix, lifted a little where it is singular."""
    values, vectors = torch.linalg.eigh(square)
    floor = values[-1].clamp_min(1e-24) * 1e-12
    root: Tensor = (vectors * values.clamp_min(floor).sqrt()) @ vectors.T
    return root


def _loss(weights: Projections, moment: Tensor, group: Sequence[int], pairs: Pairs | None) -> float:
    """The share of the layer's keys and values, as they are read, that one head for all of a group cannot give."""
    everyone = range(len(weights.key))
    size = weights.value.shape[1]
    roots = [_root(_reads_of_values(weights, head)) for head in everyone]
    parts = [root @ weights.value[head] for root, head in zip(roots, everyone, strict=True)]
    lost, whole = _lost(torch.cat([parts[head] for head in group]), torch.cat(parts), moment, size)
    total = lost / whole
    if pairs is None:
        keys = weights.key[list(group)]
        mean = keys.mean(0, keepdim=True)
        spread = torch.einsum("mdk,kl,mdl->", keys - mean, moment, keys - mean)
        return total + float(spread / torch.einsum("mdk,kl,mdl->", weights.key, moment, weights.key))
    if len(pairs.real):
        values = torch.linalg.eigvalsh(_by_pair(_complex_keys(weights, moment, group, pairs)[0], moment))
        stacked, _ = _complex_keys(weights, moment, everyone, pairs)
        whole = float(torch.einsum("mfk,kl,mfl->", stacked, moment.to(stacked.dtype), stacked.conj()).real)
        total += float(values[:, :-1].clamp_min(0).sum()) / whole
    if len(pairs.plain):
        roots = [_root(_reads_of_keys(weights, moment, head, pairs)) for head in everyone]
        parts = [root @ weights.key[head][pairs.plain] for root, head in zip(roots, everyone, strict=True)]
        lost, whole = _lost(torch.cat([parts[head] for head in group]), torch.cat(parts), moment, len(pairs.plain))
        total += lost / whole
    return total


def _lost(stacked: Tensor, everything: Tensor, moment: Tensor, kept: int) -> tuple[float, float]:
    """The energy of `stacked` beyond its `kept` largest components, and that of `everything`."""
    values = torch.linalg.eigvalsh(stacked @ moment @ stacked.T)
    return float(values[:-kept].clamp_min(0).sum()), float(torch.einsum("dk,kl,dl->", everything, moment, everything))
