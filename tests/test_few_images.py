"""Advice for fewer images than a recipe was made for: it can be typed, it is enough, and comes where it is due."""

import importlib
import shlex

import pytest
import recipes
from absl import flags
from ml_collections import ConfigDict

from ssl_jax import few_images
from ssl_jax.config_flag import define_config
from ssl_jax.optim import scaled_learning_rate
from ssl_jax.pretrain import pretrain

VARIANTS = [*recipes.NAMES, "moco:v1", "swav:small_batch", "dino:resnet50", "ibot:dinov2"]


def recipe(name: str) -> ConfigDict:
    name, _, variant = name.partition(":")
    return importlib.import_module(f"ssl_jax.configs.{name}").get_config(variant)


def typed(name: str, found: list) -> ConfigDict:
    """The config with the advice, as the command line has it."""
    values = flags.FlagValues()
    argv, _ = define_config(values, [f"--config={name}", *shlex.split(few_images.flags(found))])
    values(["ssl-jax", *argv])
    return values["config"].value


@pytest.mark.filterwarnings("ignore:the load_module")
@pytest.mark.parametrize("name", VARIANTS)
def test_it_can_be_typed_and_is_enough(name):
    assert few_images.advice(recipe(name), few_images.IMAGENET) == []
    for images in (100, 500, 5_000, 50_000):
        found = few_images.advice(recipe(name), images)
        after = typed(name, found)
        assert few_images.advice(after, images) == []
        assert after.batch_size <= images / 4
        assert after.steps or after.warmup_epochs < after.epochs
        for one in found:
            for path, value in one.settings.items():
                at = after
                for part in path.split("."):
                    at = at[part]
                assert at == value
                assert type(at) is type(value)


@pytest.mark.parametrize("name", recipes.NAMES)
def test_small_forms_fit_their_data(name):
    assert few_images.advice(recipe(f"{name}:test"), 1_797) == []
    if name not in ("quickstart", "fashion_mnist"):
        small = recipe(f"{name}:photos" if name == "colorization" else f"{name}:fashion_mnist")
        assert few_images.advice(small, 4_096 if name == "memory_bank" else 60_000) == []


def test_what_it_says():
    images = 5_000
    found = few_images.advice(recipe("moco"), images)
    assert few_images.sentence(found, images) == (
        "The recipe was made for more than 5,000 images: 200 epochs of them are 3,906 steps of 256; a queue of 65,536 "
        "holds features of the very images that are compared with it. As a rule of thumb (docs/howto.md), give it "
        "--config.epochs=3200 --config.method_args.queue_size=512"
    )
    found = few_images.advice(recipe("swav"), images)
    assert few_images.flags(found) == (
        "--config.batch_size=1024 --config.learning_rate=1.2 --config.method_args.prototypes=64"
    )
    found = few_images.advice(recipe("moco:v1"), 500)
    assert found[0].reason == "a batch of 256 is more than a quarter of them (the rate follows it)"
    assert "--config.epochs=10000 --config.drop_epochs='(6000,8000)'" in few_images.flags(found)


def test_rates_follow_the_batch_by_the_papers_rule():
    """Linear in the batch, the recipe's own number at the recipe's own batch."""
    for name in ("simclr", "byol", "moco", "moco:v1", "dino", "mae", "simsiam", "barlow_twins", "vicreg", "nnclr"):
        c = recipe(name)
        peaks = [scaled_learning_rate(c.learning_rate, b, c.learning_rate_scaling) for b in (64, 128, 256)]
        assert peaks == [c.learning_rate / 4, c.learning_rate / 2, c.learning_rate]


def test_a_run_says_it_before_it_compiles(tmp_path):
    class Said(Exception):
        pass

    def announce(text: str) -> None:
        if text.startswith("Note: "):
            raise Said(text)

    config = recipes.config("moco", method_args=ConfigDict({"queue_size": 4096}))
    with pytest.raises(Said, match=r"than 1,260 images: a queue of 4,096 .* --config.method_args.queue_size=128"):
        pretrain(config, tmp_path, announce=announce)
