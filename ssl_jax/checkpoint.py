"""Checkpoints through orbax: the whole `TrainState`, what watches it, and the position in the data, in one step.

This file is the only one that knows orbax, whose interface is moving.
"""

import contextlib
import errno
import os
import pathlib
import re
import shutil
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint.checkpoint_managers import preservation_policy, save_decision_policy

from ssl_jax.core import PyTree, UserError


class Checkpoints:
    """The checkpoints of one run, by step; saves are asynchronous and the newest `keep` stay.

    Args:
      directory: where they are; made if missing.
      every: save at multiples of this many steps.
      keep: how many to keep.
      read_only: neither save nor tidy up.
    """

    def __init__(self, directory: pathlib.Path, *, every: int = 1, keep: int = 2, read_only: bool = False):
        """Open the directory; leftovers of interrupted saves are removed, unless `read_only`."""
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
        items = {name: ocp.args.StandardSave(tree) for name, tree in trees.items()}
        args = ocp.args.Composite(**items, position=ocp.args.JsonSave(position))
        if force or self._manager.should_save(step):
            check_room(self._manager.directory, trees)
        with file_errors():
            return self._manager.save(step, args=args, force=force)

    def restore(self, step: int, like: dict[str, PyTree]) -> tuple[dict[str, PyTree], dict[str, Any]]:
        """Restore named trees, shaped and placed as the abstract or concrete trees `like`, and the position.

        Raises:
          UserError: there is no such checkpoint, or it can't be read.
        """
        if step not in self.steps():
            raise UserError(f"There is no checkpoint of step {step}; there are {self.steps() or 'none'}.")
        abstract = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), like)
        items = {name: ocp.args.StandardRestore(tree) for name, tree in abstract.items()}
        args = ocp.args.Composite(**items, position=ocp.args.JsonRestore())
        try:
            restored = self._manager.restore(step, args=args)
        except (OSError, ValueError, KeyError, TypeError) as error:  # what orbax raises for files that are damaged
            reason = next(iter(str(error).splitlines()), "")[:200]
            raise UserError(
                f"The checkpoint {self._manager.directory / str(step)} can't be read ({reason}); if it is damaged, "
                "remove it to go on from the one before."
            ) from error
        return {name: restored[name] for name in like}, restored["position"]

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

    def close(self) -> None:
        """Wait as `wait`, and let go of the directory."""
        try:
            self.wait()
        finally:
            self._manager.close()


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
