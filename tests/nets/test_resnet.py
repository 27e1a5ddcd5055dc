import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ssl_jax import interop, nets
from ssl_jax.core import UserError


def variables_of(arrays, model, folder):
    """The fixture's weights, read as a user would."""
    np.savez(
        folder / "weights.npz", **{n.removeprefix("state/"): a for n, a in arrays.items() if n.startswith("state/")}
    )
    params, state = interop.load_encoder(folder / "weights.npz", model, (64, 64, 3))
    return jax.tree.map(jnp.asarray, {"params": params, **state})


def nhwc(array):
    return jnp.asarray(array.transpose(0, 2, 3, 1))


def assert_near(actual, expected, tolerance):
    np.testing.assert_allclose(actual, expected, rtol=0, atol=tolerance * np.abs(expected).max())


@pytest.fixture(scope="module")
def narrow(fixture, tmp_path_factory):
    """The fixture's ResNet-18: stages 16 times narrower than the stem."""
    arrays, model = fixture("w_resnet18"), nets.ResNet(18, base_width=4, stem_width=64)
    return model, variables_of(arrays, model, tmp_path_factory.mktemp("torchvision")), arrays


def test_maps_and_features_equal_torchvision(narrow):
    model, variables, arrays = narrow
    pooled, maps = jax.jit(lambda v, x: model.apply(v, x, train=False))(variables, nhwc(arrays["input"]))
    names = {"stem": "maxpool"} | {f"stage{i}": f"layer{i}" for i in (1, 2, 3, 4)}
    for name, theirs in names.items():
        assert_near(maps[name], arrays[f"eval/{theirs}"].transpose(0, 2, 3, 1), 2e-5)
    assert_near(pooled, arrays["eval/features"], 2e-5)


def test_training_pass_and_running_statistics_equal_torchvision(narrow):
    model, variables, arrays = narrow
    images = nhwc(arrays["train/input"])
    apply = jax.jit(lambda v, x: model.apply(v, x, train=True, mutable=["batch_stats"]))
    (pooled, _), updated = apply(variables, images)
    assert_near(pooled, arrays["train/features"], 2e-5)
    stats, before = updated["batch_stats"], variables["batch_stats"]
    for theirs, path, side in (
        ("bn1", ("stem_norm",), 24),
        ("layer4.1.bn1", ("stage4_block2", "norm1"), 2),
        ("layer4.1.bn2", ("stage4_block2", "norm2"), 2),
    ):
        ours, old = stats, before
        for part in path:
            ours, old = ours[part], old[part]
        assert_near(ours["mean"], arrays[f"train/after/{theirs}.running_mean"], 2e-5)
        n = len(images) * side * side
        unbiased = 0.9 * old["var"] + (ours["var"] - 0.9 * old["var"]) * (n / (n - 1))
        assert_near(unbiased, arrays[f"train/after/{theirs}.running_var"], 2e-5)


def test_bottlenecks_equal_transformers(fixture, tmp_path):
    arrays = fixture("w_hf_resnet")
    model = nets.ResNet(50, stem_width=8, stage_widths=(4, 6, 8, 12), blocks=(1, 2, 1, 1))
    variables = variables_of(arrays, model, tmp_path)
    pooled, maps = jax.jit(lambda v, x: model.apply(v, x, train=False))(variables, nhwc(arrays["input"]))
    assert_near(maps["stage4"], arrays["last_hidden_state"].transpose(0, 2, 3, 1), 2e-5)
    assert_near(pooled, arrays["pooler_output"].reshape(2, -1), 2e-5)


def count(model, shape=(1, 64, 64, 3)):
    variables = jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros(shape), train=True))
    return sum(a.size for a in jax.tree.leaves(variables["params"]))


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("resnet18", 11_176_512),
        ("resnet34", 21_284_672),
        ("resnet50", 23_508_032),
        ("resnet101", 42_500_160),
        ("resnet152", 58_143_808),
    ],
)
def test_parameters_are_as_many_as_torchvision_has_without_its_classifier(name, parameters):
    assert count(nets.create(name)) == parameters


def test_width_multiplies_every_layer():
    pooled, maps = jax.eval_shape(
        lambda: nets.create("resnet200", width=2).init_with_output(jax.random.key(0), jnp.zeros((1, 64, 64, 3)), True)[
            0
        ]
    )
    assert pooled.shape == (1, 4096)
    assert [maps[name].shape[1:] for name in ("stem", "stage1", "stage4")] == [
        (16, 16, 128),
        (16, 16, 512),
        (2, 2, 4096),
    ]


def test_small_stem_keeps_the_resolution():
    model = nets.create("resnet18", stem="small", base_width=8)
    (_, maps), _ = jax.eval_shape(lambda: model.init_with_output(jax.random.key(0), jnp.zeros((1, 32, 32, 5)), True))
    assert [maps[f"stage{i}"].shape[1:] for i in (1, 2, 3, 4)] == [(32, 32, 8), (16, 16, 16), (8, 8, 32), (4, 4, 64)]


def test_zero_init_residual_makes_every_block_a_shortcut():
    model = nets.ResNet(18, base_width=4, stem="small", blocks=(2, 1, 1, 1), zero_init_residual=True)
    images = jax.random.normal(jax.random.key(1), (2, 8, 8, 3))
    (_, maps), _ = jax.jit(model.init_with_output, static_argnums=2)(jax.random.key(0), images, True)
    np.testing.assert_array_equal(maps["stem"], maps["stage1"])


def test_bfloat16_keeps_float32_parameters_and_features():
    model = nets.ResNet(18, base_width=4, stem="small", blocks=(1, 1, 1, 1), dtype=jnp.bfloat16)
    images = jax.random.normal(jax.random.key(1), (8, 16, 16, 3))

    def features(variables, images):
        return model.apply(variables, images, train=True, mutable=["batch_stats"])[0]

    variables = jax.jit(model.init, static_argnums=2)(jax.random.key(0), images, True)
    pooled, maps = jax.jit(features)(variables, images)
    gradient = jax.jit(jax.grad(lambda v: features(v, images)[0].var()))(variables)
    assert {a.dtype for a in jax.tree.leaves((variables, gradient, pooled))} == {jnp.dtype("float32")}
    assert {a.dtype for a in maps.values()} == {jnp.dtype("bfloat16")}
    wide, _ = jax.jit(lambda v, x: model.clone(dtype=jnp.float32).apply(v, x, True, mutable=["batch_stats"])[0])(
        variables, images
    )
    assert np.linalg.norm(pooled - wide) < 0.03 * np.linalg.norm(wide)


@pytest.mark.parametrize(("fields", "message"), [({"depth": 20}, "ResNet-20"), ({"stem": "tiny"}, 'stem="tiny"')])
def test_unknown_settings_are_named(fields, message):
    with pytest.raises(UserError, match=message):
        jax.eval_shape(lambda: nets.ResNet(**fields).init(jax.random.key(0), jnp.zeros((1, 32, 32, 3)), True))
