"""Images as rows of square patches, and back."""

from jaxtyping import Array, Float

from ssl_jax.core import UserError


def grid_of(height: int, width: int, patch: int) -> tuple[int, int]:
    """Rows and columns of patches.

    Raises:
      UserError: the sides are no multiples of the patch.
    """
    if height % patch or width % patch:
        raise UserError(f"images of {height} x {width} do not divide into patches of {patch}: resize them")
    return height // patch, width // patch


def patchify(image: Float[Array, "b h w c"], patch: int) -> Float[Array, "b n p"]:
    """Patches in row-major order; within a patch row, column and channel, channels fastest (MAE's order)."""
    b, height, width, c = image.shape
    p, q = grid_of(height, width, patch)
    x = image.reshape(b, p, patch, q, patch, c).transpose(0, 1, 3, 2, 4, 5)
    return x.reshape(b, p * q, patch * patch * c)


def unpatchify(patches: Float[Array, "b n p"], size: tuple[int, int], patch: int) -> Float[Array, "b h w c"]:
    """The image of `size` pixels that `patchify` takes apart."""
    p, q = grid_of(*size, patch)
    x = patches.reshape(len(patches), p, q, patch, patch, -1).transpose(0, 1, 3, 2, 4, 5)
    return x.reshape(len(patches), *size, -1)
