import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from values import assert_close

from ssl_jax.nets.detector import Detector, FeaturePyramid
from ssl_jax.nets.norm import GroupNorm

MAPS = tuple(jax.random.normal(jax.random.key(i), (2, n, n, c)) for i, (n, c) in enumerate(((8, 3), (4, 5), (2, 6))))


def test_levels_are_laterals_plus_what_is_above():
    """By hand, with the 3 x 3 convolutions as identities."""
    pyramid = FeaturePyramid(width=8)
    params = jax.jit(pyramid.init)(jax.random.key(0), MAPS)["params"]
    identity = jnp.zeros((3, 3, 8, 8)).at[1, 1].set(jnp.eye(8))
    params = {k: {**v, "conv": {"kernel": identity}} if k.startswith("level") else v for k, v in params.items()}
    levels = jax.jit(pyramid.apply)({"params": params}, MAPS)
    params, maps = jax.tree.map(np.asarray, (params, MAPS))
    above = 0.0
    for i in (2, 1, 0):
        own = maps[i] @ params[f"lateral{i}"]["kernel"] + params[f"lateral{i}"]["bias"][None, None, None]
        above = own if i == 2 else own + np.repeat(np.repeat(above, 2, axis=1), 2, axis=2)
        assert_close(levels[i], above)


def test_extra_levels_and_sizes_that_do_not_halve():
    maps = (jnp.ones((1, 7, 5, 3)), jnp.ones((1, 4, 3, 3)))
    levels, _ = jax.eval_shape(FeaturePyramid(width=8, extra=2).init_with_output, jax.random.key(0), maps)
    assert [x.shape for x in levels] == [(1, 7, 5, 8), (1, 4, 3, 8), (1, 2, 2, 8), (1, 1, 1, 8)]


def test_predictions_of_all_places_in_order():
    detector = Detector(classes=3, width=16, depth=1)
    variables = jax.jit(functools.partial(detector.init, train=False))(jax.random.key(0), MAPS)
    predict = jax.jit(lambda maps: detector.apply(variables, maps, train=False))
    output, shapes = predict(MAPS)
    assert shapes == ((8, 8), (4, 4), (2, 2))
    assert {k: v.shape for k, v in output.items()} == {
        "class_logits": (2, 84, 3),
        "centre_logits": (2, 84),
        "distances": (2, 84, 4),
    }
    output = jax.tree.map(np.asarray, output)
    assert (output["distances"] > 0).all()
    assert_close(np.mean(1 / (1 + np.exp(-output["class_logits"]))), 0.01, 0.2)  # the prior
    # The head is one for all levels: only its scales tell them apart.
    assert variables["params"]["head"]["scales"].shape == (3,)
    changed = (MAPS[0].at[0, 0, 0].add(5.0), *MAPS[1:])
    other, _ = predict(changed)
    moved = np.abs(other["class_logits"] - output["class_logits"])[0].max(axis=-1)
    assert moved[0] > 1e-6
    assert moved[64:].max() < 1e-6  # coarser levels don't see finer maps


def test_half_precision_gives_float32():
    detector = Detector(classes=3, width=8, depth=1, dtype=jnp.bfloat16)
    run = functools.partial(detector.init_with_output, train=False)
    (output, _), variables = jax.eval_shape(run, jax.random.key(0), MAPS)
    assert {x.dtype for x in jax.tree.leaves((output, variables))} == {jnp.dtype("float32")}


def test_group_norm_is_flaxs():
    x = 3 * jax.random.normal(jax.random.key(0), (2, 4, 3, 16)) + 5
    own, theirs = GroupNorm(size=8), nn.GroupNorm(num_groups=None, group_size=8, epsilon=1e-5)
    variables = {"params": {"scale": jnp.arange(16.0), "bias": jnp.ones(16)}}
    assert_close(own.apply(variables, x), theirs.apply(variables, x))
