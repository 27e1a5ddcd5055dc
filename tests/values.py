"""Comparison with reference values."""

import numpy as np


def assert_close(actual, expected, tolerance=1e-5):
    """No entry is further off than `tolerance` times the largest expected entry (all are compared in float64)."""
    expected = np.asarray(expected, np.float64)
    atol = tolerance * np.max(np.abs(expected))
    np.testing.assert_allclose(np.asarray(actual, np.float64), expected, rtol=0, atol=atol)
