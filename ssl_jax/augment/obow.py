"""OBoW's views: the whole image for the teacher, crops and small patches for the student (arXiv 2012.11552).

Source: valeoai/obow `obow/datasets.py`.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, DTypeLike, Float, Int, Key, PRNGKeyArray

from ssl_jax.augment.recipe import Images, MakeViews, Stats, check_images, views
from ssl_jax.augment.view import View
from ssl_jax.core import UserError

GRID = 3  # patches per side


def grid_patches(
    key: PRNGKeyArray, image: Float[Array, "h w c"], *, size: int, count: int, jitter: int
) -> Float[Array, "n s s c"]:
    """Cut `count` of the nine overlapping squares of a 3 x 3 grid, each moved by 0 to `jitter` pixels both ways.

    No square is cut twice. The grid fills the image, so that no square leaves it.
    """
    offset_key, choice_key = jax.random.split(key)
    steps = [(n - size - jitter) // (GRID - 1) for n in image.shape[:2]]
    corners = jnp.stack(jnp.meshgrid(*(step * jnp.arange(GRID) for step in steps), indexing="ij"), -1).reshape(-1, 2)
    corners = corners + jax.random.randint(offset_key, corners.shape, 0, jitter + 1)
    chosen = jax.random.permutation(choice_key, corners)[:count]

    def cut(corner: Int[Array, "2"]) -> Array:
        return jax.lax.dynamic_slice(image, (corner[0], corner[1], 0), (size, size, image.shape[2]))

    return jax.vmap(cut)(chosen)


def obow(
    size: int,
    *,
    crops: int = 2,
    patches: int = 5,
    crop_size: int | None = None,
    patch_size: int | None = None,
    whole_size: int | None = None,
    centre: float = 0.875,
    crop_scale: tuple[float, float] = (0.08, 0.6),
    patch_scale: tuple[float, float] = (0.6, 1.0),
    strength: float = 1.0,
    blur: bool = True,
    flip: float = 0.5,
    mean: Stats = None,
    std: Stats = None,
    dtype: DTypeLike = jnp.float32,
) -> MakeViews:
    """Return `(keys [b], image uint8 [b h w c]) -> (teacher [b 1 ...], crops [b 2 ...], patches [b 5 ...])`.

    Args:
      size: height and width of the teacher's view, 224 in the paper; other sizes default to the paper's share of it.
      crops: number of crops of the student.
      patches: number of its patches, at most 9; without them the tuple has two entries (OBoW's vanilla variant).
      crop_size: of the crops (160).
      patch_size: of the patches (96). They are cut out of a view of `whole_size`, on a 3 x 3 grid, moved by up to
        3/32 of that.
      whole_size: see there (256).
      centre: the teacher's central square as a share of the shorter side (224 of 256); 1 for images that hold nothing
        but their object.
      crop_scale: area of the crops as a share of the image's.
      patch_scale: that of the view that patches are cut from.
      strength: of the colour jitter.
      blur: whether crops are blurred half of the time.
      flip: probability of a mirror image, for every view.
      mean: per channel, for values in [0, 1]; None: values stay there.
      std: likewise.
      dtype: of the result.

    Raises:
      UserError: sizes that don't fit into each other, or numbers of views that make no sense.
    """
    crop_size, patch_size = crop_size or round(size * 160 / 224), patch_size or round(size * 96 / 224)
    whole_size = whole_size or round(size * 256 / 224)
    jitter = round(whole_size * 24 / 256)
    if crops < 1 or not 0 <= patches <= GRID**2:
        raise UserError(f"OBoW takes at least one crop and 0 to {GRID**2} patches, not {crops} and {patches}.")
    if min(crop_size, patch_size) < 1 or patch_size + jitter > whole_size:
        raise UserError(
            f"Patches of {patch_size} pixels, moved by up to {jitter}, don't fit into a view of {whole_size}; lower "
            "patch_size or raise whole_size."
        )
    if not 0 < centre <= 1:
        raise UserError(f"centre={centre}: the teacher sees a share of the image in (0, 1].")
    s = strength
    view = View(
        crop_scale=crop_scale,
        flip=flip,
        jitter=(0.4 * s, 0.4 * s, 0.4 * s, 0.1 * s),
        jitter_prob=0.8,
        grey_prob=0.2,
        blur_prob=0.5 if blur else 0.0,
    )
    whole = View(
        crop_scale=patch_scale, flip=flip, jitter=view.jitter, jitter_prob=view.jitter_prob, grey_prob=view.grey_prob
    )
    make: Callable[..., Callable[..., Any]] = functools.partial(views, mean=mean, std=std, dtype=dtype)
    make_teacher = make([View(crop_scale=None, flip=flip)], size=size)
    make_crops, make_whole = make([view] * crops, size=crop_size), make([whole], size=whole_size)
    cut = functools.partial(grid_patches, size=patch_size, count=patches, jitter=jitter)

    def make_views(keys: Key[Array, " b"], image: Images) -> tuple[Array, ...]:
        check_images(image, mean, std)
        teacher_keys, crop_keys, whole_keys, patch_keys = jnp.moveaxis(
            jax.vmap(lambda k: jax.random.split(k, 4))(keys), 1, 0
        )
        side = round(centre * min(image.shape[1:3]))
        top, left = ((n - side) // 2 for n in image.shape[1:3])
        made = [
            make_teacher(teacher_keys, image[:, top : top + side, left : left + side]),
            make_crops(crop_keys, image),
        ]
        if patches:
            made.append(jax.vmap(cut)(patch_keys, make_whole(whole_keys, image)[:, 0]))
        return tuple(made)

    return make_views
