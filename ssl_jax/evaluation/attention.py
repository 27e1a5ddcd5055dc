"""Where a vision transformer looks: the attention of one of its blocks as maps over the image."""

import flax.linen as nn
import jax.numpy as jnp
from flax.traverse_util import flatten_dict
from jaxtyping import Array, Bool, Float

from ssl_jax.core import PyTree, UserError

QUERIES = ("cls", "mean")


def attention_maps(
    encoder: nn.Module,
    params: PyTree,
    state: PyTree,
    image: Float[Array, "b h w c"],
    *,
    block: int | None = None,
    query: str | None = None,
) -> Float[Array, "b heads p q"]:
    """Attention of every head to the patches of an image, as in the figures of DINO (Caron et al., ICCV 2021).

    Args:
      encoder: a `nets.ViT`.
      params: its parameters.
      state: its other variables; `{}` for a ViT.
      image: as the encoder takes them, normalised as in training (`augment.prepare`).
      block: number of the block, from 1; None is the last.
      query: who looks: "cls", the class token, or "mean", the mean over all patches; None is the one that the encoder
        pools, the class token for `pool="cls"`.

    Returns:
      Weights at least 0, one for each of the p x q patches. A map's sum is at most 1: what is missing is what goes to
      the class token itself.

    Nothing of this is computed in training. A pure function: compile it with `jax.jit` for many images.

    Raises:
      UserError: the encoder has no attention, or no such block, or the query is unknown.
    """
    if query is None:
        query = "cls" if getattr(encoder, "pool", "cls") == "cls" else "mean"
    if query not in QUERIES:
        raise UserError(f'query is "cls" or "mean", not {query!r}.')
    weights = attention_weights(encoder, params, state, image, block=block)
    grid = tuple(side // encoder.patch for side in image.shape[1:3])
    rows = weights[:, :, 0] if query == "cls" else jnp.mean(weights[:, :, 1:], axis=2)
    return rows[:, :, 1:].reshape(*rows.shape[:2], *grid)


def attention_weights(
    encoder: nn.Module, params: PyTree, state: PyTree, image: Float[Array, "b h w c"], *, block: int | None = None
) -> Float[Array, "b heads n n"]:
    """Attention from every token (third axis) to every token of an image; rows sum to 1.

    Of a `nets.ViT` token 0 is the class token and the others are the patches, row by row. Arguments and errors as for
    `attention_maps`.
    """
    _, sown = encoder.apply({"params": params, **state}, image, train=False, mutable=["intermediates"])
    found = {path: x for path, (x,) in flatten_dict(sown.get("intermediates", {})).items() if path[-1] == "weights"}
    blocks = [found[path] for path in sorted(found, key=lambda path: (len("".join(path)), path))]  # block2, block10
    if not blocks:
        raise UserError(f"A {type(encoder).__name__} has no attention to show; give a ViT.")
    number = len(blocks) if block is None else block
    if not 1 <= number <= len(blocks):
        raise UserError(f"The encoder has the blocks 1 to {len(blocks)}, but not {block}.")
    return blocks[number - 1]


def keep_mass(maps: Float[Array, "*b p q"], mass: float = 0.6) -> Bool[Array, "*b p q"]:
    """The fewest patches of each map that hold at least this share of its sum (DINO keeps 60 %).

    Args:
      maps: values at least 0; of a map of zeros nothing is kept.
      mass: share in 0..1; of equal patches the first are kept.

    Raises:
      UserError: the share is not in 0..1.
    """
    if not 0 <= mass <= 1:
        raise UserError(f"The mass to keep is a share in 0..1, not {mass}.")
    flat = maps.reshape(*maps.shape[:-2], -1)
    order = jnp.argsort(-flat, axis=-1, stable=True)
    ordered = jnp.take_along_axis(flat, order, axis=-1)
    before = jnp.cumsum(ordered, axis=-1) - ordered  # what the patches ahead of each hold
    kept = before < mass * jnp.sum(flat, axis=-1, keepdims=True)
    return jnp.take_along_axis(kept, jnp.argsort(order, axis=-1), axis=-1).reshape(maps.shape)
