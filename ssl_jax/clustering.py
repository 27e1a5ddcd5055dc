"""Visual words: k-means, assignment of local features to a vocabulary, and bags of words, on plain arrays.

Distances are squared Euclidean, of features as they are (not normalised). Everything is deterministic and may be
sharded over the examples: sums are matrix products, ties go to the first word, and draws depend on the key and the
shapes alone.
"""

import functools

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int, PRNGKeyArray

from ssl_jax.core import UserError
from ssl_jax.losses import at_least_float32


def squared_distances(features: Float[Array, "*n c"], words: Float[Array, "k c"]) -> Float[Array, "*n k"]:
    """Squared distance of every feature to every word, at least 0; in at least float32."""
    x = at_least_float32(features)
    words = words.astype(x.dtype)
    products = jnp.matmul(x, words.T, precision="highest")
    squares = jnp.sum(x * x, axis=-1, keepdims=True) + _row(jnp.sum(words * words, axis=-1), x.ndim)
    return jnp.maximum(squares - 2 * products, 0)


def _row(vector: Array, ndim: int) -> Array:
    return jnp.expand_dims(vector, tuple(range(ndim - 1)))


def nearest(features: Float[Array, "*n c"], words: Float[Array, "k c"]) -> Int[Array, "*n"]:
    """Number of the nearest word; of equally near ones the first."""
    return jnp.argmin(squared_distances(features, words), axis=-1)


def hard_codes(distances: Float[Array, "*n k"]) -> Float[Array, "*n k"]:
    """1 for the nearest word (of equally near ones the first), 0 for the others."""
    return jax.nn.one_hot(jnp.argmin(distances, axis=-1), distances.shape[-1], dtype=distances.dtype)


def soft_codes(distances: Float[Array, "*n k"], inverse_temperature: float | Float[Array, ""]) -> Float[Array, "*n k"]:
    """Softmax over the words of minus the distance times the inverse temperature."""
    return jax.nn.softmax(-distances * jnp.asarray(inverse_temperature, distances.dtype), axis=-1)


def bag_of_words(codes: Float[Array, "b n k"], *, pool: str = "max") -> Float[Array, "b k"]:
    """Pool the codes of an image's n locations; rows sum to 1.

    Args:
      codes: see `hard_codes` and `soft_codes`.
      pool: "max" or "average". Of hard codes, the first tells which words occur (a binary bag), the second how often
        (a histogram).

    Raises:
      UserError: another `pool`.
    """
    if pool not in ("max", "average"):
        raise UserError(f'pool is "max" or "average", not {pool!r}.')
    bag = jnp.max(codes, axis=1) if pool == "max" else jnp.mean(codes, axis=1)
    return bag / jnp.maximum(jnp.sum(bag, axis=-1, keepdims=True), 1e-12)


def perplexities(bags: Float[Array, "b k"]) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """How many words an image uses (mean over the batch), and how many the batch: exponentials of entropies, 1..k.

    With 1e-5 inside the logarithm, as OBoW's code, so that large vocabularies appear a little smaller.
    """

    def perplexity(p: Array) -> Array:
        p = p / jnp.maximum(jnp.sum(p, axis=-1, keepdims=True), 1e-12)
        return jnp.exp(-jnp.sum(p * jnp.log(p + 1e-5), axis=-1))

    return jnp.mean(perplexity(bags)), perplexity(jnp.sum(bags, axis=0))


def drop_border(maps: Float[Array, "b h w c"], border: int = 1) -> Float[Array, "b _ _ c"]:
    """Cut `border` rows and columns off every side, along an axis that is long enough to keep something."""
    rows, columns = (slice(border, n - border) if n > 2 * border else slice(None) for n in maps.shape[1:3])
    return maps[:, rows, columns]


def local_averages(maps: Float[Array, "b h w c"], window: int | None = 3) -> Float[Array, "b n c"]:
    """Averages over all windows that lie inside the map, in row-major order.

    Args:
      maps: feature maps.
      window: side of the window, cut to the map's; 1 leaves the features as they are, None averages the whole map.
    """
    maps = at_least_float32(maps)
    sizes = [n if window is None else min(window, n) for n in maps.shape[1:3]]
    for axis, size in enumerate(sizes, start=1):
        count = maps.shape[axis] - size + 1
        moved = [lax.slice_in_dim(maps, i, i + count, axis=axis) for i in range(size)]
        maps = functools.reduce(jnp.add, moved) / size
    return maps.reshape(len(maps), -1, maps.shape[-1])


def pick(features: Float[Array, "b n c"], location: Int[Array, " b"]) -> Float[Array, "b c"]:
    """One feature of each image."""
    return jnp.take_along_axis(features, location[:, None, None], axis=1)[:, 0]


def kmeans(
    rng: PRNGKeyArray, features: Float[Array, "n c"], count: int, *, iterations: int = 25, tile: int = 8192
) -> Float[Array, "k c"]:
    """Centres of k-means: k-means++ (Arthur & Vassilvitskii, 2007), then Lloyd's iterations, all on the device.

    A cluster that becomes empty moves to the feature that is farthest from its own centre, a second one to the second
    farthest, and so on. Fewer distinct features than clusters leave some centres equal.

    Args:
      rng: key of the start.
      features: n features; may be sharded over n.
      count: number k of clusters.
      iterations: of Lloyd.
      tile: features that are compared with all centres at once, which bounds the memory to `tile * count` numbers.

    Raises:
      UserError: fewer features than clusters, or a number below 1.
    """
    if min(count, iterations, tile) < 1:
        raise UserError("k-means takes at least one cluster, one iteration and one feature in a tile.")
    if len(features) < count:
        raise UserError(f"k-means can't find {count} words among {len(features)} features; give more, or fewer words.")
    return _kmeans(rng, features, count, iterations, tile)


@functools.partial(jax.jit, static_argnums=(2, 3, 4))
def _kmeans(rng: Array, features: Array, count: int, iterations: int, tile: int) -> Array:
    # About their mean, features lose fewer digits in the expanded square.
    x = at_least_float32(features)
    mean = jnp.mean(x, axis=0, keepdims=True)
    x = x - mean
    tiles = -(-len(x) // tile)
    # Tile i holds every tiles-th row from i on, so that rows split over devices are so in every tile.
    padded = jnp.pad(x, ((0, -len(x) % tiles), (0, 0)))
    tiled = padded.reshape(-1, tiles, x.shape[1]).swapaxes(0, 1)
    real = (jnp.arange(len(padded)) < len(x)).reshape(-1, tiles).T

    def iterate(_, centres: Array) -> Array:
        def add(sums: tuple[Array, Array], rows: tuple[Array, Array]) -> tuple[tuple[Array, Array], Array]:
            distances = squared_distances(rows[0], centres)
            codes = hard_codes(distances) * rows[1][:, None].astype(x.dtype)
            total = sums[0] + jnp.matmul(codes.T, rows[0], precision="highest")
            return (total, sums[1] + jnp.sum(codes, axis=0)), jnp.min(distances, axis=1)

        zeros = (jnp.zeros_like(centres), jnp.zeros(count, x.dtype))
        (total, number), distances = lax.scan(add, zeros, (tiled, real))
        farthest = lax.top_k(jnp.where(real, distances, -1).T.reshape(-1), count)[1]
        empty = number == 0
        rank = jnp.maximum(jnp.cumsum(empty) - 1, 0)
        return jnp.where(empty[:, None], padded[farthest[rank]], total / jnp.maximum(number, 1)[:, None])

    return lax.fori_loop(0, iterations, iterate, _plus_plus(rng, x, count)) + mean


def _plus_plus(rng: Array, x: Array, count: int) -> Array:
    """Start of k-means++: each centre is a feature drawn with odds that grow with its distance to those before."""

    def draw(i: Array, drawn: tuple[Array, Array]) -> tuple[Array, Array]:
        centres, distances = drawn
        # log 0 is minus infinity: what is a centre already is drawn again only if everything is.
        chosen = x[jax.random.categorical(jax.random.fold_in(rng, i), jnp.log(distances))]
        apart = jnp.sum((x - chosen[None]) ** 2, axis=1)
        return centres.at[i].set(chosen), jnp.minimum(distances, apart)

    first = x[jax.random.randint(rng, (), 0, len(x))]
    start = jnp.zeros((count, x.shape[1]), x.dtype).at[0].set(first), jnp.sum((x - first[None]) ** 2, axis=1)
    return lax.fori_loop(1, count, draw, start)[0]
