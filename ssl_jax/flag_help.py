"""What `ssl-jax COMMAND --help` says: the command's flags, and of a config its fields with what may stand in them."""

import ast
import dataclasses
import importlib.resources
import inspect
import pathlib
import re
import textwrap
from collections.abc import Callable, Iterator
from typing import Any

from absl import flags

HIDDEN = ("flagfile", "undefok", "help", "h")  # absl's own, and what was just typed
FILLED_IN = ("parent", "name", "dtype", "remat", "size", "mean", "std", "learning_rate", "teacher", "variables", "head")
WIDTH, INDENT = 120, 26


def text(command: str, values: flags.FlagValues) -> str:
    """All flags of a command, parsed; with `--config=NAME` also the config's fields."""
    has_fields = "config" in values and type(values["config"].parser) is not flags.ArgumentParser  # that of a path
    config = values["config"].value if has_fields else None
    shown = sorted(name for name in values if name not in HIDDEN and "." not in name)
    lines = [f"ssl-jax {command}", ""]
    for name in shown:
        flag = values[name]
        meaning = " ".join(flag.help.split("\n")[0].rstrip(".;").split())
        lines.append(_line(f"--[no]{name}" if flag.boolean else f"--{name}", f"{meaning}.{_default(flag)}"))
    if has_fields and config is None:
        lines += ["", f"`ssl-jax {command} --config=NAME --help` lists the fields that --config.FIELD=VALUE sets."]
    if config is not None:
        lines += ["", _about(values["config"]), "", *fields(config)]
    return "\n".join(lines)


def _default(flag: flags.Flag) -> str:
    if flag.default is None or flag.default == [] or flag.default is False:
        return ""
    return f" (default: {','.join(flag.default) if isinstance(flag.default, list) else flag.default})"


def _about(flag: flags.Flag) -> str:
    """What the config's file says of itself: command, figures, variants."""
    file = pathlib.Path(getattr(flag, "config_filename", "").partition(".py:")[0]).with_suffix(".py")
    return (file.is_file() and ast.get_docstring(ast.parse(file.read_text(encoding="utf-8")))) or ""


def fields(config: Any) -> Iterator[str]:
    """A config's fields with their values, what they mean, and the arguments that it leaves at their defaults."""
    meanings = field_meanings()
    order = sorted(config, key=lambda name: list(meanings).index(name) if name in meanings else len(meanings))
    yield "Fields of the config, set by --config.FIELD=VALUE:"
    for name in order:
        value = config[name]
        if not hasattr(value, "items"):
            yield _line(f"{name}={_plain(value)}", meanings.get(name, ""))
            continue
        yield _line(name, meanings.get(name, ""))
        yield from (f"    .{argument}={_plain(given)}" for argument, given in value.items())
        others = {k: v for k, v in arguments(config).get(name, {}).items() if k not in value}
        if others:
            listed = "others, as they are: " + ", ".join(f"{k}={_plain(v)}" for k, v in others.items())
            yield textwrap.fill(
                listed, WIDTH, initial_indent="    ", subsequent_indent="      ", break_on_hyphens=False
            )


def arguments(config: Any) -> dict[str, dict[str, Any]]:
    """Of each `*_args` of a config, the arguments that its factory takes, with their defaults."""
    from ssl_jax import augment, methods, nets, optim

    factories: dict[str, Callable | None] = {
        "method_args": getattr(methods, config.method, None),
        "augment_args": getattr(augment, config.augment, None),
        "optimizer_args": optim.create,
        "encoder_args": nets.factory(config.encoder) if config.encoder in nets.NAMES else None,
    }
    return {name: _defaults(factory) for name, factory in factories.items() if factory is not None}


def field_meanings() -> dict[str, str]:
    """The comments beside the fields of `configs.common.base`, in its order."""
    source = (importlib.resources.files("ssl_jax.configs") / "common.py").read_text(encoding="utf-8")
    base = source.partition("\ndef base(")[2].partition("\ndef ")[0]
    return {name: rest.partition("  # ")[2] for name, rest in re.findall(r"^    c\.(\w+) = (.*)$", base, re.MULTILINE)}


def _defaults(function: Callable) -> dict[str, Any]:
    """Arguments with their defaults; of an augmentation that takes any field of its views also these."""
    parameters = inspect.signature(function).parameters.values()
    found = {p.name: p.default for p in parameters if p.default is not p.empty}
    if any(p.kind is p.VAR_KEYWORD for p in parameters) and "size" in inspect.signature(function).parameters:
        pairs = getattr(function(32), "pairs", ())
        found |= dataclasses.asdict(pairs[0][0]) if pairs else {}
    return {name: value for name, value in found.items() if name not in FILLED_IN}


def _plain(value: Any) -> str:
    if hasattr(value, "items"):
        return "{" + ", ".join(f"{k}: {_plain(v)}" for k, v in value.items()) + "}"
    return getattr(value, "__name__", None) or str(value)


def _line(name: str, meaning: str) -> str:
    name = f"  {name}"
    gap = " " * max(INDENT - len(name), 2)
    return textwrap.fill(
        f"{name}{gap}{meaning}".rstrip(), WIDTH, subsequent_indent=" " * INDENT, break_on_hyphens=False
    )
