"""Recipes: functions that make all views of a batch, inside the jitted training step.

`views` compiles a list of `View`s into one function of keys and uint8 images. Each example has its own key and its
result depends on nothing else: not on the batch, its position in it, or the number of devices.

Random parameters are drawn for the whole batch at once. The pixels are then worked on in one of two ways that give
the same result: "batch" applies every part to every image, with neutral parameters where it does not happen, which
keeps a sharded batch sharded and an accelerator busy; "loop" goes through the images one at a time and branches, so
that parts that do not happen cost nothing and an image stays in cache, which is several times faster on a CPU.

Images may come cropped already, by the host: then each view is its crop, flipped and changed as the recipe says.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, DTypeLike, Float, Key, Shaped

from ssl_jax.augment import blur, color, erase, platform, resize
from ssl_jax.augment.view import Drawn, View, draw, draw_uncropped
from ssl_jax.core import UserError

Images = Shaped[Array, "b h w c"] | Shaped[np.ndarray, "b h w c"]
Crops = Shaped[Array, "b _ _ _ c"] | Shaped[np.ndarray, "b _ _ _ c"]
MakeViews = Callable[..., Array | tuple[Array, ...]]
Stats = tuple[float, ...] | None
FORMULATIONS = ("auto", "batch", "loop")


def _crop(drawn: Drawn, image: Shaped[Array, "h w c"], branch: bool) -> Float[Array, "c s s"]:
    if drawn.rows is None or drawn.columns is None:  # it came cropped
        x = jnp.transpose(image, (2, 0, 1)).astype(jnp.float32) * np.float32(1 / 255)
        return x if drawn.flip is None else jnp.where(drawn.flip, x[..., ::-1], x)
    # Dividing by 255 in the weights saves a pass over the pixels.
    rows = (drawn.rows[0], drawn.rows[1] * np.float32(1 / 255))
    if branch:
        return resize.by_branch(image, rows, drawn.columns, drawn.flip)
    columns, flip = drawn.columns, drawn.flip
    if flip is not None:
        columns = jax.tree.map(lambda m, c: jnp.where(flip, m, c), resize.mirrored(columns), columns)
    return platform.choose(cpu=resize.by_gather, default=resize.by_matmul)(image, rows, columns)


def _make_view(
    drawn: Drawn, image: Shaped[Array, "h w c"], view: View, mean: Stats, std: Stats, branch: bool
) -> Float[Array, "s s c"]:
    """Make one view of one image. Channels go first meanwhile: rows of pixels are then contiguous."""
    color_jitter = color.color_jitter_by_branch if branch else color.color_jitter
    blurred = blur.by_shifts if branch else platform.choose(cpu=blur.by_shifts, default=blur.by_matmul)
    jitter = functools.partial(
        color_jitter, active=view.active_jitter(image.shape[-1]), channel_axis=0, additive=view.brightness == "add"
    )

    def apply(part: tuple[Array, ...] | None, step: Callable[..., Array], x: Array) -> Array:
        if part is None:
            return x
        happens, *parameters = part
        return lax.cond(happens, lambda x: step(x, *parameters), lambda x: x, x) if branch else step(x, *parameters)

    x = _crop(drawn, image, branch)
    if view.method == "cubic":
        x = jnp.clip(x, 0, 1)
    x = apply(drawn.jitter, jitter, x)
    x = apply(drawn.grey, functools.partial(color.adjust_saturation, channel_axis=0), x)
    x = apply(drawn.blur, blurred, x)
    x = apply(drawn.solarize, color.solarize, x)
    x = x if drawn.noise is None else x + drawn.noise
    if mean is not None and std is not None:
        x = color.normalize(x, mean, std, channel_axis=0)
    x = apply(drawn.erase, functools.partial(erase.erase, channel_axis=0), x)
    x = x if drawn.drop is None else jnp.where(drawn.drop[None], jnp.zeros_like(x), x)
    return jnp.transpose(x, (1, 2, 0))


def check_images(image: Array | np.ndarray, mean: Stats, std: Stats) -> None:
    """Raise UserError unless the images are uint8 `[b h w c]` and the statistics fit the channels."""
    if image.ndim != 4 or image.dtype != jnp.uint8:
        raise UserError(f"images must be uint8 [b h w c] with values 0..255, not {image.dtype}{list(image.shape)}")
    if (mean is None) != (std is None):
        raise UserError("give both mean and std, or neither")
    for name, value in (("mean", mean), ("std", std)):
        if value is not None and len(value) != image.shape[-1]:
            raise UserError(f"{name} has {len(value)} numbers, the images have {image.shape[-1]} channels")


def _with_size(view: View | tuple[View, int], size: int | None) -> tuple[View, int]:
    if isinstance(view, tuple):
        return view
    if size is None:
        raise UserError("views of one size need size=, for example size=32")
    return view, size


@dataclasses.dataclass(frozen=True, eq=False)
class Recipe:
    """What `views` makes; see there.

    Attributes:
      pairs: each view and its size.
      paired: the result is a tuple with an array for each size, even if there is one.
      mean: see `views`, as the following.
      std: see there.
      dtype: see there.
      formulation: see there.
      aligned: see there.
    """

    pairs: tuple[tuple[View, int], ...]
    paired: bool
    mean: Stats
    std: Stats
    dtype: DTypeLike
    formulation: str
    aligned: bool

    @property
    def sizes(self) -> tuple[int, ...]:
        """Sizes of the views, in order of first appearance."""
        return tuple(dict.fromkeys(s for _, s in self.pairs))

    def __call__(self, keys: Key[Array, " b"], image: Images | Crops | tuple[Crops, ...]) -> Array | tuple[Array, ...]:
        """Make the views of a batch of images `[b h w c]`, or of their crops, `[b v s s c]` for each size."""
        cropped = isinstance(image, tuple) or image.ndim == 5
        images: tuple[Any, ...] = self._check_crops(image) if cropped else (image,)
        for x in images:
            check_images(x[:, 0] if cropped else x, self.mean, self.std)
        on_cpu = self._loop if jax.device_count() == 1 else self._batch
        automatic = platform.choose(cpu=on_cpu, default=self._batch)
        apply = {"batch": self._batch, "loop": self._loop, "auto": automatic}[self.formulation]
        shape = None if cropped else images[0].shape[1:]
        drawn = jax.vmap(lambda key: self._draw(key, shape, images[0].shape[-1]))(keys)
        made = apply(drawn, tuple(jnp.asarray(x) for x in images))
        return made if self.paired else made[0]

    def _check_crops(self, image: Crops | tuple[Crops, ...]) -> tuple[Any, ...]:
        images: tuple[Any, ...] = image if isinstance(image, tuple) else (image,)
        if self.aligned:
            raise UserError("aligned views are made of whole images, not of crops that each lie elsewhere")
        wanted = [(sum(s == size for _, s in self.pairs), size, size) for size in self.sizes]
        if [x.shape[1:4] for x in images] != wanted:
            raise UserError(
                f"The crops are of shapes {[list(x.shape[1:4]) for x in images]} and the views of "
                f"{[list(shape) for shape in wanted]} (number, height, width); cut the crops for this recipe."
            )
        return images

    def _draw(self, key: Array, shape: tuple[int, ...] | None, channels: int) -> list[Drawn]:
        subkeys = jax.random.split(key, len(self.pairs))
        drawn: list[Drawn] = []
        for i, (view, s) in enumerate(self.pairs):
            like = drawn[0] if self.aligned and drawn else None
            if shape is None:
                drawn.append(draw_uncropped(subkeys[i], view, channels, s, like=like))
            else:
                drawn.append(draw(subkeys[i], view, (shape[0], shape[1], channels), s, like=like))
        return drawn

    def _make(self, drawn: list[Drawn], images: tuple[Array, ...], branch: bool) -> tuple[Array, ...]:
        """Make the views of one example."""
        made: dict[int, list[Array]] = {s: [] for s in self.sizes}
        for d, (view, s) in zip(drawn, self.pairs, strict=True):
            of_size = images[0] if images[0].ndim == 3 else images[self.sizes.index(s)][len(made[s])]
            made[s].append(_make_view(d, of_size, view, self.mean, self.std, branch))
        return tuple(jnp.stack(group).astype(self.dtype) for group in made.values())

    def _batch(self, drawn: list[Drawn], images: tuple[Array, ...]) -> tuple[Array, ...]:
        return jax.vmap(functools.partial(self._make, branch=False))(drawn, images)

    def _loop(self, drawn: list[Drawn], images: tuple[Array, ...]) -> tuple[Array, ...]:
        return lax.map(lambda args: self._make(*args, branch=True), (drawn, images))


def views(
    recipe: Sequence[View] | Sequence[tuple[View, int]],
    *,
    size: int | None = None,
    mean: Stats = None,
    std: Stats = None,
    dtype: DTypeLike = jnp.float32,
    formulation: str = "auto",
    aligned: bool = False,
) -> Recipe:
    """Return a function that makes the views of a batch.

    Args:
      recipe: one `View` per view, all of `size` pixels; or `(View, size)` pairs when the views differ in size.
      size: height and width of the views in pixels.
      mean: per channel, for values in [0, 1]; None: no normalisation.
      std: likewise.
      dtype: of the result; the arithmetic is in float32.
      formulation: "batch", "loop" (see the module; not for a batch that is sharded over devices), or "auto": "loop"
        where the program runs on a process' only device and that is a CPU.
      aligned: all views of an example have the first one's crop and flip, so that their pixels correspond.

    Returns:
      `(keys [b], image uint8 [b h w c]) -> float [b v s s c]`: in [0, 1], or normalised. With `(View, size)` pairs a
      tuple of such arrays, one for each size in order of first appearance.

      Images that come cropped are uint8 `[b v s s c]`, or a tuple of such arrays in the same order.

    Raises:
      UserError: no views, no size, aligned views of several sizes, or images that are not uint8 `[b h w c]`.
    """
    if not recipe:
        raise UserError("a recipe needs at least one View")
    if formulation not in FORMULATIONS:
        raise UserError(f"unknown formulation {formulation!r}: use one of {', '.join(FORMULATIONS)}")
    pairs = tuple(_with_size(v, size) for v in recipe)
    made = Recipe(pairs, isinstance(recipe[0], tuple), mean, std, dtype, formulation, aligned)
    if aligned and len(made.sizes) > 1:
        raise UserError(f"aligned views are of one size, not of {', '.join(map(str, made.sizes))} pixels")
    return made


def two_views(first: View, second: View | None = None, **kwargs: object) -> Recipe:
    """Return `views` of two recipes, the second like the first unless given."""
    return views([first, second or first], **kwargs)  # type: ignore[arg-type]
