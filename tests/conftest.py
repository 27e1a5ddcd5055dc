"""Strict settings for every test: 8 virtual devices, checked shapes, strict dtypes, a persistent compilation cache."""

import gc
import importlib.metadata
import os
import pathlib

os.environ["JAX_PLATFORMS"] = os.environ.get("SSL_JAX_TEST_PLATFORM", "cpu")
FLAGS = ["--xla_force_host_platform_device_count=8"]
if os.environ["JAX_PLATFORMS"] == "cpu":  # most of the time goes into compilation, hardly any into what was compiled
    FLAGS += ["--xla_backend_optimization_level=0"]
    if importlib.metadata.version("jaxlib").startswith("0.10."):  # an unknown flag ends the process
        FLAGS += ["--xla_cpu_use_fusion_emitters=false"]  # the older ones of loops compile in half of the time
    FLAGS += ["--xla_cpu_parallel_codegen_split_count=1"]  # no cutting up for threads that are busy with other tests
os.environ["XLA_FLAGS"] = " ".join([*FLAGS, os.environ.get("XLA_FLAGS", "")])
os.environ.setdefault("PJRT_NPROC", "64")  # see `runtime.threads_for_virtual_devices`
CACHE = pathlib.Path(os.environ.get("SSL_JAX_TEST_CACHE", pathlib.Path(__file__).parents[1] / ".cache" / "xla"))
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(CACHE))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")  # many small programs are shared

from jaxtyping import install_import_hook  # noqa: E402

install_import_hook("ssl_jax", "beartype.beartype")

import jax  # noqa: E402
import numpy as np  # noqa: E402
import pytest  # noqa: E402

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_default_matmul_precision", "highest")


def pytest_collection_finish():
    """Tracing makes many small objects, and to look through all that was imported every few hundred costs time."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)


@pytest.fixture(scope="session")
def fixture():
    """Load `tests/fixtures/NAME.npz` as a dict of numpy arrays (see the README there for their sources)."""

    def load(name: str) -> dict[str, np.ndarray]:
        with np.load(pathlib.Path(__file__).parent / "fixtures" / f"{name}.npz", allow_pickle=False) as data:
            return dict(data)

    return load


@pytest.fixture(scope="module", autouse=True)
def release_what_was_compiled():
    """Drop the executables after each file of tests: a worker that keeps thousands runs out of memory maps and dies."""
    yield
    jax.clear_caches()
