"""Crops taken on the host: which boxes, from which pixels, and that nothing but seed, step and example decides."""

import io
import itertools
import sys

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict
from PIL import Image
from sklearn.datasets import load_sample_images

from ssl_jax import augment, data, experiment
from ssl_jax.core import UserError
from ssl_jax.data import decoders, lazy
from ssl_jax.data.crops import boxes, halvings
from ssl_jax.data.originals import originals
from ssl_jax.data.source import digest

LARGE, SMALL = data.Crop(size=12, scale=(0.4, 1.0)), data.Crop(size=5, scale=(0.05, 0.4))
MULTI = (LARGE, LARGE, *[SMALL] * 3)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Fourteen photographs in three formats, one of them with a turned camera; each another part of two."""
    root = tmp_path_factory.mktemp("photos")
    photos = load_sample_images().images
    exif = Image.Exif()
    exif[0x0112] = 6
    for i in range(14):
        image = Image.fromarray(photos[i % 2][10 * i : 10 * i + 150, 20 * i : 20 * i + 200])
        options = {"exif": exif} if i == 3 else {}
        image.save(root / f"{i}.{('jpg', 'png', 'jpg', 'webp')[i % 4] if i != 3 else 'jpg'}", **options)
    return root


@pytest.fixture
def source(folder, monkeypatch):
    monkeypatch.setattr(lazy, "IN_MEMORY_BYTES", 0)
    return data.load(f"folder:{folder}", "train", image_size=16)


def cropped(source, crops=MULTI, **kwargs):
    return data.CroppedSource(source, crops, **{"seed": 3, **kwargs})


def equal(one, other):
    assert one.keys() == other.keys()
    jax.tree.map(np.testing.assert_array_equal, one, other)


def test_boxes_are_a_function_of_seed_step_and_example_alone():
    draw = lambda seed=0, step=0, example=0: boxes(MULTI, (300, 400), seed=seed, step=step, example=example)  # noqa: E731
    assert draw(3, 2, 1) == draw(3, 2, 1)
    assert len({draw(*numbers) for numbers in itertools.product(range(4), repeat=3)}) == 64
    assert len(set(draw())) == len(MULTI)
    assert boxes((LARGE,), (300, 400), seed=3, step=2, example=1) == draw(3, 2, 1)[:1], "later views change nothing"
    # These very numbers, on every machine and with every version.
    assert draw(1, 2, 3)[:3] == ((4, 116, 258, 204), (2, 23, 266, 243), (41, 78, 160, 162))


@pytest.mark.parametrize("scale", [(0.08, 1.0), (0.05, 0.4)])
def test_boxes_are_distributed_as_torchvisions(fixture, scale):
    """Against 100,000 boxes of `RandomResizedCrop.get_params` (torchvision 0.28.0), as in `test_crop`."""
    n, crop = 4000, data.Crop(size=8, scale=scale)
    drawn = [boxes((crop,), (375, 500), seed=0, step=0, example=i)[0] for i in range(n)]
    top, left, h, w = np.array(drawn, float).T
    values = (h * w / (375 * 500), np.log(w / h), top, left, h, w)
    moments = fixture("rrc_stats")[f"tv_375x500_{scale[0]}_{scale[1]}/moments"]
    for value, (mean, variance, low, high) in zip(values, moments[:6], strict=True):
        assert abs(value.mean() - mean) <= 4 * np.sqrt(variance / n)
        assert abs(value.var() / variance - 1) < 0.1
        assert low - 0.02 * (high - low) - 1 <= value.min()
        assert value.max() <= high + 0.02 * (high - low) + 1


def test_box_extremes():
    assert boxes((data.Crop(size=4, scale=None),), (30, 50), seed=0, step=0, example=0) == ((0, 10, 30, 30),)
    for shape, ratio in (((3, 900), (3 / 4, 4 / 3)), ((900, 3), (3 / 4, 4 / 3)), ((1, 1), (3.0, 4.0))):
        for i in range(50):
            ((top, left, h, w),) = boxes((data.Crop(size=4, ratio=ratio),), shape, seed=0, step=0, example=i)
            assert 0 <= top <= top + h <= shape[0]
            assert 0 <= left <= left + w <= shape[1]
            assert min(h, w) > 0
    for box, times in (((0, 0, 7, 99), 0), ((0, 0, 8, 15), 0), ((0, 0, 16, 16), 1), ((0, 0, 65, 64), 3)):
        assert halvings(box, data.Crop(size=8)) == times
        assert halvings(box, data.Crop(size=8, method="cubic")) == max(times - 1, 0)


@pytest.mark.parametrize("name", ["fast", "pillow"])
def test_crop_is_the_box_resized(name):
    """Against an antialiased resize of the same box of the same photograph, which is near in the mean."""
    photo = load_sample_images().images[1]
    file = io.BytesIO()
    Image.fromarray(photo).save(file, "jpeg", quality=95)
    crops = (data.Crop(size=24), data.Crop(size=100), data.Crop(size=400))
    chosen = ((40, 60, 300, 320), (100, 30, 210, 190), (0, 0, 427, 640))
    for some in ((0,), (1,), (2,), (0, 1, 2)):  # alone they are decoded at reduced scale, together they are not
        made = decoders.views(
            file.getvalue(),
            tuple(crops[i] for i in some),
            lambda size, some=some: tuple(chosen[i] for i in some),
            3,
            decoders.decoder(name),
        )
        for i, view in zip(some, made, strict=True):
            top, left, h, w = chosen[i]
            whole = Image.fromarray(photo).resize(
                view.shape[:2], Image.Resampling.BILINEAR, box=(left, top, left + w, top + h)
            )
            assert np.abs(view.astype(int) - np.asarray(whole)).mean() < 6
            assert np.abs(view.mean((0, 1)) - np.asarray(whole).mean((0, 1))).max() < 2


def test_decoders_differ_by_a_level_at_most(source):
    one, other = (cropped(source, decoder=name) for name in ("fast", "pillow"))
    assert one.fingerprint != other.fingerprint
    for a, b in zip(*(s.at_step(2, np.arange(len(s)))["image"] for s in (one, other)), strict=True):
        difference = np.abs(a.astype(int) - b.astype(int))
        assert difference.max() <= 1
        assert difference.mean() < 0.5


@pytest.mark.parametrize("name", ["fast", "pillow"])
def test_a_cubic_crop_is_pillows(name):
    photo = load_sample_images().images[1]
    file = io.BytesIO()
    Image.fromarray(photo).save(file, "png")
    box, crop = (40, 60, 300, 320), data.Crop(size=100, method="cubic")
    (view,) = decoders.views(file.getvalue(), (crop,), lambda size: (box,), 3, decoders.decoder(name))
    whole = Image.fromarray(photo[40:340, 60:380]).resize((100, 100), Image.Resampling.BICUBIC)
    np.testing.assert_array_equal(view, np.asarray(whole))
    (tiny,) = decoders.views(
        file.getvalue(), (data.Crop(size=30, method="cubic"),), lambda size: (box,), 3, decoders.decoder(name)
    )
    whole = Image.fromarray(photo[40:340, 60:380]).resize((30, 30), Image.Resampling.BICUBIC)
    assert 0 < np.abs(tiny.astype(int) - np.asarray(whole)).mean() < 1


def test_grey(source):
    grey = data.load(source.name.rpartition(" ")[0], "train", image_size=16, channels=1)
    for name in ("fast", "pillow"):
        colour = cropped(source, decoder=name)[:]["image"][0].astype(float) @ [0.299, 0.587, 0.114]
        made = cropped(grey, decoder=name)[:]["image"][0]
        assert made.shape[-1] == 1
        assert np.abs(colour - made[..., 0]).mean() < 1


def test_batches_do_not_depend_on_hosts_workers_or_restarts(source, monkeypatch):
    whole = cropped(source)
    read = lambda **kwargs: data.batches(whole, batch_size=8, seed=3, **kwargs)  # noqa: E731
    running = read()
    batches = [next(running) for _ in range(4)]
    running.close()
    for step, batch in enumerate(batches):
        assert [x.shape for x in batch["image"]] == [(8, 2, 12, 12, 3), (8, 3, 5, 5, 3)]
        restarted = read(start=step, prefetch=0)
        equal(batch, next(restarted))
        restarted.close()
    parts = []
    for i in range(2):
        host = read(start=3, process_index=i, process_count=2)
        parts.append(next(host))
        host.close()
    equal(jax.tree.map(lambda *x: np.concatenate(x), *parts), batches[3])
    with lazy.ThreadPoolExecutor(1) as pool:
        monkeypatch.setattr(lazy, "pool", lambda: pool)
        equal(whole.at_step(1, batches[1]["id"]) | {"id": batches[1]["id"]}, batches[1])
        # Seen again in a later epoch, an image is cropped otherwise.
        assert not np.array_equal(*(whole.at_step(step, np.arange(4))["image"][0] for step in (0, 1)))


def test_crops_of_several_sources(source):
    """Each reads its own rows, in memory or not; crops follow the row of the whole, and a mixture keeps its order."""
    pixels = data.load("photos", "train[:40]").images[:, :16, :16]
    kept = data.Subset(data.from_arrays(pixels), np.arange(39, 9, -1))
    both = data.Mixture([source, data.load("photos", "train[:9]", image_size=16), kept], [3, 1, 2], "mixed")
    made = cropped(both)
    rows = np.random.default_rng(0).permutation(len(both))[:20]
    seen = made.at_step(5, rows)["image"]
    for place, (row, encoded) in enumerate(zip(rows.tolist(), originals(both, rows)[0], strict=True)):
        draw = lambda size, row=row: boxes(MULTI, size, seed=3, step=5, example=row)  # noqa: E731
        expected = decoders.views(encoded, MULTI, draw, 3, made.decoder)
        equal({"views": expected}, {"views": [view for of_size in seen for view in of_size[place]]})
    # The order is the mixture's; neither hosts nor restarts change anything.
    running = data.batches(made, batch_size=8, seed=3)
    batches = [next(running) for _ in range(3)]
    running.close()
    for step, batch in enumerate(batches):
        np.testing.assert_array_equal(batch["id"], both.indices(batch_size=8, seed=3, step=step))
    halves = [
        next(data.batches(made, batch_size=8, seed=3, start=2, prefetch=0, process_index=i, process_count=2))
        for i in range(2)
    ]
    equal(jax.tree.map(lambda *x: np.concatenate(x), *halves), batches[2])


@pytest.mark.parametrize("formulation", ["batch", "loop"])
def test_views_of_crops_are_those_of_whole_images(formulation):
    """Where the crop is the whole image, host and accelerator do the same."""
    image = np.random.default_rng(0).integers(0, 256, (6, 12, 12, 3), np.uint8)
    keys = jax.random.split(jax.random.key(1), 6)
    plain = augment.View(crop_scale=None, flip=0.5, jitter=(0.4, 0.4, 0.4, 0.1), jitter_prob=0.8, blur_prob=0.5)
    make = jax.jit(augment.views([plain] * 2, size=12, mean=(0.5,) * 3, std=(0.2,) * 3, formulation=formulation))
    crops = np.stack([image, image], 1)
    np.testing.assert_allclose(make(keys, crops), make(keys, image), atol=2e-5)


def test_multi_crop_of_crops(source):
    """DINO's views from one decode: each crop lands in its own view."""
    flat = {"local_views": 3, "local_size": 5, "strength": 0.0, "blur": False}
    off = {"flip": 0.0, "grey_prob": 0.0, "solarize_prob": 0.0, "jitter_prob": 0.0}
    recipe = augment.dino(12, **flat, **off)
    crops = tuple(data.Crop(size=size, scale=view.crop_scale) for view, size in recipe.pairs)
    assert crops == MULTI
    batch = cropped(source, crops)[:]
    made = recipe(jax.random.split(jax.random.key(0), len(source)), batch["image"])
    for views, seen in zip(made, batch["image"], strict=True):
        np.testing.assert_allclose(views, seen / np.float32(255), atol=1e-6)


def test_what_can_not_be_cropped(source):
    with pytest.raises(UserError, match=r"digits train is in memory; use --config\.host_crop=no"):
        cropped(data.load("digits"))
    boxed = data.BoxedSource(dict, np.arange(3), box_classes=("a",), shape=(4, 4, 3), name="boxes", fingerprint=str)
    for none in (boxed, data.combine.Joined([source, boxed], "both")):
        with pytest.raises(UserError, match="has boxes, or gives no files or arrays"):
            cropped(none)
    grey = data.load(source.name.rpartition(" ")[0], "train", image_size=16, channels=1)
    with pytest.raises(UserError, match="The parts of both are grey and coloured; give channels=1 or"):
        cropped(data.combine.Joined([source, grey], "both"))
    with pytest.raises(UserError, match="at least one crop"):
        cropped(source, ())
    with pytest.raises(UserError, match="The decoder is auto, pillow or fast, not 'slow'"):
        cropped(source, decoder="slow")
    for wrong in ({"size": 0}, {"size": 4, "scale": (0.0, 1.0)}, {"size": 4, "ratio": (2.0, 1.0)}):
        with pytest.raises(UserError, match=r"Crop\("):
            data.Crop(**wrong)
    recipe = augment.simclr(12)
    with pytest.raises(UserError, match=r"crops are of shapes \[\[2, 12, 12\], \[3, 5, 5\]\] and the views"):
        recipe(jax.random.split(jax.random.key(0), len(source)), cropped(source)[:]["image"])


def test_aligned_views_need_whole_images():
    recipe = augment.perturbed(12)
    with pytest.raises(UserError, match="whole images"):
        recipe(jax.random.split(jax.random.key(0), 3), np.zeros((3, 2, 12, 12, 3), np.uint8))


def test_without_the_fast_packages(monkeypatch):
    monkeypatch.setitem(sys.modules, "simplejpeg", None)
    decoders.decoder.cache_clear()
    try:
        assert decoders.decoder().name == "pillow"
        with pytest.raises(UserError, match=r"pip install ssl_jax\[fast\]"):
            decoders.decoder("fast")
    finally:
        decoders.decoder.cache_clear()


@pytest.mark.parametrize("image_size", [(375, 500), (500, 375)])
def test_a_square_of_a_share_of_the_shorter_side_lies_anywhere(image_size):
    """BiGAN's, relative patch's and jigsaw's crops; by area and ratio they would all be the same central square."""
    for name, side, share in (("bigan", 64, 64 / 72), ("relative_patch", 255, 255 / 292), ("jigsaw", 255, 255 / 256)):
        crop = data.Crop(size=side, side=(share, share))
        drawn = [boxes((crop,), image_size, seed=0, step=0, example=i)[0] for i in range(1000)]
        top, left, h, w = np.array(drawn).T
        edge = round(share * 375)
        assert set(h) == set(w) == {edge}, name
        for place, length in ((top, image_size[0]), (left, image_size[1])):
            assert (place.min(), place.max()) == (0, length - edge), name
    ranged = data.Crop(size=8, side=(0.2, 0.6))
    edges = np.array([boxes((ranged,), image_size, seed=0, step=0, example=i)[0][2] for i in range(1000)])
    assert (edges.min(), edges.max()) == pytest.approx((0.2 * 375, 0.6 * 375), abs=2)
    assert edges.mean() == pytest.approx(0.4 * 375, abs=5)


def test_recipes_with_a_fixed_square_hand_it_to_the_host(source):
    """What `experiment.build_inputs` makes of a recipe's views; without a side the fingerprint is as it was before."""
    config = ConfigDict({"host_crop": "yes", "seed": 3, "decoder": "pillow", "augment": "single"})
    inputs = experiment.build_inputs(config, source, augment.single(9, crop_side=(0.5, 0.5)))
    assert inputs.crops == (data.Crop(size=9, side=(0.5, 0.5)),)
    places = {inputs.at_step(step, np.arange(len(source)))["image"].tobytes() for step in range(5)}
    assert len(places) == 5
    before = b"(Crop(size=12, scale=(0.4, 1.0), ratio=(0.75, 1.3333333333333333), method='linear'),)"
    plain = cropped(source, (LARGE,), decoder="pillow").fingerprint
    assert plain == digest(source.fingerprint.encode(), before, b"pillow")
    assert plain != cropped(source, (data.Crop(size=12, side=(0.4, 1.0)),), decoder="pillow").fingerprint
    with pytest.raises(UserError, match=r"side=\(0\.5, 1\.5\)\): a square's edge is at most 1"):
        data.Crop(size=4, side=(0.5, 1.5))
