"""Arrow and parquet files as one table with random access to the images in it."""

import collections
import json
import pathlib
import threading
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Int32

KEPT_BYTES = 1_000_000_000  # of groups of rows of parquet files
MOST_CLASSES = 1_000_000
LABELS = ("label", "labels", "cls")


class Table:
    """Rows of several files after each other, in the pieces in which they are stored.

    Arrow files are mapped into memory; of parquet files the groups of rows that were used last are kept.

    Args:
      paths: files of one schema, all `.arrow` or all `.parquet`.

    Raises:
      ValueError: or OSError, if a file is damaged.
    """

    def __init__(self, paths: Sequence[pathlib.Path]):
        import pyarrow  # takes a moment
        from pyarrow import parquet

        self._pieces: list[Any] = []
        self._lock = threading.Lock()
        self._kept: collections.OrderedDict[int, Any] = collections.OrderedDict()
        rows = []
        for path in paths:
            if path.suffix == ".parquet":
                file = parquet.ParquetFile(path, memory_map=True)
                self.schema = file.schema_arrow
                groups = range(file.num_row_groups)
                self._pieces += [(file, group) for group in groups]
                rows += [file.metadata.row_group(group).num_rows for group in groups]
            else:
                batches = pyarrow.ipc.open_stream(pyarrow.memory_map(str(path)))
                self.schema = batches.schema
                for batch in batches:
                    self._pieces.append(batch)
                    rows.append(batch.num_rows)
        self.ends = np.cumsum(rows, dtype=np.int64)

    def __len__(self) -> int:
        return int(self.ends[-1]) if len(self.ends) else 0

    @property
    def features(self) -> dict[str, Any]:
        """What `datasets` says of the columns; empty in files that others wrote."""
        text = (self.schema.metadata or {}).get(b"huggingface", b"{}")
        return json.loads(text).get("info", {}).get("features", {})

    def image_column(self) -> str | None:
        """Name of the first column of images: declared as such, or else of encoded bytes; None if there is none."""
        import pyarrow

        declared = [name for name, kind in self.features.items() if _kind(kind) == "Image"]
        if declared:
            return declared[0]
        types = pyarrow.types
        for field in self.schema:
            names = [inner.name for inner in field.type] if types.is_struct(field.type) else []
            if "bytes" in names or types.is_binary(field.type) or types.is_large_binary(field.type):
                return field.name
        return None

    def labels(self) -> tuple[Int32[np.ndarray, " n"] | None, tuple[str, ...] | None]:
        """Labels and names of the classes, or None and None if any image has no label."""
        import pyarrow

        named = {name: kind.get("names") for name, kind in self.features.items() if _kind(kind) == "ClassLabel"}
        whole = [field.name for field in self.schema if pyarrow.types.is_integer(field.type) and field.name in LABELS]
        column = next(iter([*named, *whole]), None)
        if column is None:
            return None, None
        numbers = self._column(column)
        if any(number is None or number < 0 for number in numbers):  # -1 in the Hub's unlabelled test sets
            return None, None
        if max(numbers, default=0) >= MOST_CLASSES:
            raise ValueError(f"{column} holds {max(numbers)}, more classes than are believed")
        names = named.get(column) or range(max(numbers, default=-1) + 1)
        return np.array(numbers, np.int32), tuple(map(str, names))

    def names(self, column: str) -> list[str] | None:
        """File names that images were saved with, or None if any has none or two have the same."""
        import pyarrow

        kind = self.schema.field(column).type
        if not pyarrow.types.is_struct(kind) or kind.get_field_index("path") < 0:
            return None
        names = self._column(column, "path")
        return names if all(names) and len(set(names)) == len(names) else None

    def images(self, column: str, rows: Sequence[int]) -> list[bytes]:
        """Encoded images of some rows; empty bytes where there is none."""
        found = []
        for row in rows:
            which = int(np.searchsorted(self.ends, row, side="right"))
            first = int(self.ends[which - 1]) if which else 0
            value = self._piece(which).column(column)[row - first].as_py()
            found.append((value.get("bytes") if isinstance(value, dict) else value) or b"")
        return found

    def _column(self, name: str, inner: str | None = None) -> list[Any]:
        from pyarrow import compute

        values: list[Any] = []
        for piece in self._pieces:
            if isinstance(piece, tuple):
                file, group = piece
                piece = file.read_row_group(group, columns=[name if inner is None else f"{name}.{inner}"])
            column = piece.column(name)
            values += (column if inner is None else compute.struct_field(column, inner)).to_pylist()
        return values

    def _piece(self, which: int) -> Any:
        piece = self._pieces[which]
        if not isinstance(piece, tuple):
            return piece
        with self._lock:
            if which not in self._kept:
                file, group = piece
                self._kept[which] = file.read_row_group(group)
                while len(self._kept) > 1 and sum(kept.nbytes for kept in self._kept.values()) > KEPT_BYTES:
                    self._kept.popitem(last=False)
            self._kept.move_to_end(which)
            return self._kept[which]


def _kind(feature: Any) -> str | None:
    return feature.get("_type") if isinstance(feature, dict) else None
