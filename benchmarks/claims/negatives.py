"""Who needs many images to contrast with: SimCLR and MoCo, beside BYOL and SimSiam, which have no negatives."""

import pathlib

import numpy as np

from benchmarks.claims.finding import Finding, beats, verdict
from benchmarks.claims.runs import Budget, figures, pretrain

IMAGES = 20_480
SIZES = {"simclr": (32, 64, 128, 256, 512), "byol": (32, 128, 512), "simsiam": (32, 128, 512)}
QUEUES = (128, 1024, 8192)
TITLES = {"simclr": "SimCLR", "byol": "BYOL", "simsiam": "SimSiam"}


def negatives(budget: Budget) -> Finding:
    """Contrastive learning needs many negatives; BYOL and SimSiam, without them, do not (Grill et al., 2020, figure 3).

    Each run sees 20,480 images of Fashion-MNIST, with an encoder of half the usual width. SimCLR, BYOL and SimSiam in
    batches from 32 to 512, the learning rate with the square root of the batch (AdamW); MoCo in batches of 256 with
    queues from 128 to 8,192. Equal images mean fewer steps in larger batches, for all alike, so it is the difference to
    the methods without negatives that counts. Linear probe and k-NN on 10,000 training images, all test images. It
    holds if SimCLR gains more (or loses less) from the smallest batch to the largest, by the linear probe, than BYOL
    and than SimSiam in every seed, and if MoCo is better with its longest queue than with its shortest in every seed.
    """
    sizes = {"simclr": (16, 64), "byol": (64,), "simsiam": (64,)} if budget.test else SIZES
    queues = (64,) if budget.test else QUEUES
    by_batch = {name: {size: figures(_runs(budget, name, size)) for size in sizes[name]} for name in sizes}
    by_queue = {
        size: figures(_runs(budget, "moco", 64 if budget.test else 256, {"method_args.queue_size": size}))
        for size in queues
    }
    return conclude(by_batch, by_queue)


def conclude(by_batch: dict[str, dict[int, dict]], by_queue: dict[int, dict]) -> Finding:
    """The finding from the figures by method and batch size, and of MoCo by length of the queue."""

    def gain(found: dict[int, dict]) -> np.ndarray:
        return np.subtract(found[max(found)]["linear"], found[min(found)]["linear"])

    gains = {name: gain(found) for name, found in by_batch.items()}
    queue = gain(by_queue)
    holds = [
        beats(gains["simclr"], gains["byol"]),
        beats(gains["simclr"], gains["simsiam"]),
        beats(queue, np.zeros_like(queue)),
    ]
    said = ", ".join(f"{TITLES[name]} {value.mean():+.1f}" for name, value in gains.items())
    basis = f"points from the smallest batch to the largest: {said}; MoCo {queue.mean():+.1f} from the shortest queue"
    curves = {
        TITLES[name]: ([float(size) for size in found], np.transpose([f["linear"] for f in found.values()]).tolist())
        for name, found in by_batch.items()
    }
    moco = {"MoCo": ([float(s) for s in by_queue], np.transpose([f["linear"] for f in by_queue.values()]).tolist())}
    shown = {f"{TITLES[n]}, batch {size}": f for n, found in by_batch.items() for size, f in found.items()}
    return Finding(
        verdict=verdict(holds, f"{basis} to the longest"),
        figures={**shown, **{f"MoCo, queue {size}": f for size, f in by_queue.items()}},
        curves={"linear probe over batch size, %": curves, "linear probe over queue size, %": moco},
        x="images in a batch, or in the queue",
        log=True,
    )


def _runs(budget: Budget, name: str, batch: int, more: dict | None = None) -> list[pathlib.Path]:
    """The run of each seed."""
    images = 256 if budget.test else IMAGES
    fields = {**budget.narrow(), **(more or {}), "batch_size": batch, "steps": images // batch, "knn_every": -1}
    fields |= {"learning_rate": 3e-3 / 16, "learning_rate_scaling": "sqrt"}  # 3e-3 for a batch of 256
    if not budget.test:
        fields["warmup_epochs"] = 0.034  # a tenth of the run
    return [pretrain(budget, budget.config(name), seed, fields) for seed in budget.seeds]
