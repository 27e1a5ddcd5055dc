"""The table of what there is, read off the methods themselves."""

import importlib
import inspect

import jax
import jax.numpy as jnp

from ssl_jax import methods, nets


def summary(name: str) -> str:
    """First line of a method's module: its name, idea and paper."""
    doc = inspect.getdoc(importlib.import_module(f"ssl_jax.methods.{name}")) or ""
    return doc.splitlines()[0].rstrip(".")


def state_kept(name: str) -> str:
    """What a method carries from step to step besides batch statistics: found by initialising it abstractly."""
    method = getattr(methods, name)(nets.create("convnet", widths=(4,)))
    batch = {"views": jnp.zeros((2, 2, 8, 8, 3))}
    _, carry = jax.eval_shape(method.init, jax.random.key(0), batch)
    parts = ["teacher"] if carry.teacher is not None else []
    parts += [f"{k} {list(v.shape)}" for k, v in (carry.memory or {}).items() if v.ndim]
    return ", ".join(parts) or "none"


def table() -> str:
    """Lines of text: each method with its paper and the state it keeps."""
    rows = [("method", "state kept", "what it is")]
    rows += [(name, state_kept(name), summary(name).partition(": ")[2]) for name in methods.__all__]
    widths = [max(len(row[i]) for row in rows) for i in range(2)]
    lines = [f"{a:<{widths[0]}}  {b:<{widths[1]}}  {c}" for a, b, c in rows]
    return "\n".join(lines)
