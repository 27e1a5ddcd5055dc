"""VICReg: two views alike, every coordinate spread, no two coordinates correlated (Bardes et al., ICLR 2022).

Invariance is a plain squared distance. Collapse is kept off on each view by itself: a hinge holds the deviation of
every coordinate above 1, and covariances between coordinates are pushed to 0. Nothing is normalised or compared
across images.

https://arxiv.org/abs/2105.04906
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
    papers=("2105.04906",),
    encoders="any",
    published="73.2 linear, ResNet-50, 1000 epochs",
)


def vicreg(
    encoder: nn.Module,
    *,
    layers: int = 3,
    hidden: int = 8192,
    dim: int = 8192,
    invariance: float = 25.0,
    variance: float = 25.0,
    covariance: float = 1.0,
) -> Method:
    """Build VICReg.

    Args:
      encoder: see `ssl_jax.nets.functional`.
      layers: layers of the expander.
      hidden: width of its hidden layers.
      dim: size of the embeddings.
      invariance: weight of the distance between the views.
      variance: weight of the hinge on deviations.
      covariance: weight of the covariances.

    Public code disagrees about scales. Here they are those of the authors' code, which their weights belong to:
    the distance is a mean over examples and coordinates (the paper's equation 5 divides by the examples only), and the
    hinge is averaged over the two views (equation 6 and solo-learn add them up). Covariances add up, everywhere.

    Raises:
      UserError: a size or weight is not above 0, or (from the functions) a batch has not two views.
    """
    check_positive(layers=layers, hidden=hidden, dim=dim)
    check_positive(invariance=invariance, variance=variance, covariance=covariance)
    expander = MLP(
        (hidden,) * (layers - 1) + (dim,), hidden_bias=True, out_bias=False, dtype=getattr(encoder, "dtype", None)
    )
    weights = {"invariance": invariance, "variance": variance, "covariance": covariance}

    def init(rng, batch):
        encoder_rng, head_rng = jax.random.split(rng)
        image = views_of(batch, count=2)[:, 0]
        params, state, pooled, _ = functional.init_encoder(encoder, encoder_rng, image)
        head_params, head_state = functional.init(expander, head_rng, pooled)
        return {"encoder": params, "projector": head_params}, Carry(
            model_state={"encoder": state, "projector": head_state}
        )

    def embed(params, state, image, rng):
        pooled, _, encoder_state = functional.encode(
            encoder, params["encoder"], state["encoder"], image, train=True, rng=rng
        )
        z, head_state = functional.apply(expander, params["projector"], state["projector"], pooled, train=True)
        return z, pooled, {"encoder": encoder_state, "projector": head_state}

    def loss(params, carry, batch, rng, step):
        views, rngs = views_of(batch, count=2), jax.random.split(rng, 2)
        z1, pooled, state = embed(params, carry.model_state, views[:, 0], rngs[0])
        z2, _, state = embed(params, state, views[:, 1], rngs[1])
        terms = losses.vicreg_terms(z1, z2)
        value = sum(weight * terms[name] for name, weight in weights.items())
        return value, (carry.replace(model_state=state), {**terms, "embedding": z1, "features": pooled})

    return Method(name="vicreg", init=init, loss=loss, encode=functional.encode_with(encoder), warn=_flat)


def _flat(logged):
    """The hinge is 1 when nothing varies; it is near 0 in a run that does what it should."""
    hinge = logged.get("variance")
    if hinge is None or logged.get("step", 0) < 100 or hinge < 0.9:
        return None
    return f"all images are embedded nearly alike (variance term {hinge:.2f}; 1 is a single point, 0 evenly spread)"
