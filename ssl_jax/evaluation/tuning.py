"""Recipes of fine-tuning: their numbers, those of papers, and the optimizer that they mean."""

import dataclasses
import math
import re
from typing import Any

import jax
import jax.numpy as jnp
import optax

from ssl_jax import optim, schedules
from ssl_jax.checks import check_positive
from ssl_jax.core import PyTree, UserError


@dataclasses.dataclass(frozen=True, kw_only=True)
class FineTuning:
    """Numbers of a fine-tuning, by default for a small encoder and few labels; see `FINE_TUNING` for those of papers.

    Attributes:
      epochs: passes over the labelled images.
      min_steps: at least so many steps, however few the images.
      steps: exactly so many steps, in place of `epochs`.
      batch_size: images a step; fewer where there are fewer images, then rounded up to a multiple of the devices.
      optimizer: a name of `optim.create`.
      head_rate: peak learning rate of the classifier, not scaled by the batch.
      trunk_rate: peak learning rate of the encoder; None is the head's. 0 freezes it with its batch statistics, which
        leaves a linear classifier.
      layer_decay: multiplies the trunk's rate once for every layer between a parameter and the head (ELECTRA, BEiT,
        MAE), see `depths`; 1 for one rate.
      schedule: of the rates after the warm-up: "cosine" to 0, "drops" or "constant".
      warmup: share of the steps in which rates rise along a line from 0, 0..1.
      drops: shares of the run at which rates are multiplied by `drop_factor`.
      drop_factor: see there.
      momentum: of `sgd` and LARS.
      weight_decay: see `optim.create`.
      clip_norm: bound of the gradient's global norm, or None.
      label_smoothing: share of a label that is spread over all classes.
      mixup: alpha of `augment.mixup`; 0 for none.
      cutmix: probability of `augment.cutmix`; 0 for none.
      ema: momentum of an average of weights and batch statistics, which is evaluated too; None for none. At step k it
        is at most (1 + k) / (10 + k), so that short runs forget where they began, as in TensorFlow's
        `ExponentialMovingAverage`.
      head: what the classifier begins as: "probe", fitted to the features of (up to 20,000) labelled images while the
        trunk rests, so that the first steps don't distort it (Kumar et al., ICLR 2022, arXiv 2202.10054); "zero"; or
        "random".
      frozen_statistics: keep the batch statistics that the encoder came with, see `methods.supervised`; without
        pretrained parameters there are none to keep, and they are learnt all the same.

    Raises:
      UserError: a number out of its range.
    """

    epochs: float = 30.0
    min_steps: int = 20
    steps: int | None = None
    batch_size: int = 64
    optimizer: str = "adamw"
    head_rate: float = 1e-4
    trunk_rate: float | None = None
    layer_decay: float = 1.0
    schedule: str = "cosine"
    warmup: float = 0.1
    drops: tuple[float, ...] = ()
    drop_factor: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 1e-4
    clip_norm: float | None = None
    label_smoothing: float = 0.0
    mixup: float = 0.0
    cutmix: float = 0.0
    ema: float | None = None
    head: str = "probe"
    frozen_statistics: bool = True

    def __post_init__(self) -> None:
        check_positive(
            epochs=self.epochs,
            min_steps=self.min_steps,
            steps=self.steps,
            batch_size=self.batch_size,
            head_rate=self.head_rate,
            clip_norm=self.clip_norm,
        )
        if not 0.0 < self.layer_decay <= 1.0:
            raise UserError(f"`layer_decay` must be above 0 and at most 1, but is {self.layer_decay}.")
        if self.trunk_rate is not None and not 0.0 <= self.trunk_rate < math.inf:
            raise UserError(f"`trunk_rate` must be 0 (frozen) or above, but is {self.trunk_rate}.")
        if not 0.0 <= self.warmup < 1.0 or not all(0.0 <= at <= 1.0 for at in self.drops):
            raise UserError(f"`warmup` {self.warmup} and `drops` {self.drops} are shares of the run, 0..1.")
        if self.ema is not None and not 0.0 <= self.ema < 1.0:
            raise UserError(f"`ema` is the momentum of an average, 0 or above and below 1, but is {self.ema}.")
        choices = {"schedule": ("cosine", "drops", "constant"), "head": ("probe", "zero", "random")}
        for name, known in choices.items():
            if getattr(self, name) not in known:
                raise UserError(f"`{name}` is one of {', '.join(known)}, not {getattr(self, name)!r}.")

    @property
    def frozen(self) -> bool:
        """Whether only the classifier learns."""
        return self.trunk_rate == 0.0

    def count_steps(self, images: int, batch_size: int) -> int:
        """Steps of a run on so many labelled images."""
        return self.steps or max(round(self.epochs * images / batch_size), self.min_steps)


# What the papers fine-tune a ResNet-50 with on 1 % and 10 % of ImageNet's labels.
# OBoW (arXiv 2012.11552): its rates are five times lower from the third and the fourth fifth of the run on; the batch
# size is not in its configuration, 256 is that of its pretraining. SimCLR (arXiv 2002.05709, appendix B.5): Nesterov
# momentum, 0.05 * 4096 / 256, no warm-up, no regularisation, crops and flips only; the momentum here is plain.
_OBOW = FineTuning(
    min_steps=1,
    batch_size=256,
    optimizer="sgd",
    head_rate=0.5,
    trunk_rate=2e-4,
    schedule="drops",
    warmup=0.0,
    drops=(0.6, 0.8),
    drop_factor=0.2,
    weight_decay=0.0,
    head="random",
    frozen_statistics=False,
)
_SIMCLR = FineTuning(
    min_steps=1,
    batch_size=4096,
    optimizer="sgd",
    head_rate=0.8,
    schedule="constant",
    warmup=0.0,
    weight_decay=0.0,
    head="zero",
    frozen_statistics=False,
)
FINE_TUNING = {
    "obow_1percent": dataclasses.replace(_OBOW, epochs=40.0),
    "obow_10percent": dataclasses.replace(_OBOW, epochs=20.0),
    "simclr_1percent": dataclasses.replace(_SIMCLR, epochs=60.0),
    "simclr_10percent": dataclasses.replace(_SIMCLR, epochs=30.0),
}


def depths(params: PyTree) -> PyTree:
    """How deep in an encoder each parameter lies, an int in place of each array; the deepest are the ones at the end.

    It is read from the name of the part at the top: n for `block{n}...` (a ViT's blocks), `stage{n}...` (the stages of
    ResNet and ConvNet) and `layer{n}...`; one more than the deepest of those for `norm`, a ViT's last; 0 for all else:
    stem, patch embedding, positions, class token. This is MAE's and BEiT's table for a ViT.

    Raises:
      UserError: no name says a depth.
    """

    def numbered(path: tuple) -> int | None:
        found = re.match(r"(?:block|stage|layer)_?(\d+)", str(getattr(path[0], "key", path[0])))
        return int(found[1]) if found else None

    known = [n for path, _ in jax.tree.leaves_with_path(params) if (n := numbered(path)) is not None]
    if not known:
        raise UserError(
            "Layer-wise decay needs an encoder whose parts are named block1, block2, ... or stage1, stage2, ..., but "
            f"this one has {', '.join(params)}; use layer_decay=1."
        )

    def depth(path: tuple, _: Any) -> int:
        last = max(known) + 1 if str(getattr(path[0], "key", "")) == "norm" else 0
        number = numbered(path)
        return last if number is None else number

    return jax.tree.map_with_path(depth, params)


def rate_factors(params: PyTree, recipe: FineTuning) -> PyTree:
    """What multiplies `head_rate` for each of `{"encoder", "classifier"}`'s parameters, a float in place of each array.

    1 in the head; in the trunk `trunk_rate / head_rate * layer_decay ** (last - depth)`, where `last` is one more than
    the deepest numbered part.
    """
    trunk = 1.0 if recipe.trunk_rate is None else recipe.trunk_rate / recipe.head_rate
    if recipe.layer_decay == 1.0 or recipe.frozen:
        encoder = jax.tree.map(lambda _: trunk, params["encoder"])
    else:
        depth = depths(params["encoder"])
        top = {name: part for name, part in depth.items() if name != "norm"}
        last = max(jax.tree.leaves(top)) + 1
        encoder = jax.tree.map(lambda d: trunk * recipe.layer_decay ** (last - d), depth)
    return {"encoder": encoder, "classifier": jax.tree.map(lambda _: 1.0, params["classifier"])}


def rate_of(recipe: FineTuning, steps: int) -> schedules.Schedule:
    """The head's learning rate as a function of the step, for a run of `steps`."""
    warmup = round(recipe.warmup * (steps - 1))
    decays = {
        "cosine": lambda: schedules.cosine(recipe.head_rate, 0.0, steps=max(steps - warmup, 1)),
        "drops": lambda: schedules.drops(
            recipe.head_rate, at=[round(at * steps) - warmup for at in recipe.drops], factor=recipe.drop_factor
        ),
        "constant": lambda: schedules.constant(recipe.head_rate),
    }
    return schedules.with_warmup(decays[recipe.schedule](), steps=steps, warmup=warmup)


def optimizer(recipe: FineTuning, steps: int) -> optax.GradientTransformation:
    """The recipe's optimizer for `{"encoder", "classifier"}`, each parameter at its own rate."""
    tx = optim.create(
        recipe.optimizer,
        rate_of(recipe, steps),
        weight_decay=recipe.weight_decay,
        momentum=recipe.momentum,
        clip_norm=recipe.clip_norm,
        # The class token rests, as in MAE's and DeiT's (`no_weight_decay`), though it decays in pretraining.
        decay="matrices" if recipe.optimizer in ("adamw", "lamb") else None,
    )

    def scale(updates: PyTree, _: PyTree) -> PyTree:
        # After the optimizer, decoupled decay included: what a rate of its own would have given.
        return jax.tree.map(lambda u, f: u * jnp.asarray(f, u.dtype), updates, rate_factors(updates, recipe))

    return optax.chain(tx, optax.stateless(scale))
