"""Any source written as array_record files in tensorflow-datasets' layout: one for `tfds:NAME`, here and elsewhere.

TensorFlow is not needed. Images are stored as the bytes of their files, and as PNG where they were arrays. Files are
written one by one under other names and renamed when they are whole, so that a run that was killed goes on with the
next; the directory has its final name when everything is there.
"""

import contextlib
import dataclasses
import errno
import functools
import io
import json
import logging
import os
import pathlib
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
from PIL import Image

from ssl_jax import lock
from ssl_jax.core import UserError
from ssl_jax.data.decode import Encoded, decode, why_broken
from ssl_jax.data.files import local
from ssl_jax.data.layout import Layout, layout_of, tensorflow_datasets
from ssl_jax.data.lazy import pool
from ssl_jax.data.originals import names, originals
from ssl_jax.data.source import Source
from ssl_jax.data.tfds import FILE_NAMES

NAME = re.compile(r"[a-z][a-z0-9_]*")
_log = logging.getLogger(__name__)
_CHUNK = 256


@dataclasses.dataclass(frozen=True)
class Prepared:
    """What `prepare` wrote.

    Attributes:
      path: directory of the data set's version.
      counts: images by split.
      broken: `(split, name, reason)` of images that were left out.
    """

    path: pathlib.Path
    counts: dict[str, int]
    broken: list[tuple[str, str, str]]


def prepare(
    sources: Mapping[str, Source],
    name: str,
    directory: str | os.PathLike[str],
    *,
    shard_images: int = 4096,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Prepared:
    """Write sources as the splits of a data set that `tfds:NAME` and `tfds.data_source(NAME)` read.

    Every image is decoded once; broken ones are left out. The order is the sources'. Where tensorflow-datasets knows a
    data set of this name, its version and features are taken, so that it is found by what it expects.

    Args:
      sources: by split, such as `{"train": ..., "test": ...}`; with `load`, open them with `in_memory=False` and any
        `image_size`, which makes no difference to what is stored.
      name: lower-case letters, digits and underscores.
      directory: what tensorflow-datasets calls `data_dir`.
      shard_images: images in one file.
      progress: called with the number of images done and of all.

    Raises:
      UserError: if the name is no such, sources have boxes or other classes than each other, or the directory holds
        other data of that name.
    """
    if not NAME.fullmatch(name):
        raise UserError(f"the name {name!r} must be lower-case letters, digits and _; give another as --name.")
    classes = {source.classes for source in sources.values()}
    if len(classes) > 1 or shard_images < 1:
        raise UserError(f"the splits {', '.join(sources)} differ in their classes, or shard_images={shard_images} < 1.")
    layout = layout_of(name, next(iter(sources.values())))
    final = local(directory, "what is prepared") / name / layout.version
    plan = {
        "sources": {split: [source.name, source.fingerprint, len(source)] for split, source in sources.items()},
        "shard_images": shard_images,
    }
    if not final.exists():
        unfinished = final.with_name(f"{layout.version}.incomplete")
        with lock.hold(unfinished, _log.warning, what="directory", flag="--out or --name"):
            if final.exists():  # another process has just finished it, and what the lock is in was made anew
                _remove(unfinished)
            else:
                _write(layout, sources, unfinished, final, plan, progress)
    _check_same(final, plan)
    records = json.loads((final / "prepared.json").read_text(encoding="utf-8"))
    return Prepared(final, records["counts"], [tuple(entry) for entry in records["broken"]])


def _write(
    layout: Layout,
    sources: Mapping[str, Source],
    unfinished: pathlib.Path,
    final: pathlib.Path,
    plan: dict,
    progress: Callable[[int, int], None],
) -> None:
    _begin(unfinished, plan)
    done, total = 0, sum(map(len, sources.values()))
    for split, source in sources.items():
        report = functools.partial(_report, progress, done, total)
        _write_split(layout, source, unfinished, split, plan["shard_images"], report)
        done += len(source)
    _finish(layout, unfinished, final, {split: len(source) for split, source in sources.items()}, plan["shard_images"])


def _remove(unfinished: pathlib.Path) -> None:
    """Remove a directory that holds a lock alone."""
    (unfinished / lock.FILE).unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # it is gone, or not empty
        unfinished.rmdir()


def _report(progress: Callable[[int, int], None], before: int, total: int, done: int) -> None:
    progress(before + done, total)


def _begin(unfinished: pathlib.Path, plan: dict) -> None:
    """Write the plan down, or go on with the same one."""
    path = unfinished / "plan.json"
    if path.is_file():
        if json.loads(path.read_text(encoding="utf-8")) != plan:
            raise UserError(
                f"{unfinished} was begun with other data or settings; remove it, or give another --out or --name."
            )
    elif any(file.name != lock.FILE and file.suffix != ".writing" for file in unfinished.iterdir()):
        raise UserError(f"{unfinished} is not empty; remove it, or give another --out or --name.")
    else:
        _write_json(path, plan)


def _check_same(final: pathlib.Path, plan: dict) -> None:
    try:
        record = json.loads((final / "prepared.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        record = {}
    if record.get("plan") != plan:
        raise UserError(f"{final} holds other data already; remove it, or give another --out or --name.")


def _write_split(
    layout: Layout, source: Source, directory: pathlib.Path, split: str, size: int, progress: Callable[[int], None]
) -> None:
    count = -(-len(source) // size)
    for shard in range(count):
        path = directory / f"{layout.name}-{split}.array_record-{shard:05}-of-{count:05}"
        rows = np.arange(shard * size, min((shard + 1) * size, len(source)))
        if not (path.is_file() and _record_of(path).is_file()):
            with _file_errors(path):
                record = _write_shard(layout, source, rows, path, split, progress)
            _write_json(_record_of(path), record)
        progress(int(rows[-1]) + 1)


def _write_shard(
    layout: Layout,
    source: Source,
    rows: np.ndarray,
    path: pathlib.Path,
    split: str,
    progress: Callable[[int], None],
) -> dict:
    """Write one file; returns what there is to know of it."""
    from array_record.python import array_record_module

    features = layout.features()
    serializer = tensorflow_datasets().core.example_serializer.ExampleSerializer(features.get_serialized_info())
    record: dict = {"count": 0, "bytes": 0, "sizes": [], "broken": [], "names": []}
    temporary = path.with_name(f"{path.name}.writing")
    writer = array_record_module.ArrayRecordWriter(str(temporary), "group_size:1")
    for first in range(0, len(rows), _CHUNK):
        chunk = rows[first : first + _CHUNK]
        for name, example, reason in _examples(layout, source, chunk):
            if reason is not None:
                record["broken"].append((split, name, reason))
                continue
            height, width = example.pop("size")
            if [height, width] not in record["sizes"] and len(record["sizes"]) < 2:
                record["sizes"].append([height, width])
            serialized = serializer.serialize_example(features.encode_example(example))
            writer.write(serialized)
            record["count"], record["bytes"] = record["count"] + 1, record["bytes"] + len(serialized)
            record["names"].append(name)
        progress(int(chunk[-1]) + 1)
    writer.close()
    if not record["count"]:
        raise UserError(f"{len(rows)} images of {source.name} in a row are broken; see ssl-jax data check.")
    _sync(temporary)
    os.replace(temporary, path)
    return record


@contextlib.contextmanager
def _file_errors(path: pathlib.Path) -> Iterator[None]:
    """Raise the `OSError` that it is where array_record says `RuntimeError`, for example for a full disk."""
    try:
        yield
    except RuntimeError as error:
        code = next((code for code in errno.errorcode if f"() failed: {os.strerror(code)};" in str(error)), None)
        if code is None:
            raise
        raise OSError(code, os.strerror(code), str(path)) from error


def _examples(layout: Layout, source: Source, rows: np.ndarray) -> Iterator[tuple[str, dict[str, Any], str | None]]:
    """Yield name, record and what is wrong with it, of some rows."""
    images, labels = originals(source, rows)
    checked = pool().map(lambda image: _checked(image, layout), images)
    for i, (name, (content, size, reason)) in enumerate(zip(names(source, rows), checked, strict=True)):
        example: dict[str, Any] = {"image": content, "size": size}
        if "label" in layout.keys and labels is not None:
            example["label"] = layout.label_of[labels[i]]
        if "file_name" in layout.keys:
            base = name if layout.stock is None else name.rpartition("/")[2]
            example["file_name"] = os.fsencode(base).decode("utf-8", "replace")
        yield name, example, reason


def _checked(image: Encoded, layout: Layout) -> tuple[bytes, tuple[int, int], str | None]:
    """Return an image's bytes, height and width, and why it is broken or None."""
    if isinstance(image, np.ndarray):
        out = io.BytesIO()
        Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image).save(out, "PNG")
        return out.getvalue(), image.shape[:2], None
    try:
        content = image if isinstance(image, bytes) else pathlib.Path(image).read_bytes()
        size = decode(content, None, layout.channels).shape[:2]
    except Exception:  # as in `why_broken`
        return b"", (0, 0), why_broken(image) or "not readable"
    return content, size, None


def _finish(layout: Layout, unfinished: pathlib.Path, final: pathlib.Path, counts: dict[str, int], size: int) -> None:
    """Write what describes the files, and give the directory its final name."""
    tfds = tensorflow_datasets()
    infos, broken, files, sizes = [], [], {}, set()
    template = tfds.core.ShardedFileTemplate(
        data_dir=unfinished, dataset_name=layout.name, filetype_suffix="array_record"
    )
    for split, count in counts.items():
        shards = sorted(unfinished.glob(f"{layout.name}-{split}.array_record-*-of-*.json"))
        assert len(shards) == -(-count // size)
        records = [json.loads(path.read_text(encoding="utf-8")) for path in shards]
        broken += [entry for record in records for entry in record["broken"]]
        files[split] = [name for record in records for name in record["names"]]
        sizes |= {tuple(size) for record in records for size in record["sizes"]}
        infos.append(
            tfds.core.SplitInfo(
                name=split,
                shard_lengths=[record["count"] for record in records],
                num_bytes=sum(record["bytes"] for record in records),
                filename_template=template.replace(split=split),
            )
        )
    tfds.folder_dataset.write_metadata(
        data_dir=unfinished,
        features=layout.features(sorted(sizes)),
        split_infos=infos,
        version=layout.version,
        check_data=False,
    )
    if "file_name" in layout.keys:
        _write_json(unfinished / FILE_NAMES, files)
    plan = json.loads((unfinished / "plan.json").read_text(encoding="utf-8"))
    found = {split: len(names) for split, names in files.items()}
    _write_json(unfinished / "prepared.json", {"plan": plan, "counts": found, "broken": broken})
    for path in filter(pathlib.Path.is_file, unfinished.iterdir()):  # also what tensorflow-datasets has written
        _sync(path)
    os.replace(unfinished, final)
    for path in [
        *final.glob("*.array_record-*.json"),
        *final.glob("*.writing"),
        final / "plan.json",
        final / lock.FILE,
    ]:
        path.unlink()


def _record_of(path: pathlib.Path) -> pathlib.Path:
    return path.with_name(f"{path.name}.json")


def _write_json(path: pathlib.Path, content: Any) -> None:
    """Write a file that is whole or not there; JSON also holds names that are no UTF-8."""
    temporary = path.with_name(f"{path.name}.writing")
    temporary.write_text(json.dumps(content), encoding="utf-8")
    _sync(temporary)
    os.replace(temporary, path)


def _sync(path: pathlib.Path) -> None:
    """Have the disk hold a file, so that after a loss of power none is there under its final name but empty."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
