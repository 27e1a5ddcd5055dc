"""From a config to the parts of a run: the one place where ConfigDicts become keyword arguments."""

import dataclasses
import difflib
import functools
import inspect
import pathlib
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from ssl_jax import augment, data, few_images, methods, nets, optim, schedules, teachers, workdir
from ssl_jax.checks import check_positive
from ssl_jax.config_checks import check_numbers, groups
from ssl_jax.core import Method, TrainState, UserError
from ssl_jax.data.stored import is_stored
from ssl_jax.evaluation import embed
from ssl_jax.micro_batches import gradient_accumulation, gradient_caching
from ssl_jax.sharding import DATA, data_mesh
from ssl_jax.sharding_rules import REPLICATED, Rules, rules_of
from ssl_jax.warm_start import kept_file, warm_start

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
RECIPES = (  # of ssl_jax.augment, one a line
    "bownet",
    "byol",
    "clean",
    "dino",
    "instance",
    "moco_v1",
    "moco_v2",
    "obow",
    "perturbed",
    "simclr",
    "single",
    "swav",
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Experiment:
    """The parts that a config names, built.

    Attributes:
      config: the resolved config.
      source: training images.
      inputs: what training steps are given of them: `source` itself, or crops that the host takes at every step.
      method: what to train.
      rate: learning rate as a function of the step within a round.
      tx: optimizer.
      views: random views for training.
      prepare: `uint8 [b h w c] -> float`, for evaluation.
      steps: length of the run.
      mesh: devices.
      sharding: rules by which the state is split over them.
      teacher: a frozen network that the method learns from, if the config has one.
    """

    config: ConfigDict
    source: data.Source
    inputs: data.Source
    method: Method
    rate: optim.Schedule
    tx: optax.GradientTransformation
    views: Callable
    prepare: Callable
    steps: int
    mesh: Mesh
    sharding: Rules = REPLICATED
    teacher: teachers.Teacher | None = None

    @property
    def parts(self) -> dict[str, Any]:
        """Keyword arguments that `training.train` and `training.initial_state` have in common."""
        return {
            "tx": self.tx,
            "views": self.views,
            "seed": self.config.seed,
            "mesh": self.mesh,
            "sharding": self.sharding,
        }

    def embed(
        self, state: TrainState, source: data.Source, *, encoder: str = "student", layer: str | None = None
    ) -> np.ndarray:
        """Features `[n d]` of a source's images, see `evaluation.embed`."""
        return embed(self.method, state, source, prepare=self.prepare, encoder=encoder, layer=layer, mesh=self.mesh)


def lookup(table: dict[str, Any], name: str, what: str) -> Any:
    """Find `name` in a table, or raise a `UserError` that lists what there is and names the nearest."""
    if name in table:
        return table[name]
    near = difflib.get_close_matches(name, table, n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    raise UserError(f"Unknown {what} {name!r}; there is {', '.join(sorted(table))}.{hint}")


def call(function: Callable, what: str, *args: Any, **kwargs: Any) -> Any:
    """Call a factory, turning a misnamed argument into a `UserError` that names the nearest."""
    parameters = inspect.signature(function).parameters
    if not any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        for name in kwargs:
            lookup(dict.fromkeys(parameters), name, f"argument of the {what}")
    try:
        return function(*args, **kwargs)
    except TypeError as error:
        raise UserError(f"The {what} can't be built with {kwargs}: {error}.") from error


def load_data(config: ConfigDict, split: str) -> data.Source:
    """The images of one split, at the config's host-side size."""
    return data.load(
        config.data,
        split,
        image_size=config.image_size or None,
        channels=config.channels or None,
        data_dir=config.data_dir,
    )


def build_inputs(config: ConfigDict, source: data.Source, recipe: augment.Recipe | Any) -> data.Source:
    """The source itself, or crops of its images if `config.host_crop` says so; auto does where it can and pays."""
    if config.host_crop not in ("auto", "yes", "no"):
        raise UserError(f"config.host_crop is auto, yes or no, not {config.host_crop!r}.")
    possible = isinstance(recipe, augment.Recipe) and not recipe.aligned
    if config.host_crop == "yes" and not possible:
        raise UserError(
            f"The views of {config.augment} are no independent crops of the image; use --config.host_crop=no."
        )
    pays = possible and is_stored(source) and not source.in_memory
    if config.host_crop == "no" or (config.host_crop == "auto" and not pays):
        return source
    crops = tuple(
        data.Crop(size=size, scale=view.crop_scale, ratio=view.crop_ratio, side=view.crop_side, method=view.method)
        for view, size in recipe.pairs
    )
    return data.CroppedSource(source, crops, seed=config.seed, decoder=config.decoder)


def image_shape(source: data.Source) -> tuple[int, int, int]:
    """Height, width and channels of a source's images."""
    h, w, c = source[np.arange(1)]["image"].shape[1:]
    return int(h), int(w), int(c)


def statistics(source: data.Source, *, images: int = 2000) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and deviation per channel, for values in 0..1, of evenly spaced images; rounded, to be read in a config."""
    index = np.linspace(0, len(source) - 1, min(images, len(source))).astype(int)
    pixels = source[index]["image"].astype(np.float64) / 255
    mean, std = pixels.mean(axis=(0, 1, 2)), pixels.std(axis=(0, 1, 2))
    return tuple(round(float(m), 4) for m in mean), tuple(round(float(s), 4) or 1.0 for s in std)


def normalization(kind: str, source: data.Source) -> dict[str, Any]:
    """Keyword arguments `mean` and `std` of the augmentation for `config.normalize`."""
    if kind == "none":
        return {"mean": None, "std": None}
    if kind not in ("imagenet", "data"):
        raise UserError(f"config.normalize is imagenet, data or none, not {kind!r}.")
    channels = image_shape(source)[2]
    if kind == "imagenet" and channels != 3:
        raise UserError(f"The images have {channels} channel(s), so use --config.normalize=data instead of imagenet.")
    mean, std = IMAGENET if kind == "imagenet" else statistics(source)
    return {"mean": mean, "std": std}


def encoder_dtype(config: ConfigDict) -> Any:
    """What encoders compute in."""
    dtypes = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}
    if jnp.result_type(float) == jnp.float64:
        dtypes["float64"] = jnp.float64
    return lookup(dtypes, config.dtype, "value of config.dtype")


def build_encoder(config: ConfigDict) -> nn.Module:
    """The encoder, with the config's dtype, and what it computes again for its gradient."""
    try:
        encoder = nets.create(config.encoder, **config.encoder_args, dtype=encoder_dtype(config))
    except UserError as error:
        if not isinstance(error.__cause__, TypeError):
            raise
        raise UserError(
            f"{error}; config.encoder_args are fields of {config.encoder}, and where the recipe has those of another "
            "encoder, --config.encoder_args={} leaves them out."
        ) from error
    if config.remat == "none":
        return encoder
    if not hasattr(encoder, "remat"):
        raise UserError(f"The encoder {config.encoder} has no blocks to compute again; use --config.remat=none.")
    return encoder.clone(remat=config.remat)


def build_method(
    config: ConfigDict,
    source: data.Source,
    *,
    steps: int,
    teacher: teachers.Teacher | None = None,
    directory: str | pathlib.Path | None = None,
) -> Method:
    """The method with its encoder, which may begin with `config.weights`, and its teacher where it has one.

    Arguments called `examples`, `classes` and `steps` that the config leaves open are filled in from the data and the
    run, and so are `mean` and `std`, for methods that have to know what the views were normalised with.
    """
    factory = lookup({name: getattr(methods, name) for name in methods.__all__}, config.method, "method")
    arguments = {name: scheduled(value, config, source, steps=steps) for name, value in config.method_args.items()}
    known = {"examples": len(source), "classes": source.classes and len(source.classes), "steps": steps}
    for name, value in known.items():
        if arguments.get(name) is None and name in inspect.signature(factory).parameters:
            if value is None:
                raise UserError(f"{config.method} learns from labels, and {config.data} has none.")
            arguments[name] = value
    if "mean" in inspect.signature(factory).parameters:
        arguments = {**normalization(config.normalize, source), **arguments}
    if teacher is not None:
        arguments |= teacher.arguments(encoder_dtype(config))
    encoder = build_encoder(config)
    method = call(factory, f"method {config.method}", encoder, **arguments)
    if config.weights and not config.lengthen:  # a lengthened run begins with the state of the shorter one
        begun = directory is not None and workdir.has_begun(pathlib.Path(directory))
        path = kept_file(config.weights, pathlib.Path(directory)) if begun and directory else config.weights
        method = warm_start(method, encoder, path, teacher=teacher is None)
    return in_micro_batches(method, config)


def in_micro_batches(method: Method, config: ConfigDict) -> Method:
    """The method on `config.micro_batches` micro-batches."""
    count, accumulate = config.micro_batches, config.accumulate
    if accumulate == "no":
        return gradient_caching(method, count)
    if accumulate not in ("yes", "forced"):
        raise UserError(f"config.accumulate is no, yes or forced, not {accumulate!r}.")
    return gradient_accumulation(method, count, forced=accumulate == "forced")


def check_micro_batches(config: ConfigDict, mesh: Mesh) -> None:
    """Raise a `UserError` if micro-batches would not be of one size on every device."""
    count, devices = config.micro_batches, mesh.shape[DATA]
    check_positive(micro_batches=count)
    if count > 1 and config.batch_size % (count * devices):
        fits = [n for n in range(1, config.batch_size + 1) if config.batch_size % (n * devices) == 0]
        raise UserError(
            f"The batch size {config.batch_size} does not fall into {count} micro-batches on {devices} device(s); "
            f"--config.micro_batches may be {', '.join(map(str, fits))}."
        )


def scheduled(value: Any, config: ConfigDict, source: data.Source, *, steps: int) -> Any:
    """Turn `{"schedule": "cosine", "start": 0.99, "end": 1.0}` in a config into a function of the step.

    Kinds are cosine and linear, over the whole run unless `epochs`, `steps` or `fraction` (of the run) say how long;
    the end is kept from then on. Anything else is returned as it is.
    """
    if not isinstance(value, ConfigDict) or "schedule" not in value:
        return value
    fields = dict(value)
    kinds = {"cosine": schedules.cosine, "linear": schedules.linear}
    kind = lookup(kinds, fields.pop("schedule"), "schedule")
    length: float = steps
    if "epochs" in fields:
        length = fields.pop("epochs") * len(source) / config.batch_size
    if "fraction" in fields:
        length = min(length, steps * fields.pop("fraction"))
    return call(kind, "schedule", **{"steps": max(round(length), 1), **fields})


def build_rate(config: ConfigDict, source: data.Source, *, steps: int) -> optim.Schedule:
    """The learning rate as a function of the step within a round of `steps` steps."""
    peak = optim.scaled_learning_rate(config.learning_rate, config.batch_size, config.learning_rate_scaling)
    per_epoch = len(source) / config.batch_size
    warmup = round(config.warmup_epochs * per_epoch)
    if config.schedule == "cosine":
        decay = schedules.cosine(
            peak, config.final_learning_rate, steps=steps - round(config.warmup_epochs * per_epoch)
        )
    elif config.schedule == "drops":
        at = [round((epoch - config.warmup_epochs) * per_epoch) for epoch in config.drop_epochs or ()]
        decay = schedules.drops(peak, at=at, factor=config.drop_factor)
    elif config.schedule == "constant":
        decay = schedules.constant(peak)
    else:
        raise UserError(f"config.schedule is cosine, drops or constant, not {config.schedule!r}.")
    return schedules.with_warmup(decay, steps=steps, warmup=warmup)


def build_optimizer(
    config: ConfigDict, source: data.Source, rate: optim.Schedule, *, steps: int
) -> optax.GradientTransformation:
    """The optimizer, with its schedules and groups.

    A group in `optimizer_args.groups` may say, besides what `optim.create` takes: `rate_scale`, which multiplies the
    learning rate; `constant_rate`, True to keep it at its peak; `frozen_epochs`.
    """
    arguments = {name: scheduled(value, config, source, steps=steps) for name, value in config.optimizer_args.items()}
    parts = {}
    for path, changes in groups(arguments):
        fields = {name: scheduled(value, config, source, steps=steps) for name, value in changes.items()}
        scale = fields.pop("rate_scale", 1.0)
        if fields.pop("constant_rate", False):
            peak = optim.scaled_learning_rate(config.learning_rate, config.batch_size, config.learning_rate_scaling)
            fields["learning_rate"] = scale * peak
        elif scale != 1.0:
            fields["learning_rate"] = functools.partial(_scaled, rate, scale)
        if "frozen_epochs" in fields:
            fields["frozen_steps"] = round(fields.pop("frozen_epochs") * len(source) / config.batch_size)
        parts[path] = fields
    return call(optim.create, "optimizer", config.optimizer, rate, **{**arguments, "groups": parts})


def _scaled(rate: optim.Schedule, scale: float, step: jax.Array) -> jax.Array:
    return scale * rate(step)


def count_steps(config: ConfigDict, examples: int) -> int:
    """Length of the run: `config.steps`, or as many as `config.epochs` take."""
    steps = config.steps if config.steps is not None else round(config.epochs * examples / config.batch_size)
    if steps < 1:
        raise UserError(f"The run would have {steps} steps; raise config.steps or config.epochs.")
    return int(steps)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Seen:
    """How the network sees images: `views` of `inputs` in training, `prepare` in evaluation, which gives `shape`."""

    inputs: data.Source
    views: Callable
    prepare: Callable
    shape: tuple[int, int, int]
    mean: tuple[float, ...] | None
    std: tuple[float, ...] | None


def build_views(config: ConfigDict, source: data.Source) -> Seen:
    """The augmentation, with the size and the normalisation that it has for these images."""
    height, width, channels = image_shape(source)
    size = config.view_size or min(height, width)
    if size > min(height, width):
        raise UserError(
            f"The images are {height} x {width}, smaller than the view of {size} pixels; set --config.view_size to at "
            f"most {min(height, width)}, or 0 for the images' size."
        )
    normalize = normalization(config.normalize, source)
    recipe = lookup({name: getattr(augment, name) for name in RECIPES}, config.augment, "augmentation")
    views = call(recipe, f"augmentation {config.augment}", size, **normalize, **config.augment_args)
    return Seen(
        inputs=build_inputs(config, source, views),
        views=views,
        prepare=functools.partial(augment.prepare, size=size, **normalize),
        shape=(size, size, channels),
        **normalize,
    )


def build(
    config: ConfigDict,
    *,
    devices: list[jax.Device] | None = None,
    directory: str | pathlib.Path | None = None,
    source: data.Source | None = None,
    teacher: teachers.Teacher | None = None,
) -> Experiment:
    """Build every part of a run, checking what can be checked before the first compilation.

    Args:
      config: see `configs/common.py`.
      devices: of the mesh; all by default.
      directory: the run's, if it has one: a teacher that was kept there need not be where it came from any more.
      source: takes the place of the data that the config names.
      teacher: likewise of the teacher.
    """
    mesh = data_mesh(devices, model=config.model_parallel)
    check_numbers(config)
    source = load_data(config, config.train_split) if source is None else source
    if config.batch_size > len(source):
        rest = few_images.flags(few_images.advice(config, len(source)))
        raise UserError(
            f"The batch size {config.batch_size} is larger than the data ({len(source)} images). What fits these, by a "
            f"rule of thumb (docs/howto.md): {rest}"
        )
    steps = count_steps(config, len(source))
    seen = build_views(config, source)
    round_steps = -(-steps // config.rounds)
    rate = build_rate(config, source, steps=round_steps)
    if "teacher" in config and teacher is None:
        view = teachers.View(source=source, shape=seen.shape, prepare=seen.prepare)
        teacher = teachers.load(config, view, directory=directory)
    return Experiment(
        config=config,
        source=source,
        inputs=seen.inputs,
        method=build_method(config, source, steps=steps, teacher=teacher, directory=directory),
        rate=rate,
        tx=build_optimizer(config, source, rate, steps=round_steps),
        views=seen.views,
        prepare=seen.prepare,
        steps=steps,
        mesh=mesh,
        sharding=rules_of(config.sharding, own=config.sharding_rules, model=config.model_parallel),
        teacher=teacher,
    )
