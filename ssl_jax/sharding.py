"""The mesh, and where batches and state live on it."""

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from ssl_jax.core import PyTree, UserError


def data_mesh(devices: list[jax.Device] | None = None) -> Mesh:
    """One axis, `data`, over the given devices (all of them by default)."""
    devices = jax.devices() if devices is None else devices
    return Mesh(np.asarray(devices), ("data",), axis_types=(AxisType.Auto,))


def replicated(mesh: Mesh) -> NamedSharding:
    """Every device holds the whole array."""
    return NamedSharding(mesh, P())


def by_example(mesh: Mesh) -> NamedSharding:
    """The first axis is split over the mesh."""
    return NamedSharding(mesh, P("data"))


def check_divisible(batch_size: int, mesh: Mesh) -> None:
    """Raise a `UserError` if a global batch can't be split evenly over the mesh."""
    if batch_size % mesh.size:
        lower = batch_size // mesh.size * mesh.size
        nearest = f"{lower} or {lower + mesh.size}" if lower else f"{mesh.size}"
        raise UserError(
            f"The batch size {batch_size} is not divisible by the {mesh.size} devices; use for example {nearest}."
        )


def whole(x: PyTree, mesh: Mesh) -> PyTree:
    """Arrays unsplit, for what looks on: on the first device or, in a run of several processes, on every device."""
    return jax.device_put(x, replicated(mesh) if jax.process_count() > 1 else mesh.devices.flat[0])


def put(batch: PyTree, mesh: Mesh) -> PyTree:
    """Move this process's rows of a batch (numpy) to the devices, as one global array split by example."""
    sharding = by_example(mesh)
    return jax.tree.map(lambda x: jax.make_array_from_process_local_data(sharding, np.asarray(x)), batch)
