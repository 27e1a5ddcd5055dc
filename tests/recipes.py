"""Every config's `:test` variant, built once per process: what the tests that hold for all methods share."""

import functools
import importlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
from ml_collections import ConfigDict

from ssl_jax import TrainState, config_flag, data, init_state, make_train_step
from ssl_jax.experiment import Experiment, build
from ssl_jax.sharding import put
from ssl_jax.train_step import with_views
from ssl_jax.training import for_step

NAMES = config_flag.config_names()  # a new file in configs/ is picked up by itself
BATCH = 24  # three per device: a number that no layer has as its width
SGD = optax.sgd(0.05)


def config(name: str, **fields) -> ConfigDict:
    """The `:test` variant of a config, with some fields set."""
    found = importlib.import_module(f"ssl_jax.configs.{name}").get_config("test")
    found.update(fields)
    return found


@functools.cache
def experiment(name: str, devices: int = 8, dtype: str = "float32") -> Experiment:
    """The config's parts, on some of the devices."""
    return build(config(name, dtype=dtype), devices=jax.devices()[:devices])


def batches(name: str, count: int = 1) -> list[dict[str, np.ndarray]]:
    """The first batches of images, on the host."""
    iterator = data.batches(experiment(name).source, batch_size=BATCH)
    method = experiment(name).method
    return [for_step(method, batch) for _, batch in zip(range(count), iterator, strict=False)]


def on_devices(name: str, batch: dict[str, np.ndarray], devices: int = 8) -> dict[str, jax.Array]:
    """A batch split over the devices."""
    return put(batch, experiment(name, devices).mesh)


@functools.cache
def step(name: str, devices: int = 8):
    """The compiled training step, with SGD."""
    parts = experiment(name, devices)
    return make_train_step(parts.method, SGD, views=parts.views, mesh=parts.mesh)


@functools.cache
def views(name: str):
    """`(rng, batch) -> views`, compiled."""
    make = experiment(name).views
    return jax.jit(lambda rng, batch: with_views(make, rng, batch)["views"])


def viewed(name: str, rng: jax.Array, batch: dict) -> dict:
    """What the loss sees of a batch: its views in the place of its images."""
    return {**{key: x for key, x in batch.items() if key != "image"}, "views": views(name)(rng, batch)}


@functools.cache
def _initial(name: str, devices: int) -> TrainState:
    parts = experiment(name, devices)
    return init_state(parts.method, SGD, batches(name)[0], views=parts.views, mesh=parts.mesh)


def initial(name: str, devices: int = 8) -> TrainState:
    """The state at step 0; a copy, since a step takes its buffers."""
    return copy(_initial(name, devices))


def copy(tree):
    """Buffers of its own for every leaf."""
    return jax.tree.map(jnp.copy, tree)


def bits(tree):
    """A tree on the host, keys as numbers, for comparisons that leave no tolerance."""
    is_key = lambda x: jnp.issubdtype(x.dtype, jax.dtypes.prng_key)  # noqa: E731
    return jax.tree.map(lambda x: np.asarray(jax.random.key_data(x) if is_key(x) else x), tree)


def assert_same_bits(a, b) -> None:
    """Two trees are equal in structure, dtype and every bit."""
    a, b = bits(a), bits(b)
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for (path, x), y in zip(jax.tree.leaves_with_path(a), jax.tree.leaves(b), strict=True):
        assert x.dtype == y.dtype, jax.tree_util.keystr(path)
        np.testing.assert_array_equal(x, y, err_msg=jax.tree_util.keystr(path))
