"""Optimizers and learning-rate schedules with the conventions of the papers, through optax."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from ssl_jax.core import PyTree, UserError

Schedule = Callable[[jax.Array], jax.Array]


def scaled_learning_rate(base: float, batch_size: int, scaling: str = "linear") -> float:
    """Rate for a batch: `base * batch / 256` (linear), `base * sqrt(batch)` (sqrt, SimCLR), or `base` (none)."""
    rules = {"linear": base * batch_size / 256, "sqrt": base * batch_size**0.5, "none": base}
    if scaling not in rules:
        raise UserError(f"Unknown learning-rate scaling {scaling!r}; choose one of {', '.join(rules)}.")
    return rules[scaling]


def warmup_cosine(peak: float, *, steps: int, warmup: int = 0, end: float = 0.0) -> Schedule:
    """Linear warm-up from 0 (`peak * step / warmup`), then a cosine that reaches `end` at `steps`.

    The convention of BYOL, SimCLR and OBoW: 0 at step 0, the peak at step `warmup`.

    Raises:
      UserError: the warm-up is not shorter than the run.
    """
    if not 0 <= warmup < max(steps, 1):
        raise UserError(f"The warm-up of {warmup} steps must be shorter than the run of {steps} steps.")

    def rate(step: jax.Array) -> jax.Array:
        step = jnp.asarray(step).astype(float)
        progress = jnp.clip((step - warmup) / max(steps - warmup, 1), 0.0, 1.0)
        cosine = end + (peak - end) * (1.0 + jnp.cos(jnp.pi * progress)) / 2.0
        return jnp.where(step < warmup, peak * step / max(warmup, 1), cosine)

    return rate


def is_kernel(params: PyTree) -> PyTree:
    """True for weights with two or more axes: what decays and adapts. Biases and norm parameters have one axis."""
    return jax.tree.map(lambda p: jnp.ndim(p) > 1, params)


def lars(
    learning_rate: float | Schedule,
    *,
    weight_decay: float = 1e-6,
    momentum: float = 0.9,
    trust_coefficient: float = 1e-3,
    rate_inside_momentum: bool = True,
) -> optax.GradientTransformation:
    """LARS (You et al., 2017); biases and norm parameters neither decay nor adapt.

    Args:
      learning_rate: number or function of the step.
      weight_decay: added to the gradient before the trust ratio `eta |w| / |g + wd w|`.
      momentum: heavy-ball momentum.
      trust_coefficient: eta.
      rate_inside_momentum: whether the momentum buffer holds rates (google-research/simclr, optax), or the rate
        multiplies the buffer (DeepMind's BYOL). They differ when the rate changes.
    """
    adapt = [
        optax.masked(optax.add_decayed_weights(weight_decay), is_kernel),
        optax.masked(optax.scale_by_trust_ratio(trust_coefficient=trust_coefficient), is_kernel),
    ]
    rate, trace = optax.scale_by_learning_rate(learning_rate), optax.trace(momentum)
    return optax.chain(*adapt, *((rate, trace) if rate_inside_momentum else (trace, rate)))


def create(
    name: str,
    learning_rate: float | Schedule,
    *,
    weight_decay: float = 0.0,
    momentum: float = 0.9,
    clip_norm: float | None = None,
    **kwargs: Any,
) -> optax.GradientTransformation:
    """Build an optimizer by name: `sgd`, `adamw`, `lars`, `lars_byol` or `lamb`.

    Args:
      name: see above; `lars_byol` has the rate outside the momentum.
      learning_rate: number or function of the step.
      weight_decay: for `sgd` coupled and on all parameters, as in MoCo and SimSiam; else only on kernels.
      momentum: of `sgd` and LARS.
      clip_norm: clip the gradient's global norm, or None.
      **kwargs: passed on (for example `b2=0.95` for `adamw`, `trust_coefficient` for LARS).
    """
    builders: dict[str, Callable[[], optax.GradientTransformation]] = {
        "sgd": lambda: optax.chain(
            optax.add_decayed_weights(weight_decay), optax.sgd(learning_rate, momentum=momentum or None, **kwargs)
        ),
        "adamw": lambda: optax.adamw(learning_rate, weight_decay=weight_decay, mask=is_kernel, **kwargs),
        "lamb": lambda: optax.lamb(learning_rate, weight_decay=weight_decay, mask=is_kernel, **kwargs),
        "lars": lambda: lars(learning_rate, weight_decay=weight_decay, momentum=momentum, **kwargs),
        "lars_byol": lambda: lars(
            learning_rate, weight_decay=weight_decay, momentum=momentum, rate_inside_momentum=False, **kwargs
        ),
    }
    if name not in builders:
        raise UserError(f"Unknown optimizer {name!r}; choose one of {', '.join(sorted(builders))}.")
    tx = builders[name]()
    return tx if clip_norm is None else optax.chain(optax.clip_by_global_norm(clip_norm), tx)
