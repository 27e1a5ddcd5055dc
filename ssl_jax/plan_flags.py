"""`ssl-jax plan`: its flags, and what it does with them."""

import json
import pathlib
from collections.abc import Callable
from typing import Any

from absl import flags

from ssl_jax import hardware, target
from ssl_jax.core import UserError


def define(values: flags.FlagValues) -> None:
    """Flags besides the config."""
    flags.DEFINE_string("topology", None, f"What to plan for: {hardware.examples()}.", flag_values=values)
    flags.DEFINE_integer("slices", 1, "Slices of that shape.", lower_bound=1, flag_values=values)
    flags.DEFINE_integer("examples", None, "Training images, of data not known.", lower_bound=1, flag_values=values)
    flags.DEFINE_integer("classes", None, "Classes of it; 0 for none.", lower_bound=0, flag_values=values)
    flags.DEFINE_float("price", None, "Of a chip and hour, in any currency.", lower_bound=0.0, flag_values=values)
    flags.DEFINE_bool("compile", True, "Compile; --nocompile estimates in seconds.", flag_values=values)
    flags.DEFINE_bool("json", False, "One JSON object instead of the table.", flag_values=values)
    flags.DEFINE_string("save", None, "File to write the compiled step to.", flag_values=values)


def command(values: flags.FlagValues, say: Callable[[str], None]) -> None:
    """Plan and print; exit status 2 if the step does not fit."""
    flag: Callable[[str], Any] = lambda name: values[name].value  # noqa: E731
    topology = hardware.parse(flag("topology"), slices=flag("slices"))
    if flag("save") and not flag("compile"):
        raise UserError("--save writes the compiled step, so it does not go with --nocompile.")
    target.prepare(topology)
    from ssl_jax import plan, plan_table, precompiled

    if flag("save"):
        precompiled.check_place(flag("save"))
    record, compiled = plan.plan(
        flag("config"),
        topology,
        compiling=flag("compile"),
        anew=bool(flag("save")),
        price=flag("price"),
        announce=say,
        examples=flag("examples"),
        classes=flag("classes"),
    )
    print(json.dumps(record) if flag("json") else plan_table.table(record), flush=True)
    if flag("save") and compiled is not None:
        path = pathlib.Path(flag("save"))
        precompiled.save(compiled, path, record)
        say(f"Wrote the compiled step to {path}, and what it is for to {precompiled.sidecar(path)}.")
    if record["memory"]["fits"] is False:
        raise SystemExit(2)
