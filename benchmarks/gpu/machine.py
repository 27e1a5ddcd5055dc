"""The card, and what it does at most: the ceilings that other figures are shares of."""

import jax
import jax.numpy as jnp

from benchmarks.gpu import local
from benchmarks.gpu.record import Record


def run(record: Record, *, tiny: bool) -> bool:
    """Operations a second of large matrix products, and bytes a second of a copy, read and written ones together."""
    n, words = (256, 2**16) if tiny else (8_192, 2**30)
    for dtype, precision in (("bfloat16", "default"), ("float32", "default"), ("float32", "highest")):
        a, b = (jax.random.normal(jax.random.key(i), (n, n), jnp.dtype(dtype)) for i in (0, 1))
        product, _ = local.compiled(lambda a, b, how=precision: jnp.matmul(a, b, precision=how), a, b)
        rate = 2 * n**3 / local.seconds(product, a, b)["s"]
        record.add(ceiling=f"product of {dtype}, {precision} precision", flops=rate)
    x = jax.random.normal(jax.random.key(2), (words,), jnp.float32)
    negative, _ = local.compiled(jnp.negative, x)
    record.add(ceiling="copy", bytes=2 * x.nbytes / local.seconds(negative, x)["s"])
    return True
