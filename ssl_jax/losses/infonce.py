"""InfoNCE: one positive among a bank of negatives (MoCo), a batch's keys (MoCo v3) or all others' targets (CPC)."""

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int

from ssl_jax.losses.classification import accuracy, cross_entropy
from ssl_jax.losses.forms import choose_form
from ssl_jax.losses.normalize import at_least_float32, l2_normalize
from ssl_jax.losses.resident import logsumexp_over_resident, memory_mesh
from ssl_jax.losses.streaming import logsumexp_over_keys


def infonce_logits(
    query: Float[Array, "b d"], key: Float[Array, "b d"], negatives: Float[Array, "k d"], *, temperature: float = 0.2
) -> Float[Array, "b k+1"]:
    """Cosine similarities over `temperature`: the positive in column 0, then the k negatives (already of unit norm)."""
    query, key = l2_normalize(at_least_float32(query)), l2_normalize(at_least_float32(key))
    positive = jnp.sum(query * key, axis=-1, keepdims=True)
    negative = jnp.matmul(query, negatives.T.astype(query.dtype), precision="highest")
    return jnp.concatenate([positive, negative], axis=1) / temperature


def infonce(
    query: Float[Array, "b d"],
    key: Float[Array, "b d"],
    negatives: Float[Array, "k d"],
    *,
    temperature: float = 0.2,
    form: str = "auto",
    mesh: Mesh | None = None,
) -> Float[Array, ""]:
    """Mean cross-entropy of picking the positive among k + 1 candidates (He et al., CVPR 2020, eq. 1).

    One direction, as the authors' code. `form` and `mesh` as in `infonce_with_accuracy`.
    """
    return infonce_with_accuracy(query, key, negatives, temperature=temperature, form=form, mesh=mesh)[0]


def infonce_among(
    prediction: Float[Array, "m d"], candidate: Float[Array, "n d"], place: Int[Array, " m"]
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """InfoNCE with inner products: tell which of n candidates each prediction means (CPC, arXiv:1807.03748, eq. 4).

    Args:
      prediction: what is predicted, for example `W c` of a context c: then the score is CPC's bilinear one.
      candidate: the targets of all predictions, and thereby the negatives of each.
      place: the row of its target, for each prediction.

    Returns:
      The mean cross-entropy, and the share of predictions whose own target scores highest.
    """
    prediction, candidate = at_least_float32(prediction), at_least_float32(candidate)
    logits = jnp.matmul(prediction, candidate.T, precision="highest")
    return cross_entropy(logits, place), accuracy(logits, place)


def infonce_in_batch(
    query: Float[Array, "b d"],
    key: Float[Array, "b d"],
    *,
    temperature: float = 0.2,
    form: str = "auto",
    mesh: Mesh | None = None,
) -> Float[Array, ""]:
    """Mean cross-entropy of picking a query's own key among all keys of the (global) batch, by cosine similarity.

    One direction of MoCo v3 (Chen et al., ICCV 2021), which multiplies it by `2 * temperature`, and of NNCLR. `form`
    and `mesh` as in `infonce_with_accuracy`.
    """
    return infonce_with_accuracy(query, key, temperature=temperature, form=form, mesh=mesh)[0]


def infonce_with_accuracy(
    query: Float[Array, "b d"],
    key: Float[Array, "b d"],
    negatives: Float[Array, "k d"] | None = None,
    *,
    temperature: float = 0.2,
    form: str = "auto",
    mesh: Mesh | None = None,
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """InfoNCE by cosine similarity, and how often a query's own key is the most similar.

    Args:
      query: any scale.
      key: the positive of each query, any scale.
      negatives: of unit norm, for example MoCo's queue; None takes the other keys of the (global) batch.
      temperature: divides the similarities; > 0.
      form: how to go through the logits: "dense" holds them all, "tiled" b x 256 of them at a time, "ring" a device's
        share of that, while keys or negatives go round the devices. "auto" takes dense up to 2^26 logits (MoCo's queue
        of 65,536 at a batch of 1,024), and then ring on several devices, tiled on one. Negatives that are split over
        devices (`resident.memory_split_over`) stay where they are under "auto" and "tiled": queries go to them.
      mesh: devices for the ring, with an axis `data`; None takes what `jax.set_mesh` or the training step has set.

    Returns:
      The mean cross-entropy, and the share of queries whose own key is more similar than any other, without a
      gradient: 0 where all are alike.

    Raises:
      UserError: the form is unknown, or ring is asked for without a mesh, or with one that does not divide.
    """
    columns = len(key) if negatives is None else len(negatives)
    resident = memory_mesh(columns) if form in ("auto", "tiled") and negatives is not None else None
    if resident is not None:
        form = "tiled"
    form, ring = choose_form(form, rows=len(query), columns=columns, mesh=mesh)
    if form == "dense":
        return _dense(query, key, negatives, temperature)
    query, key = l2_normalize(at_least_float32(query)), l2_normalize(at_least_float32(key))
    positive = jnp.sum(query * key, axis=-1) / temperature
    others = key if negatives is None else negatives.astype(query.dtype)
    if resident is not None:
        lse, largest = logsumexp_over_resident(query / temperature, others, mesh=resident)
    else:
        lse, largest = logsumexp_over_keys(query / temperature, others, but_own=negatives is None, mesh=ring)
    hits = jnp.mean((positive > largest).astype(jnp.float32))
    return jnp.mean(jnp.logaddexp(positive, lse) - positive), hits


def _dense(
    query: Float[Array, "b d"], key: Float[Array, "b d"], negatives: Float[Array, "k d"] | None, temperature: float
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    if negatives is None:
        logits = _similarity(query, key) / temperature
        positive, own = jnp.diagonal(logits), jnp.eye(len(query), dtype=bool)
    else:
        logits = infonce_logits(query, key, negatives, temperature=temperature)
        positive, own = logits[:, 0], (jnp.arange(logits.shape[1]) == 0)[None]
    # Not the place of the largest, which among equal ones is the first: the own key's, or another's.
    hits = jnp.mean((positive > jnp.max(jnp.where(own, -jnp.inf, logits), axis=1)).astype(jnp.float32))
    return jnp.mean(jax.nn.logsumexp(logits, axis=1) - positive), hits


def _similarity(query: Float[Array, "b d"], key: Float[Array, "b d"]) -> Float[Array, "b b"]:
    query, key = l2_normalize(at_least_float32(query)), l2_normalize(at_least_float32(key))
    return jnp.matmul(query, key.T, precision="highest")
