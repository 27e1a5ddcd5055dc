"""Memory bank: every image its own class, its weights a slow average of its features (Wu et al., CVPR 2018).

Instance discrimination without a classifier: the probability of image i is a softmax of a feature's similarity to the
slot of every image of the data. Slots are not trained; an image's slot moves towards its feature whenever it is seen.

https://arxiv.org/abs/1805.01978
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from ssl_jax import losses
from ssl_jax.checks import check_momentum, check_positive, views_of
from ssl_jax.collapse import stuck_at_chance
from ssl_jax.core import Card, Carry, Method, UserError
from ssl_jax.memory import write_rows
from ssl_jax.nets import functional
from ssl_jax.nets.heads import MLP

CARD = Card(
    family="contrastive",
    papers=("1805.01978",),
    encoders="any",
    state=("slots",),
    published="54.0 linear, 46.5 k-NN, ResNet-50, 200 epochs",
)


def memory_bank(
    encoder: nn.Module,
    *,
    examples: int = 1_281_167,
    dim: int = 128,
    noise: int | None = 4096,
    temperature: float = 0.07,
    momentum: float = 0.5,
) -> Method:
    """Build instance discrimination with a memory bank.

    Args:
      encoder: see `ssl_jax.nets.functional`.
      examples: number of images, one slot each; from a config it is the data's. `batch["id"]` says whose an example is.
      dim: size of slots and features.
      noise: slots drawn for every example, for noise-contrastive estimation; None takes the softmax over all slots,
        which is exact, and cheaper too where there are some ten thousands of images; beyond 2^26 logits in a step
        they are made in tiles.
      temperature: divides similarities, > 0.
      momentum: how much of a slot stays when its image is seen.

    Any number of views: each is told from all other images, and the slot moves towards their mean; the paper has one.
    The normalising constant Z is estimated on the first batch and then kept in memory, as in the authors' code. Slots
    move by the features of before the optimizer's update, and stay of unit norm.

    Differs from the authors' code in: slots start on the unit sphere rather than in a cube of about that size, and no
    1e-7 is added to denominators, since probabilities stay logarithms. As there, the proximal term of the paper's
    section 3.3 is left out.

    Raises:
      UserError: a size or the temperature is not above 0, the momentum not in 0..1, or (from the functions) a batch
        has no ids.
    """
    check_positive(examples=examples, dim=dim, noise=noise, temperature=temperature)
    check_momentum(momentum)
    head = MLP((dim,), dtype=getattr(encoder, "dtype", None))

    def init(rng, batch):
        encoder_rng, head_rng, slots_rng = jax.random.split(rng, 3)
        params, state, pooled, _ = functional.init_encoder(encoder, encoder_rng, views_of(batch)[:, 0])
        memory = {"slots": losses.l2_normalize(jax.random.normal(slots_rng, (examples, dim), jnp.float32))}
        if noise is not None:
            memory["log_normalizer"] = jnp.full((), -jnp.inf, jnp.float32)  # not known yet
        params = {"encoder": params, "projector": functional.init(head, head_rng, pooled)[0]}
        return params, Carry(model_state={"encoder": state}, memory=memory)

    def loss(params, carry, batch, rng, step):
        views, ids = views_of(batch), ids_of(batch)
        b, v = views.shape[:2]
        encoder_rng, noise_rng = jax.random.split(rng)
        flat = views.reshape(b * v, *views.shape[2:])
        pooled, _, state = functional.encode(
            encoder, params["encoder"], carry.model_state["encoder"], flat, train=True, rng=encoder_rng
        )
        feature, _ = functional.apply(head, params["projector"], {}, pooled, train=True)
        feature = losses.l2_normalize(losses.at_least_float32(feature))
        memory = lax.stop_gradient(carry.memory)
        slots = memory["slots"].astype(feature.dtype)
        own = jnp.sum(feature * jnp.repeat(slots[ids], v, axis=0), axis=1)
        if noise is None:
            value = jnp.mean(log_sum(feature, slots) - own / temperature)
        else:
            drawn = slots[jax.random.randint(noise_rng, (b * v, noise), 0, examples)]
            logits = jnp.einsum("bmd,bd->bm", drawn, feature, precision="highest") / temperature
            log_z = log_normalizer(memory["log_normalizer"], lax.stop_gradient(logits), lax.stop_gradient(own))
            value = losses.nce(own / temperature, logits, log_normalizer=log_z, classes=examples)
            memory = {**memory, "log_normalizer": log_z}
        seen = lax.stop_gradient(jnp.mean(feature.reshape(b, v, dim), axis=1))
        moved = losses.l2_normalize(momentum * slots[ids] + (1 - momentum) * seen)
        memory = {**memory, "slots": write_rows(memory["slots"], ids, moved)}
        carry = carry.replace(model_state={"encoder": state}, memory=memory)
        firsts = [x.reshape(b, v, -1)[:, 0] for x in (feature, pooled)]
        metrics = {"own_similarity": jnp.mean(own), "embedding": firsts[0], "features": firsts[1]}
        return value, (carry, metrics)

    def log_sum(feature, slots):
        """Of the exponentials of a feature's logits with all slots: of a device's own, in tiles, or at once."""
        mesh, scaled = losses.memory_mesh(examples), feature / temperature
        if mesh is not None:
            return losses.logsumexp_over_resident(scaled, slots, mesh=mesh)[0]
        if losses.is_tiled("auto", rows=len(feature), columns=examples):
            tile = losses.columns_of_a_tile(len(feature), examples)
            return losses.logsumexp_over_keys(scaled, slots, tile=tile)[0]
        return jax.nn.logsumexp(jnp.matmul(feature, slots.T, precision="highest") / temperature, axis=1)

    def log_normalizer(known, logits, own):
        """What is known of log Z, or its estimate from this batch: the mean of exp(logit), times the images."""
        candidates = jnp.concatenate([own[:, None] / temperature, logits], axis=1)
        estimate = jax.nn.logsumexp(candidates) + jnp.log(jnp.asarray(examples / candidates.size, candidates.dtype))
        return jnp.where(jnp.isfinite(known), known, estimate.astype(known.dtype))

    # Noise-contrastive estimation has no such value: Z is that of the first batch, and with features at one point the
    # loss is the larger the more slots are drawn.
    warn = stuck_at_chance(examples) if noise is None else lambda logged: None
    return Method(name="memory_bank", init=init, loss=loss, encode=functional.encode_with(encoder), warn=warn)


def ids_of(batch):
    """The rows of the data that a batch holds, int32 `[b]`."""
    if "id" not in batch:
        raise UserError('This method keeps a slot for every image, but the batch holds no "id", the rows of the data.')
    return jnp.asarray(batch["id"])
