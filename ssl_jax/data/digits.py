"""Handwritten digits, 8 x 8: the 1,797 images that come inside scikit-learn (`sklearn.datasets.load_digits`).

Real, tiny and always there: for tests, examples and a first run without any download.
"""

import functools

import numpy as np
from jaxtyping import Bool, Integer

from ssl_jax.data.source import ArraySource, from_arrays


def read(split: str) -> ArraySource:
    """Return `"train"` (70 %) or `"test"` (30 %), every digit in these proportions in both, in scikit-learn's order.

    The pixel values 0 to 16 are scaled to 0 to 255. The split is fixed and drawn without random numbers, so that no
    library's version can change it: of every ten images of a digit, the third, sixth and ninth are for testing.
    """
    images, labels = _digits()
    chosen = _is_test(labels) == (split == "test")
    classes = [str(digit) for digit in range(10)]
    return from_arrays(images[chosen], labels[chosen], classes, name=f"digits {split}")


@functools.cache
def _digits() -> tuple[np.ndarray, np.ndarray]:
    from sklearn import datasets  # takes a second to import

    digits = datasets.load_digits()
    return np.round(digits.images * (255 / 16)).astype(np.uint8), digits.target.astype(np.int32)


def _is_test(labels: Integer[np.ndarray, " n"]) -> Bool[np.ndarray, " n"]:
    test = np.zeros(labels.shape, bool)
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        test[rows] = np.isin(np.arange(len(rows)) % 10, (2, 5, 8))
    return test
