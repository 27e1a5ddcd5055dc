"""How others name the arrays of an encoder.

A layout says which of their arrays stands for one of ours; arrays of a second naming of the same network are first
brought to the names of the first (`canonical`).
"""

import dataclasses
import math
import re
from collections.abc import Callable

import flax.linen as nn
import numpy as np

from ssl_jax import nets
from ssl_jax.interop.files import Arrays

Path = tuple[str, ...]  # collection, modules, leaf: ("params", "stem_conv", "kernel")
LEAVES = {"kernel": "weight", "scale": "weight", "mean": "running_mean", "var": "running_var"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Layout:
    """A naming of weights.

    Attributes:
      title: what it is, for messages.
      module: the encoders that it can name.
      anchor: an array that every file of this layout has, and no other; what stands before it is a prefix.
      name: our path to their name, after `canonical`.
      head: name of the classifier, without "weight" and "bias".
      canonical: their arrays, without the prefix, to those that `name` knows.
    """

    title: str
    module: type[nn.Module]
    anchor: str
    name: Callable[[Path], str]
    head: str
    canonical: Callable[[Arrays], Arrays] = lambda arrays: arrays


def torchvision_name(path: Path) -> str:
    """`params/stage1_block2/norm1/scale` is `layer1.1.bn1.weight`."""
    *modules, leaf = path[1:]
    block = re.fullmatch(r"stage(\d+)_block(\d+)", modules[0])
    if block is None:
        layer = {"stem_conv": "conv1", "stem_norm": "bn1"}.get(modules[0], modules[0])
    else:
        layer = {"shortcut_conv": "downsample.0", "shortcut_norm": "downsample.1"}.get(modules[1], modules[1])
        layer = f"layer{block[1]}.{int(block[2]) - 1}.{layer.replace('norm', 'bn')}"
    return f"{layer}.{LEAVES.get(leaf, leaf)}"


def transformers_from_torchvision(arrays: Arrays) -> Arrays:
    """The way back from `torchvision_from_transformers`."""
    renamed = {}
    for name, value in arrays.items():
        name = re.sub(r"^layer(\d+)\.", lambda m: f"encoder.stages.{int(m[1]) - 1}.layers.", name)
        name = re.sub(r"^(conv|bn)1\.", r"embedder.embedder.\1.", name)
        name = re.sub(r"\.(conv|bn)(\d+)\.", lambda m: f".layer.{int(m[2]) - 1}.{m[1]}.", name)
        name = name.replace("downsample.0", "shortcut.conv").replace("downsample.1", "shortcut.bn")
        renamed[name.replace(".conv.", ".convolution.").replace(".bn.", ".normalization.")] = value
    return renamed


def torchvision_from_transformers(arrays: Arrays) -> Arrays:
    """Transformers' names of a ResNet to torchvision's."""
    renamed = {}
    for name, value in arrays.items():
        name = re.sub(r"^embedder\.embedder\.", "stem.", name)
        name = re.sub(r"^encoder\.stages\.(\d+)\.layers\.", lambda m: f"layer{int(m[1]) + 1}.", name)
        name = re.sub(r"\.layer\.(\d+)\.convolution\.", lambda m: f".conv{int(m[1]) + 1}.", name)
        name = re.sub(r"\.layer\.(\d+)\.normalization\.", lambda m: f".bn{int(m[1]) + 1}.", name)
        name = name.replace("shortcut.convolution", "downsample.0").replace("shortcut.normalization", "downsample.1")
        name = name.replace("stem.convolution", "conv1").replace("stem.normalization", "bn1")
        renamed[name] = value
    return renamed


TIMM = {
    "patch_kernel": "patch_embed.proj.weight",
    "patch_bias": "patch_embed.proj.bias",
    "cls": "cls_token",
    "pos_cls": "pos_embed[0]",
    "pos_grid": "pos_embed[1:]",
    "attention.qkv": "attn.qkv",
    "attention.out": "attn.proj",
    "mlp_in": "mlp.fc1",
    "mlp_out": "mlp.fc2",
}


def timm_name(path: Path) -> str:
    """`params/block1/attention/out/kernel` is `blocks.0.attn.proj.weight`; positions are split, see `timm_split`."""
    *modules, leaf = path[1:]
    if not modules:
        return TIMM.get(leaf, leaf)
    block = re.fullmatch(r"block(\d+)", modules[0])
    prefix = f"blocks.{int(block[1]) - 1}." if block else ""
    layer = ".".join(modules[1:] if block else modules)
    return f"{prefix}{TIMM.get(layer, layer)}.{LEAVES.get(leaf, leaf)}"


def timm_split(arrays: Arrays) -> Arrays:
    """Split `pos_embed` into the class token's and the patches', and fold DINOv2's layer scales into their layers."""
    arrays = {name: x.copy() if re.search(r"\.(proj|fc2)\.", name) else x for name, x in arrays.items()}
    for name in [name for name in arrays if re.fullmatch(r"blocks\.\d+\.ls[12]\.gamma", name)]:
        gamma, block = arrays.pop(name), name.rpartition(".ls")[0]
        layer = f"{block}.attn.proj" if ".ls1." in name else f"{block}.mlp.fc2"
        arrays[f"{layer}.weight"] *= gamma[:, None]
        arrays[f"{layer}.bias"] *= gamma
    positions = arrays.pop("pos_embed", None)
    if positions is not None:
        if is_square(positions.shape[1]):  # timm's `no_embed_class`, as DeiT III: the class token has no position
            positions = np.pad(positions, ((0, 0), (1, 0), (0, 0)))
        arrays["pos_embed[0]"], arrays["pos_embed[1:]"] = positions[0, 0], positions[0, 1:]
    return arrays


def is_square(n: int) -> bool:
    """Whether n patches can be a square."""
    return math.isqrt(n) ** 2 == n


def timm_can_hold(grid: tuple[int, ...]) -> bool:
    """Whether a grid is known by its number of positions: a square, or what `timm_split` can't take for one."""
    rows, columns = grid
    return rows == columns or not (is_square(rows * columns) or is_square(rows * columns + 1))


def timm_join(arrays: Arrays) -> Arrays:
    """The way back from `timm_split`."""
    arrays = dict(arrays)
    first, grid = arrays.pop("pos_embed[0]"), arrays.pop("pos_embed[1:]")
    return arrays | {"pos_embed": np.concatenate([first[None], grid.reshape(-1, grid.shape[-1])])[None]}


VIT = (  # transformers' ViTModel and Dinov2Model -> timm, in this order
    (r"^embeddings\.patch_embeddings\.projection", "patch_embed.proj"),
    (r"^embeddings\.(cls|mask)_token", r"\1_token"),
    (r"^embeddings\.position_embeddings", "pos_embed"),
    (r"^encoder\.layer\.(\d+)\.", r"blocks.\1."),
    (r"layernorm_before|(?<=\.)norm1", "norm1"),
    (r"layernorm_after|(?<=\.)norm2", "norm2"),
    (r"^layernorm\.", "norm."),
    (r"attention\.output\.dense", "attn.proj"),
    (r"intermediate\.dense|mlp\.fc1", "mlp.fc1"),
    (r"(?<=\d)\.output\.dense", ".mlp.fc2"),
    (r"layer_scale([12])\.lambda1", r"ls\1.gamma"),
)


def timm_from_transformers(arrays: Arrays) -> Arrays:
    """Transformers' names of a ViT or DINOv2 to timm's: queries, keys and values become one layer."""
    renamed = {}
    for name, value in arrays.items():
        for pattern, theirs in VIT:
            name = re.sub(pattern, theirs, name)
        renamed[name] = value
    for query in [name for name in renamed if ".attention.attention.query." in name]:
        parts = [query.replace("query", part) for part in ("query", "key", "value")]
        if all(part in renamed for part in parts):
            joined = np.concatenate([renamed.pop(part) for part in parts])
            renamed[query.replace("attention.attention.query", "attn.qkv")] = joined
    return timm_split(renamed)


VIT_BACK = (  # timm -> transformers' ViTModel, in this order
    (r"^patch_embed\.proj", "embeddings.patch_embeddings.projection"),
    (r"^(cls|mask)_token", r"embeddings.\1_token"),
    (r"^pos_embed", "embeddings.position_embeddings"),
    (r"^blocks\.(\d+)\.", r"encoder.layer.\1."),
    (r"\.norm1", ".layernorm_before"),
    (r"\.norm2", ".layernorm_after"),
    (r"^norm\.", "layernorm."),
    (r"attn\.proj", "attention.output.dense"),
    (r"mlp\.fc1", "intermediate.dense"),
    (r"mlp\.fc2", "output.dense"),
)


def transformers_from_timm(arrays: Arrays) -> Arrays:
    """The way back from `timm_from_transformers`, to `ViTModel`: queries, keys and values become three layers."""
    renamed = {}
    for name, value in arrays.items():
        for pattern, theirs in VIT_BACK:
            name = re.sub(pattern, theirs, name)
        if ".attn.qkv." in name:
            for part, piece in zip(("query", "key", "value"), np.split(value, 3), strict=True):
                renamed[name.replace("attn.qkv", f"attention.attention.{part}")] = piece
        else:
            renamed[name] = value[None, None] if name == "embeddings.mask_token" else value
    return renamed


LAYOUTS = {
    "torchvision": Layout(
        title="torchvision's ResNet",
        module=nets.ResNet,
        anchor="layer1.0.conv1.weight",
        name=torchvision_name,
        head="fc",
    ),
    "timm": Layout(
        title="timm's and DINO's ViT",
        module=nets.ViT,
        anchor="patch_embed.proj.weight",
        name=timm_name,
        head="head",
        canonical=timm_split,
    ),
    "transformers_resnet": Layout(
        title="Hugging Face's ResNet",
        module=nets.ResNet,
        anchor="embedder.embedder.convolution.weight",
        name=torchvision_name,
        head="classifier.1",
        canonical=torchvision_from_transformers,
    ),
    "transformers_vit": Layout(
        title="Hugging Face's ViT or DINOv2",
        module=nets.ViT,
        anchor="embeddings.patch_embeddings.projection.weight",
        name=timm_name,
        head="classifier",
        canonical=timm_from_transformers,
    ),
    # Any module's own variables, as they are.
    "ssl_jax": Layout(title="ssl_jax's own", module=nn.Module, anchor="params/", name="/".join, head="head"),
}
