"""Images per second through SimCLR's augmentation: this library against dm_pix, kornia and torchvision.

    python benchmarks/augmentation.py              # 32 px, batch 256 and 224 px, batch 64
    python benchmarks/augmentation.py --rounds 10

Crop, flip, colour jitter, greyscale and Gaussian blur, one view per image, uint8 in and float32 out. All contenders
run in one process, taking turns, and the fastest round of each counts, so that a busy machine disturbs all alike.
torch uses two threads, XLA as many as it likes, torchvision on PIL images one.
"""

import argparse
import importlib.metadata
import os
import platform
import time
from collections.abc import Callable

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import _torchvision_cpu
import jax
import jax.numpy as jnp
import numpy as np

from ssl_jax import augment
from ssl_jax.augment.blur import kernel_size

JITTER = (0.8, 0.8, 0.8, 0.2)
Pass = Callable[[], object]  # one pass over the batch


def ours(image: np.ndarray, formulation: str = "auto") -> Pass:
    make = jax.jit(augment.views([augment.simclr_view()], size=image.shape[1], formulation=formulation))
    keys, image = jax.random.split(jax.random.key(0), len(image)), jnp.asarray(image)
    return lambda: make(keys, image).block_until_ready()


def grey_recipe(image: np.ndarray) -> Pass:
    view = augment.View(crop_scale=(0.4, 1.0), flip=0.5, jitter=(0.4, 0.4, 0.0, 0.0), jitter_prob=0.8, erase_prob=0.5)
    make = jax.jit(augment.views([view], size=28))
    keys, image = jax.random.split(jax.random.key(0), len(image)), jnp.asarray(image)
    return lambda: make(keys, image).block_until_ready()


def dm_pix(image: np.ndarray) -> Pass:
    """dm_pix has no random resized crop; this one is `jax.image.scale_and_translate`, the usual companion."""
    import dm_pix as pix

    size = image.shape[1]
    operations = [
        lambda key, x: pix.random_brightness(key, x, JITTER[0]),
        lambda key, x: pix.random_contrast(key, x, lower=1 - JITTER[1], upper=1 + JITTER[1]),
        lambda key, x: pix.random_saturation(key, x, lower=1 - JITTER[2], upper=1 + JITTER[2]),
        lambda key, x: pix.random_hue(key, x, JITTER[3]),
    ]

    def one(key: jax.Array, x: jax.Array) -> jax.Array:
        keys = iter(jax.random.split(key, 16))
        chance = lambda p: jax.random.uniform(next(keys)) < p  # noqa: E731
        box = augment.crop_box(next(keys), (size, size)).astype(jnp.float32)
        scale = size / box[2:]
        x = x.astype(jnp.float32) / 255
        x = jax.image.scale_and_translate(x, x.shape, (0, 1), scale, -box[:2] * scale, "linear", antialias=False)
        x = pix.random_flip_left_right(next(keys), x)
        order, jittered = jax.random.permutation(next(keys), 4), x
        for i in range(4):
            key = next(keys)
            branches = [lambda x, f=f, key=key: jnp.clip(f(key, x), 0, 1) for f in operations]
            jittered = jax.lax.switch(order[i], branches, jittered)
        x = jnp.where(chance(0.8), jittered, x)
        x = jnp.where(chance(0.2), pix.rgb_to_grayscale(x, keep_dims=True), x)
        sigma = jax.random.uniform(next(keys), minval=0.1, maxval=2.0)
        return jnp.where(chance(0.5), pix.gaussian_blur(x, sigma, kernel_size(size)), x)

    make = jax.jit(jax.vmap(one))
    keys, image = jax.random.split(jax.random.key(0), len(image)), jnp.asarray(image)
    return lambda: make(keys, image).block_until_ready()


def kornia(image: np.ndarray, threads: int = 2) -> Pass:
    import torch

    _torchvision_cpu.import_torchvision()
    import kornia.augmentation as K

    size = image.shape[1]
    make = K.AugmentationSequential(
        K.RandomResizedCrop((size, size), scale=(0.08, 1.0)),
        K.RandomHorizontalFlip(p=0.5),
        K.ColorJitter(*JITTER, p=0.8),
        K.RandomGrayscale(p=0.2),
        K.RandomGaussianBlur((kernel_size(size),) * 2, (0.1, 2.0), p=0.5),
    )
    x = torch.from_numpy(image.transpose(0, 3, 1, 2).copy())

    def run() -> object:
        torch.set_num_threads(threads)
        with torch.no_grad():
            return make(x.float() / 255)

    return run


def torchvision(image: np.ndarray) -> Pass:
    _torchvision_cpu.import_torchvision()
    import torch
    from PIL import Image
    from torchvision.transforms import v2

    size = image.shape[1]
    make = v2.Compose(
        [
            v2.RandomResizedCrop(size, scale=(0.08, 1.0)),
            v2.RandomHorizontalFlip(),
            v2.RandomApply([v2.ColorJitter(*JITTER)], p=0.8),
            v2.RandomGrayscale(p=0.2),
            v2.RandomApply([v2.GaussianBlur(kernel_size(size), (0.1, 2.0))], p=0.5),
            v2.PILToTensor(),
            v2.ToDtype(torch.float32, scale=True),
        ]
    )
    pictures = [Image.fromarray(x) for x in image]

    def run() -> object:
        torch.set_num_threads(1)
        return torch.stack([make(picture) for picture in pictures])

    return run


CONTENDERS = {
    "ssl_jax": ours,
    "ssl_jax, batch formulation": lambda image: ours(image, "batch"),
    "dm_pix, vmapped": dm_pix,
    "kornia, batched, two threads": kornia,
    "kornia, batched, one thread": lambda image: kornia(image, threads=1),
    "torchvision v2 on PIL, one thread": torchvision,
}


def prepare(image: np.ndarray) -> dict[str, Pass | None]:
    """Compile and warm up every contender; None for those that are not installed."""
    ready: dict[str, Pass | None] = {}
    for name, contender in CONTENDERS.items():
        try:
            ready[name] = contender(image)
            ready[name]()
        except ImportError as error:
            print(f"{name}: not installed ({error})")
            ready[name] = None
    return ready


def measure(passes: dict[str, Pass | None], rounds: int) -> dict[str, float]:
    """Return the seconds of the fastest round of each contender; they take turns."""
    best: dict[str, float] = {}
    for _ in range(rounds):
        for name, one_pass in passes.items():
            if one_pass is not None:
                start = time.perf_counter()
                one_pass()
                best[name] = min(best.get(name, float("inf")), time.perf_counter() - start)
    return best


def processor() -> str:
    try:
        with open("/proc/cpuinfo") as file:
            return next(line.split(":", 1)[1].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def versions() -> str:
    known = []
    for package in ("jax", "dm-pix", "kornia", "torch", "torchvision"):
        try:
            known.append(f"{package} {importlib.metadata.version(package)}")
        except importlib.metadata.PackageNotFoundError:
            known.append(f"{package} not installed")
    return ", ".join(known)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=6, help="rounds per contender; the fastest counts")
    rounds = parser.parse_args().rounds
    print(f"{processor()}, {os.cpu_count()} cores; Python {platform.python_version()}, {versions()}\n")
    random = np.random.default_rng(0)
    speeds = {}
    for size, batch in ((32, 256), (224, 64)):
        passes = prepare(random.integers(0, 256, (batch, size, size, 3), np.uint8))
        speeds[size] = {name: batch / seconds for name, seconds in measure(passes, rounds).items()}
    print("| images per second | 32 px, batch 256 | ssl_jax is faster by | 224 px, batch 64 | ssl_jax is faster by |")
    print("|---|---|---|---|---|")
    for name in CONTENDERS:
        row = [f"{s[name]:,.0f} | {s['ssl_jax'] / s[name]:.1f}" if name in s else "- | -" for s in speeds.values()]
        print(f"| {name} | {' | '.join(row)} |")
    grey = grey_recipe(random.integers(0, 256, (256, 28, 28, 1), np.uint8))
    grey()
    seconds = measure({"grey": grey}, 5 * rounds)["grey"]
    print(f"\n28 x 28 grey images, crop, intensity, flip, erasing: {256 / seconds:,.0f} images per second")


if __name__ == "__main__":
    main()
