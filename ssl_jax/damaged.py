"""What a run knows of damaged images: a list of them in its workdir, and the limit above which it stops."""

import json
import os
import pathlib
from typing import BinaryIO

from ssl_jax import data, hosts
from ssl_jax.core import UserError
from ssl_jax.data.damage import printable

FILE = "damaged.jsonl"


class Damaged:
    """The damaged images that all processes of a run have met, each with the reason and the step, in `damaged.jsonl`.

    All processes look at the same steps, so that they stop together. What an earlier call has found counts.
    """

    def __init__(self, source: data.Source, directory: pathlib.Path, *, limit: float):
        """For images of `source`; `limit` is the share of them that may be damaged, in [0, 1]."""
        if not 0 <= limit <= 1:
            raise UserError(f"config.max_damaged={limit} is a share of the images, so it lies between 0 and 1.")
        self.source, self.path, self.limit = source, directory / FILE, limit
        self.known: dict[str, str] = hosts.on_first(lambda: read(self.path))

    def look(self, step: int) -> UserError | None:
        """Write down what is new at a step; returns the error to stop with if there are too many."""
        found = {**self.source.left_out, **self.source.damaged}
        mine = {name: why for name, why in found.items() if name not in self.known}
        new = {name: why for found in hosts.exchange(mine) for name, why in found.items()}
        self.known |= new
        if new and hosts.is_first():
            lines = [json.dumps({"file": name, "why": why, "step": step}) + "\n" for name, why in new.items()]
            with self.path.open("a+b") as file:
                cut = "\n" if _is_cut(file) else ""
                file.write((cut + "".join(lines)).encode())
        images = len(self.source) + len(self.source.left_out)
        images += len(self.source.damaged) if self.source.in_memory else 0  # these were left out too
        if len(self.known) <= self.limit * images:
            return None
        few = ", ".join(f"{printable(name)} ({why})" for name, why in list(self.known.items())[:3])
        return UserError(
            f"{len(self.known):,} of the {images:,} images of {self.source.name} are damaged, more than the "
            f"share of {self.limit:g} that config.max_damaged allows, such as {few}. {self.path} names them all: mend "
            "or remove them, or raise --config.max_damaged."
        )


def _is_cut(file: BinaryIO) -> bool:
    """Whether the last line of a file that is open at its end has none: a full disk, or a loss of power."""
    if not file.tell():
        return False
    file.seek(-1, os.SEEK_END)
    return file.read(1) != b"\n"


def read(path: pathlib.Path) -> dict[str, str]:
    """Names and reasons in a `damaged.jsonl`; lines that are half-written are left out."""
    found: dict[str, str] = {}
    if path.is_file():
        for line in path.read_text(encoding="utf-8").splitlines():
            try:
                row = json.loads(line)
            except json.JSONDecodeError:
                continue
            found[row["file"]] = row["why"]
    return found
