import jax
import jax.numpy as jnp
import numpy as np
from values import assert_close

from ssl_jax import color_bins
from ssl_jax.color_space import lab_to_srgb, srgb_to_lab

CENTRES = color_bins.bins()


def soft(ab, neighbors=10, sigma=5.0):
    """Section 2.2 of the paper, in plain numpy; of bins equally far the earlier ones."""
    out = np.zeros((len(ab), len(CENTRES)))
    for row, colour in zip(out, np.asarray(ab, np.float64), strict=True):
        squared = ((CENTRES.astype(np.float64) - colour) ** 2).sum(1)
        near = np.argsort(squared, kind="stable")[:neighbors]
        weights = np.exp(-squared[near] / (2 * sigma**2))
        row[near] = weights / weights.sum()
    return out


def test_bins_are_nearly_the_authors():
    """Theirs are 313, on the same grid, and begin with (-90, 50), (-90, 60)."""
    assert CENTRES.shape == (309, 2)
    assert CENTRES[:2].tolist() == [[-90, 50], [-90, 60]]
    assert not (CENTRES % 10).any()
    assert len(np.unique(CENTRES, axis=0)) == 309
    assert CENTRES.min(0).tolist() == [-90, -110]
    assert CENTRES.max(0).tolist() == [100, 100]


def test_every_colour_lies_within_the_bins_and_every_bin_near_a_colour():
    rgb = np.random.default_rng(0).random((20_000, 3))
    ab = np.asarray(srgb_to_lab(jnp.asarray(np.concatenate([rgb, rgb.round()]), jnp.float32)))[:, 1:]
    distance = np.abs(ab[:, None] - CENTRES[None])
    assert distance.max(-1).min(1).max() <= 5.0 + 1e-4
    assert color_bins.bins(20).shape[0] < 120


def test_soft_encoding_is_the_papers():
    ab = np.random.default_rng(1).uniform(-60, 60, (200, 2)).astype(np.float32)
    for neighbors in (1, 5, 10):
        encoded = jax.jit(lambda x, k=neighbors: color_bins.soft_encode(x, CENTRES, neighbors=k))(ab)
        assert_close(encoded, soft(ab, neighbors), 1e-4)
        np.testing.assert_array_equal((np.asarray(encoded) > 0).sum(1), neighbors)
    np.testing.assert_array_equal(color_bins.nearest(jnp.asarray(ab), CENTRES), soft(ab).argmax(1))


def test_ties_do_not_hang_on_rounding():
    """Grey lies as far from four bins as from others; a little noise must not choose others."""
    noise = np.random.default_rng(2).normal(scale=1e-5, size=(50, 2)).astype(np.float32)
    encoded = np.asarray(color_bins.soft_encode(jnp.asarray(np.concatenate([noise * 0, noise])), CENTRES))
    assert len(np.unique(encoded > 0, axis=0)) == 1
    assert len(set(np.asarray(color_bins.nearest(jnp.asarray(noise), CENTRES)).tolist())) == 1
    assert (encoded > 0).sum(1).tolist() == [10] * 100


def test_no_gradient_into_the_target():
    gradient = jax.grad(lambda ab: (color_bins.soft_encode(ab, CENTRES) ** 2).sum())(jnp.full((3, 2), 7.0))
    np.testing.assert_array_equal(gradient, 0)


def test_class_weights_are_the_papers():
    prior = np.random.default_rng(3).dirichlet(np.full(309, 0.1)).astype(np.float32)
    expected = 1 / (0.5 * prior.astype(np.float64) + 0.5 / 309)
    expected /= (expected * prior).sum()
    weights = color_bins.class_weights(jnp.asarray(prior))
    assert_close(weights, expected, 1e-5)
    assert abs(float((weights * prior).sum()) - 1) < 1e-5
    assert weights[np.argmin(prior)] == weights.max()
    np.testing.assert_allclose(color_bins.class_weights(jnp.asarray(prior), mix=1.0), 1.0, rtol=1e-5)


def test_annealed_mean_is_the_papers():
    logits = np.random.default_rng(4).normal(size=(6, 309)).astype(np.float32) * 3
    p = np.exp(logits.astype(np.float64)) / np.exp(logits.astype(np.float64)).sum(1, keepdims=True)
    sharp = np.exp(np.log(p) / 0.38)
    expected = (sharp / sharp.sum(1, keepdims=True)) @ CENTRES
    assert_close(color_bins.annealed_mean(jnp.asarray(logits), CENTRES), expected, 1e-5)
    cold = color_bins.annealed_mean(jnp.asarray(logits), CENTRES, temperature=1e-3)
    np.testing.assert_allclose(cold, CENTRES[logits.argmax(1)], atol=1e-3)
    warm = color_bins.annealed_mean(jnp.asarray(logits), CENTRES, temperature=1.0)
    assert_close(warm, p @ CENTRES, 1e-5)


def test_encoding_and_decoding_give_the_colour_back():
    rgb = jnp.asarray(np.random.default_rng(5).uniform(0.2, 0.8, (300, 3)), jnp.float32)
    lab = srgb_to_lab(rgb)
    encoded = color_bins.soft_encode(lab[:, 1:], CENTRES)
    ab = color_bins.annealed_mean(jnp.log(encoded + 1e-12), CENTRES, temperature=1.0)
    assert float(jnp.abs(ab - lab[:, 1:]).max()) < 2.0
    back = lab_to_srgb(jnp.concatenate([lab[:, :1], ab], axis=1))
    assert float(jnp.abs(back - rgb).max()) < 0.05
