"""The command line `ssl-jax`: absl flags, and configs of ml_collections that become keyword arguments from here on."""

import ast
import contextlib
import difflib
import functools
import importlib.metadata
import os
import pathlib
import re
import sys
from collections.abc import Callable, Sequence
from typing import Any

from absl import flags

from ssl_jax import flag_help, host_flags
from ssl_jax.config_flag import check_tuples, config_error, config_names, config_path, define_config
from ssl_jax.core import UserError
from ssl_jax.progress import log_shown
from ssl_jax.runtime import DETERMINISTIC, deterministic, settings

USAGE = """Self-supervised image representation learning in JAX.

  ssl-jax pretrain --config=NAME[:VARIANT] --workdir=DIR [--config.FIELD=VALUE ...]
  ssl-jax plan     --config=NAME[:VARIANT] --topology=v5e:16x16     # does it fit, how long, what for
  ssl-jax evaluate --workdir=DIR [--protocol=knn,linear|help] [--encoder=student|teacher] [--layer=all]
  ssl-jax embed    --workdir=DIR --data=folder:PATH --out=FILE.npz
  ssl-jax export   --workdir=DIR --out=FILE.safetensors   # the encoder's weights, for this and other libraries
  ssl-jax report   --workdir=DIR
  ssl-jax data     describe|check|prepare NAME, preview --config=NAME ...
  ssl-jax verify   --workdir=DIR [--steps=K]     # the same bits again?
  ssl-jax replay   --workdir=DIR                 # what was not finite when the run stopped
  ssl-jax methods

`ssl-jax COMMAND --help` tells a command's flags. A config is a name that ships with the library ({configs})
or the path of a .py file."""


def _parse(values: flags.FlagValues, argv: Sequence[str], command: str) -> None:
    """Parse flags; whatever is wrong with them becomes one sentence."""
    flags.DEFINE_bool("help", False, "Show this.", short_name="h", flag_values=values)
    try:
        rest = values([f"ssl-jax {command}", *argv])[1:]
    except flags.Error as error:
        raise UserError(_flag_error(str(error))) from error
    except (KeyError, AttributeError, TypeError, ValueError, OSError) as error:
        raise UserError(config_error(error)) from error
    if _flag(values, "help"):
        print(flag_help.text(command, values))
        raise SystemExit(0)
    _on_this_machine(values)
    if rest:
        near = f"--config={rest[0]}" if rest[0].partition(":")[0] in config_names() else "--workdir=DIR"
        raise UserError(f"Don't know what to do with {' '.join(rest)!r}; flags look like {near}.")


def _on_this_machine(values: flags.FlagValues) -> None:
    """Expand `~` and `file://` in the flags of places to write to, and refuse buckets."""
    for name in ("workdir", "out", "save"):
        given = (values[name].value if name in values else None) or ""
        if re.match("~|[a-z0-9]+://", given):
            from ssl_jax.data.files import local

            values[name].value = str(local(given, f"--{name}"))


def _flag_error(text: str) -> str:
    """What absl says about a flag, without Python's own words for numbers."""
    text = re.sub(r"^flag (\S+): invalid literal for int.*", r"\1 is not a whole number.", text)
    return re.sub(r"^flag (\S+): could not convert string to float.*", r"\1 is not a number.", text)


def _required(values: flags.FlagValues, *names: str) -> None:
    for name in names:
        if not values[name].value:
            raise UserError(f"The flag --{name} is missing.")


def _ints(name: str, value: Sequence[str]) -> list[int]:
    try:
        return [int(v) for v in value]
    except ValueError:
        raise UserError(f"--{name} takes whole numbers separated by commas, not {','.join(value)!r}.") from None


def _flag(values: flags.FlagValues, name: str) -> Any:
    return values[name].value


def _own_encoder(values: flags.FlagValues, argv: Sequence[str] = ()) -> contextlib.AbstractContextManager[None]:
    """Know the encoder in the config's file: of the config itself, or of the run in --workdir."""
    from ssl_jax import own_encoder, workdir

    if argv:
        return own_encoder.known(config_path(argv), _flag(values, "config").encoder)
    if not _flag(values, "config"):
        return contextlib.nullcontext()
    encoder = workdir.read_run(pathlib.Path(_flag(values, "workdir")))["config"]["encoder"]
    return own_encoder.known(_flag(values, "config"), encoder)


def _define_workdir(values: flags.FlagValues, about: str = "Directory of the run.") -> None:
    """The flags of all commands that read a run."""
    flags.DEFINE_string("workdir", None, about, flag_values=values)
    flags.DEFINE_string("config", None, "Config file of the run, if its encoder is in there.", flag_values=values)


def _pretrain(argv: Sequence[str]) -> None:
    values = flags.FlagValues()
    argv, default = define_config(values, argv)
    flags.DEFINE_string("workdir", None, "Directory of the run; made if missing.", flag_values=values)
    flags.DEFINE_bool("report", True, "Write report.html at the end.", flag_values=values)
    flags.DEFINE_bool("deterministic", False, "The same bits in every run on a GPU too; slower.", flag_values=values)
    host_flags.define(values)
    _parse(values, argv, "pretrain")
    _required(values, "config", "workdir")
    check_tuples(_flag(values, "config"), default)
    if _flag(values, "deterministic"):
        deterministic()
    with host_flags.join(values), _own_encoder(values, argv):
        _pretrain_here(values)


def _pretrain_here(values: flags.FlagValues) -> None:
    """Train in this process, with others if it has joined any; the first speaks for all."""
    from ssl_jax import gallery, hosts, workdir
    from ssl_jax.pretrain import pretrain
    from ssl_jax.signals import Interrupted

    directory = pathlib.Path(_flag(values, "workdir"))
    tell = say if hosts.is_first() else lambda text: None
    try:
        pretrain(_flag(values, "config"), directory, command=workdir.command_line())
    except Interrupted as stop:
        tell(f"Stopped at step {stop.step:,} and saved. The same command goes on from there.")
        raise SystemExit(128 + stop.signal_number) from None
    if _flag(values, "report"):
        tell(f"Report: {gallery.write_report(directory)}")
    tell(f"Next: ssl-jax evaluate --workdir={directory} --protocol=knn,linear")


def _evaluate(argv: Sequence[str]) -> None:
    values = flags.FlagValues()
    _define_workdir(values)
    flags.DEFINE_list("protocol", ["knn", "linear"], "Protocols; `help` lists them.", flag_values=values)
    flags.DEFINE_multi_string("set", [], "An option of a protocol: NAME.OPTION=VALUE.", flag_values=values)
    flags.DEFINE_string("encoder", "student", "student or teacher.", flag_values=values)
    flags.DEFINE_integer("step", None, "Checkpoint; the newest by default.", flag_values=values)
    flags.DEFINE_list("layer", [], "Layers such as stage2, stage2@3, stage3+pooled; or all.", flag_values=values)
    flags.DEFINE_list("k", None, "Numbers of neighbours, for protocols that have them.", flag_values=values)
    flags.DEFINE_list("labels", None, "Labels per class, for protocols with few of them.", flag_values=values)
    flags.DEFINE_integer("trials", None, "Random draws per setting, for protocols that draw.", flag_values=values)
    flags.DEFINE_integer("seed", 0, "Of splits, draws and training.", lower_bound=0, flag_values=values)
    flags.DEFINE_bool("report", True, "Write report.html at the end.", flag_values=values)
    _parse(values, argv, "evaluate")
    from ssl_jax import gallery, results
    from ssl_jax.evaluate import evaluate
    from ssl_jax.protocols import PROTOCOLS, describe

    flag = functools.partial(_flag, values)
    if flag("protocol") == ["help"]:
        print(describe())
        return
    _required(values, "workdir")
    options = protocol_options(flag("set"), flag("protocol"))
    common = {"ks": flag("k") and _ints("k", flag("k")), "trials": flag("trials")}
    common["labels_per_class"] = flag("labels") and _ints("labels", flag("labels"))
    for name in flag("protocol"):
        known = PROTOCOLS[name].options if name in PROTOCOLS else {}
        given = {argument: value for argument, value in common.items() if value is not None and argument in known}
        options[name] = {**given, **options.get(name, {})}
    with _own_encoder(values):
        record = evaluate(
            flag("workdir"),
            protocols=flag("protocol"),
            options=options,
            encoder=flag("encoder"),
            step=flag("step"),
            layers=flag("layer") or (None,),
            seed=flag("seed"),
            announce=say,
        )
        print(results.table(record))
        say(f"Written to {pathlib.Path(flag('workdir')) / 'evaluation.json'}")
        if flag("report"):
            say(f"Report: {gallery.write_report(flag('workdir'), encoder=flag('encoder'), step=flag('step'))}")


def protocol_options(settings: Sequence[str], protocols: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Turn `knn.temperature=0.1` into `{"knn": {"temperature": 0.1}}`; values are Python literals, or else text."""
    options: dict[str, dict[str, Any]] = {}
    for setting in settings:
        name, value = setting.partition("=")[::2]
        protocol, option = name.partition(".")[::2]
        if not value or not option or protocol not in protocols:
            raise UserError(
                f"--set={setting}: options are set as NAME.OPTION=VALUE, NAME being one of the protocols asked for "
                f"({', '.join(protocols)})."
            )
        try:
            literal = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            literal = value
        options.setdefault(protocol, {})[option] = literal
    return options


def _embed(argv: Sequence[str]) -> None:
    values = flags.FlagValues()
    _define_workdir(values)
    flags.DEFINE_string("data", None, "Images: folder:PATH, or any data name.", flag_values=values)
    flags.DEFINE_string("split", None, "Split of the data, or several with +; all by default.", flag_values=values)
    flags.DEFINE_string("data_dir", None, "Where the data is, if not in its usual place.", flag_values=values)
    flags.DEFINE_string("out", None, "File to write, .npz.", flag_values=values)
    flags.DEFINE_string("encoder", "student", "student or teacher.", flag_values=values)
    flags.DEFINE_integer("step", None, "Checkpoint; the newest by default.", flag_values=values)
    flags.DEFINE_string(
        "layer", None, "A layer instead of the pooled features: stage2, stage3+pooled.", flag_values=values
    )
    _parse(values, argv, "embed")
    _required(values, "workdir", "data", "out")
    flag = functools.partial(_flag, values)
    from ssl_jax.evaluate import embed_data

    with _own_encoder(values):
        count, dim = embed_data(
            flag("workdir"),
            flag("data"),
            flag("out"),
            split=flag("split"),
            data_dir=flag("data_dir"),
            encoder=flag("encoder"),
            step=flag("step"),
            layer=flag("layer"),
        )
    say(f"Wrote {count:,} features of {dim} numbers to {flag('out')} (arrays: features, and labels, names if known).")


def _export(argv: Sequence[str]) -> None:
    from ssl_jax import export

    values = flags.FlagValues()
    _define_workdir(values, "Directory of the run, which is only read.")
    export.define(values)
    _parse(values, argv, "export")
    _required(values, "workdir", "out")
    with _own_encoder(values):
        export.command(values, say)


def _report(argv: Sequence[str]) -> None:
    values = flags.FlagValues()
    _define_workdir(values)
    flags.DEFINE_string("encoder", "student", "student or teacher.", flag_values=values)
    flags.DEFINE_integer("step", None, "Checkpoint; the newest by default.", flag_values=values)
    _parse(values, argv, "report")
    _required(values, "workdir")
    from ssl_jax import gallery

    with _own_encoder(values):
        flag = functools.partial(_flag, values)
        path = gallery.write_report(flag("workdir"), encoder=flag("encoder"), step=flag("step"))
    say(f"Report: {path}")


def _verify(argv: Sequence[str]) -> None:
    values = flags.FlagValues()
    _define_workdir(values, "Directory of the run, which is only read.")
    flags.DEFINE_integer("steps", None, "How many; up to the first digest by default.", flag_values=values)
    _parse(values, argv, "verify")
    _required(values, "workdir")
    from ssl_jax import verify, workdir

    directory = pathlib.Path(_flag(values, "workdir"))
    if DETERMINISTIC[0] in workdir.read_run(directory).get("xla_flags", ""):
        deterministic()
    with _own_encoder(values):
        verdict = verify.verify(directory, steps=_flag(values, "steps"), announce=say)
    print(verify.explanation(verdict))
    if verdict.differs is not None:
        raise SystemExit(1)


def _replay(argv: Sequence[str]) -> None:
    values = flags.FlagValues()
    _define_workdir(values, "Directory of the run, which is only read.")
    _parse(values, argv, "replay")
    _required(values, "workdir")
    from ssl_jax.replay import replay

    with _own_encoder(values):
        print(replay(_flag(values, "workdir")))


def _data(argv: Sequence[str]) -> None:
    from ssl_jax import data_command

    if not argv or argv[0] in ("-h", "--help", "help"):
        print(data_command.USAGE)
        return
    action, name, argv = data_command.split_argv(argv)
    values, default = flags.FlagValues(), None
    if action == "preview":
        argv, default = define_config(values, argv)
    data_command.define(values, action)
    _parse(values, argv, f"data {action}")
    if default is not None:
        check_tuples(_flag(values, "config"), default)
    data_command.run(action, name, values, say)


def _plan(argv: Sequence[str]) -> None:
    from ssl_jax import plan_flags

    values = flags.FlagValues()
    argv, default = define_config(values, argv)
    plan_flags.define(values)
    _parse(values, argv, "plan")
    _required(values, "config", "topology")
    check_tuples(_flag(values, "config"), default)
    with _own_encoder(values, argv):
        plan_flags.command(values, say)


def _methods(argv: Sequence[str]) -> None:
    values = flags.FlagValues()
    _parse(values, argv, "methods")
    from ssl_jax import catalogue

    print(catalogue.table())


COMMANDS: dict[str, Callable[[Sequence[str]], None]] = {
    "pretrain": _pretrain,
    "plan": _plan,
    "evaluate": _evaluate,
    "embed": _embed,
    "export": _export,
    "report": _report,
    "verify": _verify,
    "replay": _replay,
    "data": _data,
    "methods": _methods,
}


def say(text: str) -> None:
    """Print a message for people, apart from results on standard output."""
    print(text, file=sys.stderr, flush=True)


def run(argv: Sequence[str]) -> None:
    """Run a command line without the program's name; raises `UserError` for bad input."""
    if not argv or argv[0] in ("-h", "--help", "help"):
        print(USAGE.format(configs=", ".join(config_names())))
        return
    if argv[0] == "--version":
        print(f"ssl_jax {importlib.metadata.version('ssl_jax')}")
        return
    command, *rest = argv
    if command not in COMMANDS:
        near = difflib.get_close_matches(command, COMMANDS, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise UserError(f"Unknown command {command!r}; there is {', '.join(COMMANDS)}.{hint}")
    with settings(), log_shown():
        COMMANDS[command](rest)


def main(argv: Sequence[str] | None = None) -> Any:
    """Entry point: 0, or 1 with one sentence on standard error for bad input."""
    try:
        run(sys.argv[1:] if argv is None else argv)
    except UserError as error:
        text = " ".join(str(error).split())
    except BrokenPipeError:  # what reads our output, such as `head`, has had enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # nothing is left to fail when Python ends
        return 0
    except OSError as error:  # a full disk, a lost mount: the machine's state, not a mistake in this program
        text = f"{error.strerror or error}{f': {error.filename}' if error.filename else ''}"
    except KeyboardInterrupt:  # during a run the loop sees to it, and saves
        say("ssl-jax: interrupted; what was saved before is kept.")
        return 130
    else:
        return 0
    say(f"ssl-jax: {text}{'' if text.endswith(('.', '?')) else '.'}")
    if "jax" in sys.modules:
        from ssl_jax import hosts

        hosts.leave()
    return 1
