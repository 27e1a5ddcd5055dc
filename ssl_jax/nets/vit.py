"""Vision transformers (Dosovitskiy et al., 2021, arXiv:2010.11929).

The layout is the one of DINO's and timm's weights.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int

from ssl_jax.core import UserError
from ssl_jax.nets import positions
from ssl_jax.nets.precision import at_least_float32
from ssl_jax.nets.remat import recomputed
from ssl_jax.nets.transformer import SMALL, Block, LayerNorm

# Uniform in +-1 / sqrt(fan_in), torch's default for convolutions and what DINO and timm start the patch embedding with.
PATCH_INIT = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")


class ViT(nn.Module):
    """Vision transformer with a class token.

    Attributes:
      patch: side of a patch in pixels; the image's sides must be multiples of it.
      dim: width of the tokens.
      depth: number of blocks.
      heads: attention heads; they divide `dim`.
      mlp_ratio: hidden width of a block's perceptron over `dim`.
      pool: what is returned first: "cls", the class token, or "gap", the mean of the patch tokens, after the last norm.
      pos: "learned" positions, which are interpolated for image sizes other than that of `init` (DINO's way, see
        `positions.resize`), or fixed "sincos" ones.
      drop_path: stochastic depth of the last block; it grows linearly from 0. Draws from the rng "dropout".
      freeze_patches: no gradient to the patch embedding (MoCo v3, arXiv:2104.02057).
      mask_token: have the parameter "mask_token", which stands for masked patches (iBOT); it starts at zero.
      dtype: of the arithmetic and of the maps. Parameters and the pooled features are float32.
      remat: what of the blocks is computed again for the gradient, see `recomputed`.
    """

    patch: int = 16
    dim: int = 384
    depth: int = 12
    heads: int = 6
    mlp_ratio: float = 4.0
    pool: str = "cls"
    pos: str = "learned"
    drop_path: float = 0.0
    freeze_patches: bool = False
    mask_token: bool = False
    dtype: DTypeLike = jnp.float32
    remat: str = "none"

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b h w c"],
        train: bool,
        keep: Int[Array, "b k"] | None = None,
        mask: Bool[Array, "b n"] | None = None,
    ) -> tuple[Float[Array, "b d"], dict[str, Array]]:
        """Encode images.

        The maps, all after the final norm as in DINO's `get_intermediate_layers`: "tokens" `[b 1+n d]`, the class token
        first; for block i = 1, 2, ...: "cls{i}" `[b d]` and "block{i}" `[b h w d]`; "grid" is the last block's.
        With `keep`, indices of patches in row-major order, only those enter (MAE), and "tokens" `[b 1+k d]` is the only
        map. With `mask` the mask token takes the place of the patches where it is true; their positions stay.
        """
        self._check(x)
        if mask is not None and not self.mask_token:
            raise UserError("a mask needs a mask token: make the ViT with mask_token=True")
        tokens = self._embed(x, keep, mask)
        b, p, q = x.shape[0], x.shape[1] // self.patch, x.shape[2] // self.patch
        norm = LayerNorm(dtype=self.dtype, name="norm")
        maps: dict[str, Array] = {}
        make = recomputed(Block, self.remat)
        for i in range(self.depth):
            drop_path = self.drop_path * i / max(self.depth - 1, 1)
            tokens = make(self.heads, self.mlp_ratio, drop_path, self.dtype, name=f"block{i + 1}")(tokens, train)
            normed = norm(tokens)
            if keep is None:
                maps[f"cls{i + 1}"] = normed[:, 0]
                maps[f"block{i + 1}"] = maps["grid"] = normed[:, 1:].reshape(b, p, q, self.dim)
        maps["tokens"] = normed
        pooled = normed.astype(at_least_float32(self.dtype))
        return pooled[:, 0] if self.pool == "cls" else pooled[:, 1:].mean(1), maps

    def _embed(self, x: Array, keep: Array | None, mask: Array | None) -> Array:
        """Patches and class token with their positions."""
        b, height, width, c = x.shape
        p, q, size = height // self.patch, width // self.patch, self.patch
        kernel = self.param("patch_kernel", PATCH_INIT, (size, size, c, self.dim), jnp.float32)
        bias = self.param("patch_bias", nn.initializers.zeros, (self.dim,), jnp.float32)
        if self.freeze_patches:
            kernel, bias = jax.lax.stop_gradient((kernel, bias))
        patches = x.reshape(b, p, size, q, size, c).transpose(0, 1, 3, 2, 4, 5).reshape(b, p * q, size * size * c)
        tokens = patches.astype(self.dtype) @ kernel.reshape(-1, self.dim).astype(self.dtype)
        if self.mask_token:
            token = self.param("mask_token", nn.initializers.zeros, (self.dim,), jnp.float32)
            if mask is not None:  # less the bias, which comes back with the positions
                tokens = jnp.where(mask[:, :, None], (token - bias).astype(self.dtype)[None, None], tokens)
        cls, grid = (a.astype(bias.dtype) for a in self._positions(p, q))
        tokens = tokens + (grid.reshape(1, p * q, -1) + bias[None, None]).astype(self.dtype)
        if keep is not None:
            tokens = jnp.take_along_axis(tokens, keep[:, :, None], axis=1)
        cls = cls + self.param("cls", SMALL, (self.dim,), jnp.float32)
        first = jnp.broadcast_to(cls.astype(self.dtype)[None, None], (b, 1, self.dim))
        return jnp.concatenate([first, tokens], axis=1)

    def _positions(self, p: int, q: int) -> tuple[Array, Array]:
        """Positions of the class token [d] and of the p x q patches [p q d]."""
        if self.pos == "sincos":
            return jnp.zeros(self.dim), jnp.asarray(positions.sincos(p, q, self.dim))
        cls = self.param("pos_cls", SMALL, (self.dim,), jnp.float32)
        # The shape is that of `init`, so it may not be asserted against this input's.
        known = self.has_variable("params", "pos_grid")
        shape = self.get_variable("params", "pos_grid").shape if known else (p, q, self.dim)
        return cls, positions.resize(self.param("pos_grid", SMALL, shape, jnp.float32), p, q)

    def _check(self, x: Array) -> None:
        height, width = x.shape[1:3]
        if height % self.patch or width % self.patch or not height or not width:
            raise UserError(f"images of {height} x {width} do not divide into patches of {self.patch}: resize them")
        if self.dim % self.heads:
            raise UserError(f"heads={self.heads} does not divide dim={self.dim}")
        for field, value, known in (("pool", self.pool, ("cls", "gap")), ("pos", self.pos, ("learned", "sincos"))):
            if value not in known:
                raise UserError(f'{field}="{value}" is unknown: choose "{known[0]}" or "{known[1]}"')
