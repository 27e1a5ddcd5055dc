"""The flag `--config`: configs by name, by variant or by path, and what may be wrong with their fields."""

import ast
import difflib
import importlib.resources
import os
import pathlib
import re
from collections.abc import Sequence
from typing import Any

from absl import flags

from ssl_jax.core import UserError


class _Literal(flags.ArgumentParser):
    """For fields that are None in a recipe, so that their type is not known: Python's literals, else a word."""

    def parse(self, argument: Any) -> Any:
        try:
            return ast.literal_eval(argument)
        except (SyntaxError, TypeError, ValueError):
            return argument


def config_names() -> list[str]:
    """Configs that ship with the library."""
    files = importlib.resources.files("ssl_jax.configs").iterdir()
    names = (pathlib.Path(f.name) for f in files)
    return sorted(n.stem for n in names if n.suffix == ".py" and n.stem not in ("__init__", "common"))


def resolve_config(value: str) -> str:
    """Turn `simclr:test` into the packaged file's path with its variant; a path stays as it is, if it exists."""
    name, colon, variant = value.partition(":")
    if name.endswith(".py") or os.sep in name:
        if not pathlib.Path(name).is_file():
            raise UserError(f"There is no config file {name!r}; configs by name are {', '.join(config_names())}.")
        return value
    if name not in config_names():
        near = difflib.get_close_matches(name, config_names(), n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise UserError(f"Unknown config {name!r}; there is {', '.join(config_names())}, or a path.{hint}")
    return str(importlib.resources.files("ssl_jax.configs") / f"{name}.py") + colon + variant


def _with_resolved_config(argv: Sequence[str]) -> list[str]:
    """Resolve the config's name in `--config=NAME` or `--config NAME`; the former is what comes out."""
    text = list(argv)
    for i, arg in enumerate(text[:-1]):
        if arg in ("--config", "-config"):
            text[i : i + 2] = [f"--config={text[i + 1]}"]
            break
    found = (re.fullmatch(r"--?config=(.*)", arg) for arg in text)
    return ["--config=" + resolve_config(m[1]) if m else arg for m, arg in zip(found, text, strict=True)]


def define_config(values: flags.FlagValues, argv: Sequence[str]) -> tuple[list[str], Any]:
    """Define `--config`; returns the flags with its name resolved, and the config as its file has it."""
    from ml_collections import config_flags

    argv = _with_resolved_config(argv)
    check_once(argv)
    config_flags.register_flag_parser_for_type(type(None), _Literal())
    config_flags.DEFINE_config_file(
        "config",
        None,
        "Name or path of a config, with :VARIANT.",
        flag_values=values,
        sys_argv=["ssl-jax", *argv],
        lock_config=False,  # `check_fields` says what may be new: arguments that a recipe leaves at their defaults
        accept_new_attributes=True,
    )
    return argv, check_fields(argv)


def config_path(argv: Sequence[str]) -> str | None:
    """The path, with its variant, in flags of which `define_config` has resolved the name."""
    return next((arg.removeprefix("--config=") for arg in argv if arg.startswith("--config=")), None)


def check_once(argv: Sequence[str]) -> None:
    """Raise a `UserError` for a `--config.FIELD` that is given twice with different values: the last would win."""
    seen: dict[str, tuple[Any, str]] = {}
    for arg, following in zip(argv, [*argv[1:], "--"], strict=True):
        found = re.fullmatch(r"--?(no)?config\.([A-Za-z0-9_.]+)(?:=(.*))?", arg, re.DOTALL)
        if found is None:
            continue
        switch, field, text = found.groups()
        if text is None:  # a switch, or its value follows
            text = "false" if switch else following if not re.match("--?[a-z]|--$", following) else "true"
        value = {"true": True, "false": False}.get(text.lower(), _Literal().parse(text))
        before, shown = seen.setdefault(field, (value, text))
        if before != value:
            raise UserError(
                f"--config.{field} is given twice, as {shown!r} and as {text!r}; give it once, and in quotes if it has "
                "braces, which a shell expands."
            )


def check_fields(argv: Sequence[str]) -> Any:
    """Raise a `UserError` for a misspelt `--config.FIELD`, naming the nearest; returns the file's config."""
    from ml_collections import config_flags

    path = config_path(argv)
    if path is None:
        return None
    values = flags.FlagValues()
    config_flags.DEFINE_config_file("config", None, "", flag_values=values, sys_argv=["ssl-jax"])
    try:
        values(["ssl-jax", f"--config={path}"])
    except Exception as error:  # the file may be the user's own, and raise anything
        raise UserError(config_error(error, pathlib.Path(path.partition(":")[0]).name)) from error
    for arg in argv:
        found = re.match(r"--?(?:no)?config\.([A-Za-z0-9_.]+)", arg)
        if found:
            _check_field(values["config"].value, found[1])
    return values["config"].value


def check_tuples(config: Any, default: Any, where: str = "config") -> None:
    """Raise a `UserError` if a tuple's items are of another type than in the config's file, which no flag checks."""
    for name, value in config.items():
        before, here = default.get(name), f"{where}.{name}"
        if hasattr(value, "keys"):
            check_tuples(value, {} if before is None else before, here)
        elif isinstance(value, tuple) and before:
            known = {type(x) for x in before}
            allowed = known | ({int} if float in known else set())
            if not {type(x) for x in value} <= allowed:
                kinds = " or ".join(sorted(kind.__name__ for kind in known))
                raise UserError(f"--{here} takes items of type {kinds}, such as {before}, not {value}.")


def _check_field(config: Any, path: str) -> None:
    """Follow `path`, such as `optimizer_args.weight_decay`, through a config; a `UserError` where it leads nowhere.

    What is in `*_args` are a factory's arguments; those that the recipe does not mention are the factory's to judge.
    """
    parts = path.split(".")
    for depth, part in enumerate(parts):
        where = ".".join(parts[:depth])
        fields = list(config.keys()) if hasattr(config, "keys") else []
        if part not in fields:
            near = difflib.get_close_matches(part, fields, n=1, cutoff=0.8 if where.endswith("_args") else 0.6)
            if where.endswith("_args") and not near and depth + 1 == len(parts):
                return
            if where.endswith("_args") and not near:
                inner = parts[depth + 1 :]
                inside = "".join(f"{{'{name}': " for name in inner) + "VALUE" + "}" * len(inner)
                raise UserError(f'The recipe has no {where}.{part}; give it whole: --config.{where}.{part}="{inside}".')
            hint = f" Did you mean {near[0]!r}?" if near else f" There is {', '.join(sorted(fields)) or 'none'}."
            raise UserError(f"The config has no field {part!r}{where and f' in {where!r}'}.{hint}")
        config = config[part]


def config_error(error: Exception, file: str = "") -> str:
    """What ml_collections says about a config in `file`, without tracebacks and the names of Python's exceptions."""
    lines = [line for line in str(error.args[0] if error.args else error).strip().splitlines() if line.strip()]
    where = f"Config {file}: " if file else "Config: "
    return where + re.sub(r"^\w+(Error|Exception): ", "", lines[-1].strip() if lines else repr(error))
