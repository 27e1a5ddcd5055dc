"""How JAX, XLA and the libraries around them are set up for the time of a command."""

import contextlib
import os
import pathlib
import warnings
from collections.abc import Iterator
from typing import Any

from absl import logging


def threads_for_virtual_devices() -> None:
    """Let virtual CPU devices wait for each other without starving the others; to be called before JAX starts them.

    A device waits in a thread of its own in every collective operation that is under way, and XLA has as many threads
    as there are devices. Two operations at once can so hold all threads while neither is complete: XLA then gives up
    after 40 seconds, and ends the process.
    """
    if "xla_force_host_platform_device_count" in os.environ.get("XLA_FLAGS", ""):
        os.environ.setdefault("PJRT_NPROC", "64")


DETERMINISTIC = ("--xla_gpu_deterministic_ops=true", "--xla_gpu_autotune_level=0")


def deterministic() -> None:
    """Have XLA use only GPU kernels that give the same bits every time; to be called before JAX starts its devices.

    Autotuning is off, since it may choose other kernels in the next run. CPUs and TPUs need neither.
    """
    given = os.environ.get("XLA_FLAGS", "").split()
    os.environ["XLA_FLAGS"] = " ".join([*given, *(flag for flag in DETERMINISTIC if flag not in given)])


@contextlib.contextmanager
def settings() -> Iterator[None]:
    """For the time of a command: compiled programs kept between runs, and quiet libraries.

    Programs are kept in the user's cache directory unless JAX is told another.
    """
    threads_for_virtual_devices()
    import jax
    from PIL import Image

    wanted: dict[str, Any] = {}
    cache = "jax_compilation_cache_dir"
    if getattr(jax.config, cache) is None:
        base = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache")
        wanted[cache] = str(base / "ssl_jax" / "xla")
    if "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS" not in os.environ:
        wanted["jax_persistent_cache_min_compile_time_secs"] = 0.5
    before = {name: getattr(jax.config, name) for name in wanted}
    verbosity = logging.get_verbosity()
    logging.set_verbosity(logging.FATAL)  # orbax tells much; its errors are raised as well, and told once
    try:
        for name, value in wanted.items():
            jax.config.update(name, value)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # such images are told as damaged
            yield
    finally:
        for name, value in before.items():
            jax.config.update(name, value)
        logging.set_verbosity(verbosity)
