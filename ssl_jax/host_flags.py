"""Flags by which a command becomes one of several processes of a run."""

import contextlib
from typing import Any

from absl import flags


def define(values: flags.FlagValues) -> None:
    """Flags of a run on several hosts."""
    text = "auto joins the other processes of Slurm, Open MPI, Kubernetes or a TPU slice; off is a process by itself."
    flags.DEFINE_enum("distributed", "auto", ["auto", "off"], text, flag_values=values)
    flags.DEFINE_string("coordinator", None, "HOST:PORT of the first of several processes.", flag_values=values)
    flags.DEFINE_integer("processes", None, "How many there are.", flag_values=values)
    flags.DEFINE_integer("process", None, "Which one this is, from 0.", flag_values=values)
    flags.DEFINE_integer("host_timeout", 300, "Seconds to wait for the others.", lower_bound=1, flag_values=values)


def join(values: flags.FlagValues) -> contextlib.AbstractContextManager[None]:
    """The session of all processes of this run, see `hosts.session`."""
    if values["distributed"].value == "off":
        return contextlib.nullcontext()
    from ssl_jax import hosts

    names = {name: name for name in ("coordinator", "processes", "process")} | {"timeout": "host_timeout"}
    where: dict[str, Any] = {argument: values[name].value for argument, name in names.items()}
    return hosts.session(**where)
