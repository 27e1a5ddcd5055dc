"""Sources made of other sources: some rows of one, or several after each other."""

import functools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Int32, Integer

from ssl_jax.core import UserError
from ssl_jax.data.source import ArraySource, Examples, Source, digest


class Subset(Source):
    """Some rows of another source, in the order given.

    Args:
      source: the source to choose from.
      rows: row numbers in `source`; `Subset(source, rows)[i]` is `source[rows[i]]`.
      name: name of the subset; that of `source` if None.
    """

    def __init__(self, source: Source, rows: Integer[np.ndarray, " n"], name: str | None = None):
        self.source, self.rows = source, rows
        self.name, self.classes, self.in_memory = name or source.name, source.classes, source.in_memory
        self.box_classes, self.damaged, self.left_out = source.box_classes, source.damaged, source.left_out
        self.files = None if source.files is None else source.files[rows]

    @property
    def labels(self) -> Int32[np.ndarray, " n"] | None:
        """Labels of the chosen rows, or None."""
        labels = self.source.labels  # not kept, since those of damaged images change
        return None if labels is None else labels[self.rows]

    @functools.cached_property
    def fingerprint(self) -> str:
        """Hash of the other source's fingerprint and the rows."""
        return digest(self.source.fingerprint.encode(), self.rows.astype("<i8").tobytes())

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: Any) -> Examples:
        return self.source[self.rows[index]]


class _Together(Mapping[str, str]):
    """What several sources say of their files, live; a source's name stands before its files' if they have several."""

    def __init__(self, sources: Sequence[Source], said: Sequence[Mapping[str, str]]):
        several = len({source.name for source in sources}) > 1
        nested = [isinstance(source, Joined) and len({part.name for part in source.sources}) > 1 for source in sources]
        self.parts = [
            (f"{source.name}: " if several and not named else "", of_source)
            for source, named, of_source in zip(sources, nested, said, strict=True)
        ]

    def __getitem__(self, name: str) -> str:
        for before, said in self.parts:
            file = name.removeprefix(before)
            if before + file == name and file in said:
                return said[file]
        raise KeyError(name)

    def __iter__(self) -> Iterator[str]:
        # Copied at once, since threads that decode add to what is damaged.
        return iter(dict.fromkeys(before + file for before, said in self.parts for file in list(said)))

    def __len__(self) -> int:
        return sum(1 for _ in self)


class Joined(Source):
    """Several sources after each other: rows count through the first, then the second, and so on.

    Labels are kept if all of them have the same classes, boxes if all have the same classes of objects.
    """

    def __init__(self, sources: Sequence[Source], name: str):
        self.sources, self.name = tuple(sources), name
        self.ends = np.cumsum([len(source) for source in sources])
        same = all(source.classes == sources[0].classes for source in sources)
        self.classes = sources[0].classes if same else None
        same = all(source.box_classes == sources[0].box_classes for source in sources)
        self.box_classes = sources[0].box_classes if same else None
        self.in_memory = all(source.in_memory for source in sources)
        self.damaged = _Together(sources, [source.damaged for source in sources])
        self.left_out = _Together(sources, [source.left_out for source in sources])
        files = [source.files for source in sources if source.files is not None]
        self.files = np.concatenate(files) if len(files) == len(sources) else None

    @property
    def labels(self) -> Int32[np.ndarray, " n"] | None:
        """Labels of all sources, or None if their classes differ."""
        labels = [source.labels for source in self.sources if self.classes is not None and source.labels is not None]
        return np.concatenate(labels) if len(labels) == len(self.sources) else None

    @functools.cached_property
    def fingerprint(self) -> str:
        """Hash of the fingerprints of all sources."""
        return digest(*(source.fingerprint.encode() for source in self.sources))

    def __len__(self) -> int:
        return int(self.ends[-1])

    def places(self, rows: Integer[np.ndarray, " n"]) -> Iterator[tuple[Source, np.ndarray, np.ndarray]]:
        """Whose these rows are: each source that has any of them, its own numbers of them, and their places here."""
        which = np.searchsorted(self.ends, rows, side="right")
        for i in np.unique(which):
            mine = np.flatnonzero(which == i)
            yield self.sources[i], rows[mine] - (self.ends[i] - len(self.sources[i])), mine

    def __getitem__(self, index: Any) -> Examples:
        found = list(self.places(np.arange(len(self))[index]))
        parts = [source[own] for source, own, _ in found]
        shapes = {part["image"].shape[1:] for part in parts}
        if len(shapes) > 1:
            raise UserError(f"the parts of {self.name} hold images of shapes {sorted(shapes)}; give an image_size.")
        back = np.argsort(np.concatenate([mine for _, _, mine in found]))  # from the order of sources to that of rows
        keys = ["image"] if self.classes is None else ["image", "label"]
        if self.box_classes is not None:
            keys += [key for key in parts[0] if key not in ("image", "label")]
        return {key: np.concatenate([part[key] for part in parts])[back] for key in keys}


def join(sources: Sequence[Source], name: str) -> Source:
    """Put sources after each other: copied into one array if all are in memory, else as a `Joined`."""
    if len(sources) == 1:
        sources[0].name = name
        return sources[0]
    arrays = [source for source in sources if isinstance(source, ArraySource)]
    joined = Joined(sources, name)
    if len(arrays) < len(sources) or len({source.images.shape[1:] for source in arrays}) > 1:
        return joined
    images = np.concatenate([source.images for source in arrays])
    labels, classes, boxes = joined.labels, joined.classes, joined.box_classes
    extras = {} if boxes is None else {k: np.concatenate([s.extras[k] for s in arrays]) for k in arrays[0].extras}
    made = ArraySource(images, labels, classes, name, joined.fingerprint, joined.files, extras, boxes)
    made.damaged, made.left_out = joined.damaged, joined.left_out
    return made


def by_leaf(source: Any, rows: Integer[np.ndarray, " n"]) -> Iterator[tuple[Any, np.ndarray, np.ndarray]]:
    """Rows by the sources that a source is made of in the end: each that has any, its own rows, places in `rows`."""
    if isinstance(source, Subset):
        yield from by_leaf(source.source, source.rows[rows])
    elif isinstance(source, Joined):
        for part, own, places in source.places(rows):
            for leaf, of_leaf, inside in by_leaf(part, own):
                yield leaf, of_leaf, places[inside]
    else:
        yield source, rows, np.arange(len(rows))
