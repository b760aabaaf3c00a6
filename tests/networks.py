"""Networks on images in plain PyTorch, as authors write them, with random weights. `width` scales the channels."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class ConvolutionNorm(nn.Sequential):
    """A convolution that keeps the size (but for its stride), a norm over the batch, and perhaps an activation."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int = 1,
        stride: int = 1,
        groups: int = 1,
        activation: Callable[[], nn.Module] | None = None,
    ) -> None:
        convolution = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
        super().__init__(convolution, nn.BatchNorm2d(outputs), *([activation()] if activation else []))


# ---------------------------------------------------------------- ResNet-50 (He et al., 2015)


class Bottleneck(nn.Module):
    def __init__(self, inputs: int, inner: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            ConvolutionNorm(inputs, inner, activation=nn.ReLU),
            ConvolutionNorm(inner, inner, 3, stride, activation=nn.ReLU),
            ConvolutionNorm(inner, 4 * inner),
        )
        changes = stride != 1 or inputs != 4 * inner
        self.shortcut = ConvolutionNorm(inputs, 4 * inner, 1, stride) if changes else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.body(x) + self.shortcut(x))


class ResNet50(nn.Module):
    def __init__(self, width: float = 1.0, depths: tuple[int, ...] = (3, 4, 6, 3)) -> None:
        super().__init__()
        channels = round(64 * width)
        layers: list[nn.Module] = [ConvolutionNorm(3, channels, 7, 2, activation=nn.ReLU), nn.MaxPool2d(3, 2, 1)]
        for stage, depth in enumerate(depths):
            inner = round(64 * width) * 2**stage
            for place in range(depth):
                layers.append(Bottleneck(channels, inner, 2 if stage and not place else 1))
                channels = 4 * inner
        self.features = nn.Sequential(*layers)
        self.head = nn.Linear(channels, 1000)

    def forward(self, pixels: Tensor) -> Tensor:
        return self.head(self.features(pixels).mean((2, 3)))


# ---------------------------------------------------------------- MobileNetV3, large (Howard et al., 2019)


class SqueezeExcite(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        inner = max(channels // 4 // 8, 1) * 8
        self.down, self.up = nn.Conv2d(channels, inner, 1), nn.Conv2d(inner, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x * F.hardsigmoid(self.up(torch.relu(self.down(F.adaptive_avg_pool2d(x, 1)))))


class InvertedResidual(nn.Module):
    def __init__(
        self,
        inputs: int,
        kernel: int,
        inner: int,
        outputs: int,
        excites: bool,
        activation: Callable[[], nn.Module],
        stride: int,
    ) -> None:
        super().__init__()
        self.keeps = stride == 1 and inputs == outputs
        layers: list[nn.Module] = [] if inner == inputs else [ConvolutionNorm(inputs, inner, activation=activation)]
        layers.append(ConvolutionNorm(inner, inner, kernel, stride, inner, activation))
        layers += [SqueezeExcite(inner)] if excites else []
        self.body = nn.Sequential(*layers, ConvolutionNorm(inner, outputs))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x) if self.keeps else self.body(x)


class MobileNetV3(nn.Module):
    # kernel, inner channels, channels, whether it squeezes and excites, activation, stride
    BLOCKS = (
        (3, 16, 16, False, nn.ReLU, 1),
        (3, 64, 24, False, nn.ReLU, 2),
        (3, 72, 24, False, nn.ReLU, 1),
        (5, 72, 40, True, nn.ReLU, 2),
        (5, 120, 40, True, nn.ReLU, 1),
        (5, 120, 40, True, nn.ReLU, 1),
        (3, 240, 80, False, nn.Hardswish, 2),
        (3, 200, 80, False, nn.Hardswish, 1),
        (3, 184, 80, False, nn.Hardswish, 1),
        (3, 184, 80, False, nn.Hardswish, 1),
        (3, 480, 112, True, nn.Hardswish, 1),
        (3, 672, 112, True, nn.Hardswish, 1),
        (5, 672, 160, True, nn.Hardswish, 2),
        (5, 960, 160, True, nn.Hardswish, 1),
        (5, 960, 160, True, nn.Hardswish, 1),
    )

    def __init__(self, blocks: int = len(BLOCKS)) -> None:
        super().__init__()
        layers: list[nn.Module] = [ConvolutionNorm(3, 16, 3, 2, activation=nn.Hardswish)]
        channels = 16
        for kernel, inner, outputs, excites, activation, stride in self.BLOCKS[:blocks]:
            layers.append(InvertedResidual(channels, kernel, inner, outputs, excites, activation, stride))
            channels = outputs
        layers.append(ConvolutionNorm(channels, 6 * channels, activation=nn.Hardswish))
        self.features = nn.Sequential(*layers)
        self.head = nn.Sequential(nn.Linear(6 * channels, 1280), nn.Hardswish(), nn.Linear(1280, 1000))

    def forward(self, pixels: Tensor) -> Tensor:
        return self.head(self.features(pixels).mean((2, 3)))


# ---------------------------------------------------------------- ConvNeXt, tiny (Liu et al., 2022)


class ChannelNorm(nn.LayerNorm):
    """A layer norm over the channels of images [B, C, H, W]."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class ConvNeXtBlock(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(channels, channels, 7, padding=3, groups=channels)
        self.norm = nn.LayerNorm(channels, eps=1e-6)
        self.up, self.down = nn.Linear(channels, 4 * channels), nn.Linear(4 * channels, channels)
        self.scale = nn.Parameter(torch.full((channels,), 0.1))

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.depthwise(x).permute(0, 2, 3, 1))
        y = self.scale * self.down(F.gelu(self.up(y)))
        return x + y.permute(0, 3, 1, 2)


class ConvNeXt(nn.Module):
    def __init__(self, width: float = 1.0, depths: tuple[int, ...] = (3, 3, 9, 3)) -> None:
        super().__init__()
        channels = round(96 * width)
        layers: list[nn.Module] = [nn.Conv2d(3, channels, 4, 4), ChannelNorm(channels)]
        for stage, depth in enumerate(depths):
            if stage:
                layers += [ChannelNorm(channels), nn.Conv2d(channels, 2 * channels, 2, 2)]
                channels *= 2
            layers += [ConvNeXtBlock(channels) for _ in range(depth)]
        self.features = nn.Sequential(*layers)
        self.norm, self.head = nn.LayerNorm(channels), nn.Linear(channels, 1000)

    def forward(self, pixels: Tensor) -> Tensor:
        return self.head(self.norm(self.features(pixels).mean((2, 3))))


# ---------------------------------------------------------------- U-Net (Ronneberger et al., 2015), with norms


class Double(nn.Sequential):
    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(
            ConvolutionNorm(inputs, outputs, 3, activation=nn.ReLU),
            ConvolutionNorm(outputs, outputs, 3, activation=nn.ReLU),
        )


class UNet(nn.Module):
    def __init__(self, channels: int = 32, depth: int = 4) -> None:
        super().__init__()
        sizes = [channels * 2**level for level in range(depth + 1)]
        pairs = list(pairwise(sizes))
        self.down = nn.ModuleList([Double(3, channels), *(Double(*pair) for pair in pairs[:-1])])
        self.middle = Double(*pairs[-1])
        self.up = nn.ModuleList(nn.ConvTranspose2d(wide, narrow, 2, 2) for narrow, wide in reversed(pairs))
        self.join = nn.ModuleList(Double(wide, narrow) for narrow, wide in reversed(pairs))
        self.head = nn.Conv2d(channels, 2, 1)

    def forward(self, pixels: Tensor) -> Tensor:
        x, kept = pixels, []
        for each in self.down:
            kept.append(each(x))
            x = F.max_pool2d(kept[-1], 2)
        x = self.middle(x)
        for up, join, other in zip(self.up, self.join, reversed(kept), strict=True):
            x = join(torch.cat((other, up(x)), 1))
        return self.head(x)


NETWORKS: dict[str, tuple[Callable[[], nn.Module], int]] = {
    "ResNet-50": (ResNet50, 224),
    "MobileNetV3": (MobileNetV3, 224),
    "ConvNeXt": (ConvNeXt, 224),
    "U-Net": (UNet, 256),
}
"""How each is made, and the height and width of the images that it is run on."""

SMALL: dict[str, tuple[Callable[[], nn.Module], int]] = {
    "ResNet-50": (lambda: ResNet50(0.25, (2, 1, 1, 1)), 64),
    "MobileNetV3": (lambda: MobileNetV3(8), 64),
    "ConvNeXt": (lambda: ConvNeXt(0.125, (2, 1, 1, 1)), 64),
    "U-Net": (lambda: UNet(8, 2), 32),
}
"""The same with fewer and narrower layers."""


def network(name: str, sizes: dict[str, tuple[Callable[[], nn.Module], int]] = NETWORKS) -> tuple[nn.Module, Tensor]:
    """One of them, evaluating, with statistics in its norms as after a training; and one image."""
    torch.manual_seed(0)
    make, size = sizes[name]
    module = make().eval()
    for each in module.modules():
        if isinstance(each, nn.BatchNorm2d):
            nn.init.normal_(each.running_mean, std=0.1)  # type: ignore[arg-type]
            nn.init.uniform_(each.running_var, 0.5, 1.5)  # type: ignore[arg-type]
            nn.init.uniform_(each.weight, 0.5, 1.5)
            nn.init.normal_(each.bias, std=0.1)
    return module, torch.randn(1, 3, size, size)
