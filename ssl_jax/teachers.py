"""Frozen networks to learn from: from a run of one's own, or from a file of weights.

`config.teacher` says which; it becomes a method's arguments `teacher`, `variables` and `head`. A copy is kept in the
run's directory, so that the run can go on, and be evaluated, when the teacher is not where it was any more.
"""

import dataclasses
import functools
import importlib.resources
import json
import operator
import os
import pathlib
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util
from ml_collections import ConfigDict

from ssl_jax import data, hosts, interop, nets, workdir
from ssl_jax.core import PyTree, UserError
from ssl_jax.data.files import local
from ssl_jax.evaluation import draw_labels, few_label_head
from ssl_jax.nets import functional

FILE = "teacher.npz"  # in the run's directory
PACKAGED = "package:"  # a path that begins so is a file beside the configs
UNLABELLED = 5000  # images that features are standardised by before a head is fitted


@dataclasses.dataclass(frozen=True, kw_only=True)
class View:
    """What the teacher will see.

    Attributes:
      source: training images.
      shape: height, width and channels of a view.
      prepare: `uint8 [b h w c] -> float`, one clean view of an image.
    """

    source: data.Source
    shape: tuple[int, int, int]
    prepare: Callable[[jax.Array], jax.Array]


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Teacher:
    """A network that is not trained any more.

    Attributes:
      asked: `config.teacher` as JSON has it: what this teacher was made from.
      encoder: name of its architecture.
      encoder_args: fields of its module.
      variables: `{"params": ..., "model_state": ...}`, host arrays.
      head: linear classifier `{"kernel": [d c], "bias": [c]}`, or None.
    """

    asked: dict[str, Any]
    encoder: str
    encoder_args: dict[str, Any]
    variables: PyTree
    head: dict[str, np.ndarray] | None = None

    def module(self, dtype: Any = jnp.float32) -> nn.Module:
        """The network, computing in `dtype`."""
        return nets.create(self.encoder, **self.encoder_args, dtype=dtype)

    def arguments(self, dtype: Any) -> dict[str, Any]:
        """Keyword arguments of a method's factory."""
        return {"teacher": self.module(dtype), "variables": self.variables, "head": self.head}


def load(config: ConfigDict, view: View, *, directory: str | os.PathLike[str] | None = None) -> Teacher:
    """The teacher that `config.teacher` asks for; from the run's `directory`, if it is kept there.

    Raises:
      UserError: none is named, or two; it can't be read, has another shape, or sees images otherwise than the student.
    """
    asked = workdir.plain(config.teacher)
    for place in (directory, config.lengthen):  # a longer run goes on with the teacher of the shorter one
        kept = None if place is None else read_kept(local(place, "a run"), asked, view)
        if kept is not None:
            return kept
    if bool(asked["workdir"]) == bool(asked["path"]):
        raise UserError(
            "A teacher is needed, and one only: `ssl-jax pretrain --config=quickstart --workdir=runs/teacher` trains "
            "one on Fashion-MNIST, and --config.teacher.workdir=runs/teacher with this command takes it; or give "
            "--config.teacher.path=FILE.safetensors and --config.teacher.encoder=NAME for weights of others."
        )
    teacher = from_run(asked, config, view) if asked["workdir"] else from_file(asked, config, view)
    if asked["labels_per_class"]:
        teacher = dataclasses.replace(teacher, head=label(teacher, view, asked["labels_per_class"]))
    return teacher


def from_file(asked: dict[str, Any], config: ConfigDict, view: View) -> Teacher:
    """A teacher from weights, with their classifier if they have one; its encoder is the student's unless named."""
    named = asked if asked["encoder"] else workdir.plain(config)
    encoder, arguments = named["encoder"], as_tuples(named["encoder_args"])
    path = asked["path"]
    if path.startswith(PACKAGED):
        path = str(importlib.resources.files("ssl_jax.configs") / path.removeprefix(PACKAGED))
    path = local(path, "a teacher's weights")
    module = nets.create(encoder, **arguments)
    params, state = interop.load_encoder(path, module, view.shape, prefix=asked["prefix"])
    return Teacher(
        asked=asked,
        encoder=encoder,
        encoder_args=arguments,
        variables={"params": params, "model_state": state},
        head=interop.load_head(path, prefix=asked["prefix"]),
    )


def from_run(asked: dict[str, Any], config: ConfigDict, view: View) -> Teacher:
    """The encoder of a run, or the encoder of that run's own teacher (`network="teacher"`)."""
    from ssl_jax.checkpoint import Checkpoints  # orbax is heavy

    directory = local(asked["workdir"], "a teacher's run")
    theirs = workdir.read_run(directory)["config"]
    if theirs["normalize"] != config.normalize:
        raise UserError(
            f"The teacher in {directory} learned from images with config.normalize={theirs['normalize']}, so the "
            f"student must see them so too; here it is {config.normalize}."
        )
    if asked["network"] not in ("student", "teacher"):
        raise UserError(f"config.teacher.network is student or teacher, not {asked['network']!r}.")
    if not (directory / "checkpoints").is_dir():
        raise UserError(f"There is no checkpoint in {directory}, so it can't teach.")
    encoder, arguments = theirs["encoder"], as_tuples(theirs["encoder_args"])
    module, image = nets.create(encoder, **arguments), jnp.zeros((2, *view.shape), jnp.float32)
    params, state = jax.eval_shape(lambda: functional.init(module, jax.random.key(0), image))
    # Where a run's state keeps the network; a branch without arrays, such as a ViT's statistics, is not saved.
    places = {"params": ("params", "encoder"), "model_state": ("carry", "model_state", "encoder")}
    if asked["network"] == "teacher":
        places = {name: ("carry", "teacher", name, "encoder") for name in places}
    variables = {"params": params, "model_state": state}
    branches = traverse_util.unflatten_dict({places[name]: tree for name, tree in variables.items() if tree})
    checkpoints = Checkpoints(directory / "checkpoints", read_only=True)
    try:
        steps = checkpoints.steps()
        if not steps:
            raise UserError(f"There is no checkpoint in {directory}, so it can't teach.")
        found = checkpoints.restore_part(asked["step"] or steps[-1], "state", branches)
    finally:
        checkpoints.close()
    for name, place in places.items():
        if variables[name]:
            variables[name] = functools.reduce(operator.getitem, place, found)
    return Teacher(asked=asked, encoder=encoder, encoder_args=arguments, variables=variables)


def label(teacher: Teacher, view: View, per_class: int) -> dict[str, np.ndarray]:
    """A classifier for the teacher from a few labels of each class: those of `evaluate --labels`, first draw."""
    source = view.source
    if source.labels is None:
        raise UserError("config.teacher.labels_per_class needs data with labels.")
    module, variables = teacher.module(), teacher.variables

    @jax.jit
    def pooled(params: PyTree, state: PyTree, image: jax.Array) -> jax.Array:
        return functional.encode(module, params, state, view.prepare(image), train=False)[0]

    def features(rows: np.ndarray) -> np.ndarray:
        found = []
        for batch in data.epoch(data.Subset(source, rows, "to label"), batch_size=min(len(rows), 256)):
            out = pooled(variables["params"], variables["model_state"], jnp.asarray(batch["image"]))
            found.append(np.asarray(out)[batch["valid"]])
        return np.concatenate(found)

    rows = np.sort(draw_labels(source.labels, per_class=per_class))
    others = np.unique(np.linspace(0, len(source) - 1, UNLABELLED).astype(int))
    return few_label_head(features(rows), source.labels[rows], features(others))


def keep(teacher: Teacher, directory: pathlib.Path) -> None:
    """Put a copy into a run's directory, unless it is there."""
    if not hosts.is_first() or kept_facts(directory).get("asked") == teacher.asked:
        return
    variables = {"params": teacher.variables["params"], **teacher.variables["model_state"]}
    arrays = {"/".join(path): np.asarray(x) for path, x in traverse_util.flatten_dict(variables).items()}
    arrays |= {f"head/{name}": np.asarray(x) for name, x in (teacher.head or {}).items()}
    facts = {"asked": teacher.asked, "encoder": teacher.encoder, "encoder_args": workdir.plain(teacher.encoder_args)}
    interop.write(directory / FILE, arrays | {"about": np.asarray(json.dumps(facts))})


def kept_facts(directory: pathlib.Path) -> dict[str, Any]:
    """What the copy in a run's directory says of itself; empty if there is none."""
    path = directory / FILE
    return json.loads(str(interop.read(path)["about"])) if path.is_file() else {}


def read_kept(directory: pathlib.Path, asked: dict[str, Any], view: View) -> Teacher | None:
    """The copy in a run's directory, or None if there is none, or one that was made from something else."""
    facts, path = kept_facts(directory), directory / FILE
    if facts.get("asked") != asked:
        return None
    arguments = as_tuples(facts["encoder_args"])
    params, state = interop.load_encoder(path, nets.create(facts["encoder"], **arguments), view.shape)
    return Teacher(
        asked=asked,
        encoder=facts["encoder"],
        encoder_args=arguments,
        variables={"params": params, "model_state": state},
        head=interop.load_head(path),
    )


def as_tuples(arguments: dict[str, Any]) -> dict[str, Any]:
    """Fields of a module as they were before JSON made lists of their tuples."""
    return {name: tuple(x) if isinstance(x, list) else x for name, x in arguments.items()}
