"""The benchmarked networks in PyTorch, of the same sizes as this library's."""

import torch
from torch import nn


def conv(i: int, o: int, size: int, stride: int) -> nn.Conv2d:
    return nn.Conv2d(i, o, size, stride, padding=size // 2, bias=False)


class Residual(nn.Module):
    """Basic residual block."""

    def __init__(self, i: int, o: int, stride: int):
        super().__init__()
        self.body = nn.Sequential(
            conv(i, o, 3, stride), nn.BatchNorm2d(o), nn.ReLU(inplace=True), conv(o, o, 3, 1), nn.BatchNorm2d(o)
        )
        down = nn.Sequential(conv(i, o, 1, stride), nn.BatchNorm2d(o))
        self.shortcut = down if i != o or stride > 1 else nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.body(x) + self.shortcut(x))


class Bottleneck(nn.Module):
    """Residual block of three convolutions, the stride in the middle one."""

    def __init__(self, i: int, width: int, stride: int):
        super().__init__()
        o = 4 * width
        layers = []
        for a, b, size, step in ((i, width, 1, 1), (width, width, 3, stride)):
            layers += [conv(a, b, size, step), nn.BatchNorm2d(b), nn.ReLU(inplace=True)]
        self.body = nn.Sequential(*layers, conv(width, o, 1, 1), nn.BatchNorm2d(o))
        down = nn.Sequential(conv(i, o, 1, stride), nn.BatchNorm2d(o))
        self.shortcut = down if i != o or stride > 1 else nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.body(x) + self.shortcut(x))


def resnet50(channels: int) -> nn.Module:
    layers = [conv(channels, 64, 7, 2), nn.BatchNorm2d(64), nn.ReLU(inplace=True), nn.MaxPool2d(3, 2, 1)]
    i = 64
    for stage, count in enumerate((3, 4, 6, 3)):
        for block in range(count):
            layers.append(Bottleneck(i, 64 * 2**stage, 2 if block == 0 and stage else 1))
            i = 4 * 64 * 2**stage
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())


def resnet18(channels: int, width: int = 16) -> nn.Module:
    layers = [conv(channels, width, 3, 1), nn.BatchNorm2d(width), nn.ReLU(inplace=True)]
    i = width
    for stage in range(4):
        for block in range(2):
            o = width * 2**stage
            layers.append(Residual(i, o, 2 if block == 0 and stage else 1))
            i = o
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())


def convnet(channels: int, widths: tuple[int, ...] = (24, 48, 96, 192)) -> nn.Module:
    layers: list[nn.Module] = []
    i = channels
    for stage, o in enumerate(widths):
        layers += [conv(i, o, 3, 2 if stage else 1), nn.BatchNorm2d(o), nn.ReLU(inplace=True)]
        i = o
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())


class ViT(nn.Module):
    """Pre-norm vision transformer with a class token, through PyTorch's own encoder layer."""

    def __init__(self, channels: int, patch: int = 4, size: int = 32, dim: int = 192, depth: int = 6, heads: int = 3):
        super().__init__()
        self.patches = nn.Conv2d(channels, dim, patch, patch)
        self.token = nn.Parameter(torch.zeros(1, 1, dim))
        self.positions = nn.Parameter(0.02 * torch.randn(1, (size // patch) ** 2 + 1, dim))
        layer = nn.TransformerEncoderLayer(
            dim, heads, 4 * dim, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
        )
        self.blocks = nn.TransformerEncoder(layer, depth, norm=nn.LayerNorm(dim), enable_nested_tensor=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(len(x), -1, -1), x], dim=1) + self.positions
        return self.blocks(x)[:, 0]


def with_projector(name: str, channels: int, size: int = 32) -> nn.Module:
    """The encoder and SimCLR's two-layer head."""
    encoder, dim = {
        "convnet": lambda: (convnet(channels), 192),
        "resnet18": lambda: (resnet18(channels), 128),
        "resnet50": lambda: (resnet50(channels), 2048),
        "vit": lambda: (ViT(channels, size=size), 192),
        "vit_s": lambda: (ViT(channels, patch=16, size=size, dim=384, depth=12, heads=6), 384),
    }[name]()
    head = [nn.Linear(dim, dim, bias=False), nn.BatchNorm1d(dim), nn.ReLU(inplace=True)]
    return nn.Sequential(encoder, *head, nn.Linear(dim, 128, bias=False), nn.BatchNorm1d(128))
