"""Self-supervised image representation learning in JAX.

A method is a record of pure functions (`ssl_jax.core.Method`); the rest of the library is written once against it.

    source = ssl_jax.data.load("digits")
    method = ssl_jax.methods.simclr(ssl_jax.nets.create("convnet", widths=(32, 64)))
    views = ssl_jax.augment.simclr(size=8, blur=False)
    state = ssl_jax.fit(method, source, tx=optax.adamw(1e-3), views=views, batch_size=256, steps=400)
    features = ssl_jax.embed(method, state, source)
"""

from ssl_jax import augment, data, losses, memory, methods, nets, optim
from ssl_jax.core import Carry, Method, TrainState, UserError
from ssl_jax.evaluation.features import embed
from ssl_jax.micro_batches import gradient_accumulation, gradient_caching
from ssl_jax.train_step import init_state, make_train_step
from ssl_jax.training import fit, train

__version__ = "0.1.0"

__all__ = [
    "Carry",
    "Method",
    "TrainState",
    "UserError",
    "augment",
    "data",
    "embed",
    "fit",
    "gradient_accumulation",
    "gradient_caching",
    "init_state",
    "losses",
    "make_train_step",
    "memory",
    "methods",
    "nets",
    "optim",
    "train",
]
