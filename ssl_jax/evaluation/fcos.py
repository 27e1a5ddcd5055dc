"""FCOS, an anchor-free one-stage detector, on any encoder that returns maps of several sizes.

Every place of the feature pyramid says which class it belongs to and how far the four sides of that object's box are.
All shapes are static, decoding and suppression included, so that everything runs on the accelerator.

Tian et al., ICCV 2019, https://arxiv.org/abs/1904.01355; what improved it later is from its journal version,
https://arxiv.org/abs/2006.09214: GIoU, centre sampling, centre-ness beside the boxes, and scores that are the square
root of class probability times centre-ness.
"""

import dataclasses
import functools
import itertools
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jax import lax
from jaxtyping import Array, Float, Int

from ssl_jax import losses
from ssl_jax.checks import check_positive, maps_of
from ssl_jax.core import Carry, Method, Metrics, PyTree, UserError
from ssl_jax.evaluation.features import to_float
from ssl_jax.evaluation.places import Places, around_zero, centreness, decode, mirror, places, targets
from ssl_jax.nets import functional
from ssl_jax.nets.detector import Detector
from ssl_jax.train_step import example_keys


@dataclasses.dataclass(frozen=True, eq=False)
class Fcos:
    """A detector as pure functions.

    Attributes:
      method: what `make_train_step` trains. Its batches hold `image` uint8 `[b h w c]`, `boxes`, `box_labels` and maybe
        `box_ignore`, see `ssl_jax.data.boxed`; its parameters are `{"encoder", "detector"}`.
      predict: `(params, carry, image uint8 [b h w c]) -> {"boxes" [b d 4], "scores" [b d], "labels" int32 [b d]}`, best
        first; where there are fewer than d detections, scores are 0 and labels -1.
      classes: number of classes.
    """

    method: Method
    predict: Callable[[PyTree, Carry, Array], dict[str, Array]]
    classes: int


def fcos(
    encoder: nn.Module,
    *,
    classes: int,
    maps: int | tuple[str, ...] = 3,
    width: int = 64,
    depth: int = 2,
    extra: int = 0,
    frozen: bool = False,
    flip: bool = True,
    radius: float = 1.5,
    prepare: Callable[[Array], Array] = to_float,
    candidates: int = 200,
    detections: int = 100,
    overlap: float = 0.6,
) -> Fcos:
    """Build a detector.

    Args:
      encoder: see `ssl_jax.nets.functional`.
      classes: number of classes.
      maps: names of the encoder's maps, finest first, or how many of its last; every map must be smaller than the one
        before. The paper's are stages 2 to 4 of a ResNet.
      width: channels of pyramid and head; 256 in the paper.
      depth: convolutions of the head's towers; 4 in the paper.
      extra: further, coarser levels; 2 in the paper, for images of 800 pixels.
      frozen: train the head alone, on an encoder that stays as it is, batch statistics included.
      flip: mirror half of the training images.
      radius: of centre sampling, in strides: places this close to a box's centre, in both directions, belong to it.
      prepare: `uint8 [b h w c] -> float [b h w c]` of the same size, as in pretraining.
      candidates: predictions of an image that suppression looks at.
      detections: what is left of these at most; COCO counts 100.
      overlap: IoU above which the weaker of two detections of a class is suppressed.

    Raises:
      UserError: a number is out of range; or (from the functions) the encoder has no maps of several sizes, or
        `prepare` changes the size of images.
    """
    check_positive(classes=classes, width=width, radius=radius, candidates=candidates, detections=detections)
    if width % 8:
        raise UserError(f"The detector's width must be a multiple of 8, for its group norm, but is {width}.")
    head = Detector(classes, width, depth, extra, dtype=getattr(encoder, "dtype", jnp.float32))

    def pyramid(params: PyTree, state: PyTree, image: Array, *, train: bool) -> tuple[tuple[Array, ...], PyTree]:
        _, found, state = functional.encode(encoder, params, state, image, train=train)
        return levels_of(found, maps), state

    def prepared(image: Array) -> Array:
        x = prepare(image)
        if x.shape[1:3] != image.shape[1:3]:
            raise UserError(
                f"`prepare` makes images of {x.shape[1:3]} from {image.shape[1:3]}, but boxes would not follow; give "
                "one that keeps the size."
            )
        return x

    def init(rng: Array, batch: PyTree) -> tuple[PyTree, Carry]:
        encoder_rng, head_rng = jax.random.split(rng)
        image = prepared(batch["image"])
        params, state, _, found = functional.init_encoder(encoder, encoder_rng, image)
        head_params, _ = functional.init(head, head_rng, levels_of(found, maps))
        return {"encoder": params, "detector": head_params}, Carry(model_state={"encoder": state})

    def predictions(params: PyTree, carry: Carry, image: Array, *, train: bool) -> tuple[dict, Places, PyTree]:
        trunk = lax.stop_gradient(params["encoder"]) if frozen else params["encoder"]
        levels, state = pyramid(trunk, carry.model_state["encoder"], image, train=train and not frozen)
        (output, shapes), _ = functional.apply(head, params["detector"], {}, levels, train=train)
        return output, places(image.shape[1:3], shapes), state

    def loss(params: PyTree, carry: Carry, batch: PyTree, rng: Array, step: Array) -> tuple:
        image, boxes = prepared(batch["image"]), batch["boxes"]
        if flip:
            mirrored = jax.vmap(jax.random.bernoulli)(example_keys(rng, batch["id"]))
            image, boxes = mirror(image, boxes, mirrored)
        ignore = batch.get("box_ignore", jnp.zeros(boxes.shape[:2], bool))
        output, where, state = predictions(params, carry, image, train=True)
        assign = functools.partial(targets, where, radius=radius)
        labels, distances = jax.vmap(assign)(boxes, batch["box_labels"], ignore)
        value, metrics = criterion(output, labels, distances)
        return value, (carry.replace(model_state={"encoder": state}), metrics)

    def predict(params: PyTree, carry: Carry, image: Array) -> dict[str, Array]:
        output, where, _ = predictions(params, carry, prepared(image), train=False)
        finish = functools.partial(
            decode, where, image.shape[1:3], candidates=candidates, detections=detections, overlap=overlap
        )
        return jax.vmap(finish)(output)

    method = Method(name="fcos", init=init, loss=loss, encode=functional.encode_with(encoder))
    return Fcos(method, predict, classes)


def levels_of(maps: dict[str, Array], which: int | tuple[str, ...]) -> tuple[Float[Array, "b _ _ _"], ...]:
    """The maps that a pyramid stands on, finest first.

    Raises:
      UserError: there are none, not these, fewer than two, or they don't become smaller.
    """
    chosen = maps_of(maps, which)
    sizes = [x.shape[1] * x.shape[2] for x in chosen.values()]
    if len(sizes) < 2 or any(a <= b for a, b in itertools.pairwise(sizes)):
        found = ", ".join(f"{name} {x.shape[1]} x {x.shape[2]}" for name, x in maps_of(maps, len(maps)).items())
        raise UserError(
            f"A detector needs maps of several sizes, finest first, but was given {', '.join(chosen)}; the encoder has "
            f"{found}. A ConvNet and a ResNet have such maps."
        )
    return tuple(chosen.values())


def criterion(
    output: dict[str, Array], labels: Int[Array, "b n"], distances: Float[Array, "b n 4"]
) -> tuple[Float[Array, ""], Metrics]:
    """Focal loss of the classes, GIoU of the boxes weighted by centre-ness, and cross-entropy of the centre-ness.

    The first and the last are divided by the number of places with an object, the second by the sum of its weights.
    """
    logits = output["class_logits"]
    positive = labels >= 0
    count = jnp.maximum(jnp.sum(positive), 1).astype(jnp.float32)
    wanted = jax.nn.one_hot(labels, logits.shape[-1], dtype=logits.dtype)
    known = (labels > -2)[..., None]
    classes = jnp.sum(jnp.where(known, losses.focal(logits, wanted), 0.0)) / count
    weight = jnp.where(positive, centreness(distances), 0.0)
    overlap = losses.giou(around_zero(output["distances"]), around_zero(distances))
    boxes = jnp.sum(jnp.where(positive, (1.0 - overlap) * weight, 0.0)) / jnp.maximum(jnp.sum(weight), 1e-6)
    centre = optax.sigmoid_binary_cross_entropy(output["centre_logits"], weight)
    centres = jnp.sum(jnp.where(positive, centre, 0.0)) / count
    parts = {"class_loss": classes, "box_loss": boxes, "centre_loss": centres, "places_with_objects": count}
    return classes + boxes + centres, parts
