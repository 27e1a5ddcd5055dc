"""Encoders: flax modules that map images to `(pooled features, dict of named feature maps)`.

An encoder is any linen module with `__call__(x: Float[Array, "b h w c"], train: bool) -> (pooled, maps)`: `pooled`
float32 `[b d]`, `maps` a dict of arrays, batch statistics in the collection "batch_stats". The ones here are also to
be had by name, `create("resnet18", stem="small")`.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn

from ssl_jax.core import UserError
from ssl_jax.nets.conv import Conv, conv2d
from ssl_jax.nets.convnet import ConvNet
from ssl_jax.nets.detector import Detector, FeaturePyramid
from ssl_jax.nets.norm import BatchNorm, ImageNorm
from ssl_jax.nets.pooling import grid_average, max_pool
from ssl_jax.nets.resnet import ResNet
from ssl_jax.nets.vit import ViT

__all__ = [
    "NAMES",
    "BatchNorm",
    "Conv",
    "ConvNet",
    "Detector",
    "FeaturePyramid",
    "ImageNorm",
    "ResNet",
    "ViT",
    "conv2d",
    "create",
    "grid_average",
    "max_pool",
]

_MODULES: dict[str, Callable[..., nn.Module]] = {
    "convnet": ConvNet,
    **{f"resnet{depth}": partial(ResNet, depth) for depth in (18, 34, 50, 101, 152, 200)},
    "vit_ti": partial(ViT, dim=192, depth=12, heads=3),
    "vit_s": partial(ViT, dim=384, depth=12, heads=6),
    "vit_b": partial(ViT, dim=768, depth=12, heads=12),
    "vit_l": partial(ViT, dim=1024, depth=24, heads=16),
}
NAMES = tuple(_MODULES)


def create(name: str, **fields: Any) -> nn.Module:
    """Make an encoder by name (one of `NAMES`); `fields` are those of its module, such as `dtype` or `stem`.

    Raises:
      UserError: an unknown name, or a field that the module does not have.
    """
    if name not in _MODULES:
        raise UserError(f'there is no encoder "{name}": choose one of {", ".join(NAMES)}')
    try:
        return _MODULES[name](**fields)
    except TypeError as error:
        raise UserError(f'encoder "{name}" cannot be made from {fields}: {error}') from error
