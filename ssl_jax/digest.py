"""A fingerprint of a tree of arrays, made where the arrays are: equal bits, equal digest, however they are spread."""

import functools
import zlib
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from ssl_jax.core import PyTree

BLOCK = 1 << 15  # words at a time on the host, which fit into a cache


def digest(tree: PyTree, *, on_host: bool | None = None) -> str:
    """Sixteen hexadecimal figures that stand for every bit of a tree, and for its paths, shapes and dtypes.

    Each word of 32 bits is mixed with its place and its leaf's name, and the results are added up modulo 2**32, twice
    with different mixing. Integer sums don't depend on their order, so neither does the digest depend on devices or
    sharding. Mixing is one to one, so a change within one element always shows; any other change goes unnoticed with
    a chance of about 2**-64. It is a checksum, and no defence against those who mean to deceive.

    Args:
      tree: arrays or random keys; reading them once is all it costs.
      on_host: compute with NumPy, which needs no compilation; None does so for arrays that are in the host's memory.
    """
    sums = []
    for path, x in jax.tree.leaves_with_path(tree):
        name = f"{jax.tree_util.keystr(path)} {x.shape} {x.dtype}".encode()
        salt = np.full(1, zlib.crc32(name), np.uint32)
        here = next(iter(x.sharding.device_set)).platform == "cpu" and x.is_fully_addressable
        make = _host_sums if (here if on_host is None else on_host) else _device_sums
        sums += [(salt[0], salt[0]), make(x, salt)]  # the name itself counts too, for leaves without elements
    low, high = np.sum(jax.device_get(sums), axis=0, dtype=np.uint32) if sums else (0, 0)
    return f"{low:08x}{high:08x}"


@jax.jit
def _device_sums(x: Array, salt: Array) -> tuple[Array, Array]:
    x = jax.random.key_data(x) if _is_key(x) else x
    words = _words(x, functools.partial(jax.lax.bitcast_convert_type, x))
    return _sums(words, jax.lax.iota(jnp.uint32, words.size), salt, jnp)


def _host_sums(x: Array, salt: np.ndarray) -> tuple[np.uint32, np.uint32]:
    raw = np.ascontiguousarray(jax.random.key_data(x) if _is_key(x) else x)
    words = _words(raw, raw.reshape(-1).view)
    starts = range(0, max(words.size, 1), BLOCK)
    blocks = [(words[i : i + BLOCK], np.arange(i, min(i + BLOCK, words.size), dtype=np.uint32)) for i in starts]
    low, high = np.sum([_sums(*block, salt, np) for block in blocks], axis=0, dtype=np.uint32)
    return low, high


def _is_key(x: Array) -> bool:
    return jnp.issubdtype(x.dtype, jax.dtypes.prng_key)


def _words(x: Any, view: Any) -> Any:
    """The bits of an array as numbers of 32 bits; narrower elements have one each."""
    if x.dtype == np.bool_:
        return x.reshape(-1).astype(np.uint32)
    return view({1: np.uint8, 2: np.uint16}.get(x.dtype.itemsize, np.uint32)).reshape(-1).astype(np.uint32)


def _sums(words: Any, place: Any, salt: Any, xp: ModuleType) -> tuple[Any, Any]:
    place = _mix(place ^ _mix(salt))
    once = _mix(words ^ place)
    return xp.sum(once, dtype=np.uint32), xp.sum(_mix(once + place), dtype=np.uint32)


def _mix(x: Any) -> Any:
    """A one-to-one scrambling of 32 bits; constants of "lowbias32" (C. Wellons, Prospecting for hash functions)."""
    x = (x ^ (x >> np.uint32(16))) * np.uint32(0x7FEB352D)
    x = (x ^ (x >> np.uint32(15))) * np.uint32(0x846CA68B)
    return x ^ (x >> np.uint32(16))
