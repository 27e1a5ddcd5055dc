"""The recipes are the papers': steps, rates, warm-up and crops at full size, as typed from the papers and their code.

Sources: the papers on the methods' cards, and the authors' repositories named in the configs. ImageNet has 1,281,167
training images.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_configs import get_config

from ssl_jax import experiment
from ssl_jax.data import from_arrays

# config: epochs, batch, peak of the learning rate, epochs of warm-up, end of the rate, views (number and side)
PAPERS = {
    "simclr": (100, 4096, 4.8, 10, 0.0, [(2, 224)]),
    "byol": (300, 4096, 4.8, 10, 0.0, [(2, 224)]),
    "moco": (200, 256, 0.03, 0, 0.0, [(2, 224)]),
    "moco_v3": (300, 4096, 4.8, 10, 0.0, [(2, 224)]),
    "simsiam": (100, 512, 0.1, 0, 0.0, [(2, 224)]),
    "dino": (300, 1024, 2e-3, 10, 1e-6, [(2, 224), (8, 96)]),
    "swav": (800, 4096, 4.8, 10, 4.8e-3, [(2, 224), (6, 96)]),
    "obow": (200, 256, 0.03, 10, 3e-5, [(1, 224), (2, 160), (5, 96)]),
    "mae": (800, 4096, 2.4e-3, 40, 0.0, [(1, 224)]),
    "barlow_twins": (1000, 2048, 1.6, 10, None, [(2, 224)]),
    "vicreg": (1000, 2048, 1.6, 10, None, [(2, 224)]),
}


@pytest.fixture
def imagenet(monkeypatch):
    def load(config, split):
        images = np.broadcast_to(np.uint8(7), (1_281_167, config.image_size, config.image_size, 3))  # takes one byte
        return from_arrays(images, np.zeros(len(images), int))

    monkeypatch.setattr(experiment, "load_data", load)


@pytest.mark.parametrize("name", PAPERS)
def test_recipe_is_the_papers(name, imagenet):
    epochs, batch, peak, warmup, end, views = PAPERS[name]
    config = get_config(name, "")
    parts = experiment.build(config)
    assert config.batch_size == batch
    assert parts.steps == pytest.approx(epochs * 1_281_167 / batch, abs=1)
    first = round(warmup * 1_281_167 / batch)
    assert parts.rate(jnp.asarray(first)) == pytest.approx(peak, rel=1e-5)
    if warmup:
        assert parts.rate(jnp.asarray(0)) == 0
        assert parts.rate(jnp.asarray(first // 2)) == pytest.approx(peak * (first // 2) / first, rel=1e-4)
    if end is not None:
        assert parts.rate(jnp.asarray(parts.steps)) == pytest.approx(end, abs=1e-7)
    shape = (batch, config.image_size, config.image_size, 3)
    keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), batch))
    made = jax.eval_shape(parts.views, keys, jax.ShapeDtypeStruct(shape, np.uint8))
    made = made if isinstance(made, tuple) else (made,)
    assert [(x.shape[1], x.shape[2]) for x in made] == views


def test_moco_v1_lets_the_rate_fall_in_steps(imagenet):
    """`--schedule 120 160` is the default of MoCo's `main_moco.py`; version 2 has a cosine (`--cos`)."""
    rate = experiment.build(get_config("moco", "v1")).rate
    epochs = {0: 0.03, 119.9: 0.03, 120.1: 3e-3, 159.9: 3e-3, 160.1: 3e-4, 199.9: 3e-4}
    for epoch, expected in epochs.items():
        assert rate(jnp.asarray(int(epoch * 1_281_167 / 256))) == pytest.approx(expected, rel=1e-5)


def test_swavs_optimizer_is_larc_before_torchs_sgd(imagenet):
    """Apex' LARC (`clip=False`) in numpy, in SwAV's warm-up, in which a rate inside of the momentum is another one."""
    tx = experiment.build(get_config("swav", "")).tx
    rng = np.random.default_rng(0)
    start = rng.normal(size=(3, 2)).astype(np.float32)
    params = {"encoder": start, "prototypes": start}
    state, w, v, moved, per_epoch = tx.init(params), start.astype(np.float64), 0.0, 0.0, 1_281_167 / 4096
    for step in range(4):
        g = rng.normal(size=start.shape).astype(np.float32)
        updates, state = tx.update({"encoder": g, "prototypes": g}, state, params)
        params = jax.tree.map(lambda p, u: p + u, params, updates)
        moved = moved + np.asarray(updates["encoder"], np.float64)
        norm, decay = np.linalg.norm(w), 1e-6
        v = 0.9 * v + 1e-3 * norm / (np.linalg.norm(g) + decay * norm + 1e-8) * (g + decay * w)
        w = w - 4.8 * step / round(10 * per_epoch) * v
    np.testing.assert_allclose(moved, w - start, rtol=1e-4)
    np.testing.assert_array_equal(params["prototypes"], start)  # frozen for 313 steps


def test_residual_blocks_start_as_the_authors():
    """At the identity or not: google-research/simclr `tf2/resnet.py` (`init_zero`), haiku's ResNet that BYOL takes,
    `zero_init_residual` in the main files of Barlow Twins, VICReg, SimSiam and MoCo v3; DINO, SwAV and MoCo have none.
    """
    zero = {"simclr", "byol", "barlow_twins", "vicreg", "simsiam", "moco_v3"}
    variants = {"dino": "resnet50", "moco": "", "swav": ""} | dict.fromkeys(zero, "")
    found = {name: get_config(name, variant).encoder_args for name, variant in variants.items()}
    assert {name for name, args in found.items() if args.get("zero_init_residual", False)} == zero


@pytest.mark.parametrize(("name", "parameters"), [("dino", 21_665_664), ("ibot", 21_665_664), ("mae", 85_798_656)])
def test_transformers_have_the_authors_numbers_of_parameters(name, parameters, imagenet):
    """ViT-S/16 and ViT-B/16 without a classifier; iBOT's has a mask token besides, MAE's positions are fixed."""
    parts = experiment.build(get_config(name, ""))
    shape = (2, 256, 256, 3)
    keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), 2))

    def init(keys, image):
        return parts.method.init(jax.random.key(0), {"views": parts.views(keys, image)})

    params, _ = jax.eval_shape(init, keys, jax.ShapeDtypeStruct(shape, np.uint8))
    count = sum(x.size for x in jax.tree.leaves(params["encoder"]))
    fixed = {"dino": 0, "ibot": 384, "mae": -197 * 768}[name]
    assert count == parameters + fixed


def test_dinos_vanilla_run_is_the_defaults_of_main_dino(imagenet):
    """Its README's "Vanilla DINO training": 8 GPUs with 64 images each, and no flag but the architecture."""
    config = get_config("dino", "vanilla")
    parts = experiment.build(config)
    assert (config.batch_size, config.epochs, config.method_args.teacher_temperature) == (512, 100, 0.04)
    assert not config.method_args.train_norms
    assert config.augment_args == get_config("dino", "").augment_args
    assert config.augment_args.to_dict() == {"local_views": 8, "global_scale": (0.4, 1.0), "local_scale": (0.05, 0.4)}
    assert parts.rate(jnp.asarray(round(10 * 1_281_167 / 512))) == pytest.approx(1e-3, rel=1e-5)


def test_swavs_batch_statistics_are_of_512_images(imagenet):
    """`--sync_bn apex` with groups of 8 GPUs, 64 images each; `swav_200ep_bs256_pretrain.sh` has torch's, of all."""
    groups = {variant: get_config("swav", variant).encoder_args.get("bn_groups", 1) for variant in ("", "small_batch")}
    assert groups == {"": 4096 // 512, "small_batch": 1}
    assert all("bn_groups" not in get_config("swav", variant).encoder_args for variant in ("fashion_mnist", "test"))
