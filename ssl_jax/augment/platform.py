"""Two formulations of the same function, chosen when the program is lowered for a machine."""

from collections.abc import Callable
from typing import Any

from jax import lax


def choose(*, cpu: Callable[..., Any], default: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function that runs `cpu` on CPUs and `default` elsewhere; both must give the same result.

    The choice is made per lowering, not per process: a program compiled here for another machine gets that machine's
    formulation, and only that one.
    """
    return lambda *operands: lax.platform_dependent(*operands, cpu=cpu, default=default)
