import io
import json
import shutil
import sys
import warnings

import numpy as np
import pytest
from PIL import Image

from ssl_jax import data
from ssl_jax.core import UserError
from ssl_jax.data import fashion_mnist

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import tensorflow_datasets as tfds
    from tensorflow_datasets.core import registered


def _png(pixels):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def _pixels(number, size=(6, 5)):
    return np.full((*size, 3), number, np.uint8)


def _prepare(directory, name, splits, *, size=None, labelled=True, version="1.0.0", tensor=False):
    """Write array_record files with the library's own builder, which needs no TensorFlow as long as it gets PNGs."""
    shape = (*size, 3) if size else (None, None, 3)
    image = tfds.features.Tensor(shape=shape, dtype=np.uint8) if tensor else tfds.features.Image(shape=shape)
    features = {"image": image, "other": tfds.features.Text()}
    if labelled:
        features["label"] = tfds.features.ClassLabel(names=["even", "odd"])

    with warnings.catch_warnings(), registered.skip_registration():
        warnings.simplefilter("ignore")

        class _Tiny(tfds.core.GeneratorBasedBuilder):
            VERSION = tfds.core.Version(version)

            def _info(self):
                return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

            def _split_generators(self, download):
                return {split: self._generate_examples(*numbers) for split, numbers in splits.items()}

            def _generate_examples(self, first, last):
                for i in range(first, last):
                    pixels = _pixels(i, size or (6, 5 + i % 3))
                    example = {"image": pixels if tensor else _png(pixels), "other": str(i), "label": i % 2}
                    yield i, {key: example[key] for key in features}

        builder = type(name, (_Tiny,), {"name": name})(data_dir=str(directory), file_format="array_record")
        builder.download_and_prepare(download_config=tfds.download.DownloadConfig(try_download_gcs=False))


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    directory = tmp_path_factory.mktemp("tfds")
    _prepare(directory, "numbers", {"train": (0, 40), "validation": (100, 110)}, size=(6, 5))
    _prepare(directory, "sizes", {"train": (0, 12)})
    _prepare(directory, "plain", {"train": (0, 12)}, size=(6, 5), labelled=False)
    _prepare(directory, "tensors", {"train": (0, 12)}, size=(6, 5), tensor=True)
    return directory


def test_reads_what_was_prepared(prepared):
    source = data.load("tfds:numbers", data_dir=prepared)
    assert (len(source), source.classes, source.name) == (40, ("even", "odd"), "tfds:numbers train")
    batch = source[np.arange(40)]
    np.testing.assert_array_equal(np.sort(batch["image"][:, 0, 0, 0]), np.arange(40))
    assert batch["image"].shape == (40, 6, 5, 3)
    np.testing.assert_array_equal(batch["label"], batch["image"][:, 0, 0, 0] % 2)
    np.testing.assert_array_equal(source.labels, batch["label"])
    assert "tensorflow" not in sys.modules


def test_slices_and_validation_as_test(prepared):
    whole = data.load("tfds:numbers", data_dir=prepared)
    part = data.load("tfds:numbers", "train[25%:]", data_dir=prepared)
    np.testing.assert_array_equal(part[np.arange(30)]["image"], whole[np.arange(10, 40)]["image"])
    test = data.load("tfds:numbers", "test", data_dir=prepared)
    np.testing.assert_array_equal(np.sort(test[np.arange(10)]["image"][:, 0, 0, 0]), np.arange(100, 110))
    assert len({whole.fingerprint, part.fingerprint, test.fingerprint}) == 3
    assert data.load("tfds:numbers", data_dir=prepared).fingerprint == whole.fingerprint
    with pytest.raises(UserError, match="no split 'dev'; it has train, validation"):
        data.load("tfds:numbers", "dev", data_dir=prepared)


def test_large_sets_stay_on_disk(prepared, monkeypatch):
    kept = data.load("tfds:numbers", data_dir=prepared)
    monkeypatch.setattr("ssl_jax.data.lazy.IN_MEMORY_BYTES", 0)
    source = data.load("tfds:numbers", data_dir=prepared)
    assert not source.in_memory
    np.testing.assert_array_equal(source.labels, kept.labels)
    for step, batch in zip(range(9), data.batches(source, batch_size=16), strict=False):
        np.testing.assert_array_equal(batch["image"], kept.images[batch["id"]])
        np.testing.assert_array_equal(batch["label"], kept.labels[batch["id"]])
        assert len(batch["id"]) == 16, step


def test_default_directory(prepared, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(prepared))
    assert len(data.load("tfds:numbers")) == 40


def test_images_of_several_sizes(prepared):
    with pytest.raises(UserError, match="differ in size; give image_size"):
        data.load("tfds:sizes", data_dir=prepared)
    source = data.load("tfds:sizes", data_dir=prepared, image_size=4, channels=1)
    assert source[np.arange(12)]["image"].shape == (12, 4, 4, 1)


def test_without_labels_and_tensors(prepared):
    source = data.load("tfds:plain", data_dir=prepared)
    assert source.labels is None
    assert set(source[np.arange(2)]) == {"image"}
    tensors = data.load("tfds:tensors", data_dir=prepared)
    np.testing.assert_array_equal(np.sort(tensors[np.arange(12)]["image"][:, 0, 0, 0]), np.arange(12))


def test_versions(tmp_path):
    for version, last in (("1.0.0", 4), ("1.10.0", 6), ("1.2.0", 5)):
        _prepare(tmp_path, "grown", {"train": (0, last)}, size=(6, 5), version=version)
    assert len(data.load("tfds:grown", data_dir=tmp_path)) == 6
    assert len(data.load("tfds:grown:1.2.0", data_dir=tmp_path)) == 5
    with pytest.raises(UserError, match="not prepared"):
        data.load("tfds:grown:3.0.0", data_dir=tmp_path)


def test_not_prepared(tmp_path):
    # One sentence and no attempt to reach a network, which would take minutes to fail.
    with pytest.raises(UserError, match=r"not prepared in .*tfds.builder\('mnist', .*\).download_and_prepare\(\)"):
        data.load("tfds:mnist", data_dir=tmp_path)
    with pytest.raises(UserError, match="without tensorflow: ssl-jax data prepare imagenet:PATH --out="):
        data.load("tfds:imagenet2012", data_dir=tmp_path)


def test_prepared_in_another_format(prepared, tmp_path):
    directory = tmp_path / "numbers" / "1.0.0"
    directory.mkdir(parents=True)
    info = json.loads((prepared / "numbers" / "1.0.0" / "dataset_info.json").read_text())
    (directory / "dataset_info.json").write_text(json.dumps({**info, "fileFormat": "tfrecord"}))
    with pytest.raises(UserError, match="prepared as tfrecord; prepare it as array_record"):
        data.load("tfds:numbers", data_dir=tmp_path)


@pytest.mark.parametrize("key", ["pythonClassName", "python_class_name", "type"])
def test_no_module_that_a_data_set_names_is_imported(prepared, tmp_path, monkeypatch, key):
    shutil.copytree(prepared / "numbers", tmp_path / "numbers")
    features = tmp_path / "numbers" / "1.0.0" / "features.json"
    (tmp_path / "evil_features.py").write_text("raise SystemExit('it was run')\n")
    monkeypatch.syspath_prepend(tmp_path)
    content = json.loads(features.read_text())
    del content["featuresDict"]["features"]["other"]["pythonClassName"]
    content["featuresDict"]["features"]["other"][key] = "evil_features.Text"
    features.write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"features.json names the class 'evil_features.Text', whose module would be"):
        data.load("tfds:numbers", data_dir=tmp_path)
    features.write_text("{")
    with pytest.raises(UserError, match=r"features.json can't be read .*; prepare or copy"):
        data.load("tfds:numbers", data_dir=tmp_path)


def test_several_configurations(prepared, tmp_path):
    for name in ("big", "small"):
        (tmp_path / "numbers").mkdir(exist_ok=True)
        (tmp_path / "numbers" / name).symlink_to(prepared / "numbers")
    with pytest.raises(UserError, match="choose one, such as tfds:numbers/big"):
        data.load("tfds:numbers", data_dir=tmp_path)
    assert len(data.load("tfds:numbers/small", data_dir=tmp_path)) == 40


def test_fashion_mnist_that_was_prepared(tmp_path, monkeypatch):
    _prepare(tmp_path, "fashion_mnist", {"train": (0, 8), "test": (8, 12)}, size=(6, 5), version="3.0.1")
    monkeypatch.delenv("FASHION_MNIST_DIR", raising=False)
    monkeypatch.setattr(fashion_mnist, "DEBIAN", tmp_path / "nowhere")
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    assert len(data.load("fashion_mnist")) == 8
    assert len(data.load("fashion_mnist", "test")) == 4
