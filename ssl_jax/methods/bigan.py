"""BiGAN: an encoder that inverts a generator, against a judge of pairs (Donahue et al., ICLR 2017).

A discriminator sees pairs: an image with its code, (x, E(x)), or a code with what was made of it, (G(z), z). Encoder
and generator are trained to be mistaken for each other; where they cannot be told apart, each inverts the other. No
state besides batch statistics.

https://arxiv.org/abs/1605.09782
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from ssl_jax.checks import check_positive, views_of
from ssl_jax.core import Card, Carry, Method
from ssl_jax.losses import at_least_float32
from ssl_jax.nets import functional
from ssl_jax.nets.decoders import ConvDecoder
from ssl_jax.nets.discriminators import JointDiscriminator
from ssl_jax.nets.heads import MLP

CARD = Card(
    family="input space",
    papers=("1605.09782",),
    encoders="any",
    published="97.4 1-NN on MNIST, 400 epochs",
)


def bigan(
    encoder: nn.Module,
    *,
    dim: int = 200,
    width: int = 64,
    halvings: int = 4,
    discriminator_width: int = 64,
    discriminator_hidden: int = 1024,
) -> Method:
    """Build a BiGAN.

    Args:
      encoder: see `ssl_jax.nets.functional`. Its pooled output are the features; a linear layer on top, "code", makes
        the z that the discriminator sees.
      dim: size of the code z, drawn uniformly from [-1, 1].
      width: channels of the generator at full size, see `ConvDecoder`.
      halvings: doublings in the generator, and strided convolutions in the discriminator.
      discriminator_width: channels after the discriminator's first convolution.
      discriminator_hidden: width of its layers that see image and code.

    Both players make one simultaneous step per batch (k = 1). Encoder and generator minimise the discriminator's loss
    with swapped labels, not its negative. One scalar holds both games: the discriminator's loss, with its pairs held
    fixed, plus the other players', with the discriminator's weights held fixed. Its value is the discriminator's loss
    (2 ln 2 = 1.39 where it only guesses), since the sum of both can not fall below 4 ln 2 whoever wins. Give the
    discriminator an optimizer of its own by the optimizer group "discriminator".

    Differs from the authors' code in: generator by upsampling and convolutions instead of transposed ones, without a
    last tanh (views are normalised); no batch norm in the discriminator, which is steadier in short runs.

    Raises:
      UserError: a size is not above 0, or (from the functions) a batch has not one view.
    """
    check_positive(
        dim=dim,
        width=width,
        halvings=halvings,
        discriminator_width=discriminator_width,
        discriminator_hidden=discriminator_hidden,
    )
    dtype = getattr(encoder, "dtype", jnp.float32)
    head = MLP((dim,), norm=False, dtype=dtype)
    judge = JointDiscriminator(discriminator_width, halvings, discriminator_hidden, dtype)

    def generator_of(image):
        return ConvDecoder(image.shape[1:3], image.shape[3], width, halvings, dtype)

    def init(rng, batch):
        encoder_rng, head_rng, generator_rng, judge_rng = jax.random.split(rng, 4)
        image = views_of(batch, count=1)[:, 0]
        params, state = {}, {}
        params["encoder"], state["encoder"], pooled, _ = functional.init_encoder(encoder, encoder_rng, image)
        params["code"], _ = functional.init(head, head_rng, pooled)
        code = jnp.zeros((len(image), dim), pooled.dtype)
        params["generator"], state["generator"] = functional.init(generator_of(image), generator_rng, code)
        variables = judge.init({"params": judge_rng}, image, train=True, code=code)
        params["discriminator"] = dict(variables)["params"]
        return params, Carry(model_state=state)

    def encode(params, state, image, *, train, rng=None):
        pooled, _, state = functional.encode(encoder, params["encoder"], state["encoder"], image, train=train, rng=rng)
        code, _ = functional.apply(head, params["code"], {}, pooled, train=train)
        return code, pooled, state

    def scores(params, image, made, code, z):
        """Of real and of made pairs, which stand side by side so that a sharded batch stays so."""
        both = jnp.stack([image, made.astype(image.dtype)], axis=1).reshape(-1, *image.shape[1:])
        codes = jnp.stack([code, z], axis=1).reshape(-1, dim)
        logits, _ = functional.apply(judge, params, {}, both, train=True, code=codes)
        return at_least_float32(logits.reshape(-1, 2))

    def loss(params, carry, batch, rng, step):
        image, state = views_of(batch, count=1)[:, 0], carry.model_state
        z_rng, encoder_rng = jax.random.split(rng)
        code, pooled, encoder_state = encode(params, state, image, train=True, rng=encoder_rng)
        z = draw_codes(z_rng, len(image), dim).astype(code.dtype)
        made, generator_state = functional.apply(
            generator_of(image), params["generator"], state["generator"], z, train=True
        )
        told = scores(params["discriminator"], image, *lax.stop_gradient((made, code)), z)
        discriminator = game(told, real=1.0)
        players = game(scores(lax.stop_gradient(params["discriminator"]), image, made, code, z), real=0.0)
        value = discriminator + players - lax.stop_gradient(players)
        right = jnp.mean((told > 0).astype(jnp.float32), axis=0)
        metrics = {
            "discriminator_loss": discriminator,
            "generator_loss": players,
            "accuracy_real": right[0],
            "accuracy_made": 1 - right[1],
            "embedding": code,
            "features": pooled,
        }
        return value, (carry.replace(model_state={"encoder": encoder_state, "generator": generator_state}), metrics)

    def pictures(params, carry, batch, rng):
        image, state = views_of(batch, count=1)[:, 0], carry.model_state
        code, _, _ = encode(params, state, image, train=False)

        def make(z):
            return functional.apply(generator_of(image), params["generator"], state["generator"], z, train=False)[0]

        return {
            "image": image,
            "reconstruction G(E(x))": make(code),
            "sample G(z)": make(draw_codes(rng, len(image), dim).astype(code.dtype)),
        }

    return Method(
        name="bigan",
        init=init,
        loss=loss,
        encode=functional.encode_with(encoder),
        warn=_warn,
        pictures=pictures,
    )


def draw_codes(rng, count: int, dim: int):
    """Codes `[count dim]`, uniform in [-1, 1]."""
    return jax.random.uniform(rng, (count, dim), jnp.float32, -1.0, 1.0)


def game(logits, *, real: float):
    """Cross-entropy of the logits `[b 2]` of real and made pairs, whose labels are `real` and `1 - real`."""
    sign = 1 - 2 * real
    return jnp.mean(jax.nn.softplus(sign * logits[:, 0])) + jnp.mean(jax.nn.softplus(-sign * logits[:, 1]))


def _warn(logged):
    """The discriminator has won, so nothing reaches the others."""
    value = logged.get("discriminator_loss")
    if value is None or logged.get("step", 0) < 200 or value > 0.02:
        return None
    return f"the discriminator tells all pairs apart (its loss is {value:.3f}), so that the others learn nothing"
