"""What to set where a recipe meets fewer images than it was made for: in words, with flags to copy; nothing is changed.

The rules are ours, made to pass through what is usual for ImageNet and for CIFAR-10. Once the flags are given there is
no advice any more, and none comes where a recipe's numbers are in reach of these.
"""

import dataclasses
import math
import shlex
from collections.abc import Iterator
from typing import Any

from ml_collections import ConfigDict

from ssl_jax import small_data

IMAGENET, EPOCHS = 1_281_167, 200  # an epoch's images, and so many epochs; 1,000 of CIFAR-10's 50,000 by the rule below
SHORT = 5  # a run is called short below this part of that
OVERFITS = "supervised"  # the one method that does, where the others only go on
MANY = 1024  # prototypes that DINO has for little data, by `small_data`


@dataclasses.dataclass(frozen=True)
class Advice:
    """Why something should be changed, and fields of the config with other values."""

    reason: str
    settings: dict[str, Any]


def advice(config: ConfigDict, images: int) -> list[Advice]:
    """What to change in a config for so many training images; empty where it fits."""
    if images >= IMAGENET:
        return []
    found = list(_batch(config, images))
    batch_size = found[0].settings["batch_size"] if found else config.batch_size
    found += _length(config, images, batch_size)
    found += _queue(config, images, batch_size)
    return [*found, *_prototypes(config, images), *_temperatures(config, images)]


def flags(found: list[Advice]) -> str:
    """The settings as they are typed."""
    settings = {name: value for one in found for name, value in one.settings.items()}
    return " ".join(f"--config.{name}={_typed(value)}" for name, value in settings.items())


def sentence(found: list[Advice], images: int) -> str:
    """All of it in words, with the flags at the end."""
    reasons = "; ".join(one.reason for one in found)
    return (
        f"The recipe was made for more than {images:,} images: {reasons}. As a rule of thumb (docs/howto.md), "
        f"give it {flags(found)}"
    )


def _typed(value: Any) -> str:
    """A value as a shell takes it: parentheses in quotes."""
    return shlex.quote(str(value).replace(" ", "") if not isinstance(value, float) else f"{value:g}")


def _power_of_two(limit: float) -> int:
    """The largest one that is not above the limit."""
    return 2 ** max(math.floor(math.log2(limit)), 0)


def _rounded(value: float) -> float:
    return float(f"{value:.2g}")


def _batch(config: ConfigDict, images: int) -> Iterator[Advice]:
    """At most a quarter of the images; where the rate does not follow by the recipe's own rule, linear in the batch."""
    if config.batch_size <= images / 4:
        return
    settings: dict[str, Any] = {"batch_size": _power_of_two(images / 4)}
    follows = "the rate follows it"
    if config.learning_rate_scaling == "none":
        settings["learning_rate"] = _rounded(config.learning_rate * settings["batch_size"] / config.batch_size)
        follows = "the rate does not follow it by itself"
    if config.micro_batches > 1:
        settings["micro_batches"] = 1
    yield Advice(f"a batch of {config.batch_size:,} is more than a quarter of them ({follows})", settings)


def _length(config: ConfigDict, images: int, batch_size: int) -> Iterator[Advice]:
    """Epochs that grow as images become fewer, with the inverse of their number's square root."""
    wanted = _rounded(EPOCHS * math.sqrt(IMAGENET / images))
    if config.steps is not None or config.method == OVERFITS or SHORT * config.epochs >= wanted:
        return
    times = wanted / config.epochs
    settings: dict[str, Any] = {"epochs": wanted}
    if config.warmup_epochs:
        settings["warmup_epochs"] = _rounded(config.warmup_epochs * times)
    if config.schedule == "drops" and config.drop_epochs:
        settings["drop_epochs"] = tuple(round(epoch * times) for epoch in config.drop_epochs)
    for part in ("method_args", "optimizer_args"):
        for name, value in config[part].items():
            if isinstance(value, ConfigDict) and "schedule" in value and "epochs" in value:
                settings[f"{part}.{name}.epochs"] = round(value["epochs"] * times)
    arguments, steps = config.method_args, round(wanted * images / batch_size)
    if arguments.get("queue_start"):
        settings["method_args.queue_start"] = round(steps * arguments.queue_start * 256 / (IMAGENET * EPOCHS))
    made = max(round(config.epochs * images / batch_size), 1)
    yield Advice(f"{config.epochs:g} epochs of them are {made:,} steps of {batch_size:,}", settings)


def _queue(config: ConfigDict, images: int, batch_size: int) -> Iterator[Advice]:
    """A queue of at most half of the images; MoCo's authors have a twelfth of CIFAR-10's."""
    size = config.method_args.get("queue_size")
    if size and size > images / 2:
        smaller = min(max(_power_of_two(images / 8), batch_size), size)
        reason = f"a queue of {size:,} holds features of the very images that are compared with it"
        yield Advice(reason, {"method_args.queue_size": smaller})


def _prototypes(config: ConfigDict, images: int) -> Iterator[Advice]:
    """See `small_data.prototypes`."""
    count = config.method_args.get("prototypes")
    if count and count > max(images / 4, MANY) and (fewer := small_data.prototypes(images, count)) < count:
        yield Advice(f"most of {count:,} prototypes would see no image", {"method_args.prototypes": fewer})


def _temperatures(config: ConfigDict, images: int) -> Iterator[Advice]:
    """See `small_data.teacher_temperature`; the teachers of DINO and iBOT."""
    settings: dict[str, Any] = {}
    for name in ("teacher_temperature", "patch_temperature"):
        value = config.method_args.get(name)
        end = round(small_data.between(images, 0.04, 0.07), 3)
        if isinstance(value, ConfigDict) and value.get("end", 0.0) > 1.25 * end:
            settings[f"method_args.{name}.start"] = round(small_data.between(images, 0.02, 0.04), 3)
            settings[f"method_args.{name}.end"] = end
    if settings:
        yield Advice("its teacher's temperature is one that few images collapse at", settings)
