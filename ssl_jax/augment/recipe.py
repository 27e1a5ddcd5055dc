"""Recipes: functions that make all views of a batch, inside the jitted training step.

`views` compiles a list of `View`s into one function of keys and uint8 images. Each example has its own key and its
result depends on nothing else: not on the batch, its position in it, or the number of devices.

Random parameters are drawn for the whole batch at once. The pixels are then worked on in one of two ways that give
the same result: "batch" applies every part to every image, with neutral parameters where it does not happen, which
keeps a sharded batch sharded and an accelerator busy; "loop" goes through the images one at a time and branches, so
that parts that do not happen cost nothing and an image stays in cache, which is several times faster on a CPU.
"""

import functools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, DTypeLike, Float, Key, Shaped

from ssl_jax.augment import blur, color, erase, platform, resize
from ssl_jax.augment.view import Drawn, View, draw
from ssl_jax.core import UserError

Images = Shaped[Array, "b h w c"] | Shaped[np.ndarray, "b h w c"]
MakeViews = Callable[..., Array | tuple[Array, ...]]
Stats = tuple[float, ...] | None
FORMULATIONS = ("auto", "batch", "loop")


def _crop(drawn: Drawn, image: Shaped[Array, "h w c"], branch: bool) -> Float[Array, "c s s"]:
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
    active = view.active_jitter(image.shape[-1])

    def apply(part: tuple[Array, ...] | None, step: Callable[..., Array], x: Array) -> Array:
        if part is None:
            return x
        happens, *parameters = part
        return lax.cond(happens, lambda x: step(x, *parameters), lambda x: x, x) if branch else step(x, *parameters)

    x = _crop(drawn, image, branch)
    if view.method == "cubic":
        x = jnp.clip(x, 0, 1)
    x = apply(drawn.jitter, functools.partial(color_jitter, active=active, channel_axis=0), x)
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


def views(
    recipe: Sequence[View] | Sequence[tuple[View, int]],
    *,
    size: int | None = None,
    mean: Stats = None,
    std: Stats = None,
    dtype: DTypeLike = jnp.float32,
    formulation: str = "auto",
    aligned: bool = False,
) -> MakeViews:
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

    Raises:
      UserError: no views, no size, aligned views of several sizes, or images that are not uint8 `[b h w c]`.
    """
    if not recipe:
        raise UserError("a recipe needs at least one View")
    if formulation not in FORMULATIONS:
        raise UserError(f"unknown formulation {formulation!r}: use one of {', '.join(FORMULATIONS)}")
    paired = isinstance(recipe[0], tuple)
    pairs = [_with_size(v, size) for v in recipe]
    sizes = list(dict.fromkeys(s for _, s in pairs))
    if aligned and len(sizes) > 1:
        raise UserError(f"aligned views are of one size, not of {', '.join(map(str, sizes))} pixels")

    def make_one(drawn: list[Drawn], image: Array, branch: bool) -> tuple[Array, ...]:
        made: dict[int, list[Array]] = {s: [] for s in sizes}
        for d, (view, s) in zip(drawn, pairs, strict=True):
            made[s].append(_make_view(d, image, view, mean, std, branch))
        return tuple(jnp.stack(group).astype(dtype) for group in made.values())

    def batch(drawn: list[Drawn], image: Array) -> tuple[Array, ...]:
        return jax.vmap(functools.partial(make_one, branch=False))(drawn, image)

    def loop(drawn: list[Drawn], image: Array) -> tuple[Array, ...]:
        return lax.map(lambda args: make_one(*args, branch=True), (drawn, image))

    def make(keys: Key[Array, " b"], image: Images) -> Array | tuple[Array, ...]:
        check_images(image, mean, std)
        height, width, channels = image.shape[1:]

        def draw_all(key: Array) -> list[Drawn]:
            subkeys = jax.random.split(key, len(pairs))
            drawn: list[Drawn] = []
            for i, (view, s) in enumerate(pairs):
                like = drawn[0] if aligned and drawn else None
                drawn.append(draw(subkeys[i], view, (height, width, channels), s, like=like))
            return drawn

        on_cpu = loop if jax.device_count() == 1 else batch
        apply = {"batch": batch, "loop": loop, "auto": platform.choose(cpu=on_cpu, default=batch)}[formulation]
        made = apply(jax.vmap(draw_all)(keys), jnp.asarray(image))
        return made if paired else made[0]

    return make


def two_views(first: View, second: View | None = None, **kwargs: object) -> MakeViews:
    """Return `views` of two recipes, the second like the first unless given."""
    return views([first, second or first], **kwargs)  # type: ignore[arg-type]
