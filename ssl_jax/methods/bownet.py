"""BoWNet: predict the histogram of an image's visual words from a perturbed view of it (Gidaris et al., CVPR 2020).

It works in rounds. The first trains a network to tell by how much an image was turned. At every boundary the network
becomes the frozen teacher, k-means over its feature map gives a vocabulary of visual words, and a new network learns
to predict how often each word occurs in the clean image, given the perturbed one.

https://arxiv.org/abs/2002.12247
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from ssl_jax import augment, clustering, collapse, losses, pretext
from ssl_jax.checks import check_positive, maps_of, views_of
from ssl_jax.core import Card, Carry, Method, UserError
from ssl_jax.nets import functional
from ssl_jax.nets.heads import MLP, UnitLinear

CARD = Card(
    family="teacher and student",
    papers=("2002.12247",),
    encoders="any with a map",
    state=("teacher", "words"),
)


def bownet(
    encoder: nn.Module,
    *,
    words: int = 8192,
    level: str | None = None,
    bag: str = "histogram",
    cutmix: float = 0.0,
    scale: float = 1.0,
    batches: int = 16,
    iterations: int = 25,
) -> Method:
    """Build BoWNet; a run takes at least two rounds (`rounds` of `train`), with one it only learns rotations.

    The batch's views are the clean image and the perturbed one (`augment.bownet` makes them), square and of one size.
    In the first round all four rotations of the perturbed view are told apart.

    Args:
      encoder: see `ssl_jax.nets.functional`; it must return feature maps `[b h w c]`.
      words: size of the vocabulary.
      level: name of the map whose features are the words; None is the last but one (ResNet's conv4), or the only one.
      bag: "histogram", how often each word occurs, or "binary", which occur; rows sum to 1.
      cutmix: probability with which a perturbed image takes a rectangle of another one, and its bag a share of the
        other's bag.
      scale: initial value of the learned scale of the logits.
      batches: number of batches whose features k-means clusters.
      iterations: of k-means.

    The head has weights of unit norm, normalised in every step, and one learned scale; image features are not
    normalised. Words are assigned by squared Euclidean distance of features as they are, with the teacher's running
    statistics. The new network has a new initialisation.

    The authors published no code: what their paper leaves open is chosen here, namely the views (see
    `augment.bownet_view`), the start of k-means (k-means++) and the scale's.

    Raises:
      UserError: numbers out of range, an encoder without (this) map, views that are not two or not square, or (when the
        step is traced, before the first one) fewer features in the batches of k-means than words.
    """
    check_positive(words=words, scale=scale, batches=batches, iterations=iterations)
    if bag not in ("histogram", "binary"):
        raise UserError(f'`bag` is "histogram" or "binary", not {bag!r}.')
    if not 0 <= cutmix <= 1:
        raise UserError(f"`cutmix` is a probability in 0..1, but is {cutmix}.")
    dtype = getattr(encoder, "dtype", None)
    rotation_head, word_head = MLP((4,), norm=False, dtype=dtype), UnitLinear(words, scale, dtype=dtype)

    def local_features(maps):
        """Features `[b n c]` of the map that words are made of."""
        [x] = list(maps_of(maps, 2 if level is None else (level,)).values())[:1]
        return losses.at_least_float32(x.reshape(len(x), -1, x.shape[-1]))

    def init(rng, batch):
        encoder_rng, rotation_rng, word_rng = jax.random.split(rng, 3)
        image = views_of(batch, count=2)[:, 0]
        if image.shape[1] != image.shape[2]:
            raise UserError(f"BoWNet turns images, so they must be square, but are {image.shape[1:3]}.")
        params, state, pooled, maps = functional.init_encoder(encoder, encoder_rng, image)
        heads = {
            "rotation": functional.init(rotation_head, rotation_rng, pooled)[0],
            "words": functional.init(word_head, word_rng, pooled)[0],
        }
        memory = {
            "words": jnp.zeros((words, local_features(maps).shape[-1]), jnp.float32),
            "round": jnp.zeros((), jnp.int32),
            "round_step": jnp.zeros((), jnp.int32),
        }
        teacher = {"params": {"encoder": params}, "model_state": {"encoder": state}}
        return {"encoder": params, **heads}, Carry(model_state={"encoder": state}, teacher=teacher, memory=memory)

    def rotation_loss(params, carry, views, rng):
        """Cross-entropy over four rotations; pooled features of the unturned images."""
        turned = pretext.rotations(views[:, 1])
        images = turned.reshape(-1, *turned.shape[2:])
        pooled, _, state = functional.encode(
            encoder, params["encoder"], carry.model_state["encoder"], images, train=True, rng=rng
        )
        logits, _ = functional.apply(rotation_head, params["rotation"], {}, pooled, train=True)
        label = jnp.tile(jnp.arange(4, dtype=jnp.int32), len(views))
        value = losses.cross_entropy(logits, label)
        hit = losses.accuracy(logits, label).astype(value.dtype)
        zero = jnp.zeros_like(value)
        return value, state, losses.at_least_float32(pooled)[::4], (hit, zero, zero)

    def word_loss(params, carry, views, rng):
        """Cross-entropy with the bag of the clean image's words."""
        encoder_rng, mix_rng = jax.random.split(rng)
        teacher = lax.stop_gradient(carry.teacher)
        _, maps, _ = functional.encode(
            encoder, teacher["params"]["encoder"], teacher["model_state"]["encoder"], views[:, 0], train=False
        )
        features = local_features(maps)
        _check_count(batches * len(features) * features.shape[1], words, batches)
        codes = clustering.hard_codes(clustering.squared_distances(features, carry.memory["words"]))
        target = clustering.bag_of_words(codes, pool="average" if bag == "histogram" else "max")
        target = lax.stop_gradient(target)
        perplexities, image = clustering.perplexities(target), views[:, 1]
        if cutmix > 0:
            image, share = augment.cutmix(mix_rng, image, probability=cutmix)
            share = share[:, None].astype(target.dtype)
            target = share * target + (1 - share) * jnp.roll(target, -1, axis=0)
        pooled, _, state = functional.encode(
            encoder, params["encoder"], carry.model_state["encoder"], image, train=True, rng=encoder_rng
        )
        logits, _ = functional.apply(word_head, params["words"], {}, pooled, train=True)
        value = losses.soft_cross_entropy(logits, target)
        hit = jnp.mean((jnp.argmax(logits, axis=1) == jnp.argmax(target, axis=1)).astype(value.dtype))
        return value, state, losses.at_least_float32(pooled), (hit, *perplexities)

    def loss(params, carry, batch, rng, step):
        views, memory = views_of(batch, count=2), carry.memory
        value, state, pooled, (hit, per_image, per_batch) = lax.cond(
            memory["round"] == 0, rotation_loss, word_loss, params, carry, views, rng
        )
        metrics = {
            "round": memory["round"].astype(jnp.float32),
            "round_step": memory["round_step"].astype(jnp.float32),
            "task_accuracy": hit,
            "words_image": per_image,
            "words_batch": per_batch,
        }
        memory = {**memory, "round_step": memory["round_step"] + 1}
        carry = carry.replace(model_state={"encoder": state}, memory=memory)
        return value, (carry, {**metrics, "embedding": pooled, "features": pooled})

    @jax.jit
    def describe(params, state, image):
        _, maps, _ = functional.encode(encoder, params, state, image, train=False)
        features = local_features(maps)
        return features.reshape(-1, features.shape[-1])

    def refresh(rng, params, carry, stream):
        init_rng, cluster_rng = jax.random.split(rng)
        teacher = {"params": {"encoder": params["encoder"]}, "model_state": carry.model_state}
        seen = []
        for _ in range(batches):
            batch = next(stream)
            image = views_of(batch, count=2)[:, 0]
            seen.append(describe(params["encoder"], carry.model_state["encoder"], image))
        vocabulary = clustering.kmeans(cluster_rng, jnp.concatenate(seen), words, iterations=iterations)
        params, fresh = jax.jit(init)(init_rng, {"views": batch["views"][:2]})
        memory = {
            "words": vocabulary.astype(carry.memory["words"].dtype),
            "round": carry.memory["round"] + 1,
            "round_step": jnp.zeros_like(carry.memory["round_step"]),
        }
        return params, fresh.replace(teacher=teacher, memory=memory)

    def nearness(params, carry, image):
        teacher, memory = carry.teacher, carry.memory
        _, maps, _ = functional.encode(
            encoder, teacher["params"]["encoder"], teacher["model_state"]["encoder"], image, train=False
        )
        [(name, x)] = list(maps_of(maps, 2 if level is None else (level,)).items())[:1]
        found = -clustering.squared_distances(x, memory["words"])
        return {name: jnp.where(memory["round"] > 0, found, -jnp.inf)}  # the first round has no words

    return Method(
        name="bownet",
        init=init,
        loss=loss,
        encode=functional.encode_with(encoder),
        refresh=refresh,
        warn=_warn(words),
        words=nearness,
    )


def _check_count(count: int, words: int, batches: int) -> None:
    if count < words:
        raise UserError(
            f"k-means is to find {words} words among the {count} features of {batches} batches; raise `batches`, or "
            "lower `words`."
        )


def _warn(words: int) -> collapse.Warn:
    """What would be a guess, by the round; counted from its start."""
    turning = collapse.stuck_at_chance(4)
    naming = collapse.any_of(collapse.stuck_at_chance(words), collapse.same_words)

    def warn(logged):
        task = naming if logged.get("round", 0) > 0 else turning
        return task({**logged, "step": logged.get("round_step", 0)})

    return warn
