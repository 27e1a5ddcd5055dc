"""The slices of TPUs that there are: shapes in chips, as Google Cloud's documentation lists them for each version.

Up to 256 chips of v5e and v6e, and 1,024 of v3, it names every shape. Of v4, v5p and TPU7x it names the small ones;
larger ones are made of cubes of 4 x 4 x 4, `AxBxC` with A <= B <= C. Read in 2026: /tpu/docs/v3, v4, v5e, v5p, v6e,
tpu7x, types-topologies, and GKE's table of machine types for single chips.
"""

import math

from ssl_jax.core import UserError

FLAT = ("1x1", "2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16")
SMALL = ("2x2x1", "2x2x2", "2x2x4", "2x4x4")
SHAPES = {
    "v3": ("2x2", "4x4", "4x8", "8x8", "8x16", "16x16", "16x32", "32x32"),
    "v4": SMALL,
    "v5e": FLAT,
    "v5p": ("1x1x1", *SMALL),
    "v6e": FLAT,
    "tpu7x": ("1x1x1", *SMALL),
}
LARGEST = {"v3": 1024, "v4": 4096, "v5e": 256, "v5p": 6144, "v6e": 256, "tpu7x": 9216}  # chips


def check_slice(kind: str, shape: tuple[int, ...], slices: int) -> None:
    """Raise a `UserError` if there is no slice of that shape, or none that others can be joined to.

    Args:
      kind: key of `SHAPES`.
      shape: in chips, with as many numbers as the kind has.
      slices: how many are joined by the data centre's network.
    """
    name, chips = f"{kind}:{'x'.join(map(str, shape))}", math.prod(shape)
    if chips > LARGEST[kind]:
        raise UserError(
            f"{name} has {chips:,} chips, and the largest slice of {kind} {LARGEST[kind]:,}; use --slices for several."
        )
    if name.partition(":")[2] not in SHAPES[kind] and not of_cubes(shape):
        raise UserError(f"There is no slice {name}; there is {known(kind)}.")
    if slices > 1 and chips == 1:
        raise UserError(f"Slices of several chips can be joined, and {name} has one; take a larger one for --slices.")


def of_cubes(shape: tuple[int, ...]) -> bool:
    """Whether a slice of three dimensions is made of whole cubes, in the order that has a name."""
    return len(shape) == 3 and not any(n % 4 for n in shape) and tuple(sorted(shape)) == shape


def known(kind: str) -> str:
    """The shapes of a kind, for messages."""
    listed = ", ".join(f"{kind}:{shape}" for shape in SHAPES[kind])
    cubes = f", and {kind}:AxBxC of multiples of 4 with A <= B <= C" if kind in ("v4", "v5p", "tpu7x") else ""
    return listed + cubes
