"""DINO's head against plain numpy."""

import jax
import jax.numpy as jnp
import numpy as np
from scipy.special import erf
from values import assert_close

from ssl_jax.nets import functional
from ssl_jax.nets.prototypes import PrototypeHead


def by_hand(params, x, layers):
    x = np.asarray(x, np.float64)
    for i in range(layers):
        layer = params[f"dense{i}"]
        x = x @ np.asarray(layer["kernel"], np.float64) + np.asarray(layer["bias"], np.float64)
        x = x if i == layers - 1 else x * (1 + erf(x / np.sqrt(2))) / 2
    x = x / np.linalg.norm(x, axis=1, keepdims=True)
    last = np.asarray(params["last"]["kernel"], np.float64)
    return x @ (last / np.linalg.norm(last, axis=0)) * np.asarray(params["last"].get("scale", 1.0)), x


def test_scores_and_embedding():
    x = jnp.asarray(np.random.default_rng(0).normal(size=(5, 6)), jnp.float32)
    for train_norms in (False, True):
        head = PrototypeHead(7, hidden=8, bottleneck=4, train_norms=train_norms)
        params, state = functional.init(head, jax.random.key(0), x)
        assert not state
        # Weights that begin at 0.02 would leave the nonlinearities untested.
        params = jax.tree.map(lambda p: 3 * p + 0.1, params)
        (scores, embedding), _ = functional.apply(head, params, state, x, train=True)
        for actual, expected in zip((scores, embedding), by_hand(params, x, 3), strict=True):
            assert_close(actual, expected)


def test_norms_are_parameters_only_if_trained():
    x = jnp.ones((2, 6))
    for train_norms, names in ((False, {"kernel"}), (True, {"kernel", "scale"})):
        head = PrototypeHead(7, hidden=8, bottleneck=4, train_norms=train_norms)
        assert set(functional.init(head, jax.random.key(0), x)[0]["last"]) == names


def test_scale_of_the_last_kernel_does_not_matter():
    x = jnp.asarray(np.random.default_rng(0).normal(size=(5, 6)), jnp.float32)
    head = PrototypeHead(7, hidden=8, bottleneck=4)
    params, state = functional.init(head, jax.random.key(0), x)
    larger = {**params, "last": {"kernel": 10 * params["last"]["kernel"]}}
    scores = [functional.apply(head, p, state, x, train=True)[0][0] for p in (params, larger)]
    assert_close(*scores)
    assert np.abs(scores[0]).max() <= 1


def test_half_precision_gives_float32():
    head = PrototypeHead(7, hidden=8, bottleneck=4, norm=True, dtype=jnp.bfloat16)
    params, state = functional.init(head, jax.random.key(0), jnp.ones((2, 6)))
    (scores, embedding), _ = functional.apply(head, params, state, jnp.ones((2, 6)), train=True)
    assert scores.dtype == embedding.dtype == jnp.float32
