"""Linear support vector machines with the squared hinge: LIBLINEAR's primal problem, many at once on an accelerator."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

STEPS = (*(0.5**i for i in range(11)), 0.0)  # of the line search; no array, since importing must not start devices
NEWTON, CONJUGATE = 60, 150  # at most so many iterations
TOLERANCE = 1e-5  # of the gradient, as a share of that at zero


@jax.jit
def fit_squared_hinge(
    x: Float[Array, "n d"],
    sign: Float[Array, "n s"],
    weight: Float[Array, "n s"],
    init: Float[Array, "d+1 s"],
) -> Float[Array, "d+1 s"]:
    """Minimise `|w|^2 / 2 + sum_i weight_i max(0, 1 - sign_i w.x_i)^2` for s problems on the same rows.

    The last row of `w` is the bias, penalised like a weight, as LIBLINEAR has it (`intercept_scaling=1`). Newton's
    method with conjugate gradients, as in LIBLINEAR's primal solver (Lin, Weng and Keerthi, JMLR 2008), with all
    problems in every product and a line search instead of a trust region. The problem is strictly convex: its solution
    doesn't depend on the way.

    Args:
      x: features.
      sign: +1 or -1.
      weight: cost of each row, 0 leaves it out.
      init: where to begin.
    """
    x = jnp.concatenate([x, jnp.ones((len(x), 1), x.dtype)], axis=1)
    product = lambda a, b: jnp.matmul(a, b, precision="highest")  # noqa: E731

    def slope(w, z):  # of the objective; z are the scores
        return w - 2 * product(x.T, weight * sign * jnp.maximum(1 - sign * z, 0.0))

    def direction(gradient, active):
        """Conjugate gradients: how far to go so that the gradient vanishes, as the active rows have it."""

        def apply(v):
            return v + 2 * product(x.T, active * product(x, v))

        def going(state):
            _, _, _, square, i = state
            return (i < CONJUGATE) & jnp.any(square > 1e-4 * start)

        def step(state):
            v, residual, p, square, i = state
            image = apply(p)
            rate = square / jnp.maximum(jnp.sum(p * image, axis=0), 1e-30)
            v, residual = v + rate[None] * p, residual - rate[None] * image
            new = jnp.sum(residual**2, axis=0)
            p = residual + (new / jnp.maximum(square, 1e-30))[None] * p
            return v, residual, p, new, i + 1

        start = jnp.sum(gradient**2, axis=0)
        state = (jnp.zeros_like(gradient), -gradient, -gradient, start, jnp.zeros((), jnp.int32))
        return jax.lax.while_loop(going, step, state)[0]

    def search(w, z, v, image):
        """The best of the steps, or none."""

        def value(t):
            hinge = jnp.maximum(1 - sign * (z + t * image), 0.0)
            return jnp.sum((w + t * v) ** 2, axis=0) / 2 + jnp.sum(weight * hinge**2, axis=0)

        steps = jnp.asarray(STEPS, jnp.float32)
        return steps[jnp.argmin(jax.lax.map(value, steps), axis=0)]

    def going(state):
        _, _, norm, moved, i = state
        return (i < NEWTON) & jnp.any((norm > TOLERANCE * reference) & moved)

    def step(state):
        w, z, _, _, i = state
        gradient = slope(w, z)
        v = direction(gradient, jnp.where(sign * z < 1, weight, 0.0))
        t = search(w, z, v, product(x, v))
        w = w + t[None] * v
        z = product(x, w)
        return w, z, jnp.linalg.norm(slope(w, z), axis=0), t > 0, i + 1

    zero = jnp.zeros_like(init)
    reference = jnp.linalg.norm(slope(zero, product(x, zero)), axis=0)
    everywhere = jnp.full(init.shape[1:], jnp.inf, x.dtype), jnp.ones(init.shape[1:], bool)
    state = (init, product(x, init), *everywhere, jnp.zeros((), jnp.int32))
    return jax.lax.while_loop(going, step, state)[0]
