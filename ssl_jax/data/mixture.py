"""Several sources at once, each with a weight: `mixture:0.7*fashion_mnist+0.3*folder:PATH`.

An epoch of a mixture is as many images as all parts have together, of which each part gives exactly its share. Every
part goes through epochs of its own: a small one with a large weight is seen again and again, each time in another
order, and of a large one with a small weight the next epoch goes on where the last one stopped.
"""

import functools
import math
import re
import zlib
from collections.abc import Sequence

import numpy as np
from jaxtyping import Int32

from ssl_jax.core import UserError
from ssl_jax.data import sampling
from ssl_jax.data.combine import Joined
from ssl_jax.data.source import Source, digest

_NEXT = re.compile(r"\+(?=\s*[-+\w.]+\s*\*)")


def parse(mixture: str) -> list[tuple[float, str]]:
    """Take `"0.7*fashion_mnist+0.3*folder:PATH"` apart into weights and names.

    A `+` is only a boundary before a number and a `*`, so that names may hold both signs.

    Raises:
      UserError: if it does not read like that, or a weight is not positive.
    """
    parts: list[tuple[float, str]] = []
    for part in _NEXT.split(mixture):
        number, star, name = part.strip().partition("*")
        try:
            weight = float(number)
        except ValueError:
            weight, star = 0.0, ""
        if not star or not name.strip():
            raise UserError(
                f"{part!r} in mixture:{mixture} is not WEIGHT*DATA; write for example "
                "mixture:0.7*fashion_mnist+0.3*folder:PATH."
            )
        if not 0 < weight < math.inf:
            raise UserError(f"the weight of {part!r} in mixture:{mixture} is {weight:g}; give a positive number.")
        parts.append((weight, name.strip()))
    return parts


class Mixture(Joined):
    """Parts after each other, whose examples `batches` draws in proportion to weights.

    As a plain source, for evaluation, it is all images of all parts, each once.

    Args:
      sources: the parts, whose images have one shape.
      weights: positive; only their proportions matter.
      name: for messages and records.

    Raises:
      UserError: if a weight is not positive or too small for one image in an epoch, or the images of two parts have
        different shapes.
    """

    def __init__(self, sources: Sequence[Source], weights: Sequence[float | int], name: str):
        super().__init__(sources, name)
        bad = next((weight for weight in weights if not 0 < weight < math.inf), None)
        if bad is not None or len(weights) != len(sources):
            raise UserError(f"the {len(weights)} weights of {name} must be positive, one a part, but one is {bad}.")
        shapes = [source[np.arange(1)]["image"].shape[1:] for source in sources]
        odd = next((i for i, shape in enumerate(shapes) if shape != shapes[0]), None)
        if odd is not None:
            (a, b), (one, other) = (sources[0].name, sources[odd].name), (shapes[0], shapes[odd])
            raise UserError(
                f"the images of {a} are {_by(one)} and those of {b} are {_by(other)}; give both an image_size and "
                "channels, such as image_size=32, channels=3."
            )
        # Two epochs of each part, the one that ends in a batch and the next; of its own, since a small part may go
        # through many in a batch, and must not drive out the order of a large one.
        self._orders = [functools.lru_cache(maxsize=2)(sampling.apart) for _ in sources]
        self.weights = tuple(weight / sum(weights) for weight in weights)
        if 0 in self.shares:
            source, weight = sources[self.shares.index(0)], weights[self.shares.index(0)]
            raise UserError(
                f"the weight {weight:g} of {source.name} is too small: not one of the {len(self):,} images of an epoch "
                f"of {name} would be of it; raise it, or leave that part out."
            )

    @functools.cached_property
    def fingerprint(self) -> str:
        """Hash of the fingerprints of all parts, and of the weights."""
        return digest(super().fingerprint.encode(), str(self.weights).encode())

    @functools.cached_property
    def shares(self) -> tuple[int, ...]:
        """Examples of each part in an epoch, which sum up to its length: exact shares, rounded by largest remainder."""
        exact = [weight * len(self) for weight in self.weights]
        counts = [math.floor(share) for share in exact]
        by_rest = sorted(range(len(exact)), key=lambda i: counts[i] - exact[i])
        for i in by_rest[: len(self) - sum(counts)]:
            counts[i] += 1
        return tuple(counts)

    def indices(self, *, batch_size: int, seed: int, step: int) -> Int32[np.ndarray, " b"]:
        """Return the rows of batch number `step`, a pure function as `ssl_jax.data.indices` is.

        A batch holds no example twice as long as every part has at least three times as many as a batch.

        Args:
          batch_size: number of rows in the batch, over all processes.
          seed: not negative.
          step: number of the batch, from 0.
        """
        sampling.check(len(self), batch_size, seed, step)
        n, places = len(self), np.arange(step * batch_size, (step + 1) * batch_size)
        part, rank = np.empty(batch_size, np.int64), np.empty(batch_size, np.int64)
        for epoch in range(places[0] // n, places[-1] // n + 1):
            here = places // n == epoch
            parts, ranks = _turns(self.shares, seed, epoch)
            part[here], rank[here] = parts[places[here] % n], ranks[places[here] % n]
        rows = np.empty(batch_size, np.int32)
        for i, (source, end) in enumerate(zip(self.sources, self.ends, strict=True)):
            mine = np.flatnonzero(part == i)
            if len(mine):
                first = int(rank[mine[0]])  # a part's places in a batch follow each other
                drawn = sampling.sequence(
                    len(source), first, first + len(mine), gap=batch_size, seed=_seed(seed, i), order=self._orders[i]
                )
                rows[mine] = drawn + np.int32(end - len(source))
        return rows


@functools.lru_cache(maxsize=2)
def _turns(shares: tuple[int, ...], seed: int, epoch: int) -> tuple[np.ndarray, np.ndarray]:
    """Which part comes at each place of an epoch, shuffled, and how many of this part came before in all epochs."""
    parts = np.repeat(np.arange(len(shares), dtype=np.int16), shares)
    bits = np.random.PCG64(np.random.SeedSequence((seed, epoch, len(shares)))).random_raw(len(parts))
    parts = parts[np.argsort(bits, kind="stable")]
    ranks = np.empty(len(parts), np.int64)
    for i, share in enumerate(shares):
        ranks[parts == i] = epoch * share + np.arange(share)
    return parts, ranks


def _seed(seed: int, part: int) -> int:
    """Another seed for each part: two of one length must not walk in step."""
    return zlib.crc32(f"{seed} {part}".encode())


def _by(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))
