"""`ssl-jax data`: what is in a data set, what is broken in it, what the network will see of it, and preparing one."""

import json
import pathlib
import re
import time
from collections.abc import Callable, Sequence
from typing import Any

from absl import flags

from ssl_jax import data
from ssl_jax.core import UserError
from ssl_jax.data.damage import printable
from ssl_jax.progress import Progress

USAGE = """ssl-jax data: look at images before a run, and prepare them.

  ssl-jax data describe NAME [--json]            counts, classes, shapes, mean and deviation
  ssl-jax data check    NAME                     every image opened; broken ones with reasons, and exit status 1
  ssl-jax data preview  --config=NAME --out=F.png [--config.FIELD=VALUE ...]   what the network will see
  ssl-jax data prepare  NAME --out=DIR           written as array_record files, for tfds:...; goes on after a stop

NAME is fashion_mnist, folder:PATH, tar:PATTERN, hf:PATH, imagenet:PATH, tfds:NAME, ... (docs/data.md)."""
ACTIONS = ("describe", "check", "preview", "prepare")
# Images are looked at as they are stored: this only says that sizes may differ. Those with boxes are made so large.
ANY_SIZE, BOXED_SIZE = 1, 64


def split_argv(argv: Sequence[str]) -> tuple[str, str | None, list[str]]:
    """Take `["check", "folder:x", "--split=test"]` apart into action, name or None, and flags."""
    action, *rest = argv
    if action not in ACTIONS:
        raise UserError(f"ssl-jax data has no {action!r}; it has {', '.join(ACTIONS)}.")
    if rest and not rest[0].startswith("-"):
        return action, rest[0], rest[1:]
    return action, None, rest


def define(values: flags.FlagValues, action: str) -> None:
    """Define the flags of an action, apart from `--config`."""
    if action == "preview":
        flags.DEFINE_string("out", None, "Picture to write, .png.", flag_values=values)
        flags.DEFINE_integer("images", 8, "How many, evenly spaced over the data.", lower_bound=1, flag_values=values)
        flags.DEFINE_integer("seed", 0, "Of the augmentation.", lower_bound=0, flag_values=values)
        return
    flags.DEFINE_string("data_dir", None, "Where the data is, if not in its usual place.", flag_values=values)
    flags.DEFINE_list("split", None, "Splits, with slices if wanted; all by default.", flag_values=values)
    flags.DEFINE_enum("channels", None, ["1", "3"], "The images' own by default.", flag_values=values)
    if action == "describe":
        flags.DEFINE_bool("json", False, "Figures for programs, and names of all classes.", flag_values=values)
        flags.DEFINE_integer("sample", 2000, "Images that are decoded.", lower_bound=1, flag_values=values)
    if action == "prepare":
        flags.DEFINE_string("out", None, "Directory of prepared data sets, the data_dir later on.", flag_values=values)
        flags.DEFINE_string("name", None, "Name of the prepared data set.", flag_values=values)
        flags.DEFINE_integer("shard_images", 4096, "Images in one file.", lower_bound=1, flag_values=values)


def _flag(values: flags.FlagValues, name: str) -> Any:
    return values[name].value


def run(action: str, name: str | None, values: flags.FlagValues, say: Callable[[str], None]) -> None:
    """Do what the command line says."""
    if action == "preview":
        _preview(name, values, say)
        return
    if name is None:
        raise UserError(f"which data? For example: ssl-jax data {action} folder:PATH")
    channels = _flag(values, "channels")
    where = {"data_dir": _flag(values, "data_dir")}
    splits = _flag(values, "split") or data.split_names(name, **where)
    size = BOXED_SIZE if name.partition(":")[0] in ("collage", "coco", "voc") else ANY_SIZE
    of_split = {"channels": channels and int(channels), "image_size": size, "in_memory": False, **where}
    sources = {split: data.load(name, split, **of_split) for split in splits}
    {"describe": _describe, "check": _check, "prepare": _prepare}[action](name, sources, values, say)


def _describe(name: str, sources: dict[str, data.Source], values: flags.FlagValues, say: Callable) -> None:
    rows = {}
    for split, source in sources.items():
        with _Bar(f"{name} {split}") as bar:
            rows[split] = data.describe(source, images=_flag(values, "sample"), progress=bar)
    print(json.dumps(rows, indent=2) if _flag(values, "json") else _table(rows))


def _table(rows: dict[str, dict[str, Any]]) -> str:
    """Figures of all splits side by side."""
    lines = {
        "images": lambda r: f"{r['images']:,}",
        "classes": lambda r: "no labels" if r["classes"] is None else _few(r["classes"]),
        "images per class": lambda r: "" if not r["per_class"] else _span([min(r["per_class"]), max(r["per_class"])]),
        "height": lambda r: _span(r["heights"]),
        "width": lambda r: _span(r["widths"]),
        "channels": lambda r: str(r["channels"]),
        "mean": lambda r: ", ".join(f"{value:.4f}" for value in r["mean"]),
        "deviation": lambda r: ", ".join(f"{value:.4f}" for value in r["std"]),
        "decoded": lambda r: f"{r['sampled']:,}",
        "broken of these": lambda r: str(r["broken"]),
        "files left out": lambda r: str(r["left_out"]),
        "fingerprint": lambda r: r["fingerprint"],
    }
    cells = [["", *rows], *([title, *map(show, rows.values())] for title, show in lines.items())]
    widths = [max(len(row[i]) for row in cells) for i in range(len(rows) + 1)]
    return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in cells)


def _check(name: str, sources: dict[str, data.Source], values: flags.FlagValues, say: Callable) -> None:
    broken, total = 0, 0
    for split, source in sources.items():
        with _Bar(f"{name} {split}") as bar:
            found = data.check(source, progress=bar)
        for file, reason in found:
            print(f"{split} {printable(file)}: {reason}")
        broken, total = broken + len(found), total + len(source) + len(source.left_out)
    if broken:
        say(f"{broken:,} of {total:,} images are broken. A run leaves them out, or takes the next one in their place.")
        raise SystemExit(1)
    say(f"All {total:,} images can be decoded.")


def _prepare(name: str, sources: dict[str, data.Source], values: flags.FlagValues, say: Callable) -> None:
    out = _flag(values, "out")
    if not out:
        raise UserError("The flag --out is missing.")
    if any(not re.fullmatch(r"\w+", split) for split in sources):
        raise UserError("Whole splits are prepared; choose a part of one when it is read, such as train[:10%].")
    called = _flag(values, "name") or default_name(name)
    with _Bar(f"{name} -> {called}") as bar:
        made = data.prepare(sources, called, out, shard_images=_flag(values, "shard_images"), progress=bar)
    left_out = [(split, file, why) for split, source in sources.items() for file, why in source.left_out.items()]
    broken = [*left_out, *made.broken]
    for split, file, reason in broken:
        print(f"{split} {printable(file)}: {reason}")
    counts = ", ".join(f"{count:,} {split}" for split, count in made.counts.items())
    left = f" Left out as broken: {len(broken):,}." if broken else ""
    say(f"Prepared {counts} in {made.path}.{left}")
    say(f"Next: ssl-jax pretrain --config=simclr --workdir=DIR --config.data=tfds:{called} --config.data_dir={out}")


def default_name(name: str) -> str:
    """What to call a data set that is prepared from data of some name: the end of its path in plain letters."""
    kind, _, argument = name.partition(":")
    if kind == "imagenet":
        return "imagenet2012"
    if kind in ("folder", "tar", "hf", "tfds"):
        base = re.split(r"[{*\[]", argument.rstrip("/"))[0].removesuffix(".tar").rstrip("/-_.")
        name = base.rpartition("/")[2] or kind
    plain = re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")
    return plain if plain[:1].isalpha() else f"images_{plain}".rstrip("_")


def _preview(name: str | None, values: flags.FlagValues, say: Callable) -> None:
    from ssl_jax import config_checks, experiment, preview

    out, config = _flag(values, "out"), _flag(values, "config")
    if not out or config is None:
        raise UserError(f"The flag --{'out' if config is not None else 'config'} is missing.")
    path = pathlib.Path(out)
    if path.suffix.lower() != ".png" or not path.parent.is_dir():
        raise UserError(f"--out={out} must be a file's name that ends with .png, in a directory that is there.")
    if name is not None:
        config.data = name
    config_checks.check_numbers(config)
    source = experiment.load_data(config, config.train_split)
    seen = experiment.build_views(config, source)
    columns = preview.write(source, seen, out, images=_flag(values, "images"), seed=_flag(values, "seed"))
    say(f"Wrote {out}: a row for each image, first the image as evaluation sees it, then {columns}.")


def _few(classes: list[str]) -> str:
    some = ", ".join(classes[:3])
    return f"{len(classes):,} ({some}{', ...' if len(classes) > 3 else ''})"


def _span(values: list[int]) -> str:
    if not values:
        return ""
    low, high = f"{values[0]:,}", f"{values[-1]:,}"
    middle = f", median {values[1]:,}" if len(values) == 3 else ""
    return low if low == high else f"{low} to {high}{middle}"


class _Bar:
    """Progress of something counted: on a terminal in place, elsewhere a line every ten seconds."""

    def __init__(self, title: str):
        self.title, self.progress = title, Progress()
        self.begin = self.shown = time.monotonic()
        self.first: int | None = None

    def __enter__(self) -> "_Bar":
        return self

    def __exit__(self, *error: Any) -> None:
        if self.shown != self.begin:
            self.progress.close()

    def __call__(self, done: int, total: int) -> None:
        now = time.monotonic()
        self.first = done if self.first is None else self.first
        if now - self.shown < (0.2 if self.progress.in_place else 10.0):
            return
        rate = (done - self.first) / max(now - self.begin, 1e-9)
        filled = 20 * done // max(total, 1)
        bar = "#" * filled + "." * (20 - filled)
        self.progress.show(f"{self.title}  {bar}  {done:,} of {total:,}  {rate:,.0f} images/s")
        self.shown = now
