import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from values import assert_close

from ssl_jax import nets, optim
from ssl_jax.core import UserError
from ssl_jax.evaluation import FINE_TUNING, FineTuning, from_scratch
from ssl_jax.evaluation.tuning import depths, optimizer, rate_factors, rate_of
from ssl_jax.nets import functional


def shapes(encoder, size=16):
    image = jnp.zeros((2, size, size, 3))
    return jax.eval_shape(lambda: functional.init(encoder, jax.random.key(0), image))[0]


def by_part(tree):
    """The one value of each part at the top."""
    values = {name: set(jax.tree.leaves(part)) for name, part in tree.items()}
    assert all(len(found) == 1 for found in values.values())
    return {name: found.pop() for name, found in values.items()}


def test_depths_of_a_vit_are_those_of_maes_table():
    """`get_layer_id_for_vit`: 0 for what stands before the blocks, i for block i from 1, one more for the last norm."""
    encoder = nets.ViT(patch=8, dim=8, depth=3, heads=2, mask_token=True)
    expected = {"patch_kernel": 0, "patch_bias": 0, "cls": 0, "pos_cls": 0, "pos_grid": 0, "mask_token": 0}
    assert by_part(depths(shapes(encoder))) == expected | {"block1": 1, "block2": 2, "block3": 3, "norm": 4}


def test_depths_of_convolutional_encoders_are_their_stages():
    found = by_part(depths(shapes(nets.create("resnet18", base_width=2))))
    assert found["stem_conv"] == found["stem_norm"] == 0
    assert {name[:6]: depth for name, depth in found.items() if name.startswith("stage")} == {
        f"stage{i}": i for i in (1, 2, 3, 4)
    }
    assert set(by_part(depths(shapes(nets.ConvNet(widths=(2, 2))))).items()) == {
        ("stage1_conv", 1),
        ("stage1_norm", 1),
        ("stage2_conv", 2),
        ("stage2_norm", 2),
    }


def test_rates_fall_by_layer_from_the_head_down():
    """MAE's factors: `decay ** (blocks + 1 - depth)`, 1 for the last norm and the head."""
    params = {"encoder": shapes(nets.ViT(patch=8, dim=8, depth=3, heads=2)), "classifier": {"dense0": {"bias": 0.0}}}
    recipe = FineTuning(head_rate=0.1, trunk_rate=0.02, layer_decay=0.5)
    found = by_part(rate_factors(params, recipe)["encoder"])
    assert found["cls"] == pytest.approx(0.2 * 0.5**4)
    assert [found[f"block{i}"] for i in (1, 2, 3)] == pytest.approx([0.2 * 0.5**3, 0.2 * 0.5**2, 0.2 * 0.5])
    assert found["norm"] == pytest.approx(0.2)
    assert by_part(rate_factors(params, recipe)["classifier"]) == {"dense0": 1.0}
    assert set(by_part(rate_factors(params, FineTuning(trunk_rate=0.0, layer_decay=0.5))["encoder"]).values()) == {0.0}
    assert set(by_part(rate_factors(params, FineTuning())["encoder"]).values()) == {1.0}


@pytest.mark.parametrize("name", ["adamw", "sgd", "lars"])
@jax.numpy_dtype_promotion("standard")  # as in the training step, for optax
def test_each_part_moves_as_by_an_optimizer_with_its_own_rate(name):
    keys = jax.random.split(jax.random.key(0), 8)
    tree = lambda i: {  # noqa: E731
        "encoder": {"stage1": {"kernel": jax.random.normal(keys[i], (3, 2))}},
        "classifier": {"dense0": {"kernel": jax.random.normal(keys[i + 1], (2, 4))}},
    }
    recipe = FineTuning(
        optimizer=name,
        head_rate=0.3,
        trunk_rate=0.06,
        layer_decay=0.5,
        weight_decay=0.1,
        schedule="constant",
        warmup=0.0,
    )
    rates = {"encoder": 0.03, "classifier": 0.3}
    tx, params = optimizer(recipe, 5), tree(0)
    state = tx.init(params)
    apart = {part: optim.create(name, rate, weight_decay=0.1) for part, rate in rates.items()}
    expected = dict(params)
    states = {part: apart[part].init(params[part]) for part in rates}
    for i in (2, 4, 6):
        updates, state = tx.update(tree(i), state, params)
        params = optax.apply_updates(params, updates)
        for part in rates:
            updates, states[part] = apart[part].update(tree(i)[part], states[part], expected[part])
            expected[part] = optax.apply_updates(expected[part], updates)
    jax.tree.map(lambda a, b: assert_close(a, b, 1e-6), params, expected)


def test_schedules():
    at = lambda recipe, steps: [float(rate_of(recipe, steps)(jnp.int32(i))) for i in range(steps)]  # noqa: E731
    cosine = at(FineTuning(head_rate=2.0, warmup=0.2), 11)
    assert cosine[:3] == pytest.approx([0.0, 1.0, 2.0])
    assert cosine[2:] == pytest.approx([1 + np.cos(np.pi * i / 9) for i in range(9)])
    drops = at(FineTuning(head_rate=1.0, warmup=0.0, schedule="drops", drops=(0.6, 0.8), drop_factor=0.2), 10)
    assert drops == pytest.approx([1.0] * 6 + [0.2] * 2 + [0.04] * 2)
    warm = at(FineTuning(head_rate=1.0, warmup=0.2, schedule="drops", drops=(0.5,)), 11)
    assert warm == pytest.approx([0.0, 0.5, *[1.0] * 4, *[0.1] * 5])  # half of eleven is rounded to six (even)
    assert at(FineTuning(head_rate=1.0, warmup=0.0, schedule="constant"), 2) == [1.0, 1.0]
    assert at(FineTuning(head_rate=1.0, warmup=0.9), 1) == [1.0]


def test_length_is_by_epochs_but_not_below_a_number_of_steps():
    recipe = FineTuning(epochs=10.0, min_steps=50)
    assert recipe.count_steps(images=1000, batch_size=100) == 100
    assert recipe.count_steps(images=100, batch_size=100) == 50
    assert dataclasses.replace(recipe, steps=7).count_steps(images=1000, batch_size=100) == 7


def test_presets_are_the_papers():
    """OBoW: config of its semi-supervised runs, drops at 24 and 32 of 40, 12 and 16 of 20; SimCLR: appendix B.5."""
    obow, simclr = FINE_TUNING["obow_1percent"], FINE_TUNING["simclr_10percent"]
    assert (obow.trunk_rate, obow.head_rate, obow.weight_decay, obow.drop_factor) == (2e-4, 0.5, 0.0, 0.2)
    assert [at * obow.epochs for at in obow.drops] == [24, 32]
    assert [at * FINE_TUNING["obow_10percent"].epochs for at in obow.drops] == [12, 16]
    assert (simclr.head_rate, simclr.epochs, FINE_TUNING["simclr_1percent"].epochs) == (0.05 * 4096 / 256, 30, 60)


def test_from_scratch_keeps_the_budget_and_drops_what_needs_pretraining():
    recipe = FineTuning(trunk_rate=1e-4, layer_decay=0.7, frozen_statistics=True, mixup=0.2, epochs=7.0, head="probe")
    scratch = from_scratch(recipe, rate=0.01)
    assert (scratch.head_rate, scratch.trunk_rate, scratch.layer_decay) == (0.01, None, 1.0)
    assert (scratch.frozen_statistics, scratch.head, scratch.mixup, scratch.epochs) == (False, "random", 0.2, 7.0)
    assert scratch.min_steps == 300
    assert from_scratch(FineTuning(min_steps=400)).min_steps == 400


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"epochs": 0.0}, "`epochs` must be above 0"),
        ({"layer_decay": 1.5}, "`layer_decay` must be above 0 and at most 1, but is 1.5"),
        ({"trunk_rate": -1.0}, r"`trunk_rate` must be 0 \(frozen\) or above, but is -1.0"),
        ({"warmup": 5.0}, r"`warmup` 5.0 and `drops` \(\) are shares of the run"),
        ({"drops": (30.0,)}, "are shares of the run"),
        ({"ema": 1.0}, "`ema` is the momentum of an average"),
        ({"schedule": "step"}, "`schedule` is one of cosine, drops, constant, not 'step'"),
        ({"head": "old"}, "`head` is one of probe, zero, random, not 'old'"),
    ],
)
def test_impossible_numbers_are_refused(arguments, message):
    with pytest.raises(UserError, match=message):
        FineTuning(**arguments)


def test_layers_that_cannot_be_told_apart_are_an_error():
    with pytest.raises(UserError, match=r"parts are named block1.*this one has Conv_0, Dense_0; use layer_decay=1"):
        depths({"Conv_0": {"kernel": 1.0}, "Dense_0": {"kernel": 1.0}})
