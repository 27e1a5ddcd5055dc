"""The recipes are the papers': steps, rates, warm-up and crops at full size, as typed from the papers and their code.

Sources: the papers on the methods' cards, and the authors' repositories named in the configs. ImageNet has 1,281,167
training images, CIFAR-10 50,000.
"""

import functools
import operator

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import recipes
from test_configs import get_config

from ssl_jax import experiment
from ssl_jax.data import from_arrays

IMAGES = {"tfds:imagenet2012": 1_281_167, "tfds:cifar10": 50_000}

# config: epochs, batch, peak of the learning rate, epochs of warm-up, end of the rate, views (number and side)
PAPERS = {
    "simclr": (100, 4096, 4.8, 10, 0.0, [(2, 224)]),
    "simclr:cifar10": (1000, 512, 2.0, 10, 0.0, [(2, 32)]),
    "byol": (300, 4096, 4.8, 10, 0.0, [(2, 224)]),
    "byol:epochs40": (40, 4096, 7.2, 10, 0.0, [(2, 224)]),
    "byol:epochs100": (100, 4096, 7.2, 10, 0.0, [(2, 224)]),
    "byol:epochs1000": (1000, 4096, 3.2, 10, 0.0, [(2, 224)]),
    "moco": (200, 256, 0.03, 0, 0.0, [(2, 224)]),
    "moco:cifar10": (200, 512, 0.06, 0, 0.0, [(2, 32)]),
    "moco_v3": (300, 4096, 4.8, 10, 0.0, [(2, 224)]),
    "moco_v3:epochs100": (100, 4096, 9.6, 10, 0.0, [(2, 224)]),
    "moco_v3:epochs1000": (1000, 4096, 4.8, 10, 0.0, [(2, 224)]),
    "simsiam": (100, 512, 0.1, 0, 0.0, [(2, 224)]),
    "simsiam:cifar10": (800, 512, 0.06, 0, 0.0, [(2, 32)]),
    "dino": (300, 1024, 2e-3, 10, 1e-6, [(2, 224), (8, 96)]),
    "swav": (800, 4096, 4.8, 10, 4.8e-3, [(2, 224), (6, 96)]),
    "obow": (200, 256, 0.03, 10, 3e-5, [(1, 224), (2, 160), (5, 96)]),
    "mae": (800, 4096, 2.4e-3, 40, 0.0, [(1, 224)]),
    "barlow_twins": (1000, 2048, 1.6, 10, None, [(2, 224)]),
    "vicreg": (1000, 2048, 1.6, 10, None, [(2, 224)]),
}

COSINE = {"schedule": "cosine", "end": 1.0}
WARMED = {"schedule": "linear", "start": 0.04, "end": 0.07, "epochs": 30}
RISING = {"schedule": "cosine", "start": 0.04, "end": 0.4}
SCALES = {"global_scale": (0.25, 1.0), "local_scale": (0.05, 0.25)}

# Numbers of the recipes, as the papers or, where it is said, their code has them: a field's dotted path, and its value.
NUMBERS = {
    "simclr": {  # google-research/simclr: README, `objective.py` for the scale, `data_util.py`
        "method_args": {"layers": 2, "dim": 128, "temperature": 0.1, "scale": 2.0},
        "optimizer": "lars",
        "optimizer_args": {"weight_decay": 1e-6, "momentum": 0.9},
        "augment": "simclr",
        "augment_args": {"strength": 1.0, "blur": True, "method": "linear", "brightness": "add"},
        "normalize": "none",
    },
    "simclr:v2": {
        "method_args.layers": 3,
        "method_args.scale": 2.0,
        "optimizer_args.weight_decay": 1e-4,
        "augment_args.brightness": "multiply",
    },
    "simclr:cifar10": {  # its README's command
        "method_args": {"layers": 2, "dim": 128, "temperature": 0.5, "scale": 2.0},
        "optimizer_args": {"weight_decay": 1e-6, "momentum": 0.9},
        "augment_args": {"strength": 0.5, "blur": False, "method": "linear", "brightness": "add"},
        "encoder": "resnet18",
        "encoder_args.stem": "small",
    },
    "byol": {
        "method_args": {"hidden": 4096, "dim": 256, "momentum": {**COSINE, "start": 0.99}},
        "optimizer": "lars_byol",
        "optimizer_args": {"weight_decay": 1e-6, "momentum": 0.9},
        "augment": "byol",
        "augment_args.brightness": "add",
    },
    "byol:epochs40": {"method_args.momentum.start": 0.97, "optimizer_args.weight_decay": 1e-6},
    "byol:epochs100": {"method_args.momentum.start": 0.99, "optimizer_args.weight_decay": 1e-6},
    "byol:epochs1000": {"method_args.momentum.start": 0.996, "optimizer_args.weight_decay": 1.5e-6},
    "moco": {
        "method_args": {"mlp": True, "temperature": 0.2, "queue_size": 65536, "momentum": 0.999},
        "optimizer": "sgd",
        "optimizer_args": {"weight_decay": 1e-4, "momentum": 0.9},
        "encoder_args.bn_groups": 8,
        "augment": "moco_v2",
    },
    "moco:v1": {"method_args.temperature": 0.07, "method_args.mlp": False, "augment": "moco_v1"},
    "moco:cifar10": {  # the authors' notebook `moco_cifar10_demo`
        "method_args": {"mlp": False, "temperature": 0.1, "queue_size": 4096, "momentum": 0.99},
        "optimizer_args": {"weight_decay": 5e-4, "momentum": 0.9},
        "encoder_args": {"bn_groups": 8, "stem": "small"},
    },
    "moco_v3": {
        "method_args.hidden": 4096,
        "method_args.dim": 256,
        "method_args.temperature": 1.0,
        "method_args.momentum": {**COSINE, "start": 0.99},
        "optimizer": "lars_byol",
        "optimizer_args": {"weight_decay": 1e-6, "momentum": 0.9},
        "augment_args.crop_scale": (0.2, 1.0),
    },
    "moco_v3:epochs100": {"method_args.momentum.start": 0.99, "optimizer_args.weight_decay": 1e-6},
    "moco_v3:epochs1000": {"method_args.momentum.start": 0.996, "optimizer_args.weight_decay": 1.5e-6},
    "moco_v3:vit": {
        "method_args.temperature": 0.2,
        "optimizer": "adamw",
        "optimizer_args.weight_decay": 0.1,
        "learning_rate": 1.5e-4,
        "warmup_epochs": 40.0,
        "encoder_args.freeze_patches": True,
    },
    "simsiam": {
        "method_args": {"layers": 3, "dim": 2048, "bottleneck": 512},
        "optimizer": "sgd",
        "optimizer_args": {
            "weight_decay": 1e-4,
            "momentum": 0.9,
            "groups": {"predictor": {"constant_rate": True}},
        },
        "augment": "moco_v2",
    },
    "simsiam:cifar10": {"method_args.layers": 2, "optimizer_args.weight_decay": 5e-4, "augment_args.blur_prob": 0.0},
    "dino": {
        "method_args.prototypes": 65536,
        "method_args.teacher_temperature": WARMED,
        "method_args.momentum": {**COSINE, "start": 0.996},
        "optimizer": "adamw",
        "optimizer_args.weight_decay": RISING,
        "optimizer_args.clip_each_norm": 3.0,
        "optimizer_args.groups.head/last.frozen_epochs": 1,
        "encoder_args.drop_path": 0.1,
    },
    "dino:resnet50": {
        "optimizer": "sgd",
        "optimizer_args.weight_decay": 1e-4,
        "learning_rate": 0.03,
        "augment_args.global_scale": (0.14, 1.0),
        "augment_args.local_scale": (0.05, 0.14),
    },
    "ibot": {
        "method_args.prototypes": 8192,
        "method_args.teacher_temperature": WARMED,
        "method_args.patch_temperature": WARMED,
        "method_args.momentum": {**COSINE, "start": 0.996},
        "optimizer_args.weight_decay": RISING,
        "optimizer_args.clip_each_norm": 3.0,
        "augment_args": {"local_views": 10, **SCALES},
        "batch_size": 1024,
        "epochs": 800.0,
    },
    "swav": {
        "method_args": {"prototypes": 3000, "temperature": 0.1, "epsilon": 0.05},
        "optimizer_args.weight_decay": 1e-6,
        "optimizer_args.groups.prototypes.frozen_steps": 313,
    },
    "obow": {
        "method_args": {
            "levels": 2,
            "words": 8192,
            "inverse_temperature": 15.0,
            "kappa": 8.0,
            "momentum": {**COSINE, "start": 0.99},
        },
        "optimizer_args": {"weight_decay": 1e-4, "momentum": 0.9},
    },
    "obow:imagenet20_rn18": {
        "method_args.inverse_temperature": 10.0,
        "method_args.kappa": 5.0,
        "optimizer_args.weight_decay": 5e-4,
        "learning_rate": 0.05,
        "batch_size": 128,
        "epochs": 80.0,
    },
    "bownet": {"method_args.words": 8192, "rounds": 2},
    "mae": {
        "method_args": {"mask_ratio": 0.75, "dim": 512, "depth": 8, "heads": 16},
        "optimizer_args": {"weight_decay": 0.05, "b1": 0.9, "b2": 0.95},
        "augment_args": {"crop_scale": (0.2, 1.0), "flip": 0.5, "method": "cubic"},
    },
    "barlow_twins": {
        "method_args": {"layers": 3, "hidden": 8192, "dim": 8192, "redundancy": 0.0051},
        "optimizer_args": {"weight_decay": 1e-6, "momentum": 0.9, "bias_rate_scale": 0.024},
    },
    "vicreg": {
        "method_args.invariance": 25.0,
        "method_args.variance": 25.0,
        "method_args.covariance": 1.0,
        "optimizer_args": {"weight_decay": 1e-6, "momentum": 0.9},
    },
    "rotation": {  # mmselfsup
        "batch_size": 128,
        "epochs": 70.0,
        "learning_rate": 0.2,
        "drop_epochs": (30, 50),
        "optimizer_args": {"weight_decay": 1e-4, "momentum": 0.9},
    },
    "rotation:paper": {
        "batch_size": 192,
        "epochs": 50.0,
        "learning_rate": 0.1,
        "drop_epochs": (15, 30, 45),
        "optimizer_args": {"weight_decay": 5e-4, "momentum": 0.9, "nesterov": True},
    },
    "relative_patch": {  # mmselfsup
        "image_size": 292,
        "view_size": 255,
        "augment_args": {"crop_side": (255 / 292, 255 / 292), "grey_prob": 0.66},
        "method_args.hidden": 4096,
        "batch_size": 512,
        "epochs": 70.0,
        "learning_rate": 0.2,
        "drop_epochs": (30, 50),
        "optimizer_args": {"weight_decay": 1e-4, "momentum": 0.9, "groups": {"head": {"weight_decay": 5e-4}}},
    },
    "jigsaw": {  # VISSL
        "image_size": 256,
        "view_size": 255,
        "augment_args": {"crop_side": (255 / 256, 255 / 256), "flip": 0.5, "grey_prob": 0.66},
        "method_args": {"permutations": 2000, "tile": 64, "gap": 21, "jitter": 21},
        "batch_size": 256,
        "epochs": 105.0,
        "learning_rate": 0.1,
        "optimizer_args": {"weight_decay": 1e-4, "momentum": 0.9, "decay": "kernels"},
    },
    "jigsaw:permutations100": {"method_args.permutations": 100},
    "colorization": {  # richzhang/colorization `train/solver.prototxt`, `train/train_val.prototxt`
        "image_size": 256,
        "view_size": 176,
        "augment_args": {"crop_side": (176 / 256, 176 / 256), "flip": 0.5},
        "method_args.neighbors": 10,
        "batch_size": 40,
        "learning_rate": 3e-5,
        "optimizer": "adam",
        "optimizer_args": {"weight_decay": 1e-3, "b1": 0.9, "b2": 0.99},
    },
    "bigan": {  # jeffdonahue/bigan `train_imagenet.sh`, `train_gan.py`
        "view_size": 64,
        "augment_args": {"crop_side": (64 / 72, 64 / 72), "flip": 0.5},
        "method_args.dim": 200,
        "method_args.width": 64,
        "batch_size": 128,
        "learning_rate": 2e-4,
        "optimizer": "adam",
        "optimizer_args.weight_decay": 2.5e-5,
        "optimizer_args.b1": 0.5,
        "optimizer_args.decay": "kernels",  # `--no_decay_gain`
    },
    "memory_bank": {
        "method_args": {"dim": 128, "noise": 4096, "temperature": 0.07, "momentum": 0.5},
        "batch_size": 256,
        "epochs": 200.0,
        "learning_rate": 0.03,
        "drop_epochs": (120, 160),
        "optimizer_args": {"weight_decay": 1e-4, "momentum": 0.9},
        "augment": "instance",
    },
    "cpc": {
        "method_args": {"patch": 80, "stride": 36, "ahead": (3,), "dim": 64},
        "view_size": 260,
        "encoder_args.norm": "layer",
    },
    "nnclr": {
        "method_args": {
            "hidden": 2048,
            "predictor_hidden": 4096,
            "dim": 256,
            "queue_size": 98304,
            "temperature": 0.1,
        },
        "batch_size": 4096,
        "epochs": 1000.0,
        "learning_rate": 0.3,
        "optimizer_args": {"weight_decay": 1e-6, "momentum": 0.9},
    },
    "supervised": {  # torch's ImageNet example
        "batch_size": 256,
        "epochs": 90.0,
        "learning_rate": 0.1,
        "drop_epochs": (30, 60),
        "optimizer_args": {"weight_decay": 1e-4, "momentum": 0.9},
    },
    "distillation": {  # big_vision; its decay of 3e-4 is not multiplied by the rate of 0.03
        "method_args.temperature": 1.0,
        "method_args.mixup": True,
        "batch_size": 4096,
        "epochs": 1200.0,
        "learning_rate": 0.03,
        "optimizer_args": {"weight_decay": 0.01, "clip_norm": 1.0},
    },
}


@pytest.fixture
def papers_data(monkeypatch):
    def load(config, split):
        shape = (IMAGES[config.data], config.image_size, config.image_size, 3)
        images = np.broadcast_to(np.uint8(7), shape)  # takes one byte
        return from_arrays(images, np.zeros(len(images), int))

    monkeypatch.setattr(experiment, "load_data", load)


@pytest.mark.parametrize("name", PAPERS)
def test_recipe_is_the_papers(name, papers_data):
    epochs, batch, peak, warmup, end, views = PAPERS[name]
    config = get_config(*name.partition(":")[::2])
    parts = experiment.build(config)
    assert config.batch_size == batch
    images = IMAGES[config.data]
    assert parts.steps == pytest.approx(epochs * images / batch, abs=1)
    first = round(warmup * images / batch)
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


@pytest.mark.parametrize("name", NUMBERS)
def test_numbers_of_a_recipe_are_the_papers(name):
    config = get_config(*name.partition(":")[::2]).to_dict()
    found = {path: functools.reduce(operator.getitem, path.split("."), config) for path in NUMBERS[name]}
    assert found == NUMBERS[name]


def test_all_methods_have_their_numbers_typed():
    """But the autoencoder, which has neither authors' code nor published numbers, and `fashion_mnist`, `quickstart`."""
    assert set(recipes.NAMES) - {name.partition(":")[0] for name in NUMBERS} <= {
        "autoencoder",
        "fashion_mnist",
        "quickstart",
    }


def test_moco_v1_lets_the_rate_fall_in_steps(papers_data):
    """`--schedule 120 160` is the default of MoCo's `main_moco.py`; version 2 has a cosine (`--cos`)."""
    rate = experiment.build(get_config("moco", "v1")).rate
    epochs = {0: 0.03, 119.9: 0.03, 120.1: 3e-3, 159.9: 3e-3, 160.1: 3e-4, 199.9: 3e-4}
    for epoch, expected in epochs.items():
        assert rate(jnp.asarray(int(epoch * 1_281_167 / 256))) == pytest.approx(expected, rel=1e-5)


def test_swavs_optimizer_is_larc_before_torchs_sgd(papers_data):
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
def test_transformers_have_the_authors_numbers_of_parameters(name, parameters, papers_data):
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


def test_dinos_vanilla_run_is_the_defaults_of_main_dino(papers_data):
    """Its README's "Vanilla DINO training": 8 GPUs with 64 images each, and no flag but the architecture."""
    config = get_config("dino", "vanilla")
    parts = experiment.build(config)
    assert (config.batch_size, config.epochs, config.method_args.teacher_temperature) == (512, 100, 0.04)
    assert not config.method_args.train_norms
    assert config.augment_args == get_config("dino", "").augment_args
    assert config.augment_args.to_dict() == {"local_views": 8, "global_scale": (0.4, 1.0), "local_scale": (0.05, 0.4)}
    assert parts.rate(jnp.asarray(round(10 * 1_281_167 / 512))) == pytest.approx(1e-3, rel=1e-5)


def test_swavs_batch_statistics_are_of_512_images(papers_data):
    """`--sync_bn apex` with groups of 8 GPUs, 64 images each; `swav_200ep_bs256_pretrain.sh` has torch's, of all."""
    groups = {variant: get_config("swav", variant).encoder_args.get("bn_groups", 1) for variant in ("", "small_batch")}
    assert groups == {"": 4096 // 512, "small_batch": 1}
    assert all("bn_groups" not in get_config("swav", variant).encoder_args for variant in ("fashion_mnist", "test"))
