"""One rule an op that lets a token see earlier ones: it is remembered for state insertion; rows are kept apart."""

from __future__ import annotations

from torch import fx

from burnish.ir.arguments import argument
from burnish.ir.label_rules import like_first
from burnish.ir.labels import Along, AxisLabel, Label, Labels, rank
from burnish.ir.shapes import shape_expressions


def _remembers(labels: Labels, node: fx.Node, label: AxisLabel, axis: int, how: str) -> AxisLabel:
    """The label of an op that mixes tokens of `axis` causally; all else that has its entries there is mixed."""
    whole = shape_expressions(node)[axis] == labels.symbol * label.inner
    if labels.along is not Along.TOKENS or not whole:
        raise labels.mixes(node, how)
    labels.remembered(node)
    return label


def attention(labels: Labels, node: fx.Node) -> Label:
    """[B, H, S, D]: queries of rows apart; a token sees what its mask shows."""
    query, key, value = node.args[:3]
    label = labels.of(query)
    if labels.along is Along.TOKENS and argument(node, "mask") == "none" and argument(node, "bias") is None:
        raise labels.mixes(node, "lets one of the {} attend to later ones (it has no mask)")
    if any(labels.of(argument(node, name)) for name in ("sinks", "slopes")):
        raise labels.mixes(node, "attends with sinks or slopes made from the {}")
    if label is None:
        if any(labels.of(each) is not None for each in (key, value)):
            raise labels.mixes(node, "attends to the {} by queries that are not theirs")
        return None
    if labels.along is not Along.KEPT and any(labels.of(each) != label for each in (key, value)):
        raise labels.mixes(node, "attends to keys and values that are not those of the {}")
    if label.axis == 0 and label.inner == 1:
        return label
    if label.axis != 2:
        raise labels.mixes(node, "attends across the {} in a way that has no name")
    return _remembers(labels, node, label, 2, "attends to others among the {}")


def attention_bias(labels: Labels, node: fx.Node) -> Label:
    """[B, Ht, S, T]: rows of a table by position."""
    table, _, query, _ = node.args
    if labels.along is Along.TOKENS:
        users = [user for user in node.users if user.kwargs.get("mask") == "none"]
        assert isinstance(table, fx.Node)
        if users and bool((labels.weight_values(table) > float("-inf")).triu(1).any()):
            raise labels.mixes(
                users[0], "lets one of the {} attend to later ones: its mask was evaluated and shows them"
            )
    return labels.of(query)


def causal_conv1d(labels: Labels, node: fx.Node) -> Label:
    """x[B, C, S] by a window that ends with each token."""
    label = like_first(labels, node)
    if not isinstance(label, AxisLabel) or (label.axis == 0 and label.inner == 1):
        return label
    how = "convolves over the {}"
    if label.axis != 2:
        raise labels.mixes(node, how)
    return _remembers(labels, node, label, 2, how)


def shift(labels: Labels, node: fx.Node) -> Label:
    """Values moved along an axis."""
    label = labels.of(node.args[0])
    axis = int(argument(node, "axis"))
    if label is None or label.axis != axis:
        return label
    return _remembers(labels, node, label, axis, "moves the {} along their axis")


def running_sum(labels: Labels, node: fx.Node) -> Label:
    """A sum along an axis up to each element."""
    label = labels.of(node.args[0])
    axis = int(argument(node, "dim")) % rank(node)
    if label is None or label.axis != axis:
        return label
    return _remembers(labels, node, label, axis, "adds up over the {}")
