"""Weights from and to other libraries: torchvision, timm, DINO, Hugging Face; `.safetensors` and `.npz`, never pickles.

module = nets.create("resnet50")
params, model_state = interop.load_encoder("resnet50.safetensors", module, (224, 224, 3))
head = interop.load_head("resnet50.safetensors")           # {"kernel": [d c], "bias": [c]}, or None
interop.save_encoder("mine.safetensors", module, params, model_state)
interop.save_huggingface("mine", module, params, model_state, (224, 224, 3))   # a directory for `from_pretrained`
"""

from ssl_jax.interop.encoder import load_encoder, load_head, save_encoder
from ssl_jax.interop.files import read, write
from ssl_jax.interop.huggingface import save_huggingface
from ssl_jax.interop.layouts import LAYOUTS, Layout

__all__ = ["LAYOUTS", "Layout", "load_encoder", "load_head", "read", "save_encoder", "save_huggingface", "write"]
