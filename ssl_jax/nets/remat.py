"""Activation checkpointing (Chen et al., 2016, arXiv:1604.06174): memory for the time of a second forward pass."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn

from ssl_jax.core import UserError

PRODUCTS = ("dot_general", "conv_general_dilated")


def recomputed(block: type[nn.Module], kind: str) -> Callable[..., nn.Module]:
    """A block, called as `block(...)(x, train)`, that computes again for its gradient what it did not keep.

    Args:
      block: a module class. Parameters, results and random draws are those of the class itself.
      kind: "none", keep everything, which is the class itself; "blocks", keep a block's input only, for about a third
        more arithmetic; "dots", keep the results of matrix products and convolutions, and compute again what lies
        between them: norms, activations, softmaxes.

    Raises:
      UserError: another kind.
    """
    policies = {"blocks": None, "dots": _is_product}
    if kind == "none":
        return block
    if kind not in policies:
        raise UserError(f'remat="{kind}" is unknown: choose "none", "blocks" or "dots"')
    return nn.remat(block, static_argnums=(2,), policy=policies[kind])  # counted from `self`: 2 is `train`


def _is_product(primitive: Any, *_: Any, **__: Any) -> bool:
    return primitive.name in PRODUCTS
