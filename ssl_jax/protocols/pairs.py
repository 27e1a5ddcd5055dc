"""Random views of images as images like any others, so that whatever features there are can be compared on them."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from ssl_jax import augment, data
from ssl_jax.checks import check_positive
from ssl_jax.protocols.frame import Task
from ssl_jax.train_step import example_keys

AT_ONCE = 256  # images


@functools.lru_cache(maxsize=1)  # the same for all that is evaluated on a task
def two_views(task: Task, count: int) -> tuple[data.Source, data.Source]:
    """Two crops, one in each source, of `count` evenly spaced test images: a fifth to all of one, half are mirrored.

    The change is the same whatever a run was trained with, so that runs can be compared.
    """
    check_positive(pairs=count)
    rows = np.linspace(0, len(task.test) - 1, min(count, len(task.test))).astype(np.int32)
    crop = jax.jit(augment.single(task.size, crop_scale=(0.2, 1.0), flip=0.5))
    filled = np.resize(rows, -(-len(rows) // AT_ONCE) * AT_ONCE).reshape(-1, AT_ONCE)  # of one shape, so compiled once

    def view(number: int) -> data.Source:
        rng = jax.random.fold_in(jax.random.key(task.seed), number)
        parts = [crop(example_keys(rng, jnp.asarray(ids)), task.test[ids]["image"])[:, 0] for ids in filled]
        pixels = np.concatenate([np.round(255 * np.asarray(part)).astype(np.uint8) for part in parts])
        return data.from_arrays(pixels[: len(rows)], name=f"{task.test.name}, view {number}")

    return view(0), view(1)
