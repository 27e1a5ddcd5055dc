"""Encoders: flax modules that map images to `(pooled features, dict of named feature maps)`.

An encoder is any linen module with `__call__(x: Float[Array, "b h w c"], train: bool) -> (pooled, maps)`: `pooled`
float32 `[b d]`, `maps` a dict of arrays, batch statistics in the collection "batch_stats". The ones here are also to
be had by name, `create("resnet18", stem="small")`; one's own too, within `with own(tiny=Tiny):`.
"""

import contextlib
import contextvars
import inspect
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

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
    "factory",
    "grid_average",
    "is_known",
    "max_pool",
    "own",
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


_own: contextvars.ContextVar[Mapping[str, Callable[..., nn.Module]]] = contextvars.ContextVar("own")


@contextlib.contextmanager
def own(**modules: Callable[..., nn.Module]) -> Iterator[None]:
    """Have `create`, and with it configs and runs, know encoders of one's own by name while the context lasts.

    Raises:
      UserError: a name is one of `NAMES`.
    """
    if taken := modules.keys() & _MODULES.keys():
        raise UserError(f"an encoder of your own can't be called {min(taken)}: the library has one")
    token = _own.set({**_own.get({}), **modules})
    try:
        yield
    finally:
        _own.reset(token)


def is_known(name: str) -> bool:
    """Whether `create` knows an encoder of that name."""
    return name in _MODULES or name in _own.get({})


def factory(name: str) -> Callable[..., nn.Module]:
    """What `create` makes one of `NAMES` with: its signature has the fields that may be set (no ResNet's depth)."""
    return _MODULES[name]


def create(name: str, **fields: Any) -> nn.Module:
    """Make an encoder by name (one of `NAMES`, or of `own`); `fields` are those of its module, such as `dtype`.

    An encoder of one's own that has no field `dtype` is not given one, and computes in float32.

    Raises:
      UserError: an unknown name, a field that the module does not have, or what is made is no module.
    """
    if not is_known(name):
        raise UserError(f'there is no encoder "{name}": choose one of {", ".join([*NAMES, *_own.get({})])}')
    make = _MODULES.get(name) or _own.get({})[name]
    has_dtype = name in _MODULES or _takes(make, "dtype")
    if not has_dtype and jnp.dtype(fields.pop("dtype", jnp.float32)) != jnp.float32:
        raise UserError(f'the encoder "{name}" has no field `dtype`, so it can compute in float32 only')
    try:
        if name in _MODULES:  # a field that the name itself sets, such as a ResNet's depth, is none to be set here
            inspect.signature(make).bind(**fields)
        made = make(**fields)
    except TypeError as error:
        raise UserError(f'encoder "{name}" cannot be made from {fields}: {error}') from error
    if not isinstance(made, nn.Module):
        raise UserError(f'the encoder "{name}" is no flax linen module, but {type(made).__name__}')
    return made


def _takes(make: Callable[..., nn.Module], name: str) -> bool:
    try:
        parameters = inspect.signature(make).parameters
    except ValueError:  # of what is written in C
        return False
    return name in parameters or any(p.kind is p.VAR_KEYWORD for p in parameters.values())
