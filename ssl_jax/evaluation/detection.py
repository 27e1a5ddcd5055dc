"""Object detection as evaluation of a trunk: the same detector on it and from scratch, trained equally, scored by COCO.

He et al., CVPR 2020 (MoCo, arXiv:1911.05722), section 4.2, fine-tune all layers with synchronised batch norm, which
batch norm here is; with an FCOS head (`ssl_jax.evaluation.fcos`) in place of their Faster R-CNN.
"""

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import numpy as np
import optax
from jax.sharding import Mesh
from jaxtyping import Float, Int, UInt8

from ssl_jax import data, optim, schedules
from ssl_jax.checks import check_positive
from ssl_jax.core import PyTree, TrainState, UserError
from ssl_jax.evaluation.box_scores import coco_ap, voc_ap
from ssl_jax.evaluation.fcos import Fcos, fcos
from ssl_jax.evaluation.pretrained import with_part
from ssl_jax.sharding import by_example, check_divisible, data_mesh, put
from ssl_jax.train_step import init_state, make_train_step

KEYS = ("image", "id", "boxes", "box_labels", "box_ignore")  # of a batch, what the training step is given
COLOURS = ((255, 60, 60), (60, 200, 60), (80, 120, 255), (255, 200, 0), (255, 90, 255), (0, 220, 220))


def detection_scores(
    encoder: nn.Module,
    params: PyTree | None,
    state: PyTree | None,
    train: data.Source,
    test: data.Source,
    *,
    steps: int = 500,
    batch_size: int = 32,
    learning_rate: float = 1e-3,
    weight_decay: float = 1e-4,
    warmup: float = 0.05,
    seed: int = 0,
    mesh: Mesh | None = None,
    **settings: Any,
) -> dict[str, float]:
    """Train a detector on a trunk, and score it.

    Args:
      encoder: any with maps of several sizes.
      params: its parameters, or None to start from scratch.
      state: its batch statistics, or None.
      train: images with boxes, for example `data.load("collage:fashion_mnist")`.
      test: likewise, of the same size and classes.
      steps: updates.
      batch_size: a multiple of the number of devices.
      learning_rate: the peak of a cosine, of AdamW with gradients clipped to a norm of 10, for trunk and head alike.
      weight_decay: of kernels.
      warmup: share of the steps, 0..1, in which the rate rises to its peak.
      seed: of the head, the order and the mirroring; and of a trunk from scratch.
      mesh: devices.
      **settings: of `fcos`, such as `maps`, `prepare`, `frozen` or `depth`.

    Returns:
      COCO's figures and VOC's, 0..1: `AP`, `AP50`, `AP75`, `AP_small`, ..., `VOC07`, `VOC`; and `loss`, the mean over
      the last tenth of the steps.

    Raises:
      UserError: images without boxes, sources that differ in classes, an encoder without such maps, parameters that are
        not the encoder's, or pycocotools is not installed.
    """
    check_positive(steps=steps, batch_size=batch_size, learning_rate=learning_rate)
    classes = classes_of(train)
    if classes_of(test) != classes:
        raise UserError(f"{train.name} and {test.name} have different classes of objects: use splits of one data set.")
    detector = fcos(encoder, classes=len(classes), **settings)
    rate = schedules.warmup_cosine(learning_rate, steps=steps, warmup=int(warmup * steps))
    tx = optim.create("adamw", rate, weight_decay=weight_decay, clip_norm=10.0)
    trained, losses = train_detector(
        detector, train, tx=tx, steps=steps, batch_size=batch_size, params=params, state=state, seed=seed, mesh=mesh
    )
    found, truth = detect(detector, trained, test, mesh=mesh), truth_of(test)
    scale = truth.pop("scale", np.ones(len(test), np.float32))[:, None, None]
    truth, found = ({**boxes, "boxes": boxes["boxes"] / scale} for boxes in (truth, found))
    figures = {**coco_ap(found, truth, classes=len(classes)), **voc_ap(found, truth)}
    return {**figures, "loss": float(np.mean(losses[-max(steps // 10, 1) :]))}


def compare_detection(
    encoder: nn.Module,
    trunks: Mapping[str, tuple[PyTree | None, PyTree | None]],
    train: data.Source,
    test: data.Source,
    *,
    seeds: Sequence[int] = (0, 1, 2),
    **settings: Any,
) -> list[dict[str, Any]]:
    """`detection_scores` of several trunks at equal steps and seeds.

    Args:
      encoder: of all trunks.
      trunks: parameters and state by name; `(None, None)` for a trunk from scratch.
      train: see `detection_scores`; so are `test` and the settings.
      test: see `detection_scores`.
      seeds: one run each.
      **settings: see `detection_scores`.

    Returns:
      One dict per trunk and seed: `{"features": name, "seed": seed, "AP": ..., ...}`.
    """
    return [
        {"features": name, "seed": seed, **detection_scores(encoder, *trunk, train, test, seed=seed, **settings)}
        for name, trunk in trunks.items()
        for seed in seeds
    ]


def train_detector(
    detector: Fcos,
    source: data.Source,
    *,
    tx: optax.GradientTransformation,
    steps: int,
    batch_size: int,
    params: PyTree | None = None,
    state: PyTree | None = None,
    seed: int = 0,
    mesh: Mesh | None = None,
) -> tuple[TrainState, Float[np.ndarray, " steps"]]:
    """Train a detector with the library's own step; returns the state and the loss of each step.

    Args:
      detector: of `fcos`.
      source: images with boxes.
      tx: optax optimizer.
      steps: updates.
      batch_size: a multiple of the number of devices.
      params: parameters that the trunk starts from, or None for random ones.
      state: its batch statistics.
      seed: of initialisation, order and mirroring.
      mesh: devices.

    Raises:
      UserError: there are no boxes, parameters are not the encoder's, or the loss is not finite.
    """
    classes_of(source)
    mesh = mesh or data_mesh()
    check_divisible(batch_size, mesh)
    batches = data.batches(
        source,
        batch_size=batch_size,
        seed=seed,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
    )
    example = _for_step(next(data.epoch(source, batch_size=1)))
    current = init_state(detector.method, tx, example, seed=seed, mesh=mesh)
    if params is not None:
        current = with_part(current, "encoder", params, state or {})
    step, losses = make_train_step(detector.method, tx, mesh=mesh), []
    try:
        for _ in range(steps):
            current, metrics = step(current, put(_for_step(next(batches)), mesh))
            losses.append(jax.block_until_ready(metrics["loss"]))
    finally:
        batches.close()
    history = np.asarray(losses, np.float32)
    if not np.isfinite(history).all():
        first = int(np.argmin(np.isfinite(history)))
        raise UserError(f"The detector's loss is {history[first]} at step {first}; lower its learning rate.")
    return current, history


@functools.lru_cache(maxsize=8)
def _predict(detector: Fcos, mesh: Mesh):
    return jax.jit(detector.predict, out_shardings=by_example(mesh))


def detect(
    detector: Fcos, state: TrainState, source: data.Source, *, batch_size: int = 64, mesh: Mesh | None = None
) -> dict[str, np.ndarray]:
    """Detections in every image of a source, in its order: `boxes` `[n d 4]`, `scores` `[n d]` and `labels` `[n d]`."""
    mesh = mesh or data_mesh()
    batch_size = -(-batch_size // mesh.size) * mesh.size
    run, parts = _predict(detector, mesh), []
    for batch in data.epoch(source, batch_size=batch_size):
        found = run(state.params, state.carry, put(batch["image"], mesh))
        parts.append({name: np.asarray(x)[batch["valid"]] for name, x in found.items()})
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def truth_of(source: data.Source) -> dict[str, np.ndarray]:
    """Boxes, labels, and what else but images there is of every example, stacked."""
    classes_of(source)
    parts = [
        {name: x[batch["valid"]] for name, x in batch.items() if name not in ("image", "mask", "valid", "id")}
        for batch in data.epoch(source, batch_size=256)
    ]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def image_targets(source: data.Source) -> Int[np.ndarray, "n c"]:
    """Which classes the objects of each image have: 1, 0 (not there), or -1 where all of it are to be ignored.

    The multi-label targets of `linear_svm`; the last are VOC's "difficult" objects.

    Raises:
      UserError: the images have no boxes.
    """
    truth, classes = truth_of(source), len(classes_of(source))
    ignore = truth.get("box_ignore", np.zeros(truth["box_labels"].shape, bool))
    of_class = truth["box_labels"][..., None] == np.arange(classes)[None, None]
    there, any_kind = (of_class & ~ignore[..., None]).any(axis=1), of_class.any(axis=1)
    return np.where(there, 1, np.where(any_kind, -1, 0)).astype(np.int32)


def classes_of(source: data.Source) -> tuple[str, ...]:
    """The classes of a source's objects.

    Raises:
      UserError: it has no boxes.
    """
    if source.box_classes is None:
        raise UserError(
            f"{source.name} has no boxes to detect; use collage:fashion_mnist, collage:stamps, coco:PATH or voc:PATH."
        )
    return source.box_classes


def draw_boxes(
    image: UInt8[np.ndarray, "h w c"],
    boxes: Float[np.ndarray, "m 4"],
    labels: Int[np.ndarray, " m"],
    *,
    scores: Float[np.ndarray, " m"] | None = None,
    classes: Sequence[str] | None = None,
    threshold: float = 0.3,
    zoom: int = 4,
) -> UInt8[np.ndarray, "p q 3"]:
    """A picture with boxes on it, one colour per class, enlarged `zoom` times.

    Args:
      image: grey or RGB.
      boxes: x0 y0 x1 y1 in pixels.
      labels: class of each; -1 is left out.
      scores: of detections; those below `threshold` are left out.
      classes: names to write beside the boxes, or None.
      threshold: see above.
      zoom: factor.
    """
    from PIL import Image, ImageDraw

    h, w, c = image.shape
    picture = Image.fromarray(image[..., 0] if c == 1 else image).convert("RGB")
    picture = picture.resize((w * zoom, h * zoom), Image.Resampling.NEAREST)
    draw = ImageDraw.Draw(picture)
    for j in np.flatnonzero(labels >= 0):
        if scores is not None and scores[j] < threshold:
            continue
        colour = COLOURS[labels[j] % len(COLOURS)]
        x0, y0, x1, y1 = (boxes[j] * zoom).tolist()
        draw.rectangle((x0, y0, max(x1 - 1, x0), max(y1 - 1, y0)), outline=colour, width=max(zoom // 2, 1))
        if classes is not None:
            shown = classes[labels[j]] if scores is None else f"{classes[labels[j]]} {scores[j]:.2f}"
            draw.text((x0 + 2, y0 + 1), shown, fill=colour)
    return np.asarray(picture)


def _for_step(batch: data.Examples) -> data.Examples:
    return {name: batch[name] for name in KEYS if name in batch}
