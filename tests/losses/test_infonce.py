import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads
from values import assert_close

from ssl_jax import losses


def arrays(dtype=np.float32, b=5, k=7, d=6):
    rng = np.random.default_rng(0)
    query, key, queue = rng.normal(size=(b, d)), rng.normal(size=(b, d)), rng.normal(size=(k, d))
    queue /= np.linalg.norm(queue, axis=1, keepdims=True)
    return [jnp.asarray(x, dtype) for x in (query, key, queue)]


def numpy_infonce(query, key, negatives, temperature):
    """Equation 1 of MoCo row by row in float64."""
    query, key, negatives = (np.asarray(x, np.float64) for x in (query, key, negatives))
    values = []
    for q, k in zip(query, key, strict=True):
        q, k = q / np.linalg.norm(q), k / np.linalg.norm(k)
        scores = np.concatenate([[q @ k], negatives @ q]) / temperature
        shift = scores.max()
        values.append(shift + np.log(np.exp(scores - shift).sum()) - scores[0])
    return np.mean(values)


@pytest.mark.parametrize("temperature", [0.005, 0.07, 0.2, 1.0])
def test_value_equals_the_formula(temperature):
    query, key, negatives = arrays()
    value = losses.infonce(query, key, negatives, temperature=temperature)
    assert value.dtype == jnp.float32
    assert_close(value, numpy_infonce(query, key, negatives, temperature), 1e-5)


def test_value_equals_the_formula_in_float64():
    with jax.enable_x64(True):
        query, key, negatives = arrays(np.float64)
        value = losses.infonce(query, key, negatives, temperature=0.07)
        assert value.dtype == jnp.float64
        assert_close(value, numpy_infonce(query, key, negatives, 0.07), 1e-12)


def test_the_gradient_is_that_of_central_differences():
    with jax.enable_x64(True):
        check_grads(
            jax.jit(losses.infonce), arrays(np.float64, b=2, k=3, d=4), order=1, modes=["rev"], atol=1e-6, rtol=1e-6
        )


def test_the_positive_stands_first_and_negatives_follow_in_order():
    query, key, negatives = arrays()
    logits = losses.infonce_logits(query, key, negatives, temperature=0.5)
    unit = query / np.linalg.norm(query, axis=1, keepdims=True)
    assert logits.shape == (5, 8)
    assert_close(logits[:, 0], 2 * np.sum(unit * key, axis=1) / np.linalg.norm(key, axis=1), 1e-6)
    assert_close(logits[:, 1:], 2 * unit @ negatives.T, 1e-6)


def test_half_precision_is_computed_in_float32():
    query, key, negatives = arrays(jnp.bfloat16)
    value = losses.infonce(query, key, negatives)
    assert value.dtype == jnp.float32
    assert_close(value, losses.infonce(*(x.astype(jnp.float32) for x in (query, key, negatives))), 1e-6)


@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float32, 1e-5), (np.float64, 1e-12)])
def test_infonce_among_equals_the_reference_of_cpcs_bilinear_score(fixture, dtype, tolerance):
    """Van den Oord et al., 2018, equations 3 and 4: value and gradients by targets, contexts and the matrix."""
    data = fixture("cpc")
    with jax.enable_x64(dtype == np.float64):
        z, c, w = (jnp.asarray(data[name], dtype) for name in ("z", "c", "W"))

        def loss(z, c, w):
            prediction = jnp.matmul(c, w.T, precision="highest")
            return losses.infonce_among(prediction, z, jnp.arange(len(z), dtype=jnp.int32))[0]

        value, gradients = jax.value_and_grad(loss, (0, 1, 2))(z, c, w)
        assert value.dtype == dtype
        assert_close(value, data["loss"], tolerance)
        for name, gradient in zip(("z", "c", "W"), gradients, strict=True):
            assert_close(gradient, data[f"grad_{name}"], tolerance)


def test_infonce_among_takes_any_targets_place_and_counts_hits():
    candidate = jnp.eye(4) * 5
    prediction = candidate[jnp.asarray([2, 0, 3])]
    value, hits = losses.infonce_among(prediction, candidate, jnp.asarray([2, 0, 3], jnp.int32))
    assert hits == 1
    assert value == pytest.approx(np.log(1 + 3 * np.exp(-25)), abs=1e-6)
    wrong, hits = losses.infonce_among(prediction, candidate, jnp.asarray([2, 0, 1], jnp.int32))
    assert hits == pytest.approx(2 / 3)
    assert wrong > 8


def compare_mocov3(data, temperature, dtype, tolerance):
    """Both directions, each times 2 tau, as solo-learn's."""

    def one(query, key):
        return 2 * temperature * losses.infonce_in_batch(query, key, temperature=temperature)

    q1, q2, k1, k2 = (jnp.asarray(data[name], dtype) for name in ("q1", "q2", "k1", "k2"))
    both = lambda q1, q2: one(q1, k2) + one(q2, k1)  # noqa: E731
    value, gradients = jax.jit(jax.value_and_grad(both, argnums=(0, 1)))(q1, q2)
    assert value.dtype == dtype
    assert_close(one(q1, k2), data[f"t{temperature}/single"], tolerance)
    assert_close(value, data[f"t{temperature}/loss"], tolerance)
    assert_close(gradients[0], data[f"t{temperature}/grad_q1"], tolerance)
    assert_close(gradients[1], data[f"t{temperature}/grad_q2"], tolerance)


@pytest.mark.parametrize("temperature", [0.2, 1.0])
def test_values_and_gradients_in_the_batch_equal_moco_v3s(fixture, temperature):
    compare_mocov3(fixture("mocov3"), temperature, jnp.float32, 1e-5)


@pytest.mark.parametrize("temperature", [0.2, 1.0])
def test_values_and_gradients_in_the_batch_equal_moco_v3s_in_float64(fixture, temperature):
    with jax.enable_x64(True):
        compare_mocov3(fixture("mocov3"), temperature, jnp.float64, 1e-12)


def test_hits_are_queries_whose_own_key_is_nearest():
    key = jnp.eye(4)
    query = jnp.asarray([[3.0, 1, 0, 0], [0, 2, 1, 0], [0, 1, 0.5, 0], [1, 0, 0, 0.1]])
    assert [losses.infonce_with_accuracy(query, key, form=form)[1] for form in ("dense", "tiled")] == [0.5, 0.5]


@pytest.mark.parametrize("form", ["dense", "tiled"])
def test_equal_keys_are_no_hits(form):
    """A collapse is no perfect score, in the batch or beside a queue of the same embedding."""
    x = jnp.ones((4, 3), jnp.float32) / 3**0.5
    assert losses.infonce_with_accuracy(x, x, form=form)[1] == 0
    assert losses.infonce_with_accuracy(x, x, x[:3], form=form)[1] == 0
