"""Pretrained variables in the place of random ones, at the start of further training."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from ssl_jax.core import PyTree, TrainState, UserError
from ssl_jax.nets import functional


def check_fits(
    encoder: nn.Module, params: PyTree, state: PyTree | None, image: jax.ShapeDtypeStruct | jax.Array
) -> None:
    """Raise a `UserError` that names the first array that is missing, too many or of another shape.

    Args:
      encoder: the module.
      params: what is to be its parameters.
      state: what is to be its batch statistics; None for none.
      image: what it is shown, of which the shape `[b h w c]` matters.
    """
    variables = jax.eval_shape(lambda x: functional.init(encoder, jax.random.key(0), x), image)
    check_same(params, variables[0], "parameters")
    check_same(state or {}, variables[1], "batch statistics")


def check_same(given: PyTree, expected: PyTree, what: str) -> None:
    """Raise a `UserError` that names the first array of `given` that is not in `expected`, by name and shape."""
    ours, theirs = (
        {jax.tree_util.keystr(path, simple=True, separator="/"): list(jnp.shape(x)) for path, x in leaves}
        for leaves in map(jax.tree.leaves_with_path, (given, expected))
    )
    for name in sorted(ours | theirs):
        if ours.get(name) != theirs.get(name):
            raise UserError(
                f"The {what} are of another encoder, image size or number of channels: {name} is "
                f"{ours.get(name, 'missing')}, where the encoder has {theirs.get(name, 'no such array')}."
            )


def with_part(start: TrainState, name: str, params: PyTree, state: PyTree | None = None) -> TrainState:
    """The initial state with a part's variables in place of random ones: copies, since a step donates its own.

    Raises:
      UserError: they are not those of the part, by name or shape.
    """
    check_same(params, start.params[name], "parameters")
    if state is not None:
        check_same(state, start.carry.model_state[name], "batch statistics")

    def put_in(tree: PyTree, new: PyTree | None) -> PyTree:
        if new is None:
            return tree
        copy = jax.tree.map(lambda x, old: jax.device_put(np.array(x, old.dtype), old.sharding), new, tree[name])
        return {**tree, name: copy}

    carry = start.carry.replace(model_state=put_in(start.carry.model_state, state))
    if carry.teacher is not None:
        average = carry.teacher
        average = {
            "params": put_in(average["params"], params),
            "model_state": put_in(average["model_state"], state),
        }
        carry = carry.replace(teacher=average)
    return start.replace(params=put_in(start.params, params), carry=carry)
