"""Views per second on the GPU: SimCLR's augmentation by itself, and a step with and without it."""

import dataclasses

import jax

from benchmarks.gpu import local, ours, steps
from benchmarks.gpu.ours import Case
from benchmarks.gpu.record import Record
from ssl_jax import augment

RECIPES = {
    "simclr": augment.simclr,
    "simclr, without blur": lambda size: augment.simclr(size, blur=False),
    "byol": augment.byol,
    "crop and flip": lambda size: augment.simclr(size, jitter_prob=0.0, grey_prob=0.0, blur=False),
}


def run(record: Record, *, tiny: bool) -> bool:
    """Recipes alone, then a ResNet-50's step from made views beside one that makes them."""
    size, batch = (32, 4) if tiny else (224, 256)
    for name, recipe in RECIPES.items():
        if record.clock.left() < 20:
            return False
        make = recipe(size)
        images, _ = ours.batch_of(Case("resnet50", batch, size, views="augmented"))
        keys = jax.random.split(jax.random.key(1), batch)
        call, facts = local.compiled(lambda keys, image, make=make: make(keys, image), keys, images["image"])
        took = local.seconds(call, keys, images["image"])
        views = int(jax.eval_shape(make, keys, images["image"]).shape[1])
        record.add(recipe=name, batch=batch, size=size, views=views, **facts, **took)
    del images, keys, call
    jax.clear_caches()
    for made in ("made", "augmented"):
        if record.clock.left() < steps.LEAST:
            return False
        case = dataclasses.replace((steps.TINY if tiny else steps.CASES)[0], views=made)
        steps.measure(record, case, {"ssl_jax": (steps.OURS, {})}, recipe="step of ResNet-50")
    return True
