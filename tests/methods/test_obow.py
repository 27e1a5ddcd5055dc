"""OBoW against the figures of the authors' code (valeoai/obow, `builder_obow.py`) and numpy."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from values import assert_close

from ssl_jax import losses, methods, nets, schedules
from ssl_jax.core import UserError
from ssl_jax.nets import functional
from ssl_jax.nets.heads import WeightGenerator

ZERO = jnp.zeros((), jnp.int32)


class Pixels(nn.Module):
    """An encoder without parameters: the image is its map, and the map's mean the features."""

    def __call__(self, image, train):
        return image.mean((1, 2)), {"low": image[:, ::2, ::2, :2], "high": image}


class Blind(nn.Module):
    """An encoder without maps."""

    def __call__(self, image, train):
        return image.mean((1, 2))


def generator_of(data, level, dtype):
    """The authors' weights in our names."""
    at = f"state/layers_w.{level}.b{level}_"
    params = {
        "dense0": {"kernel": data[f"{at}fc.weight"].T},
        "norm0": {"scale": data[f"{at}bn.weight"], "bias": data[f"{at}bn.bias"]},
        "dense1": {"kernel": data[f"{at}last_layer.weight"].T, "bias": data[f"{at}last_layer.bias"]},
    }
    stats = {"mean": data[f"{at}bn.running_mean"], "var": data[f"{at}bn.running_var"]}
    cast = lambda tree: jax.tree.map(lambda x: jnp.asarray(x, dtype), tree)  # noqa: E731
    return cast(params), {"batch_stats": {"norm0": jax.tree.map(jnp.asarray, stats)}}


def compare_predictor(data, dtype, tolerance):
    generator = WeightGenerator(10, dtype=dtype)
    params, states = zip(*(generator_of(data, level, dtype) for level in range(2)), strict=True)
    features = [jnp.asarray(data[f"features{i}"], dtype) for i in range(2)]
    words = [jnp.asarray(data[f"dictionary{level}"], dtype) for level in range(2)]
    bags = [jnp.asarray(data[f"target{level}"], dtype) for level in range(2)]

    def loss(params, features):
        weights = [functional.apply(generator, params[i], states[i], words[i], train=True)[0] for i in range(2)]
        logits = [[8 * jnp.matmul(x, w.T, precision="highest") for w in weights] for x in features]
        values = [
            sum(losses.kl_divergence(z, jnp.repeat(y, len(z) // 4, axis=0)) for z, y in zip(row, bags, strict=True)) / 2
            for row in logits
        ]
        return sum(values), (weights, logits, values)

    gradient = jax.jit(jax.value_and_grad(loss, argnums=(0, 1), has_aux=True))
    (_, (weights, logits, values)), (by_params, by_features) = gradient(params, features)
    for i in range(2):
        assert_close(weights[i], data[f"weight{i}"], tolerance)
        assert_close(values[i], data[f"loss{i}"], tolerance)
        assert_close(by_features[i], data[f"grad_features{i}"], tolerance)
        for level in range(2):
            assert_close(logits[i][level], data[f"logits{i}_{level}"], tolerance)
        at = f"grad/layers_w.{i}.b{i}_"
        assert_close(by_params[i]["dense0"]["kernel"].T, data[f"{at}fc.weight"], tolerance)
        assert_close(by_params[i]["norm0"]["scale"], data[f"{at}bn.weight"], tolerance)
        assert_close(by_params[i]["norm0"]["bias"], data[f"{at}bn.bias"], tolerance)
        assert_close(by_params[i]["dense1"]["kernel"].T, data[f"{at}last_layer.weight"], tolerance)
        assert_close(by_params[i]["dense1"]["bias"], data[f"{at}last_layer.bias"], tolerance)


def test_predictor_and_loss_equal_the_authors(fixture):
    compare_predictor(fixture("obow_predictor"), jnp.float32, 2e-5)


def test_predictor_and_loss_equal_the_authors_in_float64(fixture):
    with jax.enable_x64(True):
        compare_predictor(fixture("obow_predictor"), jnp.float64, 1e-12)


def batch_of(rng, b, *, c=3):
    shapes = [(b, 1, 6, 6, c), (b, 2, 4, 4, c), (b, 3, 2, 2, c)]
    return {"views": tuple(jnp.asarray(np.maximum(rng.normal(size=s), 0), jnp.float32) for s in shapes)}


def expected_step(params, carry, batch, kappa=8.0, inverse=15.0):
    """One step in numpy, from the vocabulary as it was: the loss, mean distances and what may enter the vocabulary."""
    whole, *groups = (np.asarray(x, np.float64) for x in batch["views"])
    value, means, candidates = 0.0, [], {}
    for i, level in enumerate(("low", "high")):
        words = np.asarray(carry.memory["words"][level], np.float64)
        maps = whole[:, 0, ::2, ::2, :2] if level == "low" else whole[:, 0]
        maps = maps[:, 1:-1, 1:-1]
        apart = ((maps[..., None, :] - words) ** 2).sum(-1).reshape(len(maps), -1, len(words))
        means.append(0.99 * float(carry.memory["distance"][i]) + 0.01 * apart.min(-1).mean())
        codes = np.exp(-apart * inverse / means[i])
        bag = (codes / codes.sum(-1, keepdims=True)).max(1)
        bag /= bag.sum(-1, keepdims=True)
        n = min(3, maps.shape[1])
        count = maps.shape[1] - n + 1
        squares = [maps[:, y : y + n, x : x + n].mean((1, 2)) for y in range(count) for x in range(count)]
        candidates[level] = np.stack(squares, 1)
        p = jax.tree.map(lambda x: np.asarray(x, np.float64), params["predictor"][level])
        hidden = words / np.maximum(np.linalg.norm(words, axis=1, keepdims=True), 1e-12) @ p["dense0"]["kernel"]
        hidden = (hidden - hidden.mean(0)) / np.sqrt(hidden.var(0) + 1e-5) * p["norm0"]["scale"] + p["norm0"]["bias"]
        weight = np.maximum(hidden, 0) @ p["dense1"]["kernel"] + p["dense1"]["bias"]
        weight /= np.linalg.norm(weight, axis=1, keepdims=True)
        for group in groups:
            logits = kappa * group.mean((2, 3)) @ weight.T
            log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
            log_bag = np.log(np.where(bag > 0, bag, 1))
            value += (bag[:, None] * (log_bag[:, None] - log_p)).sum(-1).mean() / 2
    return value, means, candidates


@pytest.mark.parametrize(("batch", "size"), [(4, 8), (3, 7), (9, 7)])
def test_steps_equal_numpy_whatever_the_batch_and_the_vocabulary(batch, size):
    """Predictions and codes come from the vocabulary before its update, which takes one average of each image."""
    method, rng = methods.obow(Pixels(), words=size), np.random.default_rng(0)
    params, carry = jax.jit(method.init)(jax.random.key(0), batch_of(rng, 2))
    assert min(float(carry.memory["words"][level].min()) for level in ("low", "high")) == 0
    np.testing.assert_array_equal(carry.memory["distance"], [0.5, 0.5])
    loss, pointer = jax.jit(method.loss), 0
    for step in range(3):
        views = batch_of(rng, batch)
        expected, means, candidates = expected_step(params, carry, views)
        before = carry.memory
        value, (carry, metrics) = loss(params, carry, views, jax.random.key(step), ZERO)
        np.testing.assert_allclose(value, expected, rtol=2e-5)
        np.testing.assert_allclose(carry.memory["distance"], means, rtol=1e-5)
        assert metrics["embedding"].shape == metrics["features"].shape == (batch, 3)
        written = [(pointer + i) % size for i in range(batch)]
        pointer = (pointer + batch) % size
        assert int(carry.memory["pointer"]) == pointer
        for level, averages in candidates.items():
            words = np.asarray(carry.memory["words"][level])
            kept = np.setdiff1d(np.arange(size), written)
            np.testing.assert_array_equal(words[kept], np.asarray(before["words"][level])[kept])
            for image, row in list(enumerate(written))[-size:]:
                assert np.abs(averages[image] - words[row]).max(-1).min() < 1e-6


def test_hard_assignment_is_the_limit_of_the_soft_one():
    rng = np.random.default_rng(1)
    batch, values, words = batch_of(rng, 4), [], jnp.asarray(rng.normal(size=(8, 3)), jnp.float32)
    for inverse in (None, 1e7):
        method = methods.obow(Pixels(), words=8, inverse_temperature=inverse, levels=("high",))
        params, carry = jax.jit(method.init)(jax.random.key(0), batch)
        assert list(carry.memory["words"]) == ["high"]
        carry = carry.replace(memory={**carry.memory, "words": {"high": words}})  # without equal ones
        values.append(jax.jit(method.loss)(params, carry, batch, jax.random.key(1), ZERO)[0])
    np.testing.assert_allclose(*values, rtol=1e-4)


def test_the_average_covers_parameters_and_not_batch_statistics():
    """The teacher normalises by its own batch, and keeps running statistics of its own."""
    encoder = nets.ConvNet(widths=(4, 8))
    method = methods.obow(encoder, words=8, momentum=0.9)
    rng = np.random.default_rng(2)
    batch = {"views": tuple(jnp.asarray(rng.normal(size=(4, v, 8, 8, 1)), jnp.float32) for v in (1, 2))}
    params, carry = jax.jit(method.init)(jax.random.key(0), batch)
    _, (after, _) = jax.jit(method.loss)(params, carry, batch, jax.random.key(1), ZERO)
    moved = jax.tree.map(lambda x: x + 1, params)
    updated = method.update(moved, after, ZERO)
    jax.tree.map(np.testing.assert_array_equal, updated.teacher["model_state"], after.teacher["model_state"])
    jax.tree.map(np.testing.assert_array_equal, updated.model_state, after.model_state)
    expected = jax.tree.map(lambda x: x + 0.1, {"encoder": params["encoder"]})
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), updated.teacher["params"], expected)
    encode = jax.jit(lambda p, s, x: functional.encode(encoder, p, s, x, train=True)[2])
    seen = encode(params["encoder"], carry.model_state["encoder"], batch["views"][0][:, 0])
    own = after.teacher["model_state"]["encoder"]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), own, seen)


def test_the_teacher_that_makes_targets_is_that_of_the_authors():
    """They average before targets are made, at every step's start: here over parameters that change at random."""
    steps, rng = 6, np.random.default_rng(3)
    path = rng.normal(size=steps + 1).astype(np.float32)
    method = methods.obow(Pixels(), words=8, momentum=schedules.cosine(0.9, 1.0, steps=steps))
    _, carry = jax.jit(method.init)(jax.random.key(0), batch_of(rng, 2))
    tree = lambda x: {"encoder": {"w": jnp.asarray(x)}}  # noqa: E731
    carry = carry.replace(teacher={"params": tree(path[0]), "model_state": {}})
    theirs = path[0]
    for i in range(steps):
        alpha = 1 - 0.1 * 0.5 * (1 + np.cos(np.pi * i / steps))
        theirs = alpha * theirs + (1 - alpha) * path[i]
        np.testing.assert_allclose(carry.teacher["params"]["encoder"]["w"], theirs, rtol=1e-5)
        carry = method.update(tree(path[i + 1]), carry, jnp.asarray(i, jnp.int32))


def test_images_that_hold_the_same_words_are_reported():
    warn, logged = methods.obow(Pixels()).warn, {"step": 300.0, "words_image_a": 20.0, "words_batch_a": 20.2}
    assert "same visual words (words_image_a 20.0, in the whole batch 20.2)" in warn(logged)
    assert warn({**logged, "step": 10.0}) is None
    assert warn({**logged, "words_batch_a": 60.0}) is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"words": 0}, "`words` must be above 0, but is 0"),
        ({"levels": 0}, "`levels` must be above 0"),
        ({"levels": ()}, "`levels` must be above 0"),
        ({"inverse_temperature": -1.0}, "`inverse_temperature` must be above 0"),
        ({"kappa": 0.0}, "`kappa` must be above 0"),
        ({"momentum": 1.5}, r"momentum in 0\.\.1"),
        ({"border": -1}, "`border` must be at least 0"),
        ({"pool": "sum"}, '"max" or "average", not \'sum\''),
    ],
)
def test_impossible_settings_are_refused_when_the_method_is_built(arguments, message):
    with pytest.raises(UserError, match=message):
        methods.obow(Pixels(), **arguments)


@pytest.mark.parametrize(
    ("encoder", "levels", "message"),
    [(Blind(), 2, "returns feature maps"), (Pixels(), ("stage3",), "no feature map 'stage3'; there is low, high")],
)
def test_an_encoder_without_the_maps_is_refused(encoder, levels, message):
    method = methods.obow(encoder, levels=levels, words=8)
    with pytest.raises(UserError, match=message):
        method.init(jax.random.key(0), batch_of(np.random.default_rng(0), 2))


def test_views_that_are_not_a_teachers_and_crops_are_refused():
    method, batch = methods.obow(Pixels(), words=8), batch_of(np.random.default_rng(0), 2)
    params, carry = jax.jit(method.init)(jax.random.key(0), batch)
    for views in (batch["views"][1], batch["views"][1:]):
        with pytest.raises(UserError, match=r"teacher's view \[b, 1, h, w, c\] and crops"):
            method.loss(params, carry, {"views": views}, jax.random.key(0), ZERO)
