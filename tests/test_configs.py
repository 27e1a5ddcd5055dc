"""Every variant of every config fits together, the papers' recipes among them: traced at full size, computed never."""

import importlib
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import recipes
from ml_collections import ConfigDict

from ssl_jax import experiment, nets, optim, teachers
from ssl_jax.core import UserError
from ssl_jax.data import from_arrays
from ssl_jax.nets import functional
from ssl_jax.train_step import with_views

SHAPES = {
    "tfds:imagenet2012": (1_281_167, 256, 256, 3),
    "tfds:cifar10": (50_000, 32, 32, 3),
    "fashion_mnist": (60_000, 28, 28, 1),
    "digits": (1260, 8, 8, 1),
    "photos": (2250, 32, 32, 3),
    "photos:skimage": (8875, 32, 32, 3),
}


CLASSES = {
    "tfds:imagenet2012": 1000,
    "tfds:cifar10": 10,
    "fashion_mnist": 10,
    "digits": 10,
    "photos": 2,
    "photos:skimage": 8,
}


# What has one axis here and decays, since it has two or three in the authors' code (`weight_g` [k 1], tokens [1 1 d]):
# `get_params_groups` in `utils.py` of DINO and iBOT, `param_groups.py` of DINOv2 (by name: no bias, norm or gamma; its
# `dino_head.py` trains the norms), timm's `add_weight_decay` in MAE's `main_pretrain.py`.
TOKENS = {"encoder/cls", "encoder/pos_cls"}
DECAYS = {
    ("dino", ""): {*TOKENS, "head/last/scale"},
    ("dino", "vanilla"): TOKENS,
    ("dino", "resnet50"): set(),
    ("ibot", ""): {*TOKENS, "encoder/mask_token", "head/last/scale"},
    ("ibot", "dinov2"): {*TOKENS, "encoder/mask_token", "head/last/scale", "patch_head/last/scale"},
    ("mae", ""): {"encoder/cls", "decoder/mask"},
    **{(name, ""): set() for name in ("byol", "barlow_twins", "vicreg", "moco_v3", "swav", "simclr")},
}


def check_decay(params, expected: set[str]) -> None:
    """All arrays of two axes or more decay, and of the others those expected."""
    decays = jax.tree.leaves(optim.is_kernel(params))
    found = {
        jax.tree_util.keystr(path, simple=True, separator="/"): (len(x.shape), decay)
        for (path, x), decay in zip(jax.tree.leaves_with_path(params), decays, strict=True)
    }
    assert {path for path, (axes, decay) in found.items() if axes < 2 and decay} == expected
    assert all(decay for axes, decay in found.values() if axes > 1)


def get_config(name: str, variant: str) -> ConfigDict:
    return importlib.import_module(f"ssl_jax.configs.{name}").get_config(variant)


def variants() -> list[tuple[str, str]]:
    """All pairs of a config and its variants, as its message for an unknown one lists them.

    Those that are called by their epochs differ from the recipe in numbers only; `test_papers` builds them.
    """
    found = []
    for name in recipes.NAMES:
        with pytest.raises(ValueError, match="this config has") as error:
            get_config(name, "?")
        listed = re.search("this config has (.*)", str(error.value))[1]
        found += [(name, variant) for variant in ("", *listed.split(", ")) if not variant.startswith("epochs")]
    return found


def stand_in(config: ConfigDict, view: teachers.View, *, directory=None) -> teachers.Teacher:
    """A teacher of the architecture that the config names, or of the student's, in the place of trained weights."""
    named = config.teacher if config.teacher.encoder else config
    module = nets.create(named.encoder, **named.encoder_args)
    image = jnp.zeros((2, *view.shape))
    shapes = jax.eval_shape(lambda: functional.init_encoder(module, jax.random.key(0), image))
    params, state, pooled, _ = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), shapes)
    classes = len(view.source.classes)
    head = {"kernel": np.zeros((pooled.shape[-1], classes), np.float32), "bias": np.zeros(classes, np.float32)}
    variables = {"params": params, "model_state": state}
    arguments = dict(named.encoder_args)
    return teachers.Teacher(asked={}, encoder=named.encoder, encoder_args=arguments, variables=variables, head=head)


@pytest.mark.parametrize(("name", "variant"), variants())
def test_variant_fits_together(name, variant, monkeypatch):
    config = get_config(name, variant)
    n, *shape = SHAPES[config.data]
    if config.image_size:
        shape[:2] = [config.image_size] * 2
    images = np.broadcast_to(np.uint8(7), (n, *shape))  # takes one byte
    labels = np.arange(n) % CLASSES[config.data]
    monkeypatch.setattr(experiment, "load_data", lambda config, split: from_arrays(images, labels))
    monkeypatch.setattr(teachers, "load", stand_in)
    parts = experiment.build(config)
    assert parts.steps >= 10

    def step(rng, image, ids):
        batch = with_views(parts.views, rng, {"image": image, "id": ids, "label": ids})
        params, carry = parts.method.init(rng, jax.tree.map(lambda x: x[:2], batch))
        loss, (carry, _) = parts.method.loss(params, carry, batch, rng, ids[0])
        opt_state = parts.tx.init(params)
        pooled, _ = parts.method.encode(params, carry, parts.prepare(image))
        return loss, params, opt_state, pooled

    b = config.batch_size
    image, ids = jax.ShapeDtypeStruct((b, *shape), np.uint8), jax.ShapeDtypeStruct((b,), np.int32)
    loss, params, _, pooled = jax.eval_shape(step, jax.random.key(0), image, ids)
    assert loss.shape == ()
    assert len(pooled) == b
    if (name, variant) in DECAYS:
        check_decay(params, DECAYS[name, variant])
    if config.encoder == "resnet50":
        sizes = [x.shape for x in jax.tree.leaves(params["encoder"])]
        [channels] = [shape[2] for shape in sizes if shape[:2] == (7, 7)]  # that the method shows it
        assert sum(map(np.prod, sizes)) == 23_508_032 - 7 * 7 * (3 - channels) * 64


def test_recipes_for_cifar10_ask_for_prepared_data(tmp_path):
    """They differ from each other in their method only, and data that is not there is told in the usual sentence."""
    shared = ("encoder", "data", "image_size", "view_size", "batch_size")
    seen = set()
    for name in ("simclr", "moco", "simsiam", "byol", "barlow_twins"):
        config = get_config(name, "cifar10")
        config.data_dir = str(tmp_path)
        seen.add((config.encoder_args.stem, *(config[field] for field in shared)))
        assert not config.augment_args.get("blur", False)
    assert seen == {("small", "resnet18", "tfds:cifar10", 32, 32, 512)}
    with pytest.raises(UserError, match="tfds:cifar10 is not prepared"):
        experiment.build(config)
