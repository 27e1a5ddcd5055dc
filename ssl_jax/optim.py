"""Optimizers with the conventions of the papers, through optax."""

import functools
import operator
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from ssl_jax.core import PyTree, UserError
from ssl_jax.schedules import Schedule

TOKENS = ("cls", "pos_cls", "mask_token", "mask")  # of `nets.ViT` and MAE's decoder


def scaled_learning_rate(base: float, batch_size: int, scaling: str = "linear") -> float:
    """Rate for a batch: `base * batch / 256` (linear), `base * sqrt(batch)` (sqrt, SimCLR), or `base` (none)."""
    rules = {"linear": base * batch_size / 256, "sqrt": base * batch_size**0.5, "none": base}
    if scaling not in rules:
        raise UserError(f"Unknown learning-rate scaling {scaling!r}; choose one of {', '.join(rules)}.")
    return rules[scaling]


def unlikely_rate(name: str, peak: float) -> str | None:
    """A sentence if a rate was meant for another optimizer: LARS takes rates of 1 to 10, with which Adam diverges."""
    if name not in ("adam", "adamw") or peak <= 0.1:
        return None
    return (
        f"{name} with a learning rate of {peak:.3g} will hardly train: that is a rate for LARS or SGD. Try "
        "--config.learning_rate=1e-3 --config.learning_rate_scaling=none."
    )


def is_kernel(params: PyTree) -> PyTree:
    """True for what decays and adapts: weights with two or more axes, tokens, and the trained norms of prototypes.

    Biases and norm parameters have one axis, by which the authors' code knows them (BYOL's by their names). Tokens and
    prototypes' norms have one here only: in the code of DINO, iBOT, DINOv2 and MAE they are `[1 1 d]`, `[1 d]` and
    `[k 1]`, and decay.
    """
    return jax.tree.map_with_path(lambda keys, p: jnp.ndim(p) > 1 or _has_more_axes_there(_path(keys)), params)


def _is_no_kernel(params: PyTree) -> PyTree:
    return jax.tree.map(operator.not_, is_kernel(params))


def _is_matrix(params: PyTree) -> PyTree:
    return jax.tree.map(lambda p: jnp.ndim(p) > 1, params)


def _has_more_axes_there(path: str) -> bool:
    """Whether a parameter with one axis here has more in the authors' code, see `is_kernel`."""
    return path.rpartition("/")[2] in TOKENS or f"/{path}".endswith("/last/scale")


def _path(keys: tuple) -> str:
    return "/".join(str(getattr(key, "key", key)) for key in keys)


def lars(
    learning_rate: float | Schedule,
    *,
    weight_decay: float | Schedule = 1e-6,
    momentum: float = 0.9,
    trust_coefficient: float = 1e-3,
    rate_inside_momentum: bool = True,
    bias_rate_scale: float = 1.0,
) -> optax.GradientTransformation:
    """LARS (You et al., 2017); biases and norm parameters neither decay nor adapt.

    Args:
      learning_rate: number or function of the step.
      weight_decay: added to the gradient before the trust ratio `eta |w| / |g + wd w|`.
      momentum: heavy-ball momentum.
      trust_coefficient: eta.
      rate_inside_momentum: whether the momentum buffer holds rates (google-research/simclr, optax), or the rate
        multiplies the buffer (DeepMind's BYOL). They differ when the rate changes.
      bias_rate_scale: multiplies the rate of biases and norm parameters (Barlow Twins: 0.024).
    """
    adapt = [
        optax.masked(optax.add_decayed_weights(weight_decay), is_kernel),
        optax.masked(optax.scale_by_trust_ratio(trust_coefficient=trust_coefficient), is_kernel),
    ]
    if bias_rate_scale != 1.0:
        adapt.append(optax.masked(optax.scale(bias_rate_scale), _is_no_kernel))
    rate, trace = optax.scale_by_learning_rate(learning_rate), optax.trace(momentum)
    return optax.chain(*adapt, *((rate, trace) if rate_inside_momentum else (trace, rate)))


def clip_each(bound: float) -> optax.GradientTransformation:
    """Shrink every array whose gradient's norm exceeds `bound` to about that, each by itself.

    DINO's clipping (`utils.clip_gradients`): `g * min(1, bound / (|g| + 1e-6))`, array by array.
    """

    def clip(g: jax.Array) -> jax.Array:
        return g * jnp.minimum(1.0, bound / (jnp.linalg.norm(g) + 1e-6)).astype(g.dtype)

    return optax.stateless(lambda updates, _: jax.tree.map(clip, updates))


def create(
    name: str,
    learning_rate: float | Schedule,
    *,
    weight_decay: float | Schedule = 0.0,
    momentum: float = 0.9,
    clip_norm: float | None = None,
    clip_each_norm: float | None = None,
    decay: str | None = None,
    groups: Mapping[str, Mapping[str, Any]] | None = None,
    **kwargs: Any,
) -> optax.GradientTransformation:
    """Build an optimizer by name: `sgd`, `adam`, `adamw`, `lars`, `lars_byol` or `lamb`.

    Args:
      name: see above; `lars_byol` has the rate outside the momentum.
      learning_rate: number or function of the step.
      weight_decay: number or function of the step; for `sgd` and `adam` coupled, which is added to the gradient.
      momentum: of `sgd` and LARS.
      clip_norm: clip the gradient's global norm, or None.
      clip_each_norm: clip the norm of each array by itself (DINO), or None.
      decay: what decays: "all" parameters, as torch's optimizers do it when nothing else is said (MoCo, SimSiam), or
        "kernels" (DINO), see `is_kernel`, or "matrices", which leaves tokens out (MAE's fine-tuning); None is "all" for
        `sgd` and `adam`, and "kernels" for the others. LARS takes "kernels" only. LAMB also adapts the rates of what
        decays alone.
      groups: parameters that are treated differently: a path such as "predictor" or "head/last", which stands for all
        below it, and what differs: any of these arguments but `groups` and `clip_norm`, and `frozen_steps`, the number
        of first steps in which nothing of it moves. Of several paths that fit, the longest counts.
      **kwargs: passed on (for example `b2=0.95` for `adamw`, `trust_coefficient` for LARS).

    Raises:
      UserError: there is no such optimizer or decay, or (from its `init`) no parameter under a group's path.
    """
    own = {
        "learning_rate": learning_rate,
        "weight_decay": weight_decay,
        "momentum": momentum,
        "clip_each_norm": clip_each_norm,
        "decay": decay,
        **kwargs,
    }
    tx = _one(name, **own)
    if groups:
        parts = {"": tx, **{path: _one(name, **{**own, **changes}) for path, changes in groups.items()}}
        tx = optax.partition(parts, functools.partial(group_labels, paths=tuple(groups)))
    return tx if clip_norm is None else optax.chain(optax.clip_by_global_norm(clip_norm), tx)


def updates_counted(opt_state: PyTree) -> int:
    """How many updates the schedules in an optimizer's state have counted: those applied since its `init`."""
    number = lambda _, x: getattr(x, "shape", None) == () and x.dtype.kind == "i"  # noqa: E731
    return max((int(x) for _, x in optax.tree.get_all_with_path(opt_state, "count", filtering=number)), default=0)


def group_labels(params: PyTree, *, paths: tuple[str, ...]) -> PyTree:
    """For every parameter the longest of `paths` that leads to it, or ""; a path that leads nowhere is an error."""
    found = set()

    def label(keys: tuple, _: Any) -> str:
        path = _path(keys) + "/"
        fitting = max((p for p in paths if path.startswith(p.rstrip("/") + "/")), key=len, default="")
        found.add(fitting)
        return fitting

    labels = jax.tree.map_with_path(label, params)
    missing = [path for path in paths if path not in found]
    if missing:
        raise UserError(f"No parameter lies under the optimizer group {missing[0]!r}; there is {', '.join(params)}.")
    return labels


def _one(
    name: str,
    learning_rate: float | Schedule,
    *,
    weight_decay: float | Schedule,
    momentum: float,
    clip_each_norm: float | None = None,
    decay: str | None = None,
    frozen_steps: int = 0,
    **kwargs: Any,
) -> optax.GradientTransformation:
    """One optimizer without groups; arguments as for `create`."""
    decays = _decaying(name, decay)
    if frozen_steps:  # the optimizer begins afterwards, but schedules are those of the run
        learning_rate, weight_decay = (_from(frozen_steps, s) for s in (learning_rate, weight_decay))
    builders: dict[str, Callable[[], optax.GradientTransformation]] = {
        "sgd": lambda: optax.chain(
            optax.add_decayed_weights(weight_decay, decays),
            optax.sgd(learning_rate, momentum=momentum or None, **kwargs),
        ),
        "adam": lambda: optax.chain(
            optax.add_decayed_weights(weight_decay, decays),
            optax.scale_by_adam(**kwargs),
            optax.scale_by_learning_rate(learning_rate),
        ),
        "adamw": lambda: optax.chain(
            optax.scale_by_adam(**kwargs),
            optax.add_decayed_weights(weight_decay, decays),
            optax.scale_by_learning_rate(learning_rate),
        ),
        "lamb": lambda: optax.chain(
            optax.scale_by_adam(**{"eps": 1e-6, **kwargs}),
            optax.add_decayed_weights(weight_decay, decays),
            _adapting(decays),
            optax.scale_by_learning_rate(learning_rate),
        ),
        "lars": lambda: lars(learning_rate, weight_decay=weight_decay, momentum=momentum, **kwargs),
        "lars_byol": lambda: lars(
            learning_rate, weight_decay=weight_decay, momentum=momentum, rate_inside_momentum=False, **kwargs
        ),
    }
    if name not in builders:
        raise UserError(f"Unknown optimizer {name!r}; choose one of {', '.join(sorted(builders))}.")
    tx = builders[name]()
    if clip_each_norm is not None:
        tx = optax.chain(clip_each(clip_each_norm), tx)
    return optax.conditionally_mask(tx, lambda step: step >= frozen_steps) if frozen_steps else tx


def _adapting(decays: Callable[[PyTree], PyTree] | None) -> optax.GradientTransformation:
    """LAMB's trust ratio for what decays, as in its authors' code (google-research/albert, `lamb_optimizer.py`)."""
    ratio = optax.scale_by_trust_ratio()
    return ratio if decays is None else optax.masked(ratio, decays)


def _decaying(name: str, decay: str | None) -> Callable[[PyTree], PyTree] | None:
    """The mask of what decays, None for everything."""
    decay = decay or ("all" if name in ("sgd", "adam") else "kernels")
    masks = {"all": None, "kernels": is_kernel, "matrices": _is_matrix}
    if decay not in masks or (decay != "kernels" and name.startswith("lars")):
        raise UserError(f'`decay` is "all", "kernels" or "matrices", and "kernels" for LARS, not {decay!r} for {name}.')
    return masks[decay]


def _from(first: int, schedule: float | Schedule) -> float | Schedule:
    return (lambda step: schedule(step + first)) if callable(schedule) else schedule
