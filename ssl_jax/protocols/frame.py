"""What an evaluation protocol is given, and what it gives back."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import numpy as np

from ssl_jax import data
from ssl_jax.core import PyTree

Row = dict[str, Any]


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Network:
    """An encoder with its weights, for protocols that train it further or need its maps.

    Attributes:
      encoder: linen module, see `nets.functional`.
      params: its parameters.
      state: its batch statistics.
    """

    encoder: nn.Module
    params: PyTree
    state: PyTree


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Subject:
    """What is evaluated.

    Attributes:
      name: "this run", "random encoder" or "raw pixels".
      features: `(source) -> [n d]`, frozen features of its images in their order.
      network: makes the network behind them, or None for raw pixels.
      untrained: whether that is as it was initialised; protocols that train networks then begin from scratch.
    """

    name: str
    features: Callable[[data.Source], np.ndarray]
    network: Callable[[], Network] | None = None
    untrained: bool = False


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Task:
    """What it is evaluated on.

    Attributes:
      train: images that may be learned from.
      test: images to score on, looked at once.
      seed: of splits, draws and whatever is trained.
      prepare: `uint8 [b h w c] -> float`, as the network was trained on.
      normalize: keyword arguments `mean` and `std` of the augmentation.
      size: what the network sees, in pixels.
      channels: of the images.
    """

    train: data.Source
    test: data.Source
    seed: int
    prepare: Callable
    normalize: dict[str, Any]
    size: int
    channels: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Protocol:
    """A protocol: a function of a subject and a task, and what it needs of them.

    Attributes:
      run: `(subject, task, **options) -> rows`.
      labels: whether it needs them.
      network: whether it needs the network, so that raw pixels are left out.
    """

    run: Callable[..., list[Row]]
    labels: bool = True
    network: bool = False


def row(name: str, values: Sequence[float], *, metric: str = "accuracy", share: bool = True, **setting: Any) -> Row:
    """One figure: `name` for people, the mean of `values` (one per trial), their deviation, and how they came about.

    A metric that is a share (accuracy, average precision, IoU) is in 0..1, and shown in percent.
    """
    spread = float(np.std(values, ddof=1)) if len(values) > 1 else None
    found: Row = {"protocol": name, "metric": metric, "share": share, "value": float(np.mean(values)), "std": spread}
    return {**found, "trials": len(values), "setting": setting}
