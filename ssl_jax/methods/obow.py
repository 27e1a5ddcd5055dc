"""OBoW: predict from crops which visual words a slow copy sees in the whole image (Gidaris et al., CVPR 2021).

A teacher, the moving average of the student, describes an image by which words occur in its feature maps. The words
are features that it gave for earlier images, a queue. The student sees small crops, and names the words of the whole
image through weights that are made from the words themselves, so that it can follow as they change.

https://arxiv.org/abs/2012.11552
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from ssl_jax import clustering, collapse, losses
from ssl_jax.checks import check_momentum, check_positive, crops_of, maps_of
from ssl_jax.core import Card, Carry, Method, UserError
from ssl_jax.memory import ema, enqueue
from ssl_jax.nets import functional
from ssl_jax.nets.heads import WeightGenerator
from ssl_jax.schedules import Schedule, value_at

CARD = Card(
    family="teacher and student",
    papers=("2012.11552",),
    encoders="any with a map",
    state=("teacher", "words", "distance"),
    published="73.8 linear, ResNet-50, 200 epochs",
)


def obow(
    encoder: nn.Module,
    *,
    levels: int | tuple[str, ...] = 2,
    words: int = 8192,
    inverse_temperature: float | None = 15.0,
    kappa: float = 8.0,
    momentum: float | Schedule = 0.99,
    pool: str = "max",
    border: int = 1,
    window: int | None = 3,
    hidden: int | None = None,
    decay: float = 0.99,
) -> Method:
    """Build OBoW; `levels=1` and one crop are its vanilla variant.

    The batch's views are a tuple: the teacher's view `[b 1 h w c]`, then one array per size of the student's crops
    (`augment.obow` makes them).

    Args:
      encoder: see `ssl_jax.nets.functional`; it must return feature maps `[b h w c]`.
      levels: names of the maps with a vocabulary each, or how many of the last ones (as many as there are).
      words: size of each vocabulary; any number, not only multiples of the batch.
      inverse_temperature: of the soft assignment, relative to the mean distance of a feature to its nearest word
        (15 for ResNet-50, 10 for ResNet-18); None assigns every feature to its nearest word alone.
      kappa: scale of the logits (8 for ResNet-50, 5 for ResNet-18).
      momentum: of the teacher's average, a number or a schedule.
      pool: how codes become a bag, "max" or "average".
      border: rows and columns of the teacher's maps to leave out on every side, where the map is large enough.
      window: side of the squares over which features are averaged before one of them enters the vocabulary; 1 takes
        them as they are, None averages the whole map.
      hidden: width of the hidden layer that makes the weights; None is twice the features'.
      decay: of the mean distance, which starts at 0.5.

    The order in a step is that of the authors' code: predictions with weights from the vocabulary as it is, mean
    distance, codes from the same vocabulary with the new mean distance, and the vocabulary's update. Their code
    averages the teacher at the start of a step, before targets are made, and ours at the end of the step before
    (`update`, after the optimizer), with the momentum of the step that follows: the same sequence, as their first
    average is of two equal networks. The average covers parameters; the teacher's batch statistics are its own.

    The loss is the Kullback-Leibler divergence that the code minimises (the paper writes the cross-entropy, which has
    the same gradient and adds the target's entropy): the mean over levels, the sum over sizes of crops.

    Differs from the authors' code in: the linear classifier that watches is not part of the method (`monitors`).

    Raises:
      UserError: numbers out of range, an encoder without (these) maps, or (from the functions) a batch whose views are
        not a teacher's view and crops.
    """
    check_positive(words=words, inverse_temperature=inverse_temperature, kappa=kappa, window=window, hidden=hidden)
    check_positive(levels=levels if isinstance(levels, int) else len(levels))
    check_momentum(momentum)
    check_momentum(decay)
    if border < 0:
        raise UserError(f"`border` must be at least 0, but is {border}.")
    if pool not in ("max", "average"):
        raise UserError(f'`pool` is "max" or "average", not {pool!r}.')
    dtype = getattr(encoder, "dtype", None)

    def encode(params, state, image, rng):
        pooled, maps, state = functional.encode(
            encoder, params["encoder"], state["encoder"], image, train=True, rng=rng
        )
        return pooled, maps_of(maps, levels), {"encoder": state}

    def init(rng, batch):
        encoder_rng, level_rng = jax.random.split(rng)
        image = crops_of(batch)[0][:, 0]
        params, state, pooled, maps = functional.init_encoder(encoder, encoder_rng, image)
        params, state = {"encoder": params}, {"encoder": state}
        teacher = {"params": params, "model_state": state}
        heads, head_states, vocabularies = {}, {}, {}
        generator = WeightGenerator(pooled.shape[1], hidden, dtype=dtype)
        for i, (level, x) in enumerate(maps_of(maps, levels).items()):
            words_rng, head_rng = jax.random.split(jax.random.fold_in(level_rng, i))
            vocabularies[level] = nn.relu(jax.random.normal(words_rng, (words, x.shape[-1]), jnp.float32))
            heads[level], head_states[level] = functional.init(generator, head_rng, vocabularies[level])
        memory = {
            "words": vocabularies,
            "distance": jnp.full((len(heads),), 0.5, jnp.float32),
            "pointer": jnp.zeros((), jnp.int32),
        }
        params, state = {**params, "predictor": heads}, {**state, "predictor": head_states}
        return params, Carry(model_state=state, teacher=teacher, memory=memory)

    def weights_of(params, state, vocabularies, width):
        """Rows of unit norm for every word of every level, from the vocabularies as they are."""
        generator, made, states = WeightGenerator(width, hidden, dtype=dtype), {}, {}
        for level, vocabulary in lax.stop_gradient(vocabularies).items():
            made[level], states[level] = functional.apply(
                generator, params[level], state[level], vocabulary, train=True
            )
        return made, states

    def targets(maps, memory, rng):
        """Bags of words per level, and the memory after it."""
        after, distances, bags = {}, [], {}
        for i, (level, x) in enumerate(maps.items()):
            x = losses.at_least_float32(clustering.drop_border(x, border))
            apart = clustering.squared_distances(x.reshape(len(x), -1, x.shape[-1]), memory["words"][level])
            mean = ema(memory["distance"][i], jnp.mean(jnp.min(apart, axis=-1)), decay)
            hard = inverse_temperature is None
            codes = clustering.hard_codes(apart) if hard else clustering.soft_codes(apart, inverse_temperature / mean)
            bags[level] = clustering.bag_of_words(codes, pool=pool)
            averages = clustering.local_averages(x, window)
            location = jax.random.randint(jax.random.fold_in(rng, i), (len(x),), 0, averages.shape[1])
            new = clustering.pick(averages, location)
            after[level], pointer = enqueue(memory["words"][level], memory["pointer"], new)
            distances.append(mean)
        return lax.stop_gradient((bags, {"words": after, "distance": jnp.stack(distances), "pointer": pointer}))

    def loss(params, carry, batch, rng, step):
        whole, *groups = crops_of(batch)
        if whole.shape[1] != 1 or not groups:
            raise UserError(
                "OBoW takes a tuple of the teacher's view [b, 1, h, w, c] and crops [b, v, h, w, c] of one or more "
                f"sizes, but was given the shapes {[tuple(x.shape) for x in (whole, *groups)]}; see `augment.obow`."
            )
        teacher_rng, word_rng, *rngs = jax.random.split(rng, 2 + len(groups))
        state, features = carry.model_state, []
        for crops, crop_rng in zip(groups, rngs, strict=True):
            images = crops.reshape(-1, *crops.shape[2:])
            pooled, _, encoder_state = encode(params, state, images, crop_rng)
            state = {**state, **encoder_state}
            features.append(losses.at_least_float32(pooled))
        weights, head_state = weights_of(
            params["predictor"], state["predictor"], carry.memory["words"], features[0].shape[1]
        )
        teacher = lax.stop_gradient(carry.teacher)
        clean, maps, teacher_state = encode(teacher["params"], teacher["model_state"], whole[:, 0], teacher_rng)
        bags, memory = targets(maps, carry.memory, word_rng)
        value = sum(_divergence(x, weights, bags, kappa) for x in features)
        metrics = {}
        for level, bag in bags.items():
            metrics[f"words_image_{level}"], metrics[f"words_batch_{level}"] = clustering.perplexities(bag)
        carry = Carry(
            model_state={**state, "predictor": head_state},
            teacher={**carry.teacher, "model_state": teacher_state},
            memory=memory,
        )
        first = features[0].reshape(len(whole), -1, features[0].shape[1])[:, 0]
        return value, (carry, {**metrics, "embedding": first, "features": lax.stop_gradient(clean)})

    def update(params, carry, step):
        tau, average = value_at(momentum, step + 1), carry.teacher["params"]
        return carry.replace(teacher={**carry.teacher, "params": ema(average, {"encoder": params["encoder"]}, tau)})

    def nearness(params, carry, image):
        teacher = carry.teacher
        _, maps, _ = functional.encode(
            encoder, teacher["params"]["encoder"], teacher["model_state"]["encoder"], image, train=False
        )
        found = {}
        for level, x in maps_of(maps, levels).items():
            inner = -clustering.squared_distances(clustering.drop_border(x, border), carry.memory["words"][level])
            outside = [((n - m) // 2,) * 2 for n, m in zip(x.shape[1:3], inner.shape[1:3], strict=True)]
            found[level] = jnp.pad(inner, ((0, 0), *outside, (0, 0)), constant_values=-jnp.inf)
        return found

    return Method(
        name="obow",
        init=init,
        loss=loss,
        encode=functional.encode_with(encoder),
        update=update,
        warn=collapse.same_words,
        words=nearness,
    )


def _divergence(features, weights, bags, kappa):
    """Mean over levels of the divergence of predicted from true bags; an image's crops share its bag."""
    found = []
    for level, bag in bags.items():
        logits = kappa * jnp.matmul(features, weights[level].T.astype(features.dtype), precision="highest")
        found.append(losses.kl_divergence(logits, jnp.repeat(bag, len(features) // len(bag), axis=0)))
    return jnp.mean(jnp.stack(found))
