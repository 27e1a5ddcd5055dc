"""What to set where recipes made for ImageNet meet fewer images: one rule, linear in the logarithm of their number.

Methods with prototypes (DINO, iBOT, SwAV) collapse on small data when they keep ImageNet's numbers: most of 65536
prototypes then never see an image. From `FEW` images down a quantity has its value for little data, from `MANY` up
the paper's, and in between its place is that of the number's logarithm. The idea and the ends of the range follow
lightly-train's defaults for DINO; the curve is ours.
"""

import math

from ssl_jax.core import UserError
from ssl_jax.schedules import Schedule, cosine, linear

FEW, MANY = 20_000, 500_000
WARMUP_SHARE = 0.3  # of a run, at most
TEMPERATURE_WARMUP = 37_500  # steps: DINO's 30 epochs of ImageNet in batches of 1024


def between(examples: int, few: float, many: float) -> float:
    """`few` up to 20,000 examples, `many` from 500,000 on, and between them linear in log(examples)."""
    place = math.log(max(examples, 1) / FEW) / math.log(MANY / FEW)
    return few + (many - few) * min(max(place, 0.0), 1.0)


def prototypes(examples: int, most: int = 65_536) -> int:
    """Number of prototypes: a power of two between `most` / 64 and `most`, such as 1024..65536 for DINO."""
    return min(2 ** round(between(examples, math.log2(most) - 6, math.log2(most))), most)


def warmup(wanted: int, steps: int) -> int:
    """Length of a warm-up in steps: as wanted, but at most 30 % of a run of `steps`, and at least one."""
    return max(min(wanted, int(WARMUP_SHARE * steps)), 1)


def teacher_temperature(examples: int, steps: int) -> Schedule:
    """Temperature of DINO's teacher: a line from 0.02..0.04 to 0.04..0.07 (little data .. ImageNet), then constant."""
    start, end = between(examples, 0.02, 0.04), between(examples, 0.04, 0.07)
    return linear(start, end, steps=warmup(TEMPERATURE_WARMUP, steps))


def teacher_momentum(examples: int, steps: int) -> Schedule:
    """Momentum of DINO's teacher: a cosine from 0.99..0.996 (little data .. ImageNet) to 1 over the run."""
    return cosine(between(examples, 0.99, 0.996), 1.0, steps=steps)


def known(value: int | None, name: str, of: str) -> int:
    """A number that must be known where the argument `of` is left to it.

    Raises:
      UserError: it is None.
    """
    if value is None:
        raise UserError(f"`{of}` is left to the size of data and run, so give `{name}`.")
    return value
