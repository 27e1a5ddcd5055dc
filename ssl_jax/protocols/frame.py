"""What an evaluation protocol is given, and what it gives back."""

import dataclasses
import difflib
import functools
import inspect
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax.linen as nn
import numpy as np

from ssl_jax import data
from ssl_jax.core import PyTree, UserError

Row = dict[str, Any]


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Network:
    """An encoder with its weights, for protocols that train it further or need its maps.

    Attributes:
      encoder: linen module, see `nets.functional`.
      params: its parameters.
      state: its batch statistics.
    """

    encoder: nn.Module
    params: PyTree
    state: PyTree


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Subject:
    """What is evaluated.

    Attributes:
      name: "this run", "random encoder" or "raw pixels".
      features: `(source) -> [n d]`, frozen features of its images in their order.
      network: makes the network behind them, or None for raw pixels.
      untrained: whether that is as it was initialised; protocols that train networks then begin from scratch.
    """

    name: str
    features: Callable[[data.Source], np.ndarray]
    network: Callable[[], Network] | None = None
    untrained: bool = False


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Task:
    """What it is evaluated on.

    Attributes:
      train: images that may be learned from.
      test: images to score on, looked at once.
      seed: of splits, draws and whatever is trained.
      prepare: `uint8 [b h w c] -> float`, as the network was trained on.
      normalize: keyword arguments `mean` and `std` of the augmentation.
      size: what the network sees, in pixels.
      channels: of the images.
    """

    train: data.Source
    test: data.Source
    seed: int
    prepare: Callable
    normalize: dict[str, Any]
    size: int
    channels: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Protocol:
    """A protocol: a function of a subject and a task, and what it needs of them.

    Attributes:
      run: `(subject, task, **options) -> rows`.
      labels: whether it needs them.
      network: whether it works on the network itself, so that raw pixels are left out and layers make no difference.
      sets: `(task, options) -> sources` that it evaluates on in place of the task's, all options being there; what
        tells its rows from those of other data under the same name. None: it has no such options.
    """

    run: Callable[..., list[Row]]
    labels: bool = True
    network: bool = False
    sets: Callable[[Task, Mapping[str, Any]], Sequence[data.Source]] | None = None

    @property
    def options(self) -> dict[str, Any]:
        """Its options with their defaults: the arguments after subject and task."""
        return {p.name: p.default for p in list(inspect.signature(self.run).parameters.values())[2:]}

    @property
    def idea(self) -> str:
        """What it does, in a line."""
        return (inspect.getdoc(self.run) or "").splitlines()[0]

    def checked(self, name: str, given: Mapping[str, Any]) -> dict[str, Any]:
        """Options as they are run with; one number or word stands for several where several are taken.

        Raises:
          UserError: there is no such option, or it is of another type than the protocol takes.
        """
        known, checked, kinds = self.options, {}, typing.get_type_hints(self.run)
        for option, value in given.items():
            if option not in known:
                near = difflib.get_close_matches(option, known, n=1)
                hint = f" Did you mean {near[0]!r}?" if near else ""
                raise UserError(f"The protocol {name} has no option {option!r}; it has {', '.join(known)}.{hint}")
            default = known[option]
            if isinstance(default, tuple) and not isinstance(value, (tuple, list)):
                value = (value,)
            kind = kinds.get(option, type(default))
            if not _fits(value, kind):
                like = f"something like {default!r}" if default not in (None, ()) else _in_words(kind)
                raise UserError(f"The option {option} of {name} is {like}, not {value!r}.")
            checked[option] = value
        return checked


def _fits(value: Any, kind: Any) -> bool:
    """Whether a value is of the type that an option is annotated with; whole numbers are numbers as well."""
    if isinstance(kind, types.UnionType):
        return any(_fits(value, one) for one in typing.get_args(kind))
    if typing.get_origin(kind) is Sequence:
        return isinstance(value, (tuple, list)) and all(_fits(item, typing.get_args(kind)[0]) for item in value)
    if kind is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    return type(value) is kind


def _in_words(kind: Any) -> str:
    """A type for people, None aside."""
    if isinstance(kind, types.UnionType):
        return " or ".join(_in_words(one) for one in typing.get_args(kind) if one is not types.NoneType)
    if typing.get_origin(kind) is Sequence:
        return f"one or more, each {_in_words(typing.get_args(kind)[0])}"
    return {int: "a whole number", float: "a number", str: "a text"}.get(kind, str(kind))


@functools.lru_cache(maxsize=2)  # training and test images, the same for all that is evaluated on a task
def load_for(
    task: Task, name: str, split: str, *, image_size: int | None = None, data_dir: str | None = None
) -> data.Source:
    """Images of other data than the task's, with as many channels; `image_size` None leaves them theirs."""
    return data.load(name, split, image_size=image_size, channels=task.channels, data_dir=data_dir)


def network_of(subject: Subject) -> Network:
    """The network of a subject that has one."""
    assert subject.network is not None
    return subject.network()


def start_of(subject: Subject) -> tuple[nn.Module, PyTree | None, PyTree | None]:
    """Encoder, parameters and batch statistics that training begins from; None for those of an untrained one."""
    network = network_of(subject)
    return (network.encoder, None, None) if subject.untrained else (network.encoder, network.params, network.state)


def possible(
    counts: Sequence[int], smallest: int, *, option: str, default: Sequence[int], what: str = "training examples"
) -> list[int]:
    """Numbers of examples of each class that the smallest class has; larger ones of the default are left out.

    Raises:
      UserError: one that was asked for is larger.
    """
    most = max(counts, default=0)
    if most > smallest and tuple(counts) != tuple(default):
        raise UserError(
            f"`{option}` asks for {most} of each class, but the smallest class has {smallest} {what}; lower it, or "
            "leave that class out of the data."
        )
    return [count for count in counts if count <= smallest]


def row(
    name: str,
    values: Sequence[float],
    *,
    metric: str = "accuracy",
    share: bool = True,
    labels: int | None = None,
    **setting: Any,
) -> Row:
    """One figure: `name` for people, the mean of `values` (one per trial), their deviation, and how they came about.

    A metric that is a share (accuracy, average precision, IoU) is in 0..1, and shown in percent. `labels` is how many
    labelled images it was learned from, in each trial; None where labels play no part.
    """
    spread = float(np.std(values, ddof=1)) if len(values) > 1 else None
    found: Row = {"protocol": name, "metric": metric, "share": share, "value": float(np.mean(values)), "std": spread}
    return {**found, "trials": len(values), "labels": labels, "setting": setting}
