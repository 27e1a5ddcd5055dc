"""Two-dimensional convolution as torch pads it, with gradients that are also fast on CPUs."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from ssl_jax.nets.conv_gradient import kernel_gradient

he_normal = nn.initializers.variance_scaling(2.0, "fan_out", "normal")  # torchvision's ResNet


def _plain(x: Array, kernel: Array, stride: int, padding: int) -> Array:
    pads = ((padding, padding), (padding, padding))
    return lax.conv_general_dilated(x, kernel, (stride, stride), pads, dimension_numbers=("NHWC", "HWIO", "NHWC"))


def conv2d(
    x: Float[Array, "b h w i"], kernel: Float[Array, "k k i o"], stride: int, padding: int
) -> Float[Array, "b p q o"]:
    """Convolve images with a square kernel, `padding` zeros on every side: torch's `conv2d`, channels last.

    On CPUs the kernel's gradient is computed by `conv_gradient.kernel_gradient`, several times faster than XLA's rule;
    GPUs and TPUs keep XLA's. The choice falls when the program is lowered, so a program that a CPU host compiles for a
    TPU gets the TPU's. Differentiable once, in reverse mode.
    """
    # A zero that varies like the images: inside `shard_map` a replicated kernel's gradient is then the sum of all.
    return _conv2d(x, kernel + jnp.zeros_like(x, shape=(1, 1, 1, 1)), stride, padding)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _conv2d(x: Array, kernel: Array, stride: int, padding: int) -> Array:
    return _plain(x, kernel, stride, padding)


def _forward(x: Array, kernel: Array, stride: int, padding: int) -> tuple[Array, tuple[Array, Array]]:
    return _plain(x, kernel, stride, padding), (x, kernel)


def _backward(stride: int, padding: int, residuals: tuple[Array, Array], g: Array) -> tuple[Array, Array]:
    x, kernel = residuals
    dx = jax.vjp(lambda x: _plain(x, kernel, stride, padding), x)[1](g)[0]
    dkernel = lax.platform_dependent(
        x,
        g,
        cpu=functools.partial(kernel_gradient, size=kernel.shape[0], stride=stride, padding=padding),
        default=lambda x, g: jax.vjp(lambda kernel: _plain(x, kernel, stride, padding), kernel)[1](g)[0],
    )
    return dx, dkernel


_conv2d.defvjp(_forward, _backward)


class Conv(nn.Module):
    """Convolution layer without bias, torch-like: `size` x `size` kernel, explicit padding (default `size // 2`).

    Parameters are float32 (`kernel` [size size in out], by default He-normal over fan-out as in torchvision); the
    arithmetic runs in `dtype`.
    """

    features: int
    size: int = 3
    stride: int = 1
    padding: int | None = None
    dtype: DTypeLike = jnp.float32
    kernel_init: nn.initializers.Initializer = he_normal

    @nn.compact
    def __call__(self, x: Float[Array, "b h w i"]) -> Float[Array, "b p q o"]:
        """Apply the layer."""
        kernel = self.param("kernel", self.kernel_init, (self.size, self.size, x.shape[-1], self.features), jnp.float32)
        padding = self.size // 2 if self.padding is None else self.padding
        return conv2d(x.astype(self.dtype), kernel.astype(self.dtype), self.stride, padding)
