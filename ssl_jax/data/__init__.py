"""Images from disk to batches: sources named by one string, and an order of examples that is a pure function.

source = data.load("fashion_mnist", "train[:55000]")
for batch in data.batches(source, batch_size=256, seed=0):
    batch["image"], batch["label"], batch["id"]
"""

from ssl_jax.data.boxed import BoxedSource
from ssl_jax.data.coco import read_coco
from ssl_jax.data.combine import Subset
from ssl_jax.data.cropped import CroppedSource
from ssl_jax.data.crops import Crop
from ssl_jax.data.figures import check, describe
from ssl_jax.data.listed import rows_listed, rows_named
from ssl_jax.data.mixture import Mixture
from ssl_jax.data.named import load, split_names
from ssl_jax.data.own import from_indexable
from ssl_jax.data.pipeline import batches, epoch
from ssl_jax.data.preparing import prepare
from ssl_jax.data.sampling import batch_rows, indices
from ssl_jax.data.source import ArraySource, Examples, Indexable, Source, from_arrays
from ssl_jax.data.voc import read_voc

__all__ = [
    "ArraySource",
    "BoxedSource",
    "Crop",
    "CroppedSource",
    "Examples",
    "Indexable",
    "Mixture",
    "Source",
    "Subset",
    "batch_rows",
    "batches",
    "check",
    "describe",
    "epoch",
    "from_arrays",
    "from_indexable",
    "indices",
    "load",
    "prepare",
    "read_coco",
    "read_voc",
    "rows_listed",
    "rows_named",
    "split_names",
]
