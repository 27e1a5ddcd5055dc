"""Directories for transformers' `from_pretrained`: names, bits, and what their models are told.

transformers 5.24.0 opened such directories of four encoders (ResNets of both kinds of block, ViTs with both kinds of
positions): no array missing, features at most 8e-6 of 20 apart.
"""

import json

import jax
import numpy as np
import pytest
import safetensors

from ssl_jax import interop, nets
from ssl_jax.core import UserError
from ssl_jax.interop import layouts

RESNET = nets.ResNet(50, stem_width=8, stage_widths=(4, 6, 8, 12), blocks=(1, 2, 1, 1))
VIT = nets.ViT(patch=8, dim=32, depth=2, heads=4)
SHAPE = (32, 32, 3)


@pytest.fixture(scope="module")
def variables(fixture, tmp_path_factory):
    """`variables(name, module)`: a fixture's encoder, and its arrays under the other library's names."""

    def of(name, module):
        theirs = {n.removeprefix("state/"): a for n, a in fixture(name).items() if n.startswith("state/")}
        file = tmp_path_factory.mktemp("weights") / "x.npz"
        np.savez(file, **theirs)
        return interop.load_encoder(file, module, SHAPE), theirs

    return of


def equal(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    jax.tree.map(np.testing.assert_array_equal, a, b)


def test_a_resnet_is_written_as_transformers_write_it(variables, tmp_path):
    (params, state), theirs = variables("w_hf_resnet", RESNET)
    assert interop.save_huggingface(tmp_path / "a" / "b", RESNET, params, state, SHAPE) == "Hugging Face's ResNetModel"
    file = tmp_path / "a" / "b" / "model.safetensors"
    written = interop.read(file)
    assert {n: x.shape for n, x in written.items()} == {n: x.shape for n, x in theirs.items()}
    for name in written:
        if not name.endswith("num_batches_tracked"):
            np.testing.assert_array_equal(written[name], theirs[name], err_msg=name)
    with safetensors.safe_open(file, "numpy") as opened:
        assert opened.metadata() == {"format": "pt"}  # or transformers refuse it
    equal(interop.load_encoder(file, RESNET, SHAPE), (params, state))
    config = json.loads((file.parent / "config.json").read_text())
    assert (config["model_type"], config["layer_type"], config["num_channels"]) == ("resnet", "bottleneck", 3)
    assert (config["embedding_size"], config["hidden_sizes"], config["depths"]) == (8, [16, 24, 32, 48], [1, 2, 1, 1])
    assert not config["downsample_in_first_stage"]


def test_a_vit_is_written_and_read_again_bit_for_bit(variables, tmp_path):
    (params, state), timm = variables("w_vit", VIT)
    assert interop.save_huggingface(tmp_path, VIT, params, state, SHAPE) == "Hugging Face's ViTModel"
    written = interop.read(tmp_path / "model.safetensors")
    assert len(written) == 6 + 2 * 16
    query = written["encoder.layer.1.attention.attention.query.weight"]
    np.testing.assert_array_equal(query, timm["blocks.1.attn.qkv.weight"][:32])
    np.testing.assert_array_equal(written["encoder.layer.0.output.dense.bias"], timm["blocks.0.mlp.fc2.bias"])
    equal(interop.load_encoder(tmp_path / "model.safetensors", VIT, SHAPE), (params, state))
    config = json.loads((tmp_path / "config.json").read_text())
    sizes = ("image_size", "patch_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
    assert [config[size] for size in sizes] == [32, 8, 32, 2, 4, 128]
    assert config["layer_norm_eps"] == 1e-6


def test_mask_token_and_an_oblong_grid_come_back(variables, tmp_path):
    (params, state), _ = variables("w_vit", VIT)
    rng = np.random.default_rng(0)
    module, shape = VIT.clone(mask_token=True), (24, 32, 3)
    params = params | {"mask_token": rng.normal(size=32).astype(np.float32)}
    params["pos_grid"] = rng.normal(size=(3, 4, 32)).astype(np.float32)
    interop.save_huggingface(tmp_path, module, params, state, shape)
    equal(interop.load_encoder(tmp_path / "model.safetensors", module, shape), (params, state))
    assert json.loads((tmp_path / "config.json").read_text())["image_size"] == [24, 32]


@pytest.mark.parametrize(("timm", "theirs"), [("w_resnet18", "torchvision"), ("w_vit", "timm")])
def test_names_lead_to_transformers_and_back(fixture, timm, theirs):
    arrays = {n.removeprefix("state/"): a for n, a in fixture(timm).items() if n.startswith("state/")}
    to, back = {
        "torchvision": (layouts.transformers_from_torchvision, layouts.torchvision_from_transformers),
        "timm": (layouts.transformers_from_timm, layouts.timm_from_transformers),
    }[theirs]
    there = to(arrays)
    assert not {n for n in arrays if not n.startswith("fc.")} & set(there)
    equal(back(there), layouts.timm_split(arrays) if theirs == "timm" else arrays)


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (nets.ConvNet(), "it is a ConvNet, and no ResNet or ViT; leave --layout out"),
        (nets.ResNet(18, stem="small"), 'it has stem="small", where theirs begins with a 7x7'),
        (nets.ResNet(18, norm="layer"), 'it has norm="layer", where theirs has batch norm'),
        (VIT, "its positions are of a grid that a file's reader would take for a square"),
    ],
)
def test_what_they_have_no_model_for_is_told(tmp_path, module, message):
    with pytest.raises(UserError, match=message):
        interop.save_huggingface(tmp_path / "a", module, {"pos_grid": np.zeros((2, 8, 32))}, {}, (16, 64, 3))
    assert not (tmp_path / "a").exists()


def test_a_directory_that_cannot_be_is_told(variables, tmp_path):
    (params, state), _ = variables("w_vit", VIT)
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"The encoder can't be written to .*file/a: Not a directory"):
        interop.save_huggingface(tmp_path / "file" / "a", VIT, params, state, SHAPE)
