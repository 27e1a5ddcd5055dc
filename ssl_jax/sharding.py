"""The mesh, and where batches live on it; for the state see `sharding_rules`."""

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from ssl_jax.core import PyTree, UserError

DATA, MODEL = "data", "model"


def data_mesh(devices: list[jax.Device] | None = None, *, model: int = 1) -> Mesh:
    """One axis, `data`, over the given devices (all of them by default); with `model` > 1 a second, `model`, so long.

    Raises:
      UserError: `model` does not divide the devices, or those of one process.
    """
    devices = jax.devices() if devices is None else devices
    if model == 1:
        return Mesh(np.asarray(devices), (DATA,), axis_types=(AxisType.Auto,))
    if model < 1 or len(devices) % model:
        raise UserError(
            f"A mesh with a model axis of {model} does not fit {len(devices)} device(s); it may have "
            f"{', '.join(str(n) for n in range(1, len(devices) + 1) if len(devices) % n == 0)} "
            "(--config.model_parallel)."
        )
    if jax.process_count() > 1 and jax.local_device_count() % model:  # two processes would have to read the same images
        raise UserError(f"A model axis of {model} does not divide the {jax.local_device_count()} devices of a process.")
    return Mesh(np.asarray(devices).reshape(-1, model), (DATA, MODEL), axis_types=(AxisType.Auto,) * 2)


def model_axis() -> int:
    """Length of the ambient mesh's axis `model`, as the training step says; 1 without."""
    return dict(jax.sharding.get_abstract_mesh().shape).get(MODEL, 1)


def replicated(mesh: Mesh) -> NamedSharding:
    """Every device holds the whole array."""
    return NamedSharding(mesh, P())


def by_example(mesh: Mesh) -> NamedSharding:
    """The first axis is split over the mesh's axis `data`."""
    return NamedSharding(mesh, P(DATA))


def check_divisible(batch_size: int, mesh: Mesh) -> None:
    """Raise a `UserError` if a global batch can't be split evenly over the mesh."""
    count = mesh.shape[DATA]
    if batch_size % count:
        lower = batch_size // count * count
        nearest = f"{lower} or {lower + count}" if lower else f"{count}"
        what = "devices" if count == mesh.size else f"parts of the mesh's axis {DATA!r}"
        raise UserError(
            f"The batch size {batch_size} is not divisible by the {count} {what}; use for example {nearest}."
        )


def whole(x: PyTree, mesh: Mesh) -> PyTree:
    """Arrays unsplit, for what looks on: on the first device or, in a run of several processes, on every device."""
    return jax.device_put(x, replicated(mesh) if jax.process_count() > 1 else mesh.devices.flat[0])


def put(batch: PyTree, mesh: Mesh) -> PyTree:
    """Move this process's rows of a batch (numpy) to the devices, as one global array split by example."""
    sharding = by_example(mesh)
    return jax.tree.map(lambda x: jax.make_array_from_process_local_data(sharding, np.asarray(x)), batch)
