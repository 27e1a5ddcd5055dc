"""Images per second from JPEGs to batches: this library against torch's DataLoader with torchvision, and grain.

    pip install -e '.[fast,bench]'
    python benchmarks/input.py                    # one and two workers, two crops to 224; 2 + 8 crops; parts
    python benchmarks/input.py --workers 1 2 4 --images 2048 --rounds 5
    python benchmarks/input.py --step simclr:fashion_mnist     # share of training steps that waits for data

The JPEGs are 500 x 375 crops of scikit-image's and scikit-learn's photographs, about 51 KB each, as many as ImageNet's
are large. A worker is a thread here and in grain, a process in torch's DataLoader. All contenders run in one process,
taking turns; the fastest round counts. `per core` divides by the processor time of all processes, not by the wall
clock, so that what else the machine does disturbs it less.
"""

import argparse
import contextlib
import importlib
import importlib.metadata
import io
import os
import pathlib
import platform
import resource
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import _torchvision_cpu
import numpy as np
from PIL import Image

from ssl_jax import data
from ssl_jax.data import decoders, lazy
from ssl_jax.data.crops import boxes
from ssl_jax.data.pipeline import read_ahead

BATCH = 128
WIDTH, HEIGHT, BYTES = 500, 375, 51_000
SIMCLR = (data.Crop(size=224),) * 2
ONE = SIMCLR[:1]
DINO = (data.Crop(size=224, scale=(0.4, 1.0), method="cubic"),) * 2 + (
    data.Crop(size=96, scale=(0.05, 0.4), method="cubic"),
) * 8
Epoch = Callable[[], int]  # reads all images once and returns how many


def photographs() -> list[Image.Image]:
    import skimage.data
    from sklearn.datasets import load_sample_images

    names = ("astronaut", "coffee", "chelsea", "rocket")
    arrays = [*load_sample_images().images, *(getattr(skimage.data, name)() for name in names)]
    return [Image.fromarray(array[..., :3]) for array in arrays]


def write_jpegs(folder: pathlib.Path, count: int) -> float:
    """Write crops of photographs, each at the quality that makes about 51 KB; returns their mean size in bytes."""
    random, photos, sizes = np.random.default_rng(0), photographs(), []
    for i in range(count):
        photo = photos[i % len(photos)]
        scale = max(WIDTH / photo.width, HEIGHT / photo.height) * random.uniform(1.0, 1.3)
        photo = photo.resize((max(round(photo.width * scale), WIDTH), max(round(photo.height * scale), HEIGHT)))
        left, top = random.integers(photo.width - WIDTH + 1), random.integers(photo.height - HEIGHT + 1)
        crop = photo.crop((left, top, left + WIDTH, top + HEIGHT))
        encoded = min((jpeg(crop, quality) for quality in range(60, 100, 3)), key=lambda b: abs(len(b) - BYTES))
        path = folder / ("train" if i else "test") / f"{i % 10}" / f"{i}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encoded)
        sizes.append(len(encoded))
    return float(np.mean(sizes))


def jpeg(image: Image.Image, quality: int) -> bytes:
    file = io.BytesIO()
    image.save(file, "jpeg", quality=quality)
    return file.getvalue()


def ours(folder: pathlib.Path, crops: tuple[data.Crop, ...], decoder: str, workers: int) -> Epoch:
    """What `data.batches` does with crops by the host, for so many batches."""
    source = data.load(f"folder:{folder}", "train")
    return epoch_of(data.CroppedSource(source, crops, seed=0, decoder=decoder).at_step, len(source), workers)


def whole(folder: pathlib.Path, workers: int) -> Epoch:
    """Resized to 256 pixels on the host, for a crop on the accelerator."""
    source = data.load(f"folder:{folder}", "train", image_size=256)
    return epoch_of(lambda step, rows: source[rows], len(source), workers)


def epoch_of(read: Callable[[int, np.ndarray], data.Examples], images: int, workers: int) -> Epoch:
    steps = images // BATCH

    def batch(step: int) -> data.Examples:
        return read(step, data.indices(images, batch_size=BATCH, seed=0, step=step))

    def run() -> int:
        with threads(workers):
            return BATCH * sum(1 for _ in read_ahead(batch, range(steps), 2))

    return run


@contextlib.contextmanager
def threads(count: int) -> Iterator[None]:
    """Let the library's pool have so many threads."""
    before = lazy.pool
    with ThreadPoolExecutor(count) as pool:
        lazy.pool = lambda: pool
        try:
            yield
        finally:
            lazy.pool = before


def grain_dataset(folder: pathlib.Path, crops: tuple[data.Crop, ...], decoder: str, workers: int) -> Epoch:
    """The same order, boxes and decoder in grain's MapDataset, with its threads; order and randomness are ours."""
    import grain

    source = data.load(f"folder:{folder}", "train")
    files, _ = source.fetch(source.items)
    using, steps = decoders.decoder(decoder), len(source) // BATCH
    sizes = tuple(dict.fromkeys(crop.size for crop in crops))
    order = np.concatenate([data.indices(len(source), batch_size=BATCH, seed=0, step=k) for k in range(steps)])

    def load(position: int) -> tuple[np.ndarray, ...]:
        row = int(order[position])

        def draw(size: tuple[int, int]) -> tuple:
            return boxes(crops, size, seed=0, step=int(position) // BATCH, example=row)

        views = decoders.views(files[row], crops, draw, 3, using)
        return tuple(np.stack([view for view in views if len(view) == size]) for size in sizes)

    def run() -> int:
        options = grain.ReadOptions(num_threads=workers, prefetch_buffer_size=2 * BATCH)
        dataset = grain.MapDataset.range(steps * BATCH).map(load).to_iter_dataset(options).batch(BATCH)
        return sum(len(batch[0]) for batch in dataset)

    return run


def torch_loader(folder: pathlib.Path, crops: tuple[data.Crop, ...], workers: int) -> Epoch:
    """ImageFolder, RandomResizedCrop on PIL images, uint8 tensors: what most trainers in torch do."""
    _torchvision_cpu.import_torchvision()
    import torch
    from torchvision import datasets
    from torchvision.transforms import v2

    torch.set_num_threads(1)
    modes = {"linear": v2.InterpolationMode.BILINEAR, "cubic": v2.InterpolationMode.BICUBIC}
    cuts = [v2.RandomResizedCrop(crop.size, scale=crop.scale, interpolation=modes[crop.method]) for crop in crops]

    def transform(image: Image.Image) -> list[torch.Tensor]:
        return [v2.functional.pil_to_tensor(cut(image)) for cut in cuts]

    dataset = datasets.ImageFolder(str(folder / "train"), transform)
    loader = torch.utils.data.DataLoader(
        dataset, BATCH, shuffle=True, drop_last=True, num_workers=workers, persistent_workers=workers > 0
    )
    return lambda: sum(len(labels) for _, labels in loader)


def processor_seconds(children: dict[int, float]) -> float:
    """Of this process and of its living children (torch's workers)."""
    own = sum(resource.getrusage(resource.RUSAGE_SELF)[:2])
    tick = os.sysconf("SC_CLK_TCK")
    for path in pathlib.Path("/proc/self/task").glob("*/children"):
        for child in path.read_text().split():
            fields = pathlib.Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()
            children[int(child)] = (int(fields[11]) + int(fields[12])) / tick
    return own + sum(children.values())


def measure(epochs: dict[str, Epoch], rounds: int) -> dict[str, tuple[float, float]]:
    """Images per second by the wall clock, and per second of processor time; each of the best round."""
    best = dict.fromkeys(epochs, (0.0, 0.0))
    for epoch in epochs.values():
        epoch()  # workers start, files get into the system's cache
    for _ in range(rounds):
        for name, epoch in epochs.items():
            children: dict[int, float] = {}
            used, began = processor_seconds(children), time.perf_counter()
            images = epoch()
            wall, used = time.perf_counter() - began, processor_seconds(children) - used
            best[name] = max(best[name][0], images / wall), max(best[name][1], images / used)
    return best


def table(title: str, epochs: dict[str, Epoch], rounds: int) -> None:
    print(f"\n| {title} | images/s | images/s per core |\n|---|---|---|")
    for name, (wall, core) in measure(epochs, rounds).items():
        print(f"| {name} | {wall:,.0f} | {core:,.0f} |", flush=True)


def wait_for_data(name: str, steps: int) -> None:
    """Train as a config says, and print the share of the time in which steps waited for their batch."""
    from ssl_jax import experiment, training

    module, _, variant = name.partition(":")
    parts = experiment.build(importlib.import_module(f"ssl_jax.configs.{module}").get_config(variant))
    waiting, began = training.Waiting(), 0.0
    iterator = training.train(
        parts.method, parts.inputs, batch_size=parts.config.batch_size, steps=steps, waiting=waiting, **parts.parts
    )
    for step, _ in enumerate(iterator):
        if step == 0:  # compilation
            waiting.take()
            began = time.perf_counter()
    elapsed, waited = time.perf_counter() - began, waiting.take()
    print(
        f"{name}: {1e3 * elapsed / (steps - 1):,.1f} ms per step, {1e3 * waited / (steps - 1):,.2f} ms of them "
        f"({waited / elapsed:.2%}) waiting for {parts.config.batch_size} images of {parts.inputs!r}"
    )


def contenders(folder: pathlib.Path, crops: tuple[data.Crop, ...], workers: int) -> dict[str, Epoch]:
    made = {f"ssl_jax, {decoder}": ours(folder, crops, decoder, workers) for decoder in ("fast", "pillow")}
    with contextlib.suppress(ImportError):
        made["the same in grain, fast"] = grain_dataset(folder, crops, "fast", workers)
    with contextlib.suppress(ImportError):
        made["torch DataLoader, torchvision"] = torch_loader(folder, crops, workers)
    return made


def versions() -> str:
    known = [f"Python {platform.python_version()}"]
    for package in ("numpy", "pillow", "simplejpeg", "opencv-python-headless", "grain", "torch", "torchvision"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            known.append(f"{package} {importlib.metadata.version(package)}")
    return ", ".join(known)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=1024)
    parser.add_argument("--rounds", type=int, default=4, help="rounds per contender; the fastest counts")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--step", nargs="+", metavar="CONFIG", help="train as configs say, and show the wait for data")
    options = parser.parse_args()
    for config in options.step or ():
        wait_for_data(config, steps=40)
    if options.step:
        return
    lazy.IN_MEMORY_BYTES = 0
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        mean = write_jpegs(folder, options.images)
        print(
            f"{os.cpu_count()} cores; {versions()}\n{options.images:,} JPEGs of {WIDTH} x {HEIGHT}, {mean:,.0f} bytes"
        )
        for workers in options.workers:
            for title, crops in (
                ("one crop to 224", ONE),
                ("two crops to 224", SIMCLR),
                ("2 to 224 and 8 to 96", DINO),
            ):
                made = contenders(folder, crops, workers)
                if crops is ONE:
                    made["ssl_jax, resized to 256 for a crop on the device"] = whole(folder, workers)
                table(f"{title}, {workers} worker(s)", made, options.rounds)


if __name__ == "__main__":
    main()
