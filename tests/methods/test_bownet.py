"""BoWNet against its formulas (the authors published no code), and its rounds against themselves."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import recipes
from values import assert_close

import ssl_jax
from ssl_jax import UserError, augment, clustering, losses, methods, nets, train
from ssl_jax.nets import functional
from ssl_jax.nets.heads import UnitLinear

ZERO = jnp.zeros((), jnp.int32)
SOURCE = ssl_jax.data.load("digits", "train[:100]")
METHOD = methods.bownet(nets.ConvNet(widths=(4, 8)), words=10, cutmix=0.5, batches=2, iterations=3)
FIELDS = {"tx": optax.adam(1e-3), "views": augment.bownet(8, flip=0.0), "batch_size": 16, "steps": 7, "rounds": 3}


class Pixels(nn.Module):
    """An encoder without parameters: the image is its map, and the flattened image the features."""

    def __call__(self, image, train):
        return image.reshape(len(image), -1), {"map": image}


class Blind(nn.Module):
    """An encoder without maps."""

    def __call__(self, image, train):
        return image.mean((1, 2))


def compare_head(data, dtype, tolerance):
    params = {"kernel": jnp.asarray(data["weight"].T, dtype), "scale": jnp.asarray(3.0, dtype)}
    phi, maps = jnp.asarray(data["phi"], dtype), jnp.asarray(np.moveaxis(data["features"], 1, -1), dtype)
    codes = clustering.hard_codes(
        clustering.squared_distances(maps.reshape(5, 36, 8), jnp.asarray(data["vocabulary"], dtype))
    )
    for kind, pool in (("histogram", "average"), ("binary", "max")):
        target = clustering.bag_of_words(codes, pool=pool)

        def loss(params, phi, target=target):
            logits, _ = functional.apply(UnitLinear(10, dtype=dtype), params, {}, phi, train=True)
            return losses.soft_cross_entropy(logits, target), logits

        gradient = jax.jit(jax.value_and_grad(loss, argnums=(0, 1), has_aux=True))
        (value, logits), (by_params, by_phi) = gradient(params, phi)
        assert_close(logits, data["logits"], tolerance)
        assert_close(value, data[f"{kind}_loss"], tolerance)
        assert_close(by_phi, data[f"{kind}_grad_phi"], tolerance)
        assert_close(by_params["kernel"].T, data[f"{kind}_grad_weight"], tolerance)
        assert_close(by_params["scale"], data[f"{kind}_grad_gamma"], tolerance)


def test_head_and_loss_equal_the_formulas(fixture):
    compare_head(fixture("bownet"), jnp.float32, 1e-5)


def test_head_and_loss_equal_the_formulas_in_float64(fixture):
    with jax.enable_x64(True):
        compare_head(fixture("bownet"), jnp.float64, 1e-12)


def started(method, rng, shape=(6, 2, 4, 4, 3)):
    batch = {"views": jnp.asarray(rng.normal(size=shape), jnp.float32)}
    params, carry = jax.jit(method.init)(jax.random.key(0), batch)
    return batch, params, carry


def test_the_first_round_tells_all_four_rotations_of_the_perturbed_view_apart():
    rng = np.random.default_rng(0)
    method = methods.bownet(Pixels(), words=4, batches=2)
    batch, params, carry = started(method, rng)
    value, (after, metrics) = jax.jit(method.loss)(params, carry, batch, jax.random.key(1), ZERO)
    head, expected, hits = params["rotation"]["dense0"], [], []
    for image in np.asarray(batch["views"][:, 1]):
        for k in range(4):
            logits = np.rot90(image, k).reshape(-1) @ np.asarray(head["kernel"]) + np.asarray(head["bias"])
            expected.append(np.log(np.exp(logits).sum()) - logits[k])
            hits.append(logits.argmax() == k)
    np.testing.assert_allclose(value, np.mean(expected), rtol=1e-5)
    np.testing.assert_allclose(metrics["task_accuracy"], np.mean(hits), rtol=1e-6)
    np.testing.assert_allclose(metrics["features"], batch["views"][:, 1].reshape(6, -1), rtol=1e-6)
    assert int(after.memory["round_step"]) == 1


@pytest.mark.parametrize("bag", ["histogram", "binary"])
def test_later_rounds_predict_the_words_of_the_clean_view(bag):
    rng = np.random.default_rng(1)
    method = methods.bownet(Pixels(), words=5, bag=bag, batches=2, scale=2.0)
    batch, params, carry = started(method, rng)
    words = rng.normal(size=(5, 3)).astype(np.float32)
    carry = carry.replace(memory={**carry.memory, "words": jnp.asarray(words), "round": ZERO + 1})
    value, _ = jax.jit(method.loss)(params, carry, batch, jax.random.key(1), ZERO)
    clean, perturbed = np.moveaxis(np.asarray(batch["views"], np.float64), 1, 0)
    nearest = ((clean.reshape(6, 16, 1, 3) - words) ** 2).sum(-1).argmin(-1)
    counts = np.stack([np.bincount(row, minlength=5) for row in nearest])
    target = counts if bag == "histogram" else (counts > 0)
    target = target / target.sum(1, keepdims=True)
    kernel = np.asarray(params["words"]["kernel"], np.float64)
    logits = 2 * perturbed.reshape(6, -1) @ (kernel / np.linalg.norm(kernel, axis=0))
    log_p = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    np.testing.assert_allclose(value, -(target * log_p).sum(1).mean(), rtol=1e-5)


def test_cutmix_pastes_a_rectangle_of_the_next_image_and_knows_its_share():
    image = jnp.broadcast_to(jnp.arange(12.0)[:, None, None, None], (12, 10, 8, 2))
    mixed, share = jax.jit(augment.cutmix)(jax.random.key(0), image)
    own = np.asarray(mixed == image)
    assert ((mixed == jnp.roll(image, -1, axis=0)) | own).all()
    np.testing.assert_allclose(share, own.mean((1, 2, 3)), rtol=1e-6)
    for pasted in ~own[..., 0]:
        rows, columns = pasted.any(1), pasted.any(0)
        assert pasted.sum() == rows.sum() * columns.sum()  # a rectangle
    assert len(np.unique(share)) > 6
    same, all_own = augment.cutmix(jax.random.key(0), image, probability=0.0)
    np.testing.assert_array_equal(same, image)
    np.testing.assert_array_equal(all_own, np.ones(12))


def test_the_clean_view_is_the_image_and_the_other_is_not():
    image = np.random.default_rng(0).integers(0, 256, (4, 8, 8, 1), np.uint8)
    views = jax.jit(augment.bownet(8))(jax.random.split(jax.random.key(0), 4), image)
    np.testing.assert_allclose(views[:, 0], image / np.float32(255), atol=1e-6)
    assert np.abs(views[:, 1] - views[:, 0]).max((1, 2, 3)).min() > 0.01


def states(**fields):
    """States after every step, on the host."""
    return [recipes.copy(state) for state, _, _ in train(METHOD, SOURCE, **{**FIELDS, **fields})]


@pytest.fixture(scope="module")
def whole():
    return states()


def test_a_boundary_freezes_the_student_and_starts_anew(whole):
    """Rounds begin at steps 0, 2 and 5: the teacher is the last round's student with its statistics, and rests."""
    assert [int(s.carry.memory["round"]) for s in whole] == [0, 0, 1, 1, 1, 2, 2]
    assert [int(s.carry.memory["round_step"]) for s in whole] == [1, 2, 1, 2, 3, 1, 2]
    assert not np.any(whole[1].carry.memory["words"])
    for last, following in ((1, (2, 3, 4)), (4, (5, 6))):
        for i in following:
            recipes.assert_same_bits(whole[i].carry.teacher["params"]["encoder"], whole[last].params["encoder"])
            recipes.assert_same_bits(whole[i].carry.teacher["model_state"], whole[last].carry.model_state)
            words = np.asarray(whole[i].carry.memory["words"])
            np.testing.assert_array_equal(words, whole[following[0]].carry.memory["words"])
            assert len(np.unique(words, axis=0)) == 10
    kernels = [np.asarray(whole[i].params["encoder"]["stage1_conv"]["kernel"]) for i in (0, 1, 2, 5)]
    assert np.abs(kernels[1] - kernels[0]).max() < 0.01, "two steps of Adam"
    assert min(np.abs(kernels[i + 1] - kernels[i]).max() for i in (1, 2)) > 0.1, "new weights"


@pytest.mark.parametrize("stopped", [2, 3, 5])
def test_a_run_that_stops_at_a_boundary_or_within_a_round_goes_on_bit_by_bit(whole, stopped):
    rest = states(state=recipes.copy(whole[stopped - 1]))
    assert len(rest) == 7 - stopped
    recipes.assert_same_bits(rest[-1], whole[-1])


def test_more_words_than_features_are_refused_before_the_first_step():
    method = methods.bownet(nets.ConvNet(widths=(4, 8)), words=2049, batches=2)
    with pytest.raises(UserError, match="2049 words among the 2048 features of 2 batches; raise `batches`"):
        next(train(method, SOURCE, **FIELDS))


def test_a_guess_is_reported_by_the_task_of_the_round():
    warn = methods.bownet(Pixels(), words=1000).warn
    logged = {
        "step": 900.0,
        "round": 0.0,
        "round_step": 300.0,
        "loss": np.log(4),
        "words_image": 0.0,
        "words_batch": 0.0,
    }
    assert "a guess among 4" in warn(logged)
    assert warn({**logged, "round_step": 5.0}) is None
    later = {**logged, "round": 1.0, "loss": np.log(1000), "words_image": 9.0, "words_batch": 100.0}
    assert "a guess among 1000" in warn(later)
    assert "same visual words" in warn({**later, "loss": 4.0, "words_batch": 9.1})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"words": 0}, "`words` must be above 0"),
        ({"batches": 0}, "`batches` must be above 0"),
        ({"iterations": 0}, "`iterations` must be above 0"),
        ({"scale": 0.0}, "`scale` must be above 0"),
        ({"bag": "counts"}, '"histogram" or "binary", not \'counts\''),
        ({"cutmix": 1.5}, r"probability in 0\.\.1, but is 1\.5"),
    ],
)
def test_impossible_settings_are_refused_when_the_method_is_built(arguments, message):
    with pytest.raises(UserError, match=message):
        methods.bownet(Pixels(), **arguments)


@pytest.mark.parametrize(
    ("encoder", "level", "shape", "message"),
    [
        (Blind(), None, (2, 2, 4, 4, 3), "returns feature maps"),
        (Pixels(), "stage3", (2, 2, 4, 4, 3), "no feature map 'stage3'; there is map"),
        (Pixels(), None, (2, 2, 4, 5, 3), "must be square"),
        (Pixels(), None, (2, 3, 4, 4, 3), "takes two views"),
    ],
)
def test_what_it_cannot_work_on_is_refused(encoder, level, shape, message):
    method = methods.bownet(encoder, words=4, level=level)
    with pytest.raises(UserError, match=message):
        method.init(jax.random.key(0), {"views": jnp.zeros(shape)})
