"""A recipe with an encoder of one's own, for the command line: SimCLR on Fashion-MNIST.

`ssl-jax pretrain --config=examples/own_encoder.py --workdir=DIR`; every command that reads DIR afterwards takes
`--config=examples/own_encoder.py` too, since a workdir never says what code to run. `:test` runs in seconds.
"""

import flax.linen as nn

from ssl_jax.configs import simclr


class Patches(nn.Module):
    """A linear map of each patch, then two dense layers on it, in place of convolutions."""

    width: int = 64
    patch: int = 4

    @nn.compact
    def __call__(self, image, train: bool):
        """Return features `[b d]`, and maps by name, of images `[b h w c]`."""
        x = nn.Conv(self.width, (self.patch, self.patch), strides=self.patch)(image)
        x = x + nn.Dense(self.width)(nn.relu(nn.Dense(2 * self.width)(nn.LayerNorm()(x))))
        return x.mean(axis=(1, 2)), {"last": x}


def get_config(arg: str = ""):
    """Return the recipe, or its variant `test`."""
    c = simclr.get_config(arg or "fashion_mnist")
    c.encoder = "Patches"  # a class or function in this file, called with `encoder_args`
    c.encoder_args = {"width": 8, "patch": 2} if arg == "test" else {"width": 64}
    return c
