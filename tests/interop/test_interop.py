"""Weights of other libraries: read, refused, written and read again."""

import re

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy

from ssl_jax import interop, nets
from ssl_jax.core import UserError
from ssl_jax.nets.positions import sincos

RESNET = nets.ResNet(18, base_width=4, stem_width=64)
BOTTLENECKS = nets.ResNet(50, stem_width=8, stage_widths=(4, 6, 8, 12), blocks=(1, 2, 1, 1))
VIT = nets.ViT(patch=8, dim=32, depth=2, heads=4)
SHAPE = (32, 32, 3)


@pytest.fixture(scope="module")
def weights(fixture):
    """`weights(name)`: the arrays of a fixture's encoder under its library's names."""

    def of(name: str) -> dict[str, np.ndarray]:
        arrays = {n.removeprefix("state/"): a for n, a in fixture(name).items() if n.startswith("state/")}
        return {n: a for n, a in arrays.items() if not n.startswith("fc.")}

    return of


def save(path, arrays):
    """A file as the other library writes it."""
    if path.suffix == ".npz":
        np.savez(path, **arrays)
    else:
        safetensors.numpy.save_file({name: np.ascontiguousarray(x) for name, x in arrays.items()}, path)
    return path


def assert_equal(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    jax.tree.map(np.testing.assert_array_equal, a, b)


def output(module, variables, image):
    params, state = variables
    return jax.jit(lambda p, s, x: module.apply({"params": p, **s}, x, train=False)[0])(params, state, image)


@pytest.mark.parametrize("kind", [".npz", ".safetensors"])
@pytest.mark.parametrize(("name", "module"), [("w_resnet18", RESNET), ("w_hf_resnet", BOTTLENECKS), ("w_vit", VIT)])
def test_both_kinds_of_file_give_the_whole_tree(weights, tmp_path, name, module, kind):
    found = interop.load_encoder(save(tmp_path / f"x{kind}", weights(name)), module, SHAPE)
    like = jax.eval_shape(lambda: module.init(jax.random.key(0), jnp.zeros((2, *SHAPE)), train=True))
    kinds = [jax.tree.map(lambda x: (x.shape, x.dtype), tree) for tree in ({"params": found[0], **found[1]}, like)]
    assert kinds[0] == kinds[1]


@pytest.mark.parametrize(("name", "module"), [("w_resnet18", RESNET), ("w_vit", VIT)])
def test_what_is_written_is_what_was_read_name_by_name(weights, tmp_path, name, module):
    theirs = weights(name)
    variables = interop.load_encoder(save(tmp_path / "in.npz", theirs), module, SHAPE)
    title = interop.save_encoder(tmp_path / "out.safetensors", module, *variables)
    assert title in ("torchvision's ResNet", "timm's and DINO's ViT")
    back = interop.read(tmp_path / "out.safetensors")
    assert set(back) == {n for n in theirs if "num_batches_tracked" not in n}
    for key, value in back.items():
        np.testing.assert_array_equal(value, theirs[key], err_msg=key)
    assert_equal(interop.load_encoder(tmp_path / "out.safetensors", module, SHAPE), variables)


def test_any_module_has_a_layout_of_its_own_with_its_head(tmp_path):
    module = nets.ConvNet((2, 3))
    variables = module.init(jax.random.key(0), jnp.zeros((2, 8, 8, 1)), train=True)
    params, state = variables["params"], {"batch_stats": variables["batch_stats"]}
    head = {"kernel": np.ones((15, 4), np.float32), "bias": np.arange(4, dtype=np.float32)}
    assert interop.save_encoder(tmp_path / "x.npz", module, params, state, head=head) == "ssl_jax's own"
    assert_equal(interop.load_encoder(tmp_path / "x.npz", module, (8, 8, 1)), (params, state))
    assert_equal(interop.load_head(tmp_path / "x.npz"), head)
    interop.save_encoder(tmp_path / "x.npz", module, params, state)
    assert interop.load_head(tmp_path / "x.npz") is None


@pytest.mark.parametrize(("name", "module", "theirs"), [("w_resnet18", RESNET, "fc"), ("w_vit", VIT, "head")])
def test_heads_are_read_apart_and_written_with_the_encoder(weights, tmp_path, name, module, theirs):
    matrix, bias = np.arange(96, dtype=np.float32).reshape(3, 32), np.ones(3, np.float32)
    arrays = weights(name) | {f"{theirs}.weight": matrix, f"{theirs}.bias": bias}
    head = interop.load_head(save(tmp_path / "x.npz", arrays))
    assert_equal(head, {"kernel": matrix.T, "bias": bias})
    variables = interop.load_encoder(tmp_path / "x.npz", module, SHAPE)
    interop.save_encoder(tmp_path / "y.safetensors", module, *variables, head=head)
    assert_equal(interop.load_head(tmp_path / "y.safetensors"), head)
    np.testing.assert_array_equal(interop.read(tmp_path / "y.safetensors")[f"{theirs}.weight"], matrix)
    assert interop.load_head(save(tmp_path / "z.npz", weights(name))) is None


def transformers_names(timm, *, prefix="", dinov2=False):
    """A ViT's arrays under transformers' names, spelt out from their `ViTModel` and `Dinov2Model`."""
    names = {"cls_token": "cls_token", "pos_embed": "position_embeddings"}
    names |= {f"patch_embed.proj.{x}": f"patch_embeddings.projection.{x}" for x in ("weight", "bias")}
    out = {f"{prefix}embeddings.{theirs}": timm[ours] for ours, theirs in names.items()}
    for x in ("weight", "bias"):
        out[f"{prefix}layernorm.{x}"] = timm[f"norm.{x}"]
        for i in (0, 1):
            block, layer = f"blocks.{i}", f"{prefix}encoder.layer.{i}"
            for part, value in zip(("query", "key", "value"), np.split(timm[f"{block}.attn.qkv.{x}"], 3), strict=True):
                out[f"{layer}.attention.attention.{part}.{x}"] = value
            out[f"{layer}.attention.output.dense.{x}"] = timm[f"{block}.attn.proj.{x}"]
            for ours, vit, dino in (
                ("norm1", "layernorm_before", "norm1"),
                ("norm2", "layernorm_after", "norm2"),
                ("mlp.fc1", "intermediate.dense", "mlp.fc1"),
                ("mlp.fc2", "output.dense", "mlp.fc2"),
            ):
                out[f"{layer}.{dino if dinov2 else vit}.{x}"] = timm[f"{block}.{ours}.{x}"]
    return out


def test_transformers_vit_is_timms(weights, tmp_path):
    timm = weights("w_vit")
    expected = interop.load_encoder(save(tmp_path / "timm.npz", timm), VIT, SHAPE)
    assert_equal(interop.load_encoder(save(tmp_path / "a.npz", transformers_names(timm)), VIT, SHAPE), expected)
    head = {"classifier.weight": np.ones((5, 32), np.float32), "classifier.bias": np.zeros(5, np.float32)}
    pooler = {"vit.pooler.dense.weight": np.ones((32, 32), np.float32)}
    path = save(tmp_path / "b.npz", transformers_names(timm, prefix="vit.") | head | pooler)
    assert_equal(interop.load_encoder(path, VIT, SHAPE), expected)
    assert interop.load_head(path)["kernel"].shape == (32, 5)


@pytest.mark.parametrize("transformers", [False, True])
def test_layer_scales_of_dinov2_are_folded_in(weights, fixture, tmp_path, transformers):
    """x + gamma * f(x): scales of the fixture's own weights divided out beforehand leave its features unchanged."""
    timm, rng = weights("w_vit"), np.random.default_rng(0)
    scales = {}
    for i in (0, 1):
        for number, layer in ((1, "attn.proj"), (2, "mlp.fc2")):
            gamma = rng.uniform(0.5, 2, 32).astype(np.float32)
            timm[f"blocks.{i}.{layer}.weight"] = timm[f"blocks.{i}.{layer}.weight"] / gamma[:, None]
            timm[f"blocks.{i}.{layer}.bias"] = timm[f"blocks.{i}.{layer}.bias"] / gamma
            theirs = f"encoder.layer.{i}.layer_scale{number}.lambda1"
            scales[theirs if transformers else f"blocks.{i}.ls{number}.gamma"] = gamma
    arrays = transformers_names(timm, dinov2=True) if transformers else timm
    mask = {"embeddings.mask_token" if transformers else "mask_token": np.zeros((1, 32), np.float32)}
    found = interop.load_encoder(save(tmp_path / "x.npz", arrays | scales | mask), VIT, SHAPE)
    image = jnp.asarray(fixture("w_vit")["input32"].transpose(0, 2, 3, 1))
    expected = fixture("w_vit")["cls32"]
    np.testing.assert_allclose(output(VIT, found, image), expected, rtol=0, atol=2e-5 * np.abs(expected).max())


def test_positions_may_be_of_another_number_of_patches(weights, fixture, tmp_path):
    path = save(tmp_path / "x.npz", weights("w_vit"))
    found = interop.load_encoder(path, VIT, (48, 48, 3))
    expected = fixture("w_vit")["cls48"]
    image = jnp.asarray(fixture("w_vit")["input48"].transpose(0, 2, 3, 1))
    np.testing.assert_allclose(output(VIT, found, image), expected, rtol=0, atol=1e-5 * np.abs(expected).max())


def test_prefixes_are_found_and_asked_for_where_there_are_two(weights, tmp_path):
    plain = weights("w_resnet18")
    expected = interop.load_encoder(save(tmp_path / "a.npz", plain), RESNET, SHAPE)
    query = {f"module.encoder_q.{n}": x for n, x in plain.items()}
    assert_equal(interop.load_encoder(save(tmp_path / "b.npz", query), RESNET, SHAPE), expected)
    key = {f"module.encoder_k.{n}": x * 0 for n, x in plain.items()}
    path = save(tmp_path / "c.npz", query | key)
    with pytest.raises(UserError, match=r"several encoders; choose one by its prefix: module.encoder_k., module.enc"):
        interop.load_encoder(path, RESNET, SHAPE)
    assert_equal(interop.load_encoder(path, RESNET, SHAPE, prefix="module.encoder_q."), expected)


def test_half_precision_becomes_float32(weights, tmp_path):
    wide = weights("w_vit")
    path = save(tmp_path / "x.safetensors", {n: x.astype(ml_dtypes.bfloat16) for n, x in wide.items()})
    params, _ = interop.load_encoder(path, VIT, SHAPE)
    assert {x.dtype for x in jax.tree.leaves(params)} == {np.dtype("float32")}
    np.testing.assert_allclose(params["norm"]["scale"], wide["norm.weight"], rtol=0.01)


@pytest.mark.parametrize(
    ("module", "shape", "message"),
    [
        (
            RESNET.clone(base_width=8),
            SHAPE,
            r"layer1.0.conv1.weight gives \[3, 3, 64, 4\], where the encoder has \[",
        ),
        (RESNET, (32, 32, 1), r"conv1.weight gives \[7, 7, 3, 64\], where the encoder has \[7, 7, 1, 64\]. Build"),
        (RESNET.clone(blocks=(2, 2, 2, 1)), SHAPE, "layer4.1.* has no place in the encoder; .*; and 7 more"),
        (RESNET.clone(blocks=(3, 2, 2, 2)), SHAPE, "layer1.2.* is missing"),
        (VIT, SHAPE, "holds torchvision's ResNet, but the encoder is a ViT"),
        (nets.ConvNet(), SHAPE, "holds torchvision's ResNet, but the encoder is a ConvNet"),
    ],
)
def test_an_encoder_of_another_shape_is_told_what_differs(weights, tmp_path, module, shape, message):
    path = save(tmp_path / "x.npz", weights("w_resnet18"))
    with pytest.raises(UserError, match=message):
        interop.load_encoder(path, module, shape)


def test_fixed_positions_go_out_as_if_learned_and_are_known_again(weights, tmp_path):
    """As MAE's own files have them; real timm 1.0.31 took such a file with `strict=True`, features 3e-7 apart."""
    learned = weights("w_vit")
    path = save(tmp_path / "x.npz", learned)
    fixed = VIT.clone(pos="sincos")
    with pytest.raises(UserError, match=r'x.npz \(pos_embed\) are not those .* computes for 4 x 4 .*pos="learned"'):
        interop.load_encoder(path, fixed, SHAPE)
    params, state = interop.load_encoder(path, VIT, SHAPE)
    params = {name: x for name, x in params.items() if not name.startswith("pos_")}
    out = tmp_path / "out.safetensors"
    assert interop.save_encoder(out, fixed, params, state, image_shape=SHAPE) == "timm's and DINO's ViT"
    assert {n: x.shape for n, x in interop.read(out).items()} == {n: x.shape for n, x in learned.items()}
    assert_equal(interop.load_encoder(out, fixed, SHAPE), (params, state))
    assert_equal(interop.load_encoder(out, fixed, (48, 48, 3)), (params, state))  # it computes those of any grid
    grid = interop.load_encoder(out, VIT, SHAPE)[0]["pos_grid"]
    np.testing.assert_array_equal(grid, sincos(4, 4, 32))
    assert interop.save_encoder(out, fixed, params, state) == "ssl_jax's own"
    assert_equal(interop.load_encoder(out, fixed, SHAPE), (params, state))


def test_a_resnet_with_layer_norm_keeps_its_own_names(tmp_path):
    module = nets.ResNet(18, base_width=2, stem="small", blocks=(1, 1, 1, 1), norm="layer")
    like = jax.eval_shape(lambda: module.init(jax.random.key(0), jnp.zeros((2, 8, 8, 1)), train=True))
    params = jax.tree.map(lambda x: np.ones(x.shape, x.dtype), like["params"])
    assert interop.save_encoder(tmp_path / "x.npz", module, params, {}) == "ssl_jax's own"
    assert_equal(interop.load_encoder(tmp_path / "x.npz", module, (8, 8, 1))[0], params)


def test_positions_are_a_square_where_they_can_be_one(weights, tmp_path):
    """Their number is all that a file tells. Without a class token's (DeiT III) timm adds none to it."""
    timm, wide = weights("w_vit"), (16, 64, 3)  # 2 x 8 patches of the file's 4 x 4
    params, state = interop.load_encoder(save(tmp_path / "a.npz", timm), VIT, wide)
    np.testing.assert_array_equal(params["pos_grid"], timm["pos_embed"][0, 1:].reshape(4, 4, 32))
    without = save(tmp_path / "b.npz", timm | {"pos_embed": timm["pos_embed"][:, 1:]})
    found, _ = interop.load_encoder(without, VIT, SHAPE)
    np.testing.assert_array_equal(found["pos_grid"], params["pos_grid"])
    np.testing.assert_array_equal(found["pos_cls"], 0)

    # 3 x 4: of that grid only, and no other is guessed.
    oblong = save(tmp_path / "c.npz", timm | {"pos_embed": timm["pos_embed"][:, :13]})
    assert interop.load_encoder(oblong, VIT, (24, 32, 3))[0]["pos_grid"].shape == (3, 4, 32)
    with pytest.raises(UserError, match=r"pos_embed\[1:\] gives \[12, 32\], where the encoder has \[4, 4, 32\]"):
        interop.load_encoder(oblong, VIT, SHAPE)

    # Our own grids come back as they were: those that would be taken for a square are written under our names.
    for grid, title in (((3, 4), "timm's and DINO's ViT"), ((2, 8), "ssl_jax's own"), ((3, 5), "ssl_jax's own")):
        ours = params | {"pos_grid": np.arange(grid[0] * grid[1] * 32, dtype=np.float32).reshape(*grid, 32)}
        assert interop.save_encoder(tmp_path / "d.npz", VIT, ours, state) == title
        shape = (8 * grid[0], 8 * grid[1], 3)
        assert_equal(interop.load_encoder(tmp_path / "d.npz", VIT, shape), (ours, state))


@pytest.mark.parametrize("name", ["reg_token", "register_tokens"])  # timm's and facebookresearch/dinov2's
def test_registers_are_refused(weights, tmp_path, name):
    path = save(tmp_path / "x.npz", weights("w_vit") | {name: np.ones((1, 4, 32), np.float32)})
    with pytest.raises(UserError, match=f"{name} has no place in the encoder"):
        interop.load_encoder(path, VIT, SHAPE)


@pytest.mark.parametrize("kind", [".pth", ".pt", ".bin", ".ckpt"])
def test_pickles_are_never_opened(tmp_path, kind):
    path = tmp_path / f"model{kind}"
    path.write_bytes(b"cos\nsystem\n(S'false'\ntR.")
    with pytest.raises(UserError) as error:
        interop.load_encoder(path, RESNET, SHAPE)
    assert f"torch.load('model{kind}', weights_only=True), 'model.safetensors')" in str(error.value)


def test_other_files_are_refused_in_a_sentence(tmp_path):
    def says(path, message):
        with pytest.raises(UserError, match=message):
            interop.load_encoder(path, RESNET, SHAPE)

    says(tmp_path / "x.h5", r"read from and written to .safetensors and .npz, not .*x.h5")
    says(tmp_path / "x.npz", "There is no file of weights .*x.npz")
    says(
        save(tmp_path / "a.npz", {"w": np.zeros(3)}),
        "unknown; its names begin with w, and known layouts are .*timm.*own",
    )
    says(save(tmp_path / "b.npz", {"w": np.asarray([{}])}), "can't be read: .*allow_pickle")
    for kind in (".npz", ".safetensors"):
        (tmp_path / f"damaged{kind}").write_bytes(b"\x10\0\0\0\0\0\0\0nothing")
        says(tmp_path / f"damaged{kind}", re.escape(f"damaged{kind} can't be read"))
    (tmp_path / "empty.npz").touch()
    says(tmp_path / "empty.npz", "empty.npz can't be read: No data left")
    with (tmp_path / "one.npz").open("wb") as file:
        np.save(file, np.ones(3))
    says(tmp_path / "one.npz", "one.npz can't be read: it is one array without a name")
    np.savez_compressed(tmp_path / "c.npz", w=np.arange(99.0))
    whole = (tmp_path / "c.npz").read_bytes()
    for place in (*range(0, 60, 3), *range(60, len(whole), 11)):  # headers, compressed bytes, directory
        (tmp_path / "c.npz").write_bytes(whole[:place] + bytes([whole[place] ^ 0xFF]) + whole[place + 1 :])
        says(tmp_path / "c.npz", "c.npz can't be read: |c.npz is unknown; its names begin with w")
    with pytest.raises(UserError, match=r"can't be written to .*no/x.npz: No such file"):
        interop.save_encoder(tmp_path / "no" / "x.npz", RESNET, {"stem_conv": {"kernel": np.zeros((1, 1, 1, 1))}}, {})


def test_torchvisions_classifier_gives_torchvisions_logits(fixture, tmp_path):
    arrays = fixture("w_resnet18")
    path = save(tmp_path / "x.npz", {n.removeprefix("state/"): a for n, a in arrays.items() if n.startswith("state/")})
    head = interop.load_head(path)
    image = jnp.asarray(arrays["input"].transpose(0, 2, 3, 1))
    pooled = np.asarray(output(RESNET, interop.load_encoder(path, RESNET, image.shape[1:]), image))
    expected = arrays["eval/logits"]
    logits = pooled @ head["kernel"] + head["bias"]
    np.testing.assert_allclose(logits, expected, rtol=0, atol=2e-5 * np.abs(expected).max())
