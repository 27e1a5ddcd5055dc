"""Classification among the images of a whole data set, by all of them or by noise (Wu et al., CVPR 2018)."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def nce(
    own: Float[Array, " b"], noise: Float[Array, "b m"], *, log_normalizer: Float[Array, ""], classes: int
) -> Float[Array, ""]:
    """Noise-contrastive estimation against m uniform draws (equations 5 to 7), averaged over the b rows.

    With `P = exp(logit) / Z` the model's probability and `1 / n` the noise's, a candidate is taken for data with
    probability `h = P / (P + m / n)`; the loss is `-log h(own) - sum log(1 - h(noise))`. As h is a sigmoid of the
    logit minus `log Z + log(m / n)`, no exponential can overflow.

    Args:
      own: logits of the row's own class.
      noise: logits of the classes drawn; whether the own class is among them does not matter.
      log_normalizer: log Z, a constant.
      classes: n.
    """
    shift = log_normalizer + jnp.log(jnp.asarray(noise.shape[1] / classes, own.dtype))
    return jnp.mean(jax.nn.softplus(shift - own) + jnp.sum(jax.nn.softplus(noise - shift), axis=1))
