"""What features are worth, seen without labels: spread, rank, and how alike two views of an image are."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from ssl_jax.checks import check_features, check_positive
from ssl_jax.core import UserError
from ssl_jax.losses import l2_normalize
from ssl_jax.monitors import exponential_entropy, relative_deviation

TILE = 2048
ROUNDING = 1e-6  # of float32: singular values below this share of the largest are noise


def _unit(features: np.ndarray) -> np.ndarray:
    return np.asarray(l2_normalize(jnp.asarray(features, jnp.float32)))


def alignment(first: Float[np.ndarray, "n d"], second: Float[np.ndarray, "_ d"], *, alpha: float = 2.0) -> float:
    """Mean distance, to the power of `alpha`, of two views of the same images on the unit sphere; the lower the closer.

    In 0..2^alpha (Wang and Isola, ICML 2020, with alpha = 2); row i of both must be views of image i.

    Raises:
      UserError: unequal shapes, or features that are not finite.
    """
    check_features(first, second)
    if first.shape != second.shape:
        raise UserError(
            f"Alignment compares two views of the same images, but was given {first.shape} and {second.shape}."
        )
    check_positive(alpha=alpha)
    distance = np.linalg.norm(_unit(first).astype(np.float64) - _unit(second).astype(np.float64), axis=1)
    return float(np.mean(distance**alpha))


@functools.partial(jax.jit, static_argnames=("t",))
def _log_potential(a, b, first, second, *, t):
    """Logarithm of the sum of `exp(-t |x - y|^2)` over the other rows y of `b`, whose numbers begin at `second`."""
    squares = jnp.sum(a**2, axis=1)[:, None] + jnp.sum(b**2, axis=1)[None]  # of rows of zeros 0 and not 1
    distance = jnp.maximum(squares - 2 * jnp.matmul(a, b.T, precision="highest"), 0.0)
    own = (first + jnp.arange(len(a)))[:, None] == (second + jnp.arange(len(b)))[None]
    return jax.nn.logsumexp(jnp.where(own, -jnp.inf, -t * distance), axis=1)


def uniformity(
    features: Float[np.ndarray, "n d"], *, t: float = 2.0, sample: int | None = 10000, seed: int = 0
) -> float:
    """Logarithm of the mean of `exp(-t |x - y|^2)` over all pairs on the unit sphere; the lower the more even.

    At most 0, when all are one point (Wang and Isola, ICML 2020, with t = 2); -4 for evenly spread directions of many
    dimensions at t = 2. Of more than `sample` rows a random part is taken (None: all, `n^2 d` products).

    Raises:
      UserError: fewer than two rows, or features that are not finite.
    """
    check_features(features)
    check_positive(t=t, sample=sample)
    if len(features) < 2:
        raise UserError("Uniformity compares pairs, but there is one row.")
    if sample is not None and len(features) > sample:
        features = features[np.sort(np.random.default_rng(seed).permutation(len(features))[:sample])]
    unit, n = _unit(features), len(features)
    starts = range(0, n, TILE)
    parts = [_log_potential(unit[i : i + TILE], unit[j : j + TILE], i, j, t=t) for i in starts for j in starts]
    logs = np.concatenate([np.asarray(part, np.float64) for part in parts])
    return float(np.max(logs) + np.log(np.sum(np.exp(logs - np.max(logs)))) - np.log(n * (n - 1)))


def singular_values(features: Float[np.ndarray, "n d"], *, center: bool) -> Float[np.ndarray, " r"]:
    """Singular values, the largest first; in float64, by the smaller of the two products of the matrix with itself."""
    x = np.asarray(features, np.float64)
    x = x - x.mean(axis=0) if center else x
    gram = x.T @ x if x.shape[0] >= x.shape[1] else x @ x.T
    return np.sqrt(np.maximum(np.linalg.eigvalsh(gram)[::-1], 0.0))


def _rank(shares: np.ndarray) -> float:
    return float(exponential_entropy(jnp.asarray(shares, jnp.float32)))


def effective_rank(features: Float[np.ndarray, "n d"]) -> float:
    """Exponential of the entropy of the singular values of centred unit rows, 1..min(n, d) (Roy and Vetterli, 2007).

    What the collapse monitor logs of a batch, here of a whole set; 1 for features that are all equal. Singular values
    below a millionth of the largest are float32's rounding and left out.
    """
    check_features(features)
    values = singular_values(_unit(features), center=True)
    if values[0] <= ROUNDING * np.sqrt(len(features)):
        return 1.0
    values = np.where(values > ROUNDING * values[0], values, 0.0)
    return _rank(values / values.sum())


def rankme(features: Float[np.ndarray, "n d"], *, epsilon: float = 1e-7) -> float:
    """RankMe (Garrido et al., ICML 2023): as the effective rank, of features as they are, neither centred nor scaled.

    `exp(-sum p log p)` with `p = sigma / |sigma|_1 + epsilon`. It depends on the number of rows (theirs: 25,600).
    """
    check_features(features)
    values = singular_values(features, center=False)
    return _rank(values / max(values.sum(), 1e-30) + epsilon)


def participation_ratio(features: Float[np.ndarray, "n d"]) -> float:
    """`(sum of eigenvalues)^2 / sum of their squares` of the covariance, 1..min(n, d): dimensions that vary."""
    check_features(features)
    variance = singular_values(features, center=True) ** 2
    return float(variance.sum() ** 2 / np.sum(variance**2)) if variance.any() else 1.0


def representation_quality(
    features: Float[np.ndarray, "n d"],
    views: tuple[Float[np.ndarray, "m d"], Float[np.ndarray, "_ d"]] | None = None,
    *,
    sample: int | None = 10000,
    seed: int = 0,
) -> dict[str, float]:
    """All figures that need no labels, so that runs on unlabelled images can be compared.

    They tell a collapsed run from a healthy one, and rank runs of one method; across methods or encoders they needn't
    agree with accuracies.

    Args:
      features: of images as they are, any scale.
      views: features of two random views of the same images, for the alignment.
      sample: rows for the uniformity, None for all.
      seed: of that sample.

    Returns:
      `{"embedding_std" (0..1, see `monitors.collapse`), "effective_rank", "rankme", "participation_ratio",
      "uniformity"}`, and `"alignment"` with views.

    Raises:
      UserError: features that are not finite, fewer than two rows, or views of other shapes.
    """
    check_features(features)
    found = {
        "embedding_std": float(relative_deviation(jnp.asarray(_unit(features)))),
        "effective_rank": effective_rank(features),
        "rankme": rankme(features),
        "participation_ratio": participation_ratio(features),
        "uniformity": uniformity(features, sample=sample, seed=seed),
    }
    return found if views is None else {**found, "alignment": alignment(*views)}
