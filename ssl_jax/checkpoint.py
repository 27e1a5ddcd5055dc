"""Checkpoints through orbax: the whole `TrainState`, what watches it, and the position in the data, in one step.

This file is the only one that knows orbax, whose interface is moving.
"""

import contextlib
import errno
import hashlib
import json
import os
import pathlib
import re
import shutil
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint.checkpoint_managers import preservation_policy, save_decision_policy

from ssl_jax import hosts
from ssl_jax.core import PyTree, UserError
from ssl_jax.digest import digest

FORMAT = 1  # to be raised when older versions could not read what is written, or not correctly
SEAL = "seal"  # the item with the format and the digests of the others; checkpoints before format 1 have none


class Damaged(UserError):
    """A checkpoint can't be read, or does not hold what was saved."""


class Checkpoints:
    """The checkpoints of one run, by step; saves are asynchronous and the newest `keep` stay.

    Args:
      directory: where they are; made if missing.
      every: save at multiples of this many steps.
      keep: how many to keep.
      read_only: neither save nor tidy up.
      when_whole: called when a save has come to its end.
    """

    def __init__(
        self,
        directory: pathlib.Path,
        *,
        every: int = 1,
        keep: int = 2,
        read_only: bool = False,
        when_whole: Callable[[], None] = lambda: None,
    ):
        """Open the directory; leftovers of interrupted saves are removed, unless `read_only`."""
        self._when_whole, self._under_way = when_whole, False
        options = ocp.CheckpointManagerOptions(
            save_decision_policy=save_decision_policy.FixedIntervalPolicy(every),
            preservation_policy=preservation_policy.LatestN(keep),
            cleanup_tmp_directories=not read_only,
            read_only=read_only,
        )
        self._manager = ocp.CheckpointManager(directory.absolute(), options=options)

    def steps(self) -> list[int]:
        """Steps of all complete checkpoints, oldest first."""
        return sorted(self._manager.all_steps())

    def items(self, step: int) -> set[str]:
        """Names of the trees in a checkpoint."""
        # Not `item_metadata`, which leaves out what this process has not saved or restored itself.
        return {path.name for path in (self._manager.directory / str(step)).iterdir() if path.is_dir()}

    def save(self, step: int, trees: dict[str, PyTree], position: dict[str, Any], *, force: bool = False) -> bool:
        """Begin to save named trees and the position in the data, if it is time or `force`; returns whether it was.

        Raises:
          OSError: this save, or an earlier one that was still under way, could not be written.
        """
        if self._manager.latest_step() == step:
            return False
        if not (force or self._manager.should_save(step)):
            return False
        check_room(self._manager.directory, trees)
        items = {name: ocp.args.StandardSave(jax.tree.map(one_copy, tree)) for name, tree in trees.items()}
        items |= {"position": ocp.args.JsonSave(position), SEAL: ocp.args.JsonSave(seal(trees, position))}
        args = ocp.args.Composite(**items)
        with file_errors():
            begun = self._manager.save(step, args=args, force=force)
        self._under_way = self._under_way or begun
        return begun

    def restore(self, step: int, like: dict[str, PyTree]) -> tuple[dict[str, PyTree], dict[str, Any]]:
        """Restore named trees, shaped and placed as the abstract or concrete trees `like`, and the position.

        Raises:
          Damaged: the checkpoint can't be read, or its bits are not those that were saved.
          UserError: there is no such checkpoint, its arrays are others than those of `like`, or it is of a later
            version of this library. Where arrays lie may differ.
        """
        if step not in self.steps():
            raise UserError(f"There is no checkpoint of step {step}; there are {self.steps() or 'none'}.")
        expected = self._digests(step)
        abstract = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), like)
        items = {name: ocp.args.StandardRestore(tree) for name, tree in abstract.items()}
        try:
            restored = self._read(step, **items, position=ocp.args.JsonRestore())
        except Damaged as error:
            self._check_same_arrays(step, abstract)
            raise error from error.__cause__
        trees, position = {name: restored[name] for name in like}, restored["position"]
        made = seal(trees, position)["digests"] if expected else {}
        wrong = [name for name, value in made.items() if expected.get(name) != value]
        if wrong:
            raise self._damaged(step, f"the bits of its {' and '.join(wrong)} are not those that were saved")
        return trees, position

    def _digests(self, step: int) -> dict[str, str]:
        """What the trees' digests must be; nothing for checkpoints older than digests."""
        if SEAL not in self.items(step):
            return {}
        found = self._read(step, **{SEAL: ocp.args.JsonRestore()})[SEAL]
        if not isinstance(found, dict) or not isinstance(found.get("digests"), dict):
            raise self._damaged(step, "its seal is not one")
        if found.get("format") not in range(1, FORMAT + 1):
            raise UserError(
                f"The checkpoint {self._manager.directory / str(step)} has the format {found.get('format')}, and this "
                f"version of ssl_jax reads up to {FORMAT}: use the version that wrote it, see run.json."
            )
        return found["digests"]

    def _read(self, step: int, **items: Any) -> Any:
        try:
            return hosts.together(lambda: self._read_here(step, **items))
        except hosts.Agreed as error:
            raise Damaged(str(error)) from error

    def _read_here(self, step: int, **items: Any) -> Any:
        try:
            return self._manager.restore(step, args=ocp.args.Composite(**items))
        except MemoryError:
            raise
        except Exception as error:  # orbax and what is below it raise anything for files that are damaged
            if "RESOURCE_EXHAUSTED" in str(error):
                raise
            raise self._damaged(step, next(iter(str(error).splitlines()), "")[:200] or repr(error)) from error

    def _check_same_arrays(self, step: int, like: dict[str, PyTree]) -> None:
        """Raise a `UserError` that names arrays which are not like those in a checkpoint, as far as it can be read."""
        differ = []
        for name, tree in like.items():
            try:
                with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as reader:
                    found = reader.metadata(self._manager.directory / str(step) / name)
                saved = shapes(found.item_metadata.tree)
            except Exception:  # damaged, then, and told already
                continue
            here = shapes(tree)
            for path in sorted(here.keys() | saved.keys(), key=lambda path: (not path.startswith("params"), path)):
                if here.get(path) != saved.get(path) and path != "rng":  # random keys are saved as their numbers
                    differ.append(f"{path} is {saved.get(path, 'not there')}, here {here.get(path, 'none')}")
        if differ:
            more = f" and {len(differ) - 5} more" if len(differ) > 5 else ""
            raise UserError(
                f"The checkpoint {self._manager.directory / str(step)} is of another model or optimizer: "
                f"{'; '.join(differ[:5])}{more}. Use the config that it was made with."
            )

    def _damaged(self, step: int, reason: str) -> Damaged:
        return Damaged(f"The checkpoint {self._manager.directory / str(step)} is damaged or incomplete: {reason}.")

    def restore_newest(self, like: Callable[[set[str]], dict[str, PyTree]]) -> tuple[int, dict, dict, list[Damaged]]:
        """Restore the newest checkpoint that is whole, and set damaged ones that are newer aside.

        These are moved to `damaged-checkpoints/STEP` beside the directory: nothing is deleted, and their steps may be
        saved again. If none is whole, nothing is moved.

        Args:
          like: the trees to restore, see `restore`, of the names of those that a checkpoint holds.

        Returns:
          `(step, trees, position, damages)`; the last say why newer ones were not taken, newest first.

        Raises:
          UserError: there are checkpoints, and none is whole.
        """
        damages: list[Damaged] = []
        for step in reversed(self.steps()):
            try:
                trees, position = self.restore(step, like(self.items(step)))
            except Damaged as error:
                damages.append(error)
                continue
            self._set_aside([newer for newer in self.steps() if newer > step])
            return step, trees, position, damages
        raise UserError(
            f"None of the {len(damages)} checkpoints in {self._manager.directory} is whole. {damages[0]} Put back a "
            "copy, or give another --workdir to start anew."
        )

    def _set_aside(self, steps: list[int]) -> None:
        folder = self._manager.directory.parent / "damaged-checkpoints"
        for step in steps if hosts.is_first() else []:
            folder.mkdir(exist_ok=True)
            shutil.rmtree(folder / str(step), ignore_errors=True)
            os.replace(self._manager.directory / str(step), folder / str(step))
        hosts.exchange("moved")  # the others wait for the first
        if steps:
            self._manager.reload()

    def restore_part(self, step: int, name: str, like: PyTree) -> PyTree:
        """Restore some branches of a named tree, as host arrays shaped as the abstract trees `like`.

        Raises:
          UserError: there is no such checkpoint, or what it holds is not like that.
        """
        if step not in self.steps():
            raise UserError(f"There is no checkpoint of step {step}; there are {self.steps() or 'none'}.")
        path = self._manager.directory / str(step) / name
        place = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
        like = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place), like)
        args = ocp.args.PyTreeRestore(
            item=like, restore_args=ocp.checkpoint_utils.construct_restore_args(like), partial_restore=True
        )
        try:
            with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as reader:
                found = reader.restore(path, args=args)
        except (OSError, ValueError, KeyError, TypeError) as error:
            reason = next(iter(str(error).splitlines()), "")[:200]
            raise UserError(f"The checkpoint {path} does not hold that network ({reason}).") from error
        for where, x in jax.tree.leaves_with_path(found):
            if not isinstance(x, jax.Array):
                raise UserError(f"The checkpoint {path} has no {jax.tree_util.keystr(where)}.")
        return jax.tree.map(np.asarray, found)

    def wait(self) -> None:
        """Wait for the saves under way; raises `OSError` if one failed."""
        with file_errors():
            self._manager.wait_until_finished()
        if self._under_way:
            self._under_way = False
            self._when_whole()

    def close(self) -> None:
        """Wait as `wait`, and let go of the directory."""
        try:
            self.wait()
        finally:
            self._manager.close()


def one_copy(x: jax.Array) -> jax.Array:
    """An array as one device has it, where all of one process have it whole.

    Orbax would have every device write a piece, and compile a program for each piece of each shape.
    """
    return x.addressable_data(0) if x.is_fully_replicated and jax.process_count() == 1 else x


def shapes(tree: PyTree) -> dict[str, tuple[int, ...]]:
    """The shape of every array of a tree, by its path."""
    leaves = jax.tree.leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): tuple(x.shape) for path, x in leaves}


def seal(trees: dict[str, PyTree], position: dict[str, Any]) -> dict[str, Any]:
    """The format and a digest of everything in a checkpoint, to be compared when it is read."""
    text = json.dumps(position, sort_keys=True).encode()
    digests = {name: digest(tree) for name, tree in trees.items()}
    return {"format": FORMAT, "digests": {**digests, "position": hashlib.sha256(text).hexdigest()[:16]}}


def check_room(directory: os.PathLike[str], trees: PyTree) -> None:
    """Raise `OSError` if the disk has no room for a copy of `trees`, before half of it is written."""
    needed = sum(x.nbytes for x in jax.tree.leaves(trees)) + 1_000_000  # for names, shapes and shardings
    if shutil.disk_usage(directory).free < needed:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@contextlib.contextmanager
def file_errors() -> Iterator[None]:
    """Raise the `OSError` that it is where the array storage says `ValueError`, for example for a full disk."""
    try:
        yield
    except ValueError as error:
        code = re.search(r"os_error_code='(\d+)'", str(error))
        if code is None:
            raise
        raise OSError(int(code[1]), os.strerror(int(code[1]))) from error
