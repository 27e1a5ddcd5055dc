"""A directory that Hugging Face's transformers open: `config.json` beside `model.safetensors`.

interop.save_huggingface("mine", module, params, model_state, (224, 224, 3))
model = transformers.AutoModel.from_pretrained("mine")        # in torch
"""

import json
import os
import pathlib
from typing import Any

import flax.linen as nn
import numpy as np

from ssl_jax import atomic, nets
from ssl_jax.core import PyTree, UserError
from ssl_jax.interop import files
from ssl_jax.interop.encoder import in_torch
from ssl_jax.interop.files import Arrays
from ssl_jax.interop.layouts import transformers_from_timm, transformers_from_torchvision

WEIGHTS, CONFIG = "model.safetensors", "config.json"


def save_huggingface(
    directory: str | os.PathLike[str],
    module: nn.Module,
    params: PyTree,
    model_state: PyTree,
    image_shape: tuple[int, int, int],
) -> str:
    """Write an encoder as transformers' `ResNetModel` or `ViTModel`; returns whose names the arrays have.

    `load_encoder` reads the file of weights back, bit for bit. A ViT has no pooler: its features are
    `last_hidden_state[:, 0]`, or the mean of `last_hidden_state[:, 1:]` of a ViT with `pool="gap"`.

    Args:
      directory: is made if need be; files in it of these two names are replaced.
      module: the encoder.
      params: its parameters.
      model_state: its batch statistics.
      image_shape: height, width and channels that it saw.

    Raises:
      UserError: transformers have no such encoder, or the directory can't be written.
    """
    why = _not_theirs(module)
    found = None if why else in_torch(module, params, model_state, image_shape)
    if found is None:
        raise UserError(
            f"Hugging Face's transformers have no model for this encoder: {why or ODD_GRID}; leave --layout out, and it"
            " is written under the names of torchvision, timm or this library."
        )
    arrays = found[1]
    if isinstance(module, nets.ViT):
        arrays = transformers_from_timm(arrays)
        config = _vit(module, params, image_shape)
    else:
        assert isinstance(module, nets.ResNet)
        arrays = _counted(transformers_from_torchvision(arrays))
        config = _resnet(module, image_shape[2])
    directory = pathlib.Path(directory)
    try:
        directory.mkdir(parents=True, exist_ok=True)
        # In the manner of transformers' own `save_pretrained`, whose readers ask for the format.
        files.write(directory / WEIGHTS, arrays, metadata={"format": "pt"})
        atomic.write_text(directory / CONFIG, json.dumps(config | {"dtype": "float32"}, indent=2) + "\n")
    except OSError as error:
        raise UserError(f"The encoder can't be written to {directory}: {error.strerror or error}.") from error
    return f"Hugging Face's {config['architectures'][0]}"


ODD_GRID = "its positions are of a grid that a file's reader would take for a square"


def _not_theirs(module: nn.Module) -> str | None:
    """What of an encoder transformers' models can't be told, if anything."""
    if isinstance(module, nets.ViT):
        return None
    if not isinstance(module, nets.ResNet):
        return f"it is a {type(module).__name__}, and no ResNet or ViT"
    if module.stem != "imagenet":
        return f'it has stem="{module.stem}", where theirs begins with a 7x7 convolution and max pooling'
    return None if module.norm == "batch" else f'it has norm="{module.norm}", where theirs has batch norm'


def _resnet(module: nets.ResNet, channels: int) -> dict[str, Any]:
    """`ResNetConfig`: its hidden sizes are what stages return."""
    bottleneck = module.depth >= 50
    widths = module.stage_widths or tuple(module.base_width * 2**i for i in range(4))
    return {
        "architectures": ["ResNetModel"],
        "model_type": "resnet",
        "num_channels": channels,
        "embedding_size": module.width * (module.stem_width or module.base_width),
        "hidden_sizes": [module.width * width * (4 if bottleneck else 1) for width in widths],
        "depths": list(module.blocks or nets.resnet.BLOCKS[module.depth]),
        "layer_type": "bottleneck" if bottleneck else "basic",
        "hidden_act": "relu",
        "downsample_in_first_stage": False,
        "downsample_in_bottleneck": False,
    }


def _vit(module: nets.ViT, params: PyTree, image_shape: tuple[int, int, int]) -> dict[str, Any]:
    """`ViTConfig`, for the size of image that the positions belong to."""
    learned = module.pos == "learned"
    size = [side * module.patch for side in params["pos_grid"].shape[:2]] if learned else list(image_shape[:2])
    return {
        "architectures": ["ViTModel"],
        "model_type": "vit",
        "num_channels": image_shape[2],
        "image_size": size[0] if size[0] == size[1] else size,
        "patch_size": module.patch,
        "hidden_size": module.dim,
        "num_hidden_layers": module.depth,
        "num_attention_heads": module.heads,
        "intermediate_size": int(module.dim * module.mlp_ratio),
        "hidden_act": "gelu",
        "layer_norm_eps": nets.transformer.LayerNorm.epsilon,
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
        "qkv_bias": True,
    }


def _counted(arrays: Arrays) -> Arrays:
    """Add torch's counts of batches, without which it says that weights are missing."""
    norms = [name.removesuffix("running_mean") for name in arrays if name.endswith("running_mean")]
    return arrays | {f"{norm}num_batches_tracked": np.zeros((), np.int64) for norm in norms}
