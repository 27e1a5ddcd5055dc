"""Numbers that change over a run, as functions of the step: rates, temperatures, momenta, weight decay."""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp

from ssl_jax.core import UserError

Schedule = Callable[[jax.Array], jax.Array]


def value_at(value: float | Schedule, step: jax.Array) -> float | jax.Array:
    """The number itself, or the schedule's value at `step`."""
    return value(step) if callable(value) else value


def constant(value: float) -> Schedule:
    """The same number at every step."""
    return lambda step: jnp.full((), value, float)


def linear(start: float, end: float, *, steps: int) -> Schedule:
    """From `start` at step 0 to `end` at step `steps` along a line; `end` from then on."""
    return lambda step: start + (end - start) * _progress(step, steps)


def cosine(start: float, end: float, *, steps: int) -> Schedule:
    """From `start` at step 0 to `end` at step `steps` along half a cosine; `end` from then on.

    `end + (start - end) (cos(pi k / steps) + 1) / 2`. Reaches `end` only at `steps`, as the code of BYOL, OBoW and
    DINO (lightly reaches it one step earlier).
    """
    return lambda step: end + (start - end) * (1.0 + jnp.cos(jnp.pi * _progress(step, steps))) / 2.0


def warmup_cosine(peak: float, *, steps: int, warmup: int = 0, end: float = 0.0) -> Schedule:
    """Linear warm-up from 0 (`peak * step / warmup`), then a cosine that reaches `end` at `steps`.

    The convention of BYOL, SimCLR and OBoW: 0 at step 0, the peak at step `warmup`.

    Raises:
      UserError: the warm-up is not shorter than the run.
    """
    return with_warmup(cosine(peak, end, steps=max(steps - warmup, 1)), steps=steps, warmup=warmup)


def drops(peak: float, *, at: Sequence[int], factor: float) -> Schedule:
    """`peak`, multiplied by `factor` at each of the steps `at`."""
    return lambda step: peak * factor ** jnp.sum(jnp.asarray(step) >= jnp.asarray(tuple(at), jnp.int32)).astype(float)


def with_warmup(schedule: Schedule, *, steps: int, warmup: int) -> Schedule:
    """A line from 0 to the schedule's first value over `warmup` steps, then the schedule, counted from there.

    Raises:
      UserError: the warm-up is not shorter than the run.
    """
    if not 0 <= warmup < max(steps, 1):
        raise UserError(f"The warm-up of {warmup} steps must be shorter than the run of {steps} steps.")

    def value(step: jax.Array) -> jax.Array:
        step = jnp.asarray(step)
        rising = schedule(jnp.zeros_like(step)) * step.astype(float) / max(warmup, 1)
        return jnp.where(step < warmup, rising, schedule(jnp.maximum(step - warmup, 0)))

    return value


def _progress(step: jax.Array, steps: int) -> jax.Array:
    return jnp.clip(jnp.asarray(step).astype(float) / max(steps, 1), 0.0, 1.0)
