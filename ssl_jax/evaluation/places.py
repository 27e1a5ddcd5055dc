"""Places of a feature pyramid: what a detector should say there, and boxes from what it says."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from ssl_jax.losses import pairwise_iou
from ssl_jax.losses.detection import area

RANGE = (4.0, 8.0)  # sizes, in strides, of the objects that a level is for; the paper's 64 to 128 at stride 16


@dataclasses.dataclass(frozen=True)
class Places:
    """Where a pyramid looks: centres (x, y) `[n 2]`, strides `[n]`, and sizes of objects from `low` to `high` `[n]`."""

    centres: np.ndarray
    strides: np.ndarray
    low: np.ndarray
    high: np.ndarray


def places(image: tuple[int, ...], shapes: tuple[tuple[int, int], ...]) -> Places:
    """The places of a pyramid on images of (height, width): the centres of the cells that its levels divide them into.

    A level of stride s is for objects whose furthest side is 4 s to 8 s away, the finest and the coarsest also for
    smaller and for larger ones.
    """
    parts = []
    for i, (h, w) in enumerate(shapes):
        y, x = ((np.arange(n) + 0.5) * side / n for n, side in zip((h, w), image, strict=True))
        centres = np.stack(np.meshgrid(x, y), axis=-1).reshape(-1, 2)
        stride = image[0] / h
        low = RANGE[0] * stride if i > 0 else 0.0
        high = RANGE[1] * stride if i < len(shapes) - 1 else np.inf
        parts.append((centres, *(np.full(h * w, value) for value in (stride, low, high))))
    # A level's upper bound is the next one's lower bound, also where strides don't double.
    for i in range(len(parts) - 1):
        parts[i][3][:] = parts[i + 1][2][0]
    return Places(*(np.concatenate(column).astype(np.float32) for column in zip(*parts, strict=True)))


def mirror(
    image: Float[Array, "b h w c"], boxes: Float[Array, "b m 4"], which: Bool[Array, " b"]
) -> tuple[Float[Array, "b h w c"], Float[Array, "b m 4"]]:
    """Mirror some of the images and their boxes."""
    x0, y0, x1, y1 = jnp.moveaxis(boxes, -1, 0)
    width = image.shape[2]
    other = jnp.stack([width - x1, y0, width - x0, y1], axis=-1)
    chosen = which[:, None, None]
    return jnp.where(chosen[..., None], image[:, :, ::-1], image), jnp.where(chosen, other, boxes)


def targets(
    where: Places,
    boxes: Float[Array, "m 4"],
    labels: Int[Array, " m"],
    ignore: Bool[Array, " m"],
    *,
    radius: float,
) -> tuple[Int[Array, " n"], Float[Array, "n 4"]]:
    """What each place of an image should say (section 3.1 and 3.2 of the paper, with centre sampling).

    A place belongs to a box that it lies in, whose centre is nearer than `radius` strides in x and y, and whose
    furthest side is as far as its level is for; of several to the smallest.

    Returns:
      Labels, -1 for the background and -2 for places in ignored boxes, which are neither; and distances to the left,
      upper, right and lower side in strides, meaningless where there is no object.
    """
    x, y = where.centres[:, 0, None], where.centres[:, 1, None]
    x0, y0, x1, y1 = boxes.T[:, None]
    distances = jnp.stack([x - x0, y - y0, x1 - x, y1 - y], axis=-1)
    inside = jnp.min(distances, axis=-1) > 0
    from_centre = jnp.maximum(jnp.abs(x - (x0 + x1) / 2), jnp.abs(y - (y0 + y1) / 2))
    furthest = jnp.max(distances, axis=-1)
    fits = (furthest >= where.low[:, None]) & (furthest <= where.high[:, None])
    near = from_centre < radius * where.strides[:, None]
    mine = inside & near & fits & ((labels >= 0) & ~ignore)[None]
    cost = jnp.where(mine, area(boxes)[None], jnp.inf)
    best = jnp.argmin(cost, axis=1)
    skipped = jnp.any(inside & ((labels >= 0) & ignore)[None], axis=1)
    label = jnp.where(jnp.any(mine, axis=1), labels[best], jnp.where(skipped, -2, -1))
    own = jnp.take_along_axis(distances, best[:, None, None], axis=1)[:, 0]
    return label.astype(jnp.int32), own / where.strides[:, None]


def centreness(distances: Float[Array, "*n 4"]) -> Float[Array, "*n"]:
    """How central a place is in its box, 0..1 (eq. 3): `sqrt(min(l, r) / max(l, r) * min(t, b) / max(t, b))`."""
    left, upper, right, lower = jnp.moveaxis(jnp.maximum(distances, 1e-6), -1, 0)
    ratio = (jnp.minimum(left, right) / jnp.maximum(left, right)) * (
        jnp.minimum(upper, lower) / jnp.maximum(upper, lower)
    )
    return jnp.sqrt(ratio)


def around_zero(distances: Float[Array, "*n 4"]) -> Float[Array, "*n 4"]:
    """Boxes x0 y0 x1 y1 about a place at zero."""
    return jnp.concatenate([-distances[..., :2], distances[..., 2:]], axis=-1)


def decode(
    where: Places,
    size: tuple[int, ...],
    output: dict[str, Array],
    *,
    candidates: int,
    detections: int,
    overlap: float,
) -> dict[str, Array]:
    """Detections of one image (of height, width) from the head's output.

    The best candidates, cut at the image's edges, and of those the best that no better one suppresses.
    """
    n, classes = output["class_logits"].shape
    central = jax.nn.sigmoid(output["centre_logits"])[:, None]
    score = jnp.sqrt(jax.nn.sigmoid(output["class_logits"]) * central).reshape(-1)
    scores, index = lax.top_k(score, min(candidates, n * classes))
    place, labels = index // classes, (index % classes).astype(jnp.int32)
    centres = jnp.asarray(where.centres)[place]
    boxes = around_zero(output["distances"][place] * jnp.asarray(where.strides)[place][:, None])
    edges = jnp.asarray([size[1], size[0], size[1], size[0]], jnp.float32)
    boxes = jnp.clip(boxes + jnp.concatenate([centres, centres], axis=-1), 0.0, edges[None])
    scores = jnp.where(suppress(boxes, labels, overlap=overlap), scores, 0.0)
    scores, order = lax.top_k(scores, min(detections, len(scores)))
    return {
        "boxes": boxes[order],
        "scores": scores,
        "labels": jnp.where(scores > 0, labels[order], -1),
    }


def suppress(boxes: Float[Array, "k 4"], labels: Int[Array, " k"], *, overlap: float) -> Bool[Array, " k"]:
    """Greedy non-maximum suppression: which detections, best first, stay.

    One goes if it overlaps one before it, of the same class and that stays, by more than `overlap`.
    """
    rivals = (pairwise_iou(boxes, boxes) > overlap) & (labels[:, None] == labels[None])
    rivals = rivals & jnp.tril(jnp.ones_like(rivals), -1)  # of each row, those that are better

    def body(i: Array, stay: Array) -> Array:
        return stay.at[i].set(~jnp.any(rivals[i] & stay))

    return lax.fori_loop(0, len(boxes), body, jnp.ones(len(boxes), bool))
