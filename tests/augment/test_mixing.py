import jax
import jax.numpy as jnp
import numpy as np
from scipy import stats
from values import assert_close

from ssl_jax import augment

IMAGE = jax.random.normal(jax.random.key(0), (400, 4, 4, 1))


def test_mixup_blends_every_image_with_the_next_by_a_share_from_the_beta_distribution():
    mixed, share = jax.jit(lambda key, x: augment.mixup(key, x, alpha=0.4))(jax.random.key(1), IMAGE)
    x, s = np.asarray(IMAGE, np.float64), np.asarray(share, np.float64)[:, None, None, None]
    assert_close(mixed, s * x + (1 - s) * np.roll(x, -1, axis=0), 1e-6)
    assert stats.kstest(np.asarray(share), stats.beta(0.4, 0.4).cdf).pvalue > 0.01
    assert len(np.unique(share)) > 390  # a share of its own for each


def test_a_large_alpha_blends_by_halves_and_the_dtype_stays():
    mixed, share = augment.mixup(jax.random.key(1), IMAGE.astype(jnp.bfloat16), alpha=1e4)
    assert mixed.dtype == jnp.bfloat16
    np.testing.assert_allclose(share, 0.5, atol=0.02)


def test_mix_takes_cutmix_as_often_as_asked():
    """Pasting leaves every pixel one image's or the other's; blending does not."""
    mixed, share = augment.mix(jax.random.key(2), IMAGE, alpha=1.0, cutmix_probability=0.25)
    x, y = np.asarray(IMAGE), np.roll(np.asarray(IMAGE), -1, axis=0)
    own, other = np.asarray(mixed) == x, np.asarray(mixed) == y
    pasted = (own | other).all(axis=(1, 2, 3))
    assert 0.17 < pasted.mean() < 0.33
    np.testing.assert_allclose(own.mean(axis=(1, 2, 3))[pasted], np.asarray(share)[pasted], atol=1e-6)
    s = np.asarray(share)[:, None, None, None]
    np.testing.assert_allclose(np.asarray(mixed)[~pasted], (s * x + (1 - s) * y)[~pasted], atol=1e-5)


def test_mix_with_one_of_the_two_is_that_one():
    key = jax.random.key(3)
    for a, b in zip(
        augment.mix(key, IMAGE, cutmix_probability=0.5), augment.cutmix(key, IMAGE, probability=0.5), strict=True
    ):
        np.testing.assert_array_equal(a, b)
    same, share = augment.mix(key, IMAGE)
    np.testing.assert_array_equal(same, IMAGE)
    np.testing.assert_array_equal(share, 1.0)
    mixed, share = augment.mix(key, IMAGE, alpha=1.0)
    s, x = np.asarray(share)[:, None, None, None], np.asarray(IMAGE)
    assert_close(mixed, s * x + (1 - s) * np.roll(x, -1, axis=0), 1e-6)
