"""What pretext tasks are made of: rotations, tiles of an image, sets of permutations."""

from ssl_jax.pretext.permutations import permutations
from ssl_jax.pretext.rotations import rotations
from ssl_jax.pretext.tiles import check_tiles, standardize, tiles

__all__ = ["check_tiles", "permutations", "rotations", "standardize", "tiles"]
