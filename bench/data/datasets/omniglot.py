"""OMNIGLOT: handwritten characters of fifty alphabets, 28×28.

Two data sets have this name, and tables must distinguish them:

- Burda, Grosse & Salakhutdinov (2016), https://github.com/yburda/iwae, ``chardata.mat``: the 28×28 version used in
  the literature on deep generative models, including He et al. (2019). 24,345 training and 8,070 test images.
- Lake, Salakhutdinov & Tenenbaum (2015), https://github.com/brendenlake/omniglot, ``images_background.zip`` and
  ``images_evaluation.zip``: all 32,460 drawings, 105×105 with one bit per pixel; area-averaged to 28×28 here.

``DATA_DIR/omniglot/`` is searched for both, then torchvision's ``DATA_DIR/omniglot-py/`` for the second, as zips or
extracted folders; if neither is there, ``chardata.mat`` is downloaded.
"""

from __future__ import annotations

import hashlib
import io
import re
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from bench.core.errors import UserError
from bench.core.files import read_bytes
from bench.data.cache import cached
from bench.data.dataset import BINARISATION_NOTE, DataInfo, Prepared
from bench.data.datasets._common import hash_shuffled, overlap_weights
from bench.data.download import download, git_blob_sha1

SUMMARY = "OMNIGLOT, 28×28: Burda's set (downloaded), or Lake's drawings from DATA_DIR/omniglot or omniglot-py"
NEEDS_DOWNLOAD = True

CHARDATA_URL = "https://github.com/yburda/iwae/raw/master/datasets/OMNIGLOT/chardata.mat"
CHARDATA_BLOB = "016a3536ffe5e1d38e42563a18d7a78bfaf643ec"  # its git blob hash
BURDA_VALIDATION = 2_000
LAKE_COUNTS = {"images_background": 19_280, "images_evaluation": 13_180}
LAKE_SIZES = {"train": 24_000, "val": 2_000, "test": 6_460}
PREPARATION_VERSION = 1  # increase when the same sources give different arrays

_PNG = re.compile(r"(images_background|images_evaluation)/[^/]+/character\d+/\d+_\d+\.png")
_FETCH_ZIP = "download it again from github.com/brendenlake/omniglot, folder python/"
_REMEDY = (
    "Put chardata.mat, or Lake's images_background.zip and images_evaluation.zip, into DATA_DIR/omniglot/ "
    "and pass DATA_DIR as --data-dir or BENCH_DATA_DIR; --dataset glyphs needs no download"
)


def prepare(data_dir: Path | None, cache: Path) -> Prepared:
    """Prepare the files of ``data_dir/omniglot``, or else the download; ``UserError`` if neither is usable."""
    folder = Path(data_dir) / "omniglot" if data_dir else None
    if folder and (folder / "chardata.mat").exists():
        return _burda(folder / "chardata.mat", cache)
    if data_dir and (sources := _lake_sources(Path(data_dir))):
        return _lake(sources, cache)
    path = download(cache / "omniglot-chardata.mat", CHARDATA_URL, CHARDATA_BLOB, "OMNIGLOT", folder, _REMEDY)
    return _burda(path, cache)


def _info(title: str, source: str, *notes: str) -> DataInfo:
    notes = (*notes, BINARISATION_NOTE)
    return DataInfo("omniglot", title, "image", "nats per image", (28, 28), source=source, notes=notes)


def _burda(path: Path, cache: Path) -> Prepared:
    content = read_bytes(path)
    if git_blob_sha1(content) != CHARDATA_BLOB:
        raise UserError(f"{path} is not the published file; download it again from {CHARDATA_URL}")

    def build() -> tuple[DataInfo, Mapping[str, np.ndarray]]:
        split = f"The last {BURDA_VALIDATION:,} of Burda's training images, in a fixed shuffle, are the validation set."
        return _info("omniglot (Burda 28×28)", "chardata.mat of github.com/yburda/iwae", split), _burda_arrays(content)

    return cached(cache, f"omniglot-burda-{CHARDATA_BLOB[:16]}-r{PREPARATION_VERSION}", build)


def _burda_arrays(content: bytes) -> dict[str, np.ndarray]:
    """Return the arrays of ``Prepared`` for a ``chardata.mat``; split as in He et al. (2019), but shuffled by hash."""
    from scipy.io import loadmat

    mat = loadmat(io.BytesIO(content))
    images, labels = {}, {}
    for part in ("", "test"):
        means, target = mat[f"{part}data"], mat[f"{part}target"]  # [784, N]; one-hot [alphabets, N]
        count = means.shape[1]
        order = hash_shuffled([f"burda {part} {index}" for index in range(count)])
        # Columns are images in column-major order.
        images[part] = means.T.reshape(count, 28, 28).transpose(0, 2, 1).astype(np.float32)[order]
        labels[part] = target.argmax(axis=0).astype(np.int64)[order]
    split = len(images[""]) - BURDA_VALIDATION
    return {
        "train": images[""][:split],
        "val": images[""][split:],
        "test": images["test"],
        "train_labels": labels[""][:split],
        "val_labels": labels[""][split:],
        "test_labels": labels["test"],
        "label_names": np.array([f"alphabet {index + 1}" for index in range(len(target))]),
    }


def _lake_sources(data_dir: Path) -> list[Path]:
    """Return the zips of Lake's drawings, or the folders that they were extracted to; nothing if there are none."""
    for folder in (data_dir / "omniglot", data_dir / "omniglot-py"):
        places = {stem: (folder / f"{stem}.zip", folder / stem) for stem in LAKE_COUNTS}
        sources = {stem: next((path for path in paths if path.exists()), None) for stem, paths in places.items()}
        found = [path for path in sources.values() if path]
        if 0 < len(found) < len(sources):
            missing = next(stem for stem, path in sources.items() if not path)
            needed = " and ".join(f"{stem}.zip" for stem in sources)
            raise UserError(f"{folder}/{missing}.zip is missing: Lake's OMNIGLOT needs {needed}, or their folders")
        if found:
            return found
    return []


def _lake(sources: list[Path], cache: Path) -> Prepared:
    digest = hashlib.sha1(usedforsecurity=False)
    for path in sources:
        digest.update(_sha1(path))

    def build() -> tuple[DataInfo, Mapping[str, np.ndarray]]:
        sizes = "/".join(f"{size:,}" for size in LAKE_SIZES.values())
        info = _info(
            "omniglot (Lake 28×28)",
            "images_background.zip and images_evaluation.zip of github.com/brendenlake/omniglot",
            f"Lake's 105×105 drawings, area-averaged to 28×28, split at random into {sizes} with a fixed seed: not the "
            "28×28 set of Burda et al.; results are not comparable with theirs.",
        )
        return info, _lake_arrays(sources)

    return cached(cache, f"omniglot-lake-{digest.hexdigest()[:16]}-r{PREPARATION_VERSION}", build)


def _sha1(path: Path) -> bytes:
    """Return a hash of a zip, or of the drawings in a folder."""
    if not path.is_dir():
        return hashlib.sha1(read_bytes(path), usedforsecurity=False).digest()
    digest = hashlib.sha1(usedforsecurity=False)
    for name, content in _files(path):
        digest.update(name.encode() + content)
    return digest.digest()


def _lake_arrays(sources: list[Path]) -> dict[str, np.ndarray]:
    """Return the arrays of ``Prepared`` for Lake's drawings; the split of a drawing depends only on its name."""
    drawings: dict[str, np.ndarray] = {}
    for path in sources:
        drawings |= _drawings(path)
    names = sorted(drawings)
    names = [names[index] for index in hash_shuffled([f"lake {name}" for name in names])]
    means = area_average([drawings[name] for name in names])
    alphabets = [name.split("/")[1] for name in names]
    label_names, labels = np.unique(alphabets, return_inverse=True)
    bounds = np.cumsum(list(LAKE_SIZES.values()))[:-1]
    arrays = dict(zip(LAKE_SIZES, np.split(means, bounds), strict=True))
    parts = zip(LAKE_SIZES, np.split(labels.astype(np.int64), bounds), strict=True)
    return arrays | {f"{split}_labels": part for split, part in parts} | {"label_names": label_names}


def _drawings(path: Path) -> dict[str, np.ndarray]:
    """Return the drawings of a zip or folder by name: bool ``[105, 105]``, ink true. Nothing is extracted to disk."""
    from PIL import Image

    drawings = {}
    try:
        for name, content in _files(path):
            with Image.open(io.BytesIO(content), formats=["PNG"]) as image:
                drawings[name] = np.asarray(image.convert("L")) < 128  # black on white
    except Exception as error:  # zipfile, zlib and Pillow raise many types
        raise UserError(f"{path} is damaged or has no drawings; {_FETCH_ZIP}") from error
    if len(drawings) != (count := LAKE_COUNTS[path.stem]):
        raise UserError(f"{path} has {len(drawings):,} drawings, not {count:,}; {_FETCH_ZIP}")
    return drawings


def _files(path: Path) -> Iterator[tuple[str, bytes]]:
    """Yield the name and content of every drawing in a zip or folder; names begin with that of the zip."""
    if path.is_dir():
        names = {f"{path.name}/{file.relative_to(path).as_posix()}": file for file in path.glob("*/*/*.png")}
        for name in filter(_PNG.fullmatch, sorted(names)):
            yield name, names[name].read_bytes()
    else:
        with zipfile.ZipFile(path) as archive:
            for name in filter(_PNG.fullmatch, archive.namelist()):
                yield name, archive.read(name)


def area_average(drawings: Sequence[np.ndarray] | np.ndarray, size: int = 28) -> np.ndarray:
    """Average drawings ``[N, S, S]``, ink true, over the area of each pixel: float32 ``[N, size, size]``.

    Overlaps are multiples of 1/4 pixel for 105 → 28, so the products are exact and the means, rounded once in the
    division, have the same bits on every machine.
    """
    side = drawings[0].shape[-1]
    pitch = side / size
    weights = overlap_weights(size, pitch, side).astype(np.float32)
    means = np.empty((len(drawings), size, size), np.float32)
    for start in range(0, len(drawings), 1000):
        block = np.asarray(drawings[start : start + 1000], np.float32)
        means[start : start + 1000] = weights @ block @ weights.T / np.float32(pitch * pitch)
    return means
