"""Dense evaluation of a frozen feature map: linear and k-NN segmentation, in mean IoU and pixel accuracy.

Masks are uint8 `[n h w]`: 0 for the background, then classes, and 255 where nothing is known (void), which counts
nowhere.
"""

import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh
from jaxtyping import Array, Float, Integer, UInt8

from ssl_jax import data
from ssl_jax.checks import check_positive, maps_of
from ssl_jax.core import PyTree, UserError
from ssl_jax.evaluation.features import to_float
from ssl_jax.evaluation.linear import moments
from ssl_jax.losses import l2_normalize
from ssl_jax.nets import functional
from ssl_jax.schedules import cosine
from ssl_jax.sharding import by_example, data_mesh, put

VOID = 255
Maps = Float[np.ndarray, "_ p q d"]
Masks = UInt8[np.ndarray, "_ _ _"]


def confusion(predicted: Integer[np.ndarray, "*n"], truth: Integer[np.ndarray, "*n"], classes: int) -> np.ndarray:
    """Number of pixels `[classes classes]` of each true class (row) that were given each class; void is left out."""
    known = truth != VOID
    pairs = truth[known].astype(np.int64) * classes + predicted[known]
    return np.bincount(pairs, minlength=classes**2).reshape(classes, classes)


def miou(confusion: Integer[np.ndarray, "c c"]) -> float:
    """Mean intersection over union, 0..1, over the classes that occur in truth or prediction, as PASCAL VOC has it."""
    common = np.diag(confusion)
    union = confusion.sum(axis=0) + confusion.sum(axis=1) - common
    there = union > 0
    if not there.any():
        raise UserError("There is no pixel to score: masks are empty or void.")
    return float(np.mean(common[there] / union[there]))


def pixel_accuracy(confusion: Integer[np.ndarray, "c c"]) -> float:
    """Share of the pixels that were given their class, 0..1."""
    return float(np.trace(confusion) / max(confusion.sum(), 1))


def segmentation_scores(
    encoder: nn.Module,
    params: PyTree,
    state: PyTree,
    train: data.Source,
    test: data.Source,
    *,
    layer: str | None = None,
    prepare: Callable[[Array], Array] = to_float,
    seed: int = 0,
    mesh: Mesh | None = None,
    linear: dict[str, Any] | None = None,
    knn: dict[str, Any] | None = None,
) -> dict[str, float]:
    """Linear and k-NN segmentation on one map of a frozen encoder.

    Args:
      encoder: any that returns maps.
      params: its parameters.
      state: its batch statistics.
      train: images with masks, for example `data.load("collage:fashion_mnist")`.
      test: likewise, of the same classes.
      layer: name of the map; the encoder's last by default.
      prepare: as in pretraining, at the images' own size.
      seed: of orders and draws.
      mesh: devices.
      linear: arguments of `linear_segmentation`.
      knn: arguments of `knn_segmentation`.

    Returns:
      `linear_miou`, `linear_accuracy`, `knn_miou`, `knn_accuracy`, 0..1.

    Raises:
      UserError: no masks, no such map, or features that are not finite.
    """
    if train.box_classes is None or train.box_classes != test.box_classes:
        raise UserError(f"{train.name} and {test.name} need masks of the same classes; use splits of one data set.")
    run = functools.partial(dense_features, encoder, params, state, layer=layer, prepare=prepare, mesh=mesh)
    splits = *run(train), *run(test)
    classes = 1 + len(train.box_classes)
    found = {
        "linear": linear_segmentation(*splits, classes=classes, seed=seed, **(linear or {})),
        "knn": knn_segmentation(*splits, classes=classes, seed=seed, **(knn or {})),
    }
    return {f"{protocol}_{name}": value for protocol, scores in found.items() for name, value in scores.items()}


def dense_features(
    encoder: nn.Module,
    params: PyTree,
    state: PyTree,
    source: data.Source,
    *,
    layer: str | None = None,
    prepare: Callable[[Array], Array] = to_float,
    batch_size: int = 256,
    mesh: Mesh | None = None,
) -> tuple[Maps, Masks]:
    """A map `[n p q d]` (float32) and the mask of every image of a source, in its order.

    Arguments as for `segmentation_scores`.

    Raises:
      UserError: there are no masks, or no such map.
    """
    mesh = mesh or data_mesh()
    batch_size = -(-batch_size // mesh.size) * mesh.size

    @functools.partial(jax.jit, out_shardings=by_example(mesh))
    def run(params: PyTree, state: PyTree, image: Array) -> Array:
        _, maps, _ = functional.encode(encoder, params, state, prepare(image), train=False)
        chosen = maps_of(maps, 1 if layer is None else (layer,))
        return next(iter(chosen.values())).astype(jnp.float32)

    features, masks = [], []
    for batch in data.epoch(source, batch_size=batch_size):
        if "mask" not in batch:
            raise UserError(f"{source.name} has no masks; use for example collage:fashion_mnist or collage:stamps.")
        features.append(np.asarray(run(params, state, put(batch["image"], mesh)))[batch["valid"]])
        masks.append(batch["mask"][batch["valid"]])
    return np.concatenate(features), np.concatenate(masks)


def linear_segmentation(
    train: Maps,
    train_masks: Masks,
    test: Maps,
    test_masks: Masks,
    *,
    classes: int,
    epochs: int = 20,
    batch_size: int = 32,
    learning_rate: float = 1e-2,
    weight_decay: float = 1e-4,
    seed: int = 0,
) -> dict[str, float]:
    """A 1 x 1 convolution on the map, its logits enlarged bilinearly to the mask, trained by cross-entropy of pixels.

    As in the linear evaluation of DINOv2 (Oquab et al., 2023, arXiv:2304.07193), whose batch norm before the
    convolution is a standardisation by the training set here.

    Args:
      train: maps.
      train_masks: usually larger than the maps.
      test: maps.
      test_masks: of the same size as those for training.
      classes: number of classes, the background included.
      epochs: passes over the training set.
      batch_size: images a step.
      learning_rate: of AdamW; falls to 0 along a cosine.
      weight_decay: of the weights.
      seed: of the order.

    Returns:
      `{"miou", "accuracy"}`, 0..1.

    Raises:
      UserError: features that are not finite, no images, or labels from `classes` on.
    """
    check_positive(epochs=epochs, batch_size=batch_size, learning_rate=learning_rate)
    _check(train, train_masks, test, test_masks, classes)
    mean, scale = (jnp.asarray(x) for x in moments(train.reshape(-1, train.shape[-1])))
    n, batch_size = len(train), min(batch_size, len(train))
    steps = n // batch_size
    rate, decays = cosine(learning_rate, 0.0, steps=epochs * steps), {"weight": True, "bias": False}
    tx = optax.adamw(rate, weight_decay=weight_decay, mask=decays)

    def logits_of(params: PyTree, x: Array) -> Array:
        x = (x - mean[None, None, None]) * scale[None, None, None]
        small = jnp.einsum("bpqd,dc->bpqc", x, params["weight"]) + params["bias"][None, None, None]
        return jax.image.resize(small, (len(x), *test_masks.shape[1:], classes), "linear")

    def loss(params: PyTree, x: Array, mask: Array) -> Array:
        known = (mask != VOID).astype(jnp.float32)
        labels = jnp.where(mask != VOID, mask, 0).astype(jnp.int32)
        value = optax.softmax_cross_entropy_with_integer_labels(logits_of(params, x), labels)
        return jnp.sum(value * known) / jnp.maximum(jnp.sum(known), 1.0)

    @jax.jit
    def step(params: PyTree, opt_state: PyTree, x: Array, mask: Array) -> tuple[PyTree, PyTree]:
        with jax.numpy_dtype_promotion("standard"):  # optax raises floats to int32 counts
            updates, opt_state = tx.update(jax.grad(loss)(params, x, mask), opt_state, params)
        return optax.apply_updates(params, updates), opt_state

    params = {"weight": jnp.zeros((train.shape[-1], classes)), "bias": jnp.zeros(classes)}
    opt_state = tx.init(params)
    for epoch in range(epochs):
        order = np.random.default_rng((seed, epoch)).permutation(n)[: steps * batch_size]
        for rows in np.split(order, steps):
            params, opt_state = step(params, opt_state, train[rows], train_masks[rows])
    return _score(jax.jit(functools.partial(logits_of, params)), test, test_masks, classes, tile=batch_size)


def knn_segmentation(
    train: Maps,
    train_masks: Masks,
    test: Maps,
    test_masks: Masks,
    *,
    classes: int,
    k: int = 20,
    temperature: float = 0.07,
    bank: int = 20_000,
    tile: int = 16,
    seed: int = 0,
) -> dict[str, float]:
    """Every place of a test map takes the classes of the k most similar places of training maps, without training.

    A training place carries the shares of the classes among the pixels of its cell, and votes for them with weight
    `exp(cosine / temperature)`; votes are enlarged bilinearly to the mask. The retrieval protocol of Balazevic et al.
    (Hummingbird, NeurIPS 2023, arXiv:2306.01667); differs in its constants, which are those of `knn_predict`.

    Args:
      train: maps.
      train_masks: usually larger than the maps.
      test: maps.
      test_masks: of the same size as those for training.
      classes: number of classes, the background included.
      k: neighbours.
      temperature: of the weights.
      bank: places of training maps that are kept, drawn at random.
      tile: test images at a time.
      seed: of the draw.

    Returns:
      `{"miou", "accuracy"}`, 0..1.

    Raises:
      UserError: as for `linear_segmentation`, or k is larger than the bank.
    """
    check_positive(k=k, temperature=temperature, bank=bank, tile=tile)
    _check(train, train_masks, test, test_masks, classes)
    places = train.reshape(-1, train.shape[-1])
    chosen = np.sort(np.random.default_rng(seed).permutation(len(places))[:bank])
    if k > len(chosen):
        raise UserError(f"k-NN segmentation needs k <= {len(chosen)}, the places in its bank, but was given k = {k}.")
    keys = l2_normalize(jnp.asarray(places[chosen]))
    image, place = np.divmod(chosen, train.shape[1] * train.shape[2])
    images, starts = np.unique(image, return_index=True)
    of_image = (cell_shares(train_masks[i : i + 1], train.shape[1:3], classes).reshape(-1, classes) for i in images)
    # Of each image only the chosen: those of all places would be larger than the maps.
    kept = [cells[rows] for cells, rows in zip(of_image, np.split(place, starts[1:]), strict=True)]
    shares = jnp.asarray(np.concatenate(kept))

    @jax.jit
    def votes(x: Array) -> Array:
        query = l2_normalize(x.reshape(-1, x.shape[-1]))
        similarity = jnp.matmul(query, keys.T, precision="highest")
        similarity, index = jax.lax.optimization_barrier(jax.lax.top_k(similarity, k))  # see `knn`
        weight = jnp.exp((similarity - similarity[:, :1]) / temperature)
        vote = jnp.einsum("rk,rkc->rc", weight / jnp.sum(weight, axis=1, keepdims=True), shares[index])
        small = vote.reshape(*x.shape[:3], classes)
        return jax.image.resize(small, (len(x), *test_masks.shape[1:], classes), "linear")

    return _score(votes, test, test_masks, classes, tile=tile)


def cell_shares(masks: Masks, grid: tuple[int, ...], classes: int) -> Float[np.ndarray, "n p q c"]:
    """Share of every class among the pixels of each cell of a grid (rows, columns); void pixels belong to no class."""
    shape = masks.shape[1:]
    rows, columns = (_overlaps(n, side) for n, side in zip(grid, shape, strict=True))
    names = np.arange(classes, dtype=np.uint8)
    parts = []
    for mask in masks:  # one by one: one-hot masks of all images would be large
        hot = (mask[..., None] == names).astype(np.float32)
        parts.append(np.einsum("py,qx,yxc->pqc", rows, columns, hot, optimize=True))
    return np.stack(parts).astype(np.float32)


def _overlaps(cells: int, pixels: int) -> Float[np.ndarray, "p y"]:
    """Share of each cell along a line that each pixel takes, also where cells don't end between pixels."""
    edges, at = np.arange(cells + 1) * (pixels / cells), np.arange(pixels)
    inside = np.minimum(edges[1:, None], at + 1) - np.maximum(edges[:-1, None], at)
    return (np.maximum(inside, 0) * (cells / pixels)).astype(np.float32)


def _score(run: Callable[[Array], Array], maps: Maps, masks: Masks, classes: int, *, tile: int) -> dict[str, float]:
    """Confusion of the highest of `run`'s outputs with the masks, in tiles of equal shape."""
    total = np.zeros((classes, classes), np.int64)
    for first in range(0, len(maps), tile):
        part = maps[first : first + tile]
        padded = np.concatenate([part, np.zeros((tile - len(part), *part.shape[1:]), np.float32)])
        predicted = np.asarray(jnp.argmax(run(jnp.asarray(padded)), axis=-1))[: len(part)]
        total += confusion(predicted, masks[first : first + tile], classes)
    return {"miou": miou(total), "accuracy": pixel_accuracy(total)}


def _check(train: Maps, train_masks: Masks, test: Maps, test_masks: Masks, classes: int) -> None:
    if train_masks.shape[1:] != test_masks.shape[1:]:
        sizes = [" x ".join(map(str, masks.shape[1:])) for masks in (train_masks, test_masks)]
        raise UserError(f"Masks must be of one size, but are {sizes[0]} for training and {sizes[1]} for testing.")
    for maps, masks in ((train, train_masks), (test, test_masks)):
        if not len(maps) or len(maps) != len(masks):
            raise UserError(f"There are {len(maps)} maps and {len(masks)} masks; there must be one mask for each map.")
        if not np.isfinite(maps).all():
            raise UserError("The features hold NaN or infinity, so nothing can be fitted; look at the run's loss.")
        known = masks[masks != VOID]
        if known.size and known.max() >= classes:
            raise UserError(f"A mask holds the class {known.max()}, but there are {classes}, counted from 0.")
