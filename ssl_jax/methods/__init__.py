"""Methods: one file each, a factory that takes an encoder and keyword arguments and returns a `core.Method`."""

from ssl_jax.methods.autoencoder import autoencoder
from ssl_jax.methods.barlow_twins import barlow_twins
from ssl_jax.methods.bigan import bigan
from ssl_jax.methods.bownet import bownet
from ssl_jax.methods.byol import byol
from ssl_jax.methods.colorization import colorization
from ssl_jax.methods.cpc import cpc
from ssl_jax.methods.dino import dino
from ssl_jax.methods.distillation import distillation
from ssl_jax.methods.ibot import ibot
from ssl_jax.methods.jigsaw import jigsaw
from ssl_jax.methods.mae import mae
from ssl_jax.methods.memory_bank import memory_bank
from ssl_jax.methods.moco import moco
from ssl_jax.methods.moco_v3 import moco_v3
from ssl_jax.methods.nnclr import nnclr
from ssl_jax.methods.obow import obow
from ssl_jax.methods.relative_patch import relative_patch
from ssl_jax.methods.rotation import rotation
from ssl_jax.methods.simclr import simclr
from ssl_jax.methods.simsiam import simsiam
from ssl_jax.methods.supervised import supervised
from ssl_jax.methods.swav import swav
from ssl_jax.methods.vicreg import vicreg

__all__ = [
    "autoencoder",
    "barlow_twins",
    "bigan",
    "bownet",
    "byol",
    "colorization",
    "cpc",
    "dino",
    "distillation",
    "ibot",
    "jigsaw",
    "mae",
    "memory_bank",
    "moco",
    "moco_v3",
    "nnclr",
    "obow",
    "relative_patch",
    "rotation",
    "simclr",
    "simsiam",
    "supervised",
    "swav",
    "vicreg",
]
