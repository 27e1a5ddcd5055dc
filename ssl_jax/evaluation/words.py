"""Visual words and prototypes: which of them occur, how often, and where they are seen best."""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int

from ssl_jax import data
from ssl_jax.core import Method, PyTree, TrainState, UserError
from ssl_jax.evaluation.features import each_image, readable, to_float
from ssl_jax.sharding import data_mesh, replicated

SCORES = 2**25  # numbers that are held at once


@dataclasses.dataclass(frozen=True, kw_only=True)
class Assigned:
    """The word of every place of n images, which are p x q places each.

    Attributes:
      word: number of the word, int32 `[n p q]`.
      score: how near it is, greater is nearer; `-inf` where there is none, at places that the method leaves out.
      size: how many words there are.
    """

    word: Int[np.ndarray, "n p q"]
    score: Float[np.ndarray, "n p q"]
    size: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Gallery:
    """Some words, the most frequent first, and the places where they are seen best, the nearest first.

    Attributes:
      word: numbers of the words, `[m]`.
      frequency: each word's share of all places, 0..1, `[m]`.
      rank: 1 for the most frequent of all words, `[m]`.
      image, row, column: the places, `[m r]`, no two of a word in one image; -1 where a word has no more.
      used: how many of all words occur at all.
      perplexity: how many equally frequent words would be as unpredictable, exp of the entropy, 1..used.
    """

    word: Int[np.ndarray, " m"]
    frequency: Float[np.ndarray, " m"]
    rank: Int[np.ndarray, " m"]
    image: Int[np.ndarray, "m r"]
    row: Int[np.ndarray, "m r"]
    column: Int[np.ndarray, "m r"]
    used: int
    perplexity: float


def assign_words(
    method: Method,
    state: TrainState,
    source: data.Source,
    *,
    prepare: Callable[[jax.Array], jax.Array] = to_float,
    mesh: Mesh | None = None,
) -> dict[str, Assigned]:
    """The nearest word at every place of every image of a source, for each vocabulary of a method (`Method.words`).

    Args:
      method: OBoW, BoWNet, or one with prototypes: SwAV, DINO, iBOT. Of those that score whole images there is one
        place for each.
      state: trained state.
      source: images, see `ssl_jax.data`.
      prepare: as in training, see `embed`.
      mesh: devices.

    Raises:
      UserError: the method has no words.
    """
    if method.words is None:
        raise UserError(f"{method.name} has no visual words; OBoW, BoWNet, SwAV, DINO and iBOT have.")
    words, mesh = method.words, mesh or data_mesh()

    def score(params: PyTree, carry: PyTree, image: Array) -> dict[str, Array]:
        return words(params, carry, prepare(image))

    example = jnp.asarray(source[np.arange(1)]["image"])
    shapes = jax.eval_shape(score, state.params, state.carry, example)

    def nearest(params: PyTree, carry: PyTree, image: Array) -> list[Array]:
        params, carry = jax.lax.with_sharding_constraint((params, carry), replicated(mesh))
        found = score(params, carry, image)
        best = [(jnp.argmax(found[name], axis=-1).astype(jnp.int32), jnp.max(found[name], axis=-1)) for name in shapes]
        return [x for pair in best for x in pair]

    run = jax.jit(nearest, out_shardings=readable(mesh))
    most = max(x.size for x in shapes.values())
    arrays = each_image(
        lambda image: run(state.params, state.carry, image),
        source,
        batch_size=min(max(SCORES // most, 1), 256),
        mesh=mesh,
    )
    return {
        name: Assigned(word=arrays[2 * i], score=arrays[2 * i + 1], size=shape.shape[-1])
        for i, (name, shape) in enumerate(shapes.items())
    }


def word_gallery(assigned: Assigned, *, words: int = 12, places: int = 8, images: int = 2) -> Gallery | None:
    """Choose words and show each where it is seen best.

    Half of the words are the most frequent ones; the others lie at equal distances in the order of frequency, down to
    the rarest. None if no place has a word.

    Args:
      assigned: see `assign_words`.
      words: how many to choose.
      places: how many to find for each.
      images: words that fewer images hold are not chosen, unless there are no others.

    Raises:
      UserError: a number is below 1.
    """
    if min(words, places, images) < 1:
        raise UserError("A gallery of words takes at least one word, one place and one image.")
    at = np.flatnonzero(np.isfinite(assigned.score))
    if not len(at):
        return None
    word, score = assigned.word.reshape(-1)[at], assigned.score.reshape(-1)[at]
    image, row, column = np.unravel_index(at, assigned.word.shape)
    counts = np.bincount(word, minlength=assigned.size)
    # By word, and of each the nearest place first; then the first of each (word, image) is all that is kept.
    order = np.lexsort((at, -score, word))
    _, first = np.unique(word[order].astype(np.int64) * len(assigned.word) + image[order], return_index=True)
    kept = order[np.sort(first)]
    begin = np.searchsorted(word[kept], np.arange(assigned.size + 1))
    ranked = np.argsort(-counts, kind="stable")[: np.count_nonzero(counts)]
    enough = ranked[np.diff(begin)[ranked] >= images]
    chosen = spread(enough if len(enough) else ranked, words)
    found = np.full((len(chosen), places), -1)
    for i, k in enumerate(chosen):
        mine = kept[begin[k] : begin[k + 1]][:places]
        found[i, : len(mine)] = mine
    share = counts[ranked] / counts.sum()
    return Gallery(
        word=chosen,
        frequency=counts[chosen] / counts.sum(),
        rank=np.flatnonzero(np.isin(ranked, chosen)) + 1,
        **{name: np.where(found < 0, -1, x[found]) for name, x in (("image", image), ("row", row), ("column", column))},
        used=len(ranked),
        perplexity=float(np.exp(-np.sum(share * np.log(share)))),
    )


def spread(ranked: Int[np.ndarray, " k"], count: int) -> Int[np.ndarray, " _"]:
    """The first half of `count` words, and as many at equal distances among the rest, the last one included."""
    if len(ranked) <= count:
        return ranked
    head = -(-count // 2)
    rest = np.linspace(head, len(ranked) - 1, count - head + 1)[1:].round().astype(int)
    return np.concatenate([ranked[:head], ranked[rest]])
