"""Recipes: equal to their parts, one key per example, no dependence on batch, formulation or devices."""

import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from ssl_jax import augment
from ssl_jax.augment import color, view
from ssl_jax.core import UserError

EVERYTHING = augment.View(
    flip=0.5,
    jitter=(0.8, 0.8, 0.8, 0.2),
    jitter_prob=0.8,
    grey_prob=0.3,
    blur_prob=0.5,
    solarize_prob=0.3,
    erase_prob=0.5,
    noise=0.1,
    drop=0.2,
)
STATS = {"mean": (0.5, 0.4, 0.3), "std": (0.2, 0.25, 0.3)}


def images(b, size=16, channels=3):
    return jnp.asarray(np.random.default_rng(0).integers(0, 256, (b, size, size, channels)), jnp.uint8)


def keys(b):
    return jax.random.split(jax.random.key(1), b)


def by_hand(key, image, recipe, size):
    """One view of one image, step after step, with the public single-image functions."""
    drawn = jax.jit(view.draw, static_argnums=(1, 2, 3))(key, recipe, image.shape, size)
    box = [int(drawn.rows[0].min()), int(drawn.columns[0].min())]
    box += [int(n.max()) + 1 - start for n, start in zip((drawn.rows[0], drawn.columns[0]), box, strict=True)]
    x = augment.crop_and_resize(image.astype(jnp.float32) / 255, jnp.array(box), (size, size))
    if drawn.flip:
        x = augment.flip_left_right(x)
    if drawn.jitter[0]:
        adjust = [augment.adjust_brightness, augment.adjust_contrast, augment.adjust_saturation, augment.adjust_hue]
        for i in drawn.jitter[2]:
            x = adjust[int(i)](x, drawn.jitter[1][i])
    if drawn.grey[0]:
        x = augment.to_grey(x)
    if drawn.blur[0]:
        weights = drawn.blur[1]
        sigma = float(np.sqrt(0.5 / np.log(weights[1] / weights[0])))
        x = augment.gaussian_blur(x, sigma, taps=len(weights))
    if drawn.solarize[0]:
        x = augment.solarize(x)
    x = augment.normalize(x + jnp.transpose(drawn.noise, (1, 2, 0)), STATS["mean"], STATS["std"])
    if drawn.erase[0]:
        top, left, h, w = (int(n) for n in drawn.erase[1])
        x = x.at[top : top + h, left : left + w].set(0)
    return x.at[drawn.drop].set(0)


def test_views_equal_their_parts():
    # Crops of at least three quarters: then the first and last taps of a crop tell its box.
    recipe = dataclasses.replace(EVERYTHING, crop_scale=(0.75, 1.0))
    made = jax.jit(augment.views([recipe], size=16, **STATS))(keys(12), images(12))
    for key, image, got in zip(keys(12), images(12), np.asarray(made[:, 0]), strict=True):
        expected = by_hand(jax.random.split(key, 1)[0], image, recipe, 16)
        np.testing.assert_allclose(got, expected, atol=2e-4)


@pytest.mark.parametrize(("channels", "method"), [(1, "linear"), (3, "linear"), (3, "cubic"), (4, "cubic")])
def test_loop_equals_batch(channels, method):
    recipe = [dataclasses.replace(EVERYTHING, method=method), augment.View(crop_scale=None)]
    made = [
        jax.jit(augment.views(recipe, size=12, formulation=how))(keys(8), images(8, 16, channels))
        for how in ("loop", "batch")
    ]
    assert made[0].shape == (8, 2, 12, 12, channels)
    np.testing.assert_allclose(made[0], made[1], atol=2e-5)


@pytest.mark.parametrize("formulation", ["loop", "batch"])
def test_an_example_depends_on_its_key_alone(formulation):
    make = jax.jit(augment.views([EVERYTHING] * 2, size=16, formulation=formulation))
    made = make(keys(8), images(8))
    order = jnp.array([3, 0, 7, 5, 1, 2, 6, 4])
    np.testing.assert_allclose(make(keys(8)[order], images(8)[order]), made[order], atol=1e-6)
    np.testing.assert_allclose(make(keys(8)[2:3], images(8)[2:3]), made[2:3], atol=1e-6)
    assert float(jnp.abs(made[:, 0] - made[:, 1]).max(axis=(1, 2, 3)).min()) > 1e-2  # views differ
    other = make(jax.random.split(jax.random.key(9), 8), images(8))
    assert float(jnp.abs(made - other).max(axis=(1, 2, 3, 4)).min()) > 1e-2  # and so do keys


def test_eight_devices_equal_one_without_collectives():
    make = augment.views([EVERYTHING] * 2, size=16, **STATS)
    sharding = NamedSharding(Mesh(np.array(jax.devices()), ("data",)), PartitionSpec("data"))
    arguments = (jax.device_put(keys(16), sharding), jax.device_put(images(16), sharding))
    compiled = jax.jit(make).lower(*arguments).compile()
    assert not re.search(r"(all-gather|all-reduce|all-to-all|collective-permute|reduce-scatter)\(", compiled.as_text())
    assert compiled.output_shardings.is_equivalent_to(sharding, 5)
    np.testing.assert_allclose(compiled(*arguments), jax.jit(make)(keys(16), images(16)), atol=1e-5)


def test_each_platform_gets_its_formulation():
    traced = jax.jit(augment.views([EVERYTHING], size=16)).trace(keys(4), images(4))
    products = {p: traced.lower(lowering_platforms=(p,)).as_text().count("dot_general") for p in ("cpu", "tpu", "cuda")}
    assert products["cpu"] == 0
    assert products["tpu"] == products["cuda"] >= 4


def test_parts_that_never_happen_cost_nothing():
    def count(recipe):
        return len(str(jax.make_jaxpr(augment.views([recipe], size=16))(keys(2), images(2))))

    only_crop = count(augment.View())
    assert count(augment.View(jitter=(0.4, 0.4, 0.4, 0.1))) == only_crop  # strengths without a probability
    assert count(augment.View(jitter_prob=1.0)) == only_crop  # and the reverse
    for part in ("flip", "blur_prob", "solarize_prob", "erase_prob", "grey_prob", "noise", "drop"):
        assert count(dataclasses.replace(augment.View(), **{part: 0.5})) > only_crop


def test_sizes_are_grouped():
    small, large = augment.View(crop_scale=(0.05, 0.4)), augment.View(crop_scale=(0.4, 1.0), flip=0.5)
    make = augment.views([(large, 16), (small, 8), (large, 16), (small, 8), (small, 8)])
    made = jax.jit(make)(keys(4), images(4, 20))
    assert [v.shape for v in made] == [(4, 2, 16, 16, 3), (4, 3, 8, 8, 3)]


def test_aligned_views_share_crop_and_flip_and_nothing_else():
    recipe = dataclasses.replace(EVERYTHING, crop_scale=(0.2, 0.9))

    def geometry(key):
        first = view.draw(jax.random.split(key)[0], recipe, (16, 16, 3), 12)
        second = view.draw(jax.random.split(key)[1], recipe, (16, 16, 3), 12, like=first)
        return [(d.rows, d.columns, d.flip) for d in (first, second)], [(d.jitter, d.noise) for d in (first, second)]

    (first, second), looks = jax.jit(jax.vmap(geometry))(keys(6))
    jax.tree.map(np.testing.assert_array_equal, first, second)
    assert not np.array_equal(looks[0][0][1], looks[1][0][1])
    assert not np.array_equal(looks[0][1], looks[1][1])


@pytest.mark.parametrize("formulation", ["loop", "batch"])
def test_aligned_views_show_the_same_pixels(formulation):
    plain = augment.View(crop_scale=(0.2, 0.9), flip=0.5)
    other = augment.View(crop_scale=None, flip=0.9)
    make = jax.jit(augment.views([plain, other, plain], size=12, aligned=True, formulation=formulation))
    made = make(keys(8), images(8))
    for i in (1, 2):
        np.testing.assert_allclose(made[:, i], made[:, 0], atol=1e-6)
    alone = jax.jit(augment.views([plain, other, plain], size=12, formulation=formulation))(keys(8), images(8))
    np.testing.assert_allclose(alone[:, 0], made[:, 0], atol=1e-6)
    assert float(jnp.abs(alone[:, 2] - made[:, 2]).max()) > 1e-2


def test_perturbed_gives_a_clean_view_and_what_became_of_it():
    noise = {"noise": 0.3, "crop_scale": (0.3, 0.8), "flip": 0.5, "method": "cubic"}
    make = jax.jit(augment.perturbed(12, **noise))
    made = np.asarray(make(keys(64), images(64)))
    difference = made[:, 1] - made[:, 0]
    np.testing.assert_allclose(difference.mean(), 0, atol=0.01)
    np.testing.assert_allclose(difference.std(), 0.3, atol=0.01)
    assert np.abs(np.corrcoef(difference[:, 0, 0].T) - np.eye(3)).max() < 0.5  # every channel its own
    dropped = np.asarray(jax.jit(augment.perturbed(16, drop=0.25, **STATS))(keys(64), images(64)))
    gone = (dropped[:, 1] == 0).all(-1)
    np.testing.assert_allclose(gone.mean(), 0.25, atol=0.01)
    np.testing.assert_allclose(dropped[:, 1][~gone], dropped[:, 0][~gone], atol=1e-6)


def test_clean_is_the_image_unless_asked_otherwise():
    made = jax.jit(augment.clean(16))(keys(4), images(4))
    np.testing.assert_allclose(made, np.asarray(images(4))[:, None] / 255, atol=1e-6)
    moved = jax.jit(augment.clean(16, crop_scale=(0.3, 0.5), flip=0.5))(keys(4), images(4))
    assert moved.shape == made.shape
    assert float(jnp.abs(moved - made).max()) > 0.1


def test_frequencies_of_the_parts():
    def flags(key):
        d = view.draw(key, EVERYTHING, (16, 16, 3), 16)
        return jnp.stack([d.flip, d.jitter[0], d.grey[0], d.blur[0], d.solarize[0], d.erase[0]])

    happened = np.asarray(jax.jit(jax.vmap(flags))(keys(4000)))
    np.testing.assert_allclose(happened.mean(0), [0.5, 0.8, 0.3, 0.5, 0.3, 0.5], atol=0.04)
    np.testing.assert_allclose(np.corrcoef(happened.T), np.eye(6), atol=0.08)


@pytest.mark.parametrize(
    ("preset", "dtype"),
    [
        (augment.simclr, jnp.float32),
        (augment.moco_v1, jnp.bfloat16),
        (augment.moco_v2, jnp.float32),
        (augment.byol, jnp.bfloat16),
    ],
)
def test_presets(preset, dtype):
    made = jax.jit(preset(size=12, dtype=dtype))(keys(4), images(4))
    assert made.shape == (4, 2, 12, 12, 3)
    assert made.dtype == dtype
    assert float(made.min()) >= 0
    assert float(made.max()) <= 1


def test_instance_discrimination_has_one_view_which_is_moco_v1s():
    made = jax.jit(augment.instance(size=12))(keys(4), images(4))
    same = jax.jit(augment.views([augment.moco_v1_view()], size=12))(keys(4), images(4))
    assert made.shape == (4, 1, 12, 12, 3)
    np.testing.assert_array_equal(made, same)


def test_the_papers_values():
    assert augment.simclr_view(0.5, blur=False) == augment.View(
        flip=0.5, jitter=(0.4, 0.4, 0.4, 0.1), jitter_prob=0.8, grey_prob=0.2
    )
    assert augment.simclr_view().jitter == (0.8, 0.8, 0.8, 0.2)
    assert augment.simclr_view().blur_prob == 0.5
    v1, v2 = augment.moco_v1_view(), augment.moco_v2_view()
    assert v1.crop_scale == v2.crop_scale == (0.2, 1.0)
    assert (v1.jitter, v1.jitter_prob, v1.blur_prob) == ((0.4, 0.4, 0.4, 0.4), 1.0, 0.0)
    assert (v2.jitter, v2.jitter_prob, v2.blur_prob) == ((0.4, 0.4, 0.4, 0.1), 0.8, 0.5)
    first, second = augment.byol_views()
    assert (first.blur_prob, first.solarize_prob, second.blur_prob, second.solarize_prob) == (1.0, 0.0, 0.1, 0.2)
    assert first.jitter == second.jitter == (0.4, 0.4, 0.2, 0.1)
    assert first.method == "cubic"


def test_a_views_brightness_is_added_where_it_says_so():
    jitter = {"jitter": (0.5, 0.0, 0.0, 0.0), "jitter_prob": 1.0}
    plain = {"crop_scale": None, "flip": 0.0, "grey_prob": 0.0, "blur": False}
    make = jax.jit(augment.simclr(size=16, brightness="add", **jitter, **plain))
    image = images(2)[:, :1, :1] // 2 + jnp.zeros((2, 16, 16, 3), jnp.uint8)  # flat, and not near 1
    shift = np.asarray(make(keys(2), image)) - np.asarray(image)[:, None] / 255
    inside = np.asarray(make(keys(2), image)).min(axis=(2, 3, 4)) > 0
    assert inside.any()
    spread = np.ptp(shift, axis=(2, 3, 4))[inside]  # the same number for every value
    np.testing.assert_allclose(spread, 0, atol=1e-6)


def test_overrides_reach_the_view():
    make = augment.simclr(size=16, crop_scale=None, flip=0.0, jitter_prob=0.0, grey_prob=0.0, blur=False)
    np.testing.assert_allclose(jax.jit(make)(keys(2), images(2))[:, 1], np.asarray(images(2)) / 255, atol=1e-6)


def test_prepare():
    image = jnp.asarray(np.random.default_rng(0).integers(0, 256, (2, 20, 30, 3)), jnp.uint8)
    as_float = image.astype(jnp.float32) / 255
    prepare = jax.jit(augment.prepare, static_argnames=("size", "mean", "std", "dtype"))
    np.testing.assert_allclose(prepare(image, size=20), as_float[:, :, 5:25], atol=1e-6)
    resized = jax.image.resize(as_float, (2, 10, 15, 3), "linear")
    got = prepare(image, size=10, dtype=jnp.bfloat16, **STATS)
    assert got.dtype == jnp.bfloat16
    expected = augment.normalize(resized[:, :, 2:12], STATS["mean"], STATS["std"])
    np.testing.assert_allclose(got.astype(jnp.float32), expected, atol=2e-2)
    np.testing.assert_allclose(prepare(image, size=10), resized[:, :, 2:12], atol=1e-5)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: augment.View(flip=1.5), "flip=1.5"),
        (lambda: augment.View(drop=1.5), "drop=1.5"),
        (lambda: augment.View(noise=-0.1), "noise=-0.1"),
        (lambda: augment.views([(augment.View(), 8), (augment.View(), 4)], aligned=True), "one size, not of 8, 4"),
        (lambda: augment.View(crop_scale=(0.5, 0.1)), "crop_scale"),
        (lambda: augment.View(crop_side=(0.5, 1.1)), "edge is at most 1, the image's shorter side"),
        (lambda: augment.View(jitter=(0.4, 0.4, 0.4, 0.9)), "hue"),
        (lambda: augment.View(method="nearest"), "nearest"),
        (lambda: augment.View(brightness="divide"), "brightness='divide'.: use multiply or add"),
        (lambda: augment.views([], size=8), "at least one"),
        (lambda: augment.views([augment.View()]), "size="),
        (lambda: augment.views([augment.View()], size=8, formulation="fast"), "fast"),
        (lambda: augment.simclr(8, blurr=True), "blurr"),
        (lambda: augment.simclr(8)(keys(2), images(2)[0]), "b h w c"),
        (lambda: augment.simclr(8)(keys(2), images(2).astype(jnp.float32)), "float32"),
        (lambda: augment.simclr(8, mean=(0.5,), std=(0.5,))(keys(2), images(2)), "3 channels"),
        (lambda: augment.simclr(8, mean=(0.5, 0.5, 0.5))(keys(2), images(2)), "both"),
        (lambda: jax.eval_shape(augment.simclr(8, blur_taps=31), keys(2), images(2)), "31 taps"),
    ],
)
def test_bad_input_names_the_fix(call, message):
    with pytest.raises(Exception, match=message) as error:
        call()
    assert isinstance(error.value, UserError) or "annotation" in str(error.value)


@pytest.mark.parametrize(("field", "value"), [("crop_scale", (0.5,)), ("blur_sigma", 0.5), ("jitter", (0.4, 0.4))])
def test_too_few_numbers_are_named(field, value):
    view = augment.View()
    object.__setattr__(view, field, value)  # as from a command line: the tests' type checks don't let it be made
    with pytest.raises(UserError, match=rf"View\({field}=.*: give "):
        view.__post_init__()


def test_active_jitter():
    assert color.active_operations((0.4, 0.4, 0.4, 0.1), 1) == (0, 1)
    assert color.active_operations((0.4, 0.0, 0.4, 0.1), 3) == (0, 2, 3)
