"""Which way a contrastive loss goes through its matrix of logits: whole, in tiles, or in blocks round a ring."""

import jax
from jax.sharding import AxisType, Mesh

from ssl_jax.core import UserError
from ssl_jax.losses.streaming import AXIS, TILE, AnyMesh

FORMS = ("auto", "dense", "tiled", "ring")
WITHOUT_RING = FORMS[:3]
DENSE_LOGITS = 2**26  # 8,192 x 8,192, those of SimCLR's batch of 4,096: 256 MB in float32, beside activations little
TILE_SCORES = 2**24  # of a tile: 64 MB in float32


def ambient_mesh() -> AnyMesh | None:
    """The mesh whose axis `data` batches are split over, as `jax.set_mesh` or the training step says; None without.

    Inside of a `shard_map` over that axis there is none either: a device then sees its own rows only.
    """
    mesh = jax.sharding.get_abstract_mesh()
    kinds = dict(zip(mesh.axis_names, mesh.axis_types, strict=True))
    return mesh if kinds.get(AXIS) == AxisType.Auto else None


def check_form(form: str, forms: tuple[str, ...] = FORMS) -> None:
    """Raise a `UserError` if there is no such form."""
    if form not in forms:
        raise UserError(f"`form` is one of {', '.join(forms)}, not {form!r}.")


def is_tiled(form: str, *, rows: int, columns: int) -> bool:
    """Whether scores `[rows columns]` that need no ring are made in tiles: "auto" does so beyond `DENSE_LOGITS`.

    Raises:
      UserError: the form is none of `WITHOUT_RING`.
    """
    check_form(form, WITHOUT_RING)
    return form == "tiled" or (form == "auto" and rows * columns > DENSE_LOGITS)


def columns_of_a_tile(rows: int, columns: int) -> int:
    """How many columns of scores `[rows columns]` are made at a time: about `TILE_SCORES` of them, and 256 at least."""
    return min(columns, max(TILE, TILE_SCORES // rows))


def choose_form(form: str, *, rows: int, columns: int, mesh: Mesh | None = None) -> tuple[str, AnyMesh | None]:
    """The form that logits `[rows columns]` are to take, and the mesh to take it on.

    "auto" is dense up to `DENSE_LOGITS`, and beyond that ring on several devices that divide rows and columns, else
    tiled.

    Args:
      form: one of `FORMS`.
      rows: of the whole batch.
      columns: likewise.
      mesh: devices for the ring; None takes the ambient one.

    Returns:
      "dense", "tiled" or "ring"; and the mesh for ring, else None.

    Raises:
      UserError: the form is none of these, or ring is asked for without a mesh, or with one that does not divide.
    """
    check_form(form)
    found = ambient_mesh() if mesh is None else mesh
    devices = 0 if found is None else found.shape.get(AXIS, 0)
    divides = devices > 0 and rows % devices == 0 and columns % devices == 0
    if form == "auto":
        many = "ring" if devices > 1 and divides else "tiled"
        form = "dense" if rows * columns <= DENSE_LOGITS else many
    if form == "ring" and not devices:
        raise UserError(
            f'form="ring" needs a mesh with an axis {AXIS!r}: `make_train_step` sets it; elsewhere give `mesh=`, or '
            "call within `jax.set_mesh(ssl_jax.sharding.data_mesh())`."
        )
    if form == "ring" and not divides:
        raise UserError(
            f'form="ring" splits logits of {rows} x {columns} over {devices} devices, which do not divide both; change '
            'one of these, or use form="tiled".'
        )
    return form, found if form == "ring" else None
