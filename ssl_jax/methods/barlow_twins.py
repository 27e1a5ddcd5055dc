"""Barlow Twins: make the cross-correlation of two views' embeddings the identity (Zbontar et al., ICML 2021).

Equal coordinates of the two views shall correlate fully, different ones not at all: the first makes embeddings
invariant, the second keeps them from collapsing, without negatives, predictor or slow copy.

https://arxiv.org/abs/2103.03230
"""

import flax.linen as nn
import jax

from ssl_jax import losses
from ssl_jax.checks import check_positive, views_of
from ssl_jax.core import Card, Carry, Method
from ssl_jax.nets import functional
from ssl_jax.nets.heads import MLP

CARD = Card(
    family="decorrelation and clustering",
    papers=("2103.03230",),
    encoders="any",
    published="73.2 linear, ResNet-50, 1000 epochs",
)


def barlow_twins(
    encoder: nn.Module,
    *,
    layers: int = 3,
    hidden: int = 8192,
    dim: int = 8192,
    redundancy: float = 0.0051,
    scale: float = 1.0,
) -> Method:
    """Build Barlow Twins.

    Args:
      encoder: see `ssl_jax.nets.functional`.
      layers: layers of the projector.
      hidden: width of its hidden layers.
      dim: size of the embeddings. More is better in the paper, up to 16384.
      redundancy: weight of the off-diagonal correlations, lambda.
      scale: factor of the whole loss. The loss is a sum over coordinates, of the order of `dim`, which LARS does not
        mind; other optimizers may need less (solo-learn takes 0.025).

    Each view passes through the networks on its own and is standardised on its own, as in the authors' code; VISSL
    standardises both views together, which is another loss. Lambda is that code's; the paper's text says 0.005.

    Raises:
      UserError: a size or weight is not above 0, or (from the functions) a batch has not two views.
    """
    check_positive(layers=layers, hidden=hidden, dim=dim, redundancy=redundancy, scale=scale)
    projector = MLP((hidden,) * (layers - 1) + (dim,), out_bias=False, dtype=getattr(encoder, "dtype", None))

    def init(rng, batch):
        encoder_rng, head_rng = jax.random.split(rng)
        image = views_of(batch, count=2)[:, 0]
        params, state, pooled, _ = functional.init_encoder(encoder, encoder_rng, image)
        head_params, head_state = functional.init(projector, head_rng, pooled)
        return {"encoder": params, "projector": head_params}, Carry(
            model_state={"encoder": state, "projector": head_state}
        )

    def embed(params, state, image, rng):
        pooled, _, encoder_state = functional.encode(
            encoder, params["encoder"], state["encoder"], image, train=True, rng=rng
        )
        z, head_state = functional.apply(projector, params["projector"], state["projector"], pooled, train=True)
        return z, pooled, {"encoder": encoder_state, "projector": head_state}

    def loss(params, carry, batch, rng, step):
        views, rngs = views_of(batch, count=2), jax.random.split(rng, 2)
        z1, pooled, state = embed(params, carry.model_state, views[:, 0], rngs[0])
        z2, _, state = embed(params, state, views[:, 1], rngs[1])
        value, terms = losses.barlow_twins(z1, z2, redundancy=redundancy)
        metrics = {**terms, "embedding": z1, "features": pooled}
        return scale * value, (carry.replace(model_state=state), metrics)

    def warn(logged):
        """On the diagonal (1 - C)^2 is 1 for views without anything in common, as when nothing varies."""
        on = logged.get("invariance")
        if on is None or logged.get("step", 0) < 100 or on < 0.9 * dim:
            return None
        return f"the two views of an image have next to nothing in common (invariance {on:.1f} of at most {dim})"

    return Method(name="barlow_twins", init=init, loss=loss, encode=functional.encode_with(encoder), warn=warn)
