"""Flax modules as pairs of pure functions: `init` gives params and state, `apply` gives outputs and the next state.

Every method talks to networks through these three functions, so a user's own linen module needs nothing but the
encoder's signature, `__call__(image [b h w c], train: bool) -> pooled [b d]` or `-> (pooled [b d], maps)`.
"""

import inspect
from typing import Any

import flax.linen as nn
from jaxtyping import Array, Float, PRNGKeyArray

from ssl_jax.core import PyTree, UserError


def init(module: nn.Module, rng: PRNGKeyArray, inputs: Array) -> tuple[PyTree, PyTree]:
    """Initialise `module` on an example input; returns `(params, state)`, state being e.g. `{"batch_stats": ...}`.

    Raises:
      UserError: the module's `__call__` takes no argument `train`.
    """
    arguments = inspect.signature(module.__call__).parameters.values()
    if not any(a.name == "train" or a.kind is a.VAR_KEYWORD for a in arguments):
        raise UserError(f"{type(module).__name__} must take an argument `train`: `def __call__(self, image, train)`.")
    variables = dict(module.init({"params": rng, "dropout": rng}, inputs, train=True))
    return variables.pop("params", {}), variables


def apply(
    module: nn.Module, params: PyTree, state: PyTree, inputs: Array, *, train: bool, rng: PRNGKeyArray | None = None
) -> tuple[Any, PyTree]:
    """Run `module`; returns its output and the next state (unchanged if `train` is false)."""
    variables = {"params": params, **state}
    rngs = None if rng is None else {"dropout": rng}
    if not train:
        return module.apply(variables, inputs, train=False, rngs=rngs), state
    output, updated = module.apply(variables, inputs, train=True, rngs=rngs, mutable=list(state))
    return output, dict(updated)


def encode(
    module: nn.Module,
    params: PyTree,
    state: PyTree,
    image: Float[Array, "b h w c"],
    *,
    train: bool,
    rng: PRNGKeyArray | None = None,
) -> tuple[Float[Array, "b d"], dict[str, Array], PyTree]:
    """Run an encoder; returns `(pooled, maps, next state)`.

    Raises:
      UserError: the module returned neither `[b d]` features nor a pair of features and a dict of maps.
    """
    output, state = apply(module, params, state, image, train=train, rng=rng)
    pooled, maps = output if isinstance(output, tuple) and len(output) == 2 else (output, {})
    if getattr(pooled, "ndim", None) != 2 or not isinstance(maps, dict):
        raise UserError(
            f"The encoder {type(module).__name__} must return features [batch, dim], or (features, dict of maps), "
            f"but returned {type(output).__name__} with shape {getattr(pooled, 'shape', None)}."
        )
    return pooled, maps, state
