"""OMNIGLOT: handwritten characters of fifty alphabets, 28×28.

Two sets go by that name, and tables must tell them apart:

- Burda, Grosse & Salakhutdinov (2016), https://github.com/yburda/iwae, ``chardata.mat``: the 28×28 set of the
  literature on deep generative models, He et al. (2019) included. 24,345 drawings to train on, 8,070 to test.
- Lake, Salakhutdinov & Tenenbaum (2015), https://github.com/brendenlake/omniglot, ``images_background.zip`` and
  ``images_evaluation.zip``: all 32,460 drawings, 105×105 with one bit a pixel; area-averaged to 28×28 here.

``DATA_DIR/omniglot/`` is looked at first; with neither there, ``chardata.mat`` is downloaded.
"""

from __future__ import annotations

import hashlib
import io
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeGuard

import numpy as np

from bench.core import safe_io as files
from bench.core.errors import UserError
from bench.data import mat as _mat
from bench.data.cache import cached
from bench.data.dataset import Prepared
from bench.data.datasets._common import hash_shuffled, overlap_weights
from bench.data.download import download, git_blob_sha1

SUMMARY = "OMNIGLOT drawings, 28×28: Burda's set (downloaded), or Lake's drawings from DATA_DIR/omniglot"
NEEDS_DOWNLOAD = True

CHARDATA_URL = "https://github.com/yburda/iwae/raw/master/datasets/OMNIGLOT/chardata.mat"
CHARDATA_BLOB = "016a3536ffe5e1d38e42563a18d7a78bfaf643ec"  # the git blob that repository holds
BURDA_COUNTS = (24_345, 8_070)  # data, testdata
BURDA_VALIDATION = 2_000
LAKE_COUNTS = {"images_background": 19_280, "images_evaluation": 13_180}
LAKE_SIZES = {"train": 24_000, "val": 2_000, "test": 6_460}
FILE_BYTES = 256 << 20  # of any of the three files at most; the largest has a tenth
RECIPE = 1  # raise it when the same sources come to give other arrays

_PNG = re.compile(r"(images_background|images_evaluation)/[^/]+/character\d+/\d+_\d+\.png")
_PNG_BYTES = 1 << 16  # real ones have a few hundred
_AGAIN = "fetch the zip again from github.com/brendenlake/omniglot, folder python/"
_REMEDY = (
    "Put chardata.mat, or Lake's images_background.zip and images_evaluation.zip, into DATA_DIR/omniglot/ "
    "and name DATA_DIR with --data-dir or BENCH_DATA_DIR; --dataset glyphs needs no download"
)
_BINARISED = "Validation and test images are binarised once with a fixed seed, training images afresh at every use."


def prepare(data_dir: Path | None, cache: Path) -> Prepared:
    """OMNIGLOT from ``data_dir/omniglot`` or the download, kept in ``cache``; ``UserError`` where neither will do."""
    folder = Path(data_dir) / "omniglot" if data_dir else None
    if folder and os.path.lexists(folder / "chardata.mat"):
        return _burda(folder / "chardata.mat", cache)
    zips = [folder / f"{stem}.zip" for stem in LAKE_COUNTS] if folder else []
    missing = [path for path in zips if not os.path.lexists(path)]
    if zips and not missing:
        return _lake(zips, cache)
    if len(missing) == 1:
        raise UserError(f"{missing[0]} is missing: Lake's OMNIGLOT is both {' and '.join(p.name for p in zips)}")
    path = download(cache / "omniglot-chardata.mat", CHARDATA_URL, CHARDATA_BLOB, "OMNIGLOT", folder, _REMEDY)
    return _burda(path, cache)


def _burda(path: Path, cache: Path) -> Prepared:
    content = files.read_bytes(path, FILE_BYTES)
    blob = git_blob_sha1(content)
    published = blob == CHARDATA_BLOB

    def build() -> tuple[dict, Mapping[str, np.ndarray]]:
        fields = {
            "title": "omniglot (Burda 28×28)" if published else "omniglot (unverified chardata.mat)",
            "source": "chardata.mat of github.com/yburda/iwae" if published else f"chardata.mat, git blob {blob}",
            "notes": (
                *(() if published else ("This chardata.mat is not the published file: compare with care.",)),
                f"The last {BURDA_VALIDATION:,} of Burda's training images, in a fixed shuffle, are for validation.",
                _BINARISED,
            ),
        }
        return _fields(fields), _burda_arrays(content, path)

    return cached(cache, f"omniglot-burda-{blob[:16]}-r{RECIPE}", build)


def _burda_arrays(content: bytes, path: Path) -> dict[str, np.ndarray]:
    """The arrays of ``Prepared`` from a ``chardata.mat``; He et al. also shuffle and take the last as validation."""
    again = f"fetch it again from {CHARDATA_URL}"
    try:
        mat = _mat.loaded(content, ("data", "testdata", "target", "testtarget"))
    except Exception as error:  # the parser's process failed, or what it handed over
        raise UserError(f"{path} cannot be read, it is damaged or no MATLAB file of arrays; {again}") from error
    images, labels = {}, {}
    for part, count in zip(("", "test"), BURDA_COUNTS, strict=True):
        means, target = mat.get(f"{part}data"), mat.get(f"{part}target")
        if not _numbers(means, count) or len(means) != 784:
            found = "is missing" if means is None else f"is {means.dtype} {means.shape}"
            raise UserError(f"{path}: {part}data {found}, not numbers 784×{count}; {again}")
        if not (np.isfinite(means).all() and means.min() >= 0 and means.max() <= 1):
            raise UserError(f"{path}: {part}data has values outside [0, 1]; {again}")
        if not _numbers(target, count):
            raise UserError(f"{path}: {part}target is not one-hot alphabets by {count} images; {again}")
        order = hash_shuffled([f"burda {part} {index}" for index in range(count)])
        # Columns are images, and each image is stored column by column.
        images[part] = means.T.reshape(count, 28, 28).transpose(0, 2, 1).astype(np.float32)[order]
        labels[part] = target.argmax(axis=0).astype(np.int64)[order]
    split = BURDA_COUNTS[0] - BURDA_VALIDATION
    return {
        "train": images[""][:split],
        "val": images[""][split:],
        "test": images["test"],
        "train_labels": labels[""][:split],
        "val_labels": labels[""][split:],
        "test_labels": labels["test"],
        "label_names": np.array(
            [f"alphabet {index + 1}" for index in range(max(len(mat["target"]), len(mat["testtarget"])))]
        ),
    }


def _numbers(array: np.ndarray | None, columns: int) -> TypeGuard[np.ndarray]:
    """Whether this is a matrix of real numbers with so many columns, and some rows."""
    if array is None or array.ndim != 2 or array.size == 0:
        return False
    return array.dtype.kind in "fiub" and array.shape[1] == columns


def _lake(zips: list[Path], cache: Path) -> Prepared:
    contents = [files.read_bytes(path, FILE_BYTES) for path in zips]
    digest = hashlib.sha1(usedforsecurity=False)
    for content in contents:
        digest.update(hashlib.sha1(content, usedforsecurity=False).digest())

    def build() -> tuple[dict, Mapping[str, np.ndarray]]:
        sizes = "/".join(f"{size:,}" for size in LAKE_SIZES.values())
        fields = {
            "title": "omniglot (Lake 28×28)",
            "source": "images_background.zip and images_evaluation.zip of github.com/brendenlake/omniglot",
            "notes": (
                "Lake's 105×105 drawings, area-averaged to 28×28 and split by drawing with a fixed seed into "
                f"{sizes}: not the 28×28 set of Burda et al., and its numbers do not compare with theirs.",
                _BINARISED,
            ),
        }
        return _fields(fields), _lake_arrays(contents, zips)

    return cached(cache, f"omniglot-lake-{digest.hexdigest()[:16]}-r{RECIPE}", build)


def _lake_arrays(contents: list[bytes], zips: list[Path]) -> dict[str, np.ndarray]:
    """The arrays of ``Prepared`` from Lake's two archives; which drawing goes where depends on its name alone."""
    drawings: dict[str, np.ndarray] = {}
    for content, path in zip(contents, zips, strict=True):
        drawings |= _drawings(content, path)
    names = sorted(drawings)
    names = [names[index] for index in hash_shuffled([f"lake {name}" for name in names])]
    means = area_average([drawings[name] for name in names])
    alphabets = [name.split("/")[1] for name in names]
    label_names, labels = np.unique(alphabets, return_inverse=True)
    bounds = np.cumsum(list(LAKE_SIZES.values()))[:-1]
    arrays = dict(zip(LAKE_SIZES, np.split(means, bounds), strict=True))
    parts = zip(LAKE_SIZES, np.split(labels.astype(np.int64), bounds), strict=True)
    return arrays | {f"{split}_labels": part for split, part in parts} | {"label_names": label_names}


def _drawings(content: bytes, path: Path) -> dict[str, np.ndarray]:
    """All drawings of one archive by name: bool ``[105, 105]``, ink true. Decoded in memory, never extracted."""
    from PIL import Image

    drawings, count = {}, LAKE_COUNTS[path.stem]
    try:
        with files.open_zip(io.BytesIO(content)) as archive:
            matches = ((member, _PNG.fullmatch(member.filename)) for member in archive.infolist())
            members = [member for member, match in matches if match and match[1] == path.stem]
            if (found := len({member.filename for member in members})) != count or found != len(members):
                raise UserError(f"{path} holds {len(members):,} drawings, not {count:,}; {_AGAIN}")
            for member in members:
                if member.file_size > _PNG_BYTES:
                    raise UserError(f"{path}: {member.filename} is no 105×105 drawing; {_AGAIN}")
                with Image.open(io.BytesIO(archive.read(member)), formats=["PNG"]) as image:
                    if image.size != (105, 105):
                        raise UserError(f"{path}: {member.filename} is {image.size[0]}×{image.size[1]}; {_AGAIN}")
                    drawings[member.filename] = np.asarray(image.convert("L")) < 128  # drawn black on white
    except UserError:
        raise
    except Exception as error:  # zipfile, zlib and PIL each fail on damaged bytes in ways of their own
        raise UserError(f"{path} cannot be read, it is damaged or no zip of drawings; {_AGAIN}") from error
    return drawings


def area_average(drawings: Sequence[np.ndarray] | np.ndarray, size: int = 28) -> np.ndarray:
    """Square drawings ``[N, S, S]``, ink true, to the share of ink in each pixel: float32 ``[N, size, size]``.

    Overlaps are multiples of 1/4 pixel at 105 → 28, so the products are exact and the means, rounded once by the
    division, are the same bits on every machine.
    """
    side = drawings[0].shape[-1]
    pitch = side / size
    weights = overlap_weights(size, pitch, side).astype(np.float32)
    means = np.empty((len(drawings), size, size), np.float32)
    for start in range(0, len(drawings), 1000):
        block = np.asarray(drawings[start : start + 1000], np.float32)
        means[start : start + 1000] = weights @ block @ weights.T / np.float32(pitch * pitch)
    return means


def _fields(fields: dict) -> dict:
    return {"name": "omniglot", "modality": "image", "unit": "nats per image", "shape": (28, 28)} | fields
