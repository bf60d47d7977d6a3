"""Data of the user: a folder of text files, or an ``.npz`` file of images or vectors."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from bench.core.errors import UserError, printable
from bench.core.files import read_arrays, read_bytes
from bench.data.cache import cached
from bench.data.corpus import FILE_NAMES, find_files, label_arrays, prepare_text
from bench.data.dataset import BINARISATION_NOTE, SPLITS, DataInfo, Prepared
from bench.data.user_vectors import vector_arrays

PREPARATION_VERSION = 1  #: Increase when the same file gives different arrays.
MAX_NAME = 100  #: Characters of a data set's name: file names that contain it have at most 255.

TEXT_FILES = {"train": ("train.txt",), "val": ("val.txt", "valid.txt"), "test": ("test.txt",)}


def prepare(path: Path, cache: Path) -> Prepared:
    """Prepare the user's data at ``path``; the name of the data set is derived from that of the file or folder.

    A folder has ``train.txt``, ``val.txt`` (or ``valid.txt``) and ``test.txt``: one document per line, UTF-8, words
    separated by spaces, or ``label<TAB>document`` on every line. An ``.npz`` file has ``train``, ``val`` and ``test``:

    - grey images ``[N, H, W]`` or ``[N, 1, H, W]``, ink high, floats in [0, 1] or uint8; padded to a square,
    - colour images ``[N, 3, H, W]`` or ``[N, H, W, 3]``, uint8 or floats in [0, 1]; padded to a square,
    - or vectors ``[N, D]``, floats for real values, integers for counts, bool for binary values,

    and optionally ``train_labels`` …: ``[N]``. Raise ``UserError`` with what is missing or wrong.
    """
    if not path.exists():
        raise UserError(f"{path} does not exist; give a folder of text files or an .npz file of images or vectors")
    path = path.resolve()
    if path.is_dir():
        return _text(path, cache)
    return _arrays(path, cache)


def slug(path: Path) -> str:
    """Return a name for the data at ``path`` that is safe in file names and on the command line."""
    stem = path.name if path.is_dir() else path.stem
    return re.sub(r"[^a-z0-9]+", "-", stem.lower())[:MAX_NAME].strip("-") or "data"


def _text(folder: Path, cache: Path) -> Prepared:
    files = find_files(folder, TEXT_FILES)
    if not files:
        raise UserError(f"{folder} is no text data set: it needs {FILE_NAMES}, one document per line")
    contents = {split: read_bytes(file) for split, file in files.items()}
    return prepare_text(slug(folder), files, contents, cache, f"the user's folder {printable(folder.name)}")


def _arrays(path: Path, cache: Path) -> Prepared:
    name = slug(path)
    if path.suffix == ".txt":
        raise UserError(f"{path} is one text file: give a folder with {', '.join(f'{s}.txt' for s in SPLITS)}")
    try:
        with open(path, "rb") as file:
            digest = hashlib.file_digest(file, lambda: hashlib.sha1(usedforsecurity=False))
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error

    def build() -> tuple[DataInfo, Mapping[str, np.ndarray]]:
        given, source = _load(path), f"the user's file {printable(path.name)}"
        if "train" in given and given["train"].ndim == 2:
            values, arrays = vector_arrays(given, path)
            dim = arrays["train"].shape[1]
            title, unit = f"{name} ({dim:,} {values} values)", "nats per vector"
            info = DataInfo(name, title, "vector", unit, (dim,), source=source, values=values)
        else:
            arrays = _image_arrays(given, path)
            shape, side = arrays["train"].shape[1:], arrays["train"].shape[-1]
            given_shape = given["train"].shape
            height, width = given_shape[1:3] if len(shape) == 3 and given_shape[1] != 3 else given_shape[-2:]
            padded = f"Images of {height}×{width}, padded with empty pixels to {side}×{side}."
            notes = (BINARISATION_NOTE, *([padded] if height != width else []))
            colour = ", colour" if len(shape) == 3 else ""
            title, unit = f"{name} ({side}×{side}{colour})", "nats per image"
            info = DataInfo(name, title, "image", unit, shape, source=source, notes=notes)
            info = info.with_intensities() if colour else info
        return info, arrays | _label_arrays(given, arrays, path)

    return cached(cache, f"{name}-{digest.hexdigest()[:16]}-r{PREPARATION_VERSION}", build)


def _load(path: Path) -> dict[str, np.ndarray]:
    try:
        return read_arrays(path, {*SPLITS, *(f"{split}_labels" for split in SPLITS)})
    except MemoryError:
        raise
    except Exception as error:  # zipfile, zlib and NumPy raise many types
        raise UserError(
            f"{path} is damaged or not an .npz file of arrays of numbers or strings; write it with numpy.savez"
        ) from error


def _image_arrays(given: Mapping[str, np.ndarray], path: Path) -> dict[str, np.ndarray]:
    """Return ``train``, ``val`` and ``test`` of ``Prepared`` for the user's images."""
    if missing := [split for split in SPLITS if split not in given]:
        raise UserError(f"{path}: no array {' or '.join(missing)}; the arrays of images are train, val and test")
    images = {split: image_values(given[split], f"{path}, array {split}") for split in SPLITS}
    if len(sizes := {"×".join(map(str, array.shape[1:])) for array in images.values()}) > 1:
        raise UserError(f"{path}: images of sizes {', '.join(sorted(sizes))}; pad or crop them to one size")
    return {split: pad_to_square(array) for split, array in images.items()}


def _label_arrays(
    given: Mapping[str, np.ndarray], examples: Mapping[str, np.ndarray], path: Path
) -> dict[str, np.ndarray]:
    """Return the label arrays of ``Prepared`` for the user's arrays; empty without labels."""
    labels = {split: given[f"{split}_labels"] for split in SPLITS if f"{split}_labels" in given}
    if 0 < len(labels) < len(SPLITS):
        raise UserError(f"{path}: labels only of {' and '.join(labels)}; give labels for every split or none")
    for split, values in labels.items():
        if values.shape != (count := len(examples[split]),) or values.dtype.kind not in "biuU":
            raise UserError(
                f"{path}, array {split}_labels: {values.dtype} {values.shape}, not {count} integers or strings"
            )
    return label_arrays({split: values.astype(str).tolist() for split, values in labels.items()})


def image_values(array: np.ndarray, where: str) -> np.ndarray:
    """Return grey images as ``image_means`` does, and colour images as uint8 ``[N, 3, H, W]``."""
    if array.ndim != 4 or 3 not in (array.shape[1], array.shape[3]) or array.shape[1] == 1 or not array.size:
        return image_means(array, where)
    if array.dtype.kind == "f" and array.min() >= 0 and array.max() <= 1:
        array = np.round(255 * array).astype(np.uint8)
    if array.dtype != np.uint8:
        raise UserError(f"{where}: {array.dtype} {array.shape}; give colour images as uint8, or floats in [0, 1]")
    return array if array.shape[1] == 3 else array.transpose(0, 3, 1, 2)


def image_means(array: np.ndarray, where: str) -> np.ndarray:
    """Return images as Bernoulli means, float32 ``[N, H, W]`` in [0, 1]; errors begin with ``where``."""
    flat = array[:, 0] if array.ndim == 4 and array.shape[1] == 1 else array
    if flat.size == 0:
        raise UserError(f"{where}: shape {array.shape}, no images; give at least one")
    if flat.ndim != 3:
        raise UserError(f"{where}: shape {array.shape}, not grey images [N, H, W] or [N, 1, H, W]; reshape them")
    if flat.dtype == np.uint8:
        if flat.max() == 1:
            raise UserError(f"{where}: uint8 values 0 and 1, but uint8 means 0 to 255; use bool or float")
        return flat.astype(np.float32) / np.float32(255)
    if flat.dtype.kind not in "fb":
        raise UserError(f"{where}: {array.dtype}, not bool, floats in [0, 1] or uint8; convert it to one of them")
    if np.isnan(flat).any():
        raise UserError(f"{where}: NaN among the values; replace it by a number in [0, 1]")
    if not (flat.min() >= 0 and flat.max() <= 1):
        raise UserError(
            f"{where}: values from {flat.min():.4g} to {flat.max():.4g}, not in [0, 1]; scale them to it, or use uint8"
        )
    return flat.astype(np.float32)


def pad_to_square(images: np.ndarray) -> np.ndarray:
    """Pad images ``[…, H, W]`` on both sides with empty pixels: ``[…, S, S]``, S the larger of H and W.

    An odd row or column is added at the bottom or on the right.
    """
    height, width = images.shape[-2:]
    rows, columns = max(width - height, 0), max(height - width, 0)
    kept = [(0, 0)] * (images.ndim - 2)
    return np.pad(images, [*kept, (rows // 2, rows - rows // 2), (columns // 2, columns - columns // 2)])
