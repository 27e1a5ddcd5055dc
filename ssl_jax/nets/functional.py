"""Flax modules as pairs of pure functions: `init` gives params and state, `apply` gives outputs and the next state.

Every method talks to networks through these functions, so a user's own linen module needs nothing but the
encoder's signature, `__call__(image [b h w c], train: bool) -> pooled [b d]` or `-> (pooled [b d], maps)`.
"""

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from ssl_jax.core import Carry, PyTree, UserError
from ssl_jax.nets.parts import ambient_parts, map_parts


def init(module: nn.Module, rng: PRNGKeyArray, inputs: PyTree) -> tuple[PyTree, PyTree]:
    """Initialise `module` on an example input; returns `(params, state)`, state being e.g. `{"batch_stats": ...}`.

    The input is an array of images for encoders, and any tree for other modules.

    Raises:
      UserError: the module's `__call__` takes no argument `train`.
    """
    arguments = inspect.signature(module.__call__).parameters.values()
    if not any(a.name == "train" or a.kind is a.VAR_KEYWORD for a in arguments):
        raise UserError(f"{type(module).__name__} must take an argument `train`: `def __call__(self, image, train)`.")
    variables = dict(module.init({"params": rng, "dropout": rng}, inputs, train=True))
    return variables.pop("params", {}), variables


def apply(
    module: nn.Module,
    params: PyTree,
    state: PyTree,
    inputs: PyTree,
    *,
    train: bool,
    rng: PRNGKeyArray | None = None,
    **arguments: Any,
) -> tuple[Any, PyTree]:
    """Run `module`; returns its output and the next state (unchanged if `train` is false).

    `arguments` go to the module, for example the patches that a masked transformer keeps.
    """
    variables = {"params": params, **state}
    rngs = None if rng is None else {"dropout": rng}
    if not train:
        return module.apply(variables, inputs, train=False, rngs=rngs, **arguments), state
    output, updated = module.apply(variables, inputs, train=True, rngs=rngs, mutable=list(state), **arguments)
    return output, dict(updated)


def encode(
    module: nn.Module,
    params: PyTree,
    state: PyTree,
    image: Float[Array, "b h w c"],
    *,
    train: bool,
    rng: PRNGKeyArray | None = None,
    **arguments: Any,
) -> tuple[Float[Array, "b d"], dict[str, Array], PyTree]:
    """Run an encoder; returns `(pooled, maps, next state)`. `arguments` go to the module.

    Within `parts.encoding_in_parts` the batch goes through the encoder in parts.

    Raises:
      UserError: the module returned neither `[b d]` features nor a pair of features and a dict of maps.
    """

    def run(image: Array, rng: PRNGKeyArray | None, arguments: dict[str, Any]) -> tuple[Any, PyTree]:
        output, after = apply(module, params, state, image, train=train, rng=rng, **arguments)
        return _pooled_and_maps(module, output), after if train else {}

    parts = ambient_parts()
    if parts is not None and parts.splits(image):
        (pooled, maps), after = map_parts(parts, run, image, rng, arguments)
    else:
        (pooled, maps), after = run(image, rng, arguments)
    return pooled, maps, after if train else state


def _pooled_and_maps(module: nn.Module, output: Any) -> tuple[Array, dict[str, Array]]:
    """An encoder's output in the form that all methods expect."""
    pooled, maps = output if isinstance(output, tuple) and len(output) == 2 else (output, {})
    if getattr(pooled, "ndim", None) != 2 or not isinstance(maps, dict):
        raise UserError(
            f"The encoder {type(module).__name__} must return features [batch, dim], or (features, dict of maps), "
            f"but returned {type(output).__name__} with shape {getattr(pooled, 'shape', None)}."
        )
    return pooled, maps


def encode_crops(
    module: nn.Module,
    params: PyTree,
    state: PyTree,
    crops: Sequence[Float[Array, "b _ _ _ _"]],
    *,
    train: bool,
    rng: PRNGKeyArray,
) -> tuple[Float[Array, "b v d"], PyTree]:
    """Run an encoder on views of several sizes, all of one size at a time; returns `(pooled, next state)`.

    Batch statistics are those of all views of a size together, as in the code of SwAV and DINO.
    """
    b, pooled = len(crops[0]), []
    for crop, key in zip(crops, jax.random.split(rng, len(crops)), strict=True):
        image = crop.reshape(-1, *crop.shape[2:])
        features, _, state = encode(module, params, state, image, train=train, rng=key)
        pooled.append(features.reshape(b, -1, features.shape[-1]))
    return jnp.concatenate(pooled, axis=1), state


def init_encoder(
    module: nn.Module, rng: PRNGKeyArray, image: Float[Array, "b h w c"]
) -> tuple[PyTree, PyTree, Float[Array, "b d"], dict[str, Array]]:
    """Initialise an encoder; returns `(params, state, pooled, maps)`, the last two for whatever comes on top of it."""
    params, state = init(module, rng, image)
    pooled, maps, _ = encode(module, params, state, image, train=False)
    return params, state, pooled, maps


def encode_with(module: nn.Module) -> Callable[..., tuple[Float[Array, "b d"], dict[str, Array]]]:
    """`Method.encode` for a method whose params and model state keep the encoder's under "encoder"."""

    def encoder(params: PyTree, carry: Carry, image: Float[Array, "b h w c"]) -> tuple[Array, dict[str, Array]]:
        state = carry.model_state["encoder"]
        pooled, maps, _ = encode(module, params["encoder"], state, image, train=False)
        return pooled, maps

    return encoder
