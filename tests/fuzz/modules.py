"""Descriptions of causal language models, and of some that are not causal: frozen, and built by `Model.build`.

The repr of a description is the reproducer of what is found with it: it holds all that the module and its weights are
made of. A description that has a `Leak` in it is of a module in which a token sees later ones, or a row another.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.fuzz.attention import Attention, AttentionModule

# ---------------------------------------------------------------- what mixes tokens


@dataclass(frozen=True)
class Convolution:
    """A causal convolution over the tokens.

    spelling: "pad" in front; "cut": padded on both sides and cut off behind; "join" with zeros in front.
    """

    kernel: int
    dilation: int = 1
    depthwise: bool = False
    bias: bool = True
    spelling: str = "pad"


@dataclass(frozen=True)
class Shift:
    """The values of some tokens before. spelling: "pad", "join", "cut" (padded, then cut) or "module" (ZeroPad2d)."""

    amount: int = 1
    spelling: str = "pad"


@dataclass(frozen=True)
class Scan:
    """Something of all tokens so far.

    kind: their "sum", "mean"; "gated" mean, with weights made from the values; the "product" or "greatest" of them;
    "decayed": a product with a triangle of powers.
    """

    kind: str = "mean"


@dataclass(frozen=True)
class Chain:
    """One mixer behind the other."""

    first: Mixer
    second: Mixer
    between: str = ""  # what is applied between them


@dataclass(frozen=True)
class Leak:
    """What no causal model, or no row of its own, has: later tokens, the number of tokens, or other rows."""

    kind: str


Mixer = Attention | Convolution | Shift | Scan | Chain | Leak

LEAKS = (
    "next token",
    "rolled",
    "centred convolution",
    "convolution with a zero too few",
    "named same padding",
    "mean of tokens",
    "greatest of tokens",
    "flipped",
    "last token",
    "softmax over tokens",
    "all products",
    "number of tokens",
    "sum from behind",
    "norm over tokens",
    "mean of rows",
    "flipped rows",
    "sum of rows",
    "first row",
    "rolled rows",
    "number of rows",
    "products of rows",
)
"""Kinds of leaks that stand alone; masks have others, see `tests.fuzz.attention.LEAKING`."""

# ---------------------------------------------------------------- whole models


@dataclass(frozen=True)
class Block:
    """Branches over the same values, joined.

    norm: "", "layer", "rms", "by hand" or "unit"; in front of the branches.
    join: "add", "multiply", "gate" or "cat" (with a linear behind).
    after: what the joined values go through: "", "relu", "tanh", "linear", "gelu", "swiglu".
    residual: "", "add", "half", "gate" or "first" (the embedding is added, not the block's input).
    times: the block is applied so often, with the same weights.
    """

    branches: tuple[Mixer, ...]
    norm: str = ""
    join: str = "add"
    after: str = ""
    residual: str = ""
    times: int = 1


@dataclass(frozen=True)
class Model:
    """Token ids [b, t] to logits [b, t, vocabulary].

    embedding: "table"; "one hot", a linear over one-hot vectors; "bigram", a second table for the token before.
    positions: "", "table" (learned), "counted" (learned, by a cumulative sum of ones) or "waves".
    layout: "rows" first, or "tokens" first.
    head: "linear", "tied", "norm" in front of it, "bare" (no bias), or "hidden" (a layer in between).
    behind: what mixes tokens of the logits themselves.
    """

    blocks: tuple[Block, ...]
    width: int = 8
    vocabulary: int = 29
    embedding: str = "table"
    positions: str = ""
    layout: str = "rows"
    head: str = "linear"
    behind: Mixer | None = None
    seed: int = 0

    def build(self, longest: int) -> LanguageModel:
        """The module, for up to `longest` tokens: the same weights each time."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            module = LanguageModel(self, longest + 1)
            for name, weight in module.named_parameters():
                # Weights of a size that matters: PyTorch's own leave attention flat, and a fault in it small.
                spread = 1.0 if weight.dim() > 1 and "embed" in name else 1.6 / max(weight.shape[-1], 1) ** 0.5
                nn.init.normal_(weight, std=spread if weight.dim() > 1 else 0.3)
                if "norm" in name and name.endswith("weight"):
                    nn.init.uniform_(weight, 0.5, 1.5)
        return module.eval()


def parts(description: Any) -> Iterator[Any]:
    """A description and all within it."""
    yield description
    if isinstance(description, tuple):
        for each in description:
            yield from parts(each)
    elif is_dataclass(description):
        for field in fields(description):
            yield from parts(getattr(description, field.name))


def leaks(description: Any) -> bool:
    """Whether a token sees later ones somewhere in it, or a row another."""
    return any(isinstance(each, Leak) or getattr(each, "leaks", False) for each in parts(description))


# ---------------------------------------------------------------- the modules


class LanguageModel(nn.Module):
    def __init__(self, made: Model, longest: int) -> None:
        super().__init__()
        self.made = made
        width, vocabulary = made.width, made.vocabulary
        self.axis = 0 if made.layout == "tokens" else 1
        self.embed = nn.Linear(vocabulary, width, bias=False) if made.embedding == "one hot" else None
        if self.embed is None:
            self.embed = nn.Embedding(vocabulary, width)
        self.embed_before = nn.Embedding(vocabulary, width) if made.embedding == "bigram" else None
        self.embed_places = nn.Embedding(longest, width) if made.positions in ("table", "counted") else None
        self.blocks = nn.ModuleList(BlockModule(block, width, self.axis, longest) for block in made.blocks)
        self.norm = nn.LayerNorm(width) if made.head == "norm" else None
        self.hidden = nn.Linear(width, 2 * width) if made.head == "hidden" else None
        size = 2 * width if made.head == "hidden" else width
        self.head = None if made.head == "tied" else nn.Linear(size, vocabulary, bias=made.head != "bare")
        self.behind = None if made.behind is None else mixer(made.behind, vocabulary, 1, longest)

    def forward(self, ids: Tensor) -> Tensor:
        made, t = self.made, ids.shape[1]
        if made.embedding == "one hot":
            x = self.embed(F.one_hot(ids, made.vocabulary).to(self.embed.weight.dtype))
        else:
            x = self.embed(ids)
        if self.embed_before is not None:
            x = x + self.embed_before(F.pad(ids, (1, 0))[:, :t])
        if made.positions == "table":
            x = x + self.embed_places(torch.arange(t))
        elif made.positions == "counted":
            x = x + self.embed_places(torch.ones_like(ids).cumsum(1) - 1)
        elif made.positions == "waves":
            place = torch.arange(t).unsqueeze(1) * torch.exp(-torch.arange(0, made.width, 2) / made.width * 4.0)
            x = x + torch.stack((place.sin(), place.cos()), dim=-1).flatten(1)[:, : made.width].to(x.dtype)
        if self.axis == 0:
            x = x.transpose(0, 1)
        first = x
        for block in self.blocks:
            for _ in range(block.made.times):
                x = block(x, first)
        if self.axis == 0:
            x = x.transpose(0, 1)
        if self.norm is not None:
            x = self.norm(x)
        if self.hidden is not None:
            x = F.silu(self.hidden(x))
        if self.head is None:
            table = self.embed.weight
            logits = x @ (table if made.embedding == "one hot" else table.T)
        else:
            logits = self.head(x)
        return logits if self.behind is None else self.behind(logits)


class BlockModule(nn.Module):
    """See `Block`. Values are [b, t, d], or [t, b, d] where `axis` is 0."""

    def __init__(self, made: Block, width: int, axis: int, longest: int) -> None:
        super().__init__()
        self.made = made
        self.branches = nn.ModuleList(mixer(each, width, axis, longest) for each in made.branches)
        self.norm = nn.LayerNorm(width) if made.norm == "layer" else nn.RMSNorm(width) if made.norm == "rms" else None
        self.norm_weight = nn.Parameter(torch.ones(width)) if made.norm == "by hand" else None
        self.joined = nn.Linear(width * len(made.branches), width) if made.join == "cat" else None
        self.gate = nn.Linear(width, width) if "gate" in (made.join, made.residual) else None
        self.up = nn.Linear(width, 2 * width) if made.after in ("gelu", "swiglu") else None
        self.side = nn.Linear(width, 2 * width, bias=False) if made.after == "swiglu" else None
        self.down = nn.Linear(2 * width, width) if self.up is not None else None
        self.linear = nn.Linear(width, width) if made.after == "linear" else None

    def normed(self, x: Tensor) -> Tensor:
        if self.made.norm == "unit":
            return F.normalize(x, dim=-1) * 2.0
        if self.norm_weight is not None:
            return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6) * self.norm_weight
        return x if self.norm is None else self.norm(x)

    def join(self, found: list[Tensor], x: Tensor) -> Tensor:
        if self.joined is not None:
            return self.joined(torch.cat(found, dim=-1))
        y = found[0]
        for each in found[1:]:
            y = y * each.tanh() if self.made.join == "multiply" else y + each
        return y * torch.sigmoid(self.gate(x)) if self.made.join == "gate" else y

    def finished(self, y: Tensor) -> Tensor:
        if self.side is not None:
            return self.down(F.silu(self.side(y)) * self.up(y))
        if self.up is not None:
            return self.down(F.gelu(self.up(y)))
        return applied(self.made.after, y) if self.linear is None else self.linear(y)

    def forward(self, x: Tensor, first: Tensor) -> Tensor:
        normed = self.normed(x)
        y = self.finished(self.join([branch(normed) for branch in self.branches], normed))
        match self.made.residual:
            case "add":
                return x + y
            case "half":
                return 0.5 * (x + y)
            case "first":
                return first + y
            case "gate":
                gate = torch.sigmoid(self.gate(x))
                return gate * x + (1 - gate) * y
        return y


def applied(name: str, x: Tensor) -> Tensor:
    """An activation by its name."""
    return {"": lambda: x, "relu": lambda: x.relu(), "tanh": lambda: x.tanh(), "silu": lambda: F.silu(x)}[name]()


def mixer(made: Mixer, width: int, axis: int, longest: int) -> nn.Module:
    """The module of a mixer: from and to [b, t, width], or [t, b, width] where `axis` is 0."""
    if isinstance(made, Attention):
        return AttentionModule(made, width, axis, longest)
    if isinstance(made, Convolution):
        return ConvolutionModule(made, width, axis)
    if isinstance(made, Shift):
        return ShiftModule(made, axis)
    if isinstance(made, Scan):
        return ScanModule(made, width, axis)
    if isinstance(made, Chain):
        return ChainModule(made, width, axis, longest)
    return LeakModule(made, width, axis)


class ConvolutionModule(nn.Module):
    def __init__(self, made: Convolution, width: int, axis: int) -> None:
        super().__init__()
        self.made = made
        self.reach = (made.kernel - 1) * made.dilation
        self.order = (0, 2, 1) if axis == 1 else (1, 2, 0)
        self.back = (0, 2, 1) if axis == 1 else (2, 0, 1)
        self.conv = nn.Conv1d(
            width,
            width,
            made.kernel,
            dilation=made.dilation,
            groups=width if made.depthwise else 1,
            bias=made.bias,
            padding=self.reach if made.spelling == "cut" else 0,
        )

    def forward(self, x: Tensor) -> Tensor:
        x = x.permute(self.order)
        if self.made.spelling == "pad":
            x = F.pad(x, (self.reach, 0))
        elif self.made.spelling == "join":
            x = torch.cat([x.new_zeros(x.shape[0], x.shape[1], self.reach), x], dim=-1)
        y = self.conv(x)
        return (y[..., : x.shape[-1]] if self.made.spelling == "cut" else y).permute(self.back)


class ShiftModule(nn.Module):
    def __init__(self, made: Shift, axis: int) -> None:
        super().__init__()
        self.made, self.axis = made, axis
        self.pad = nn.ZeroPad2d((0, 0, made.amount, -1 if made.amount == 1 else 0))

    def forward(self, x: Tensor) -> Tensor:
        amount, t = self.made.amount, x.shape[self.axis]
        front = (0, 0, amount, 0) if self.axis == 1 else (0, 0, 0, 0, amount, 0)
        if self.made.spelling == "pad":
            if self.axis == 1 and amount == 1:  # by more, eager fails for texts of one token
                return F.pad(x, (0, 0, 1, -1))
            return F.pad(x, front).narrow(self.axis, 0, t)
        if self.made.spelling == "cut":
            return F.pad(x, front)[:, :-amount] if self.axis == 1 else F.pad(x, front)[:-amount]
        if self.made.spelling == "join":
            if self.axis == 1:
                return torch.cat([torch.zeros_like(x[:, :amount]), x], dim=1)[:, :t]
            return torch.cat([x.new_zeros(amount, x.shape[1], x.shape[2]), x], dim=0)[:t]
        return self.pad(x)[:, :t] if self.axis == 1 else self.pad(x.transpose(0, 1))[:, :t].transpose(0, 1)


class ScanModule(nn.Module):
    def __init__(self, made: Scan, width: int, axis: int) -> None:
        super().__init__()
        self.made, self.axis = made, axis
        self.weights = nn.Linear(width, width) if made.kind == "gated" else None

    def forward(self, x: Tensor) -> Tensor:
        axis, t = self.axis, x.shape[self.axis]
        count = torch.arange(1, t + 1, dtype=x.dtype)
        count = count.view(1, -1, 1) if axis == 1 else count.view(-1, 1, 1)
        match self.made.kind:
            case "sum":
                return x.cumsum(axis) / 16.0
            case "mean":
                return x.cumsum(axis) / count
            case "gated":
                weights = torch.sigmoid(self.weights(x)) + 0.1
                return (weights * x).cumsum(axis) / weights.cumsum(axis)
            case "product":
                return torch.sigmoid(x).cumprod(axis)
            case "greatest":
                return x.cummax(axis).values
        i = torch.arange(t, dtype=x.dtype)
        triangle = torch.pow(0.8, (i.unsqueeze(1) - i.unsqueeze(0)).clamp(min=0)).tril()
        return triangle @ x if axis == 1 else (triangle @ x.transpose(0, 1)).transpose(0, 1)


class ChainModule(nn.Module):
    def __init__(self, made: Chain, width: int, axis: int, longest: int) -> None:
        super().__init__()
        self.made = made
        self.first, self.second = (mixer(each, width, axis, longest) for each in (made.first, made.second))

    def forward(self, x: Tensor) -> Tensor:
        return self.second(applied(self.made.between, self.first(x)))


class LeakModule(nn.Module):
    """See `Leak`. What it takes from where it must not stands beside the values, so that these stay what they are."""

    def __init__(self, made: Leak, width: int, axis: int) -> None:
        super().__init__()
        self.made, self.axis = made, axis
        self.conv = nn.Conv1d(width, width, 3) if "convolution" in made.kind else None
        if made.kind == "named same padding":
            self.conv = nn.Conv1d(width, width, 3, padding="same")

    def forward(self, x: Tensor) -> Tensor:
        x = x if self.axis == 1 else x.transpose(0, 1)
        y = 0.5 * x + self.leaked(x)
        return y if self.axis == 1 else y.transpose(0, 1)

    def leaked(self, x: Tensor) -> Tensor:
        t = x.shape[1]
        match self.made.kind:
            case "next token":
                return F.pad(x[:, 1:], (0, 0, 0, 1))
            case "rolled":
                return x.roll(1, 1)
            case "centred convolution":
                return self.conv(F.pad(x.mT, (1, 1))).mT
            case "convolution with a zero too few":
                return self.conv(F.pad(x.mT, (1, 2)))[..., :t].mT
            case "named same padding":
                return self.conv(x.mT).mT
            case "mean of tokens":
                return x.mean(1, keepdim=True)
            case "greatest of tokens":
                return x.amax(1, keepdim=True)
            case "flipped":
                return x.flip(1)
            case "last token":
                return x[:, -1:]
            case "softmax over tokens":
                return 4 * x.softmax(1)
            case "all products":
                return (x @ x.mT).tanh() @ x / 4
            case "number of tokens":
                return x / t
            case "sum from behind":
                return x.flip(1).cumsum(1).flip(1) / 16
            case "norm over tokens":
                return F.normalize(x, dim=1)
            case "mean of rows":
                return x.mean(0, keepdim=True)
            case "flipped rows":
                return x.flip(0)
            case "sum of rows":
                return x.cumsum(0)
            case "first row":
                return x[:1]
            case "rolled rows":
                return x.roll(1, 0)
            case "number of rows":
                return x / x.shape[0]
            case "products of rows":
                rows = x.transpose(0, 1)
                return ((rows @ rows.mT).softmax(-1) @ rows).transpose(0, 1)
        raise AssertionError(f"there is no leak {self.made.kind!r}")
