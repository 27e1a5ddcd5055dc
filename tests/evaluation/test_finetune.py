import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from values import assert_close

from ssl_jax import data, nets
from ssl_jax.core import Carry, UserError
from ssl_jax.evaluation import FineTuning, classify, few_label_head, fine_tune, from_scratch
from ssl_jax.evaluation.finetune import with_average
from ssl_jax.methods import supervised
from ssl_jax.nets import functional

ENCODER = nets.ConvNet(widths=(4, 8), pool=(1,))
BRIEF = FineTuning(
    steps=3,
    batch_size=16,
    head_rate=0.1,
    trunk_rate=0.02,
    optimizer="sgd",
    head="zero",
    warmup=0.0,
    frozen_statistics=False,
)


@pytest.fixture(scope="module")
def sources():
    return data.load("digits", "train[:16]"), data.load("digits", "test[:43]")


@pytest.fixture(scope="module")
def pretrained():
    """Parameters and statistics that are not those of any seed here."""
    image = jax.random.uniform(jax.random.key(7), (32, 8, 8, 1))
    params, state = jax.jit(lambda: functional.init(ENCODER, jax.random.key(5), image))()
    return params, functional.encode(ENCODER, params, state, image, train=True)[2]


@pytest.fixture(scope="module")
def tuned(pretrained, sources):
    return fine_tune(ENCODER, *pretrained, *sources, recipe=BRIEF)


def pixels(source):
    return jnp.asarray(source[np.arange(len(source))]["image"], jnp.float32) / 255


def test_three_steps_equal_a_loop_by_hand(pretrained, sources, tuned):
    """All images are one batch, so that their order does not matter; two rates, a cosine, no weight decay on biases."""
    train, test = sources
    image, labels = pixels(train), jnp.asarray(train.labels)
    params = {"encoder": pretrained[0], "kernel": jnp.zeros((8, 10)), "bias": jnp.zeros((10,))}
    state, velocity = pretrained[1], jax.tree.map(jnp.zeros_like, params)

    def loss(params, state):
        pooled, _, state = functional.encode(ENCODER, params["encoder"], state, image, train=True)
        logits = pooled @ params["kernel"] + params["bias"][None]
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean(), state

    for k in range(3):
        grads, state = jax.jit(jax.grad(loss, has_aux=True))(params, state)
        velocity = jax.tree.map(lambda v, g, p: 0.9 * v + g + 1e-4 * p, velocity, grads, params)
        head = 0.1 * (1 + np.cos(np.pi * k / 3)) / 2
        rates = {"encoder": jax.tree.map(lambda _, r=head: 0.2 * r, params["encoder"]), "kernel": head, "bias": head}
        params = jax.tree.map(lambda p, v, r: p - jnp.float32(r) * v, params, velocity, rates)
    jax.tree.map(lambda a, b: assert_close(a, b, 1e-4), tuned.params["encoder"], params["encoder"])
    assert_close(tuned.params["classifier"]["dense0"]["kernel"], params["kernel"], 1e-4)
    jax.tree.map(lambda a, b: assert_close(a, b, 1e-4), tuned.model_state["encoder"], state)
    pooled, _, _ = functional.encode(ENCODER, params["encoder"], state, pixels(test), train=False)
    predicted = np.argmax(pooled @ params["kernel"] + params["bias"][None], axis=1)
    assert tuned.accuracy == pytest.approx(np.mean(predicted == test.labels))
    np.testing.assert_array_equal(classify(ENCODER, tuned.params, tuned.model_state, test), predicted)
    assert (tuned.steps, tuned.ema_accuracy, tuned.average) == (3, None, None)


def test_the_same_bits_again_and_what_was_given_stays(pretrained, sources, tuned):
    before = jax.tree.map(np.array, pretrained)
    again = fine_tune(ENCODER, *pretrained, *sources, recipe=BRIEF)
    jax.tree.map(np.testing.assert_array_equal, before, jax.tree.map(np.asarray, pretrained))
    jax.tree.map(np.testing.assert_array_equal, again.params, tuned.params)
    assert again.accuracy == tuned.accuracy


def test_a_network_that_is_not_finite_has_no_accuracy(pretrained, sources):
    """All of its steps are skipped, so that it would end as it began, with class 0 for every image."""
    broken = jax.tree.map(lambda x: np.full_like(x, np.nan), pretrained[0])
    with pytest.raises(UserError, match="its loss or gradient is not finite: the network's weights"):
        fine_tune(ENCODER, broken, pretrained[1], *sources, recipe=BRIEF)
    params = {
        "encoder": broken,
        "classifier": {"dense0": {"kernel": np.ones((8, 10), np.float32), "bias": np.ones(10, np.float32)}},
    }
    with pytest.raises(UserError, match=r"gives NaN or infinity for 43 of the 43 images of digits"):
        classify(ENCODER, params, {"encoder": pretrained[1]}, sources[1])


def test_from_scratch_is_by_seed(sources):
    recipe = from_scratch(dataclasses.replace(BRIEF, steps=1), rate=0.1)
    first, same, other = (fine_tune(ENCODER, None, None, *sources, recipe=recipe, seed=s) for s in (0, 0, 1))
    jax.tree.map(np.testing.assert_array_equal, first.params, same.params)
    kernels = [found.params["encoder"]["stage1_conv"]["kernel"] for found in (first, other)]
    assert np.abs(np.subtract(*kernels)).max() > 0.01


def test_a_frozen_trunk_keeps_every_bit_and_begins_with_the_probe(pretrained, sources):
    """With hardly any rate the head is the one that few labels give: standardised, 100 steps, penalty 0.1."""
    train, test = sources
    recipe = dataclasses.replace(BRIEF, trunk_rate=0.0, head="probe", head_rate=1e-12, weight_decay=0.1)
    found = fine_tune(ENCODER, *pretrained, train, test, recipe=recipe)
    jax.tree.map(np.testing.assert_array_equal, found.params["encoder"], pretrained[0])
    jax.tree.map(np.testing.assert_array_equal, found.model_state["encoder"], pretrained[1])
    features = np.asarray(functional.encode(ENCODER, *pretrained, pixels(train), train=False)[0])
    head = few_label_head(features, train.labels, features)
    assert_close(found.params["classifier"]["dense0"]["kernel"], head["kernel"], 1e-3)
    assert_close(found.params["classifier"]["dense0"]["bias"], head["bias"], 1e-3)
    learnt = fine_tune(ENCODER, *pretrained, train, test, recipe=dataclasses.replace(recipe, head_rate=0.1))
    jax.tree.map(np.testing.assert_array_equal, learnt.params["encoder"], pretrained[0])
    moved = learnt.params["classifier"]["dense0"]["kernel"] - found.params["classifier"]["dense0"]["kernel"]
    assert np.abs(moved).max() > 1e-3


def test_frozen_statistics_stay_while_the_trunk_learns(pretrained, sources):
    found = fine_tune(ENCODER, *pretrained, *sources, recipe=dataclasses.replace(BRIEF, frozen_statistics=True))
    jax.tree.map(np.testing.assert_array_equal, found.model_state["encoder"], pretrained[1])
    assert np.abs(found.params["encoder"]["stage1_conv"]["kernel"] - pretrained[0]["stage1_conv"]["kernel"]).max() > 0


def test_the_average_is_evaluated_beside(pretrained, sources):
    """A momentum that never counts: the average is over (1 + k) / (10 + k), by hand for the three steps."""
    states = [
        fine_tune(ENCODER, *pretrained, *sources, recipe=dataclasses.replace(BRIEF, schedule="constant", steps=k))
        for k in (1, 2)
    ]
    recipe = dataclasses.replace(BRIEF, schedule="constant", steps=2, ema=0.9)
    found = fine_tune(ENCODER, *pretrained, *sources, recipe=recipe)
    expected = pretrained[0]
    for k, state in enumerate(states):
        m = min(0.9, (1 + k) / (10 + k))
        expected = jax.tree.map(lambda a, b, m=m: m * a + (1 - m) * b, expected, state.params["encoder"])
    jax.tree.map(lambda a, b: assert_close(a, b, 1e-5), found.average["params"]["encoder"], expected)
    jax.tree.map(np.testing.assert_array_equal, found.params, states[1].params)
    average = found.average
    predicted = classify(ENCODER, average["params"], average["model_state"], sources[1])
    assert found.ema_accuracy == pytest.approx(np.mean(predicted == sources[1].labels))


def test_an_average_reaches_its_momentum():
    method = with_average(supervised(ENCODER, classes=2), 0.5)
    at = lambda x: {"params": {"w": jnp.full(1, x)}, "model_state": {"s": jnp.full(1, x)}}  # noqa: E731
    carry = Carry(model_state={"s": jnp.full(1, 8.0)}, teacher=at(0.0))
    late = method.update({"w": jnp.full(1, 8.0)}, carry, jnp.int32(1000))
    jax.tree.map(np.testing.assert_array_equal, late.teacher, at(4.0))


def test_fewer_images_than_devices_and_views(pretrained, sources):
    """Three images on eight devices are shown over and over; the views are what the loss sees."""
    train, test = sources
    few, seen = data.Subset(train, np.asarray([0, 1, 2])), []

    def views(keys, image):
        seen.append(image.shape)
        return image[:, None].astype(jnp.float32) / 255

    found = fine_tune(ENCODER, *pretrained, few, test, recipe=BRIEF, views=views)
    assert (8, 8, 8, 1) in seen
    assert found.params["classifier"]["dense0"]["kernel"].shape == (8, 10)


def test_what_does_not_fit_is_an_error(pretrained, sources):
    train, test = sources
    other = nets.ConvNet(widths=(4, 6), pool=(1,))
    with pytest.raises(UserError, match=r"parameters are of another encoder, .*stage2_conv/kernel is \[3, 3, 4, 8\]"):
        fine_tune(other, *pretrained, train, test)
    with pytest.raises(UserError, match=r"batch statistics are of another .*batch_stats/stage1_norm/mean is missing"):
        fine_tune(ENCODER, pretrained[0], None, train, test)
    unlabelled = data.from_arrays(train[np.arange(16)]["image"], name="mine")
    for pair in ((unlabelled, test), (train, unlabelled)):
        with pytest.raises(UserError, match="mine has no labels; for folders, one folder per class"):
            fine_tune(ENCODER, *pretrained, *pair)
    renamed = data.from_arrays(test[np.arange(43)]["image"], test.labels, [f"{i}!" for i in range(10)], name="mine")
    with pytest.raises(UserError, match=r"digits train\[:16\] and mine have different classes"):
        fine_tune(ENCODER, *pretrained, train, renamed)
