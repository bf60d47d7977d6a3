"""A data set of the user's own: a folder of text files, or an ``.npz`` file of images."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import IO

import numpy as np

from bench.core import safe_io as files
from bench.core.errors import UserError
from bench.data.cache import cached
from bench.data.corpus import find, label_arrays, read
from bench.data.corpus import prepare as prepare_text
from bench.data.dataset import SPLITS, Prepared

FILE_BYTES = 8 << 30  # of images at most: all are held in memory, as float32
RECIPE = 1  # raise it when the same images come to give other arrays


def prepare(path: Path, cache: Path) -> Prepared:
    """The user's data at ``path``, kept in ``cache`` under its content; its name is made from the file's or folder's.

    A folder holds ``train.txt``, ``val.txt`` (or ``valid.txt``) and ``test.txt``: one document a line, UTF-8, words
    separated by spaces, or ``label<TAB>document`` in every line. An ``.npz`` holds ``train``, ``val``, ``test``:
    square images ``[N, S, S]`` or ``[N, 1, S, S]``, ink high, floats in [0, 1] or uint8; and where there are labels,
    ``train_labels`` …: ``[N]``. ``UserError`` says what is missing or wrong, and where.
    """
    if not os.path.exists(path):
        raise UserError(f"{path} does not exist; name a folder of text files or an .npz file of images")
    path = Path(os.path.realpath(path))
    if path.is_dir():
        return _text(path, cache)
    if path.suffix.lower() == ".npz":
        return _images(path, cache)
    raise UserError(f"{path} is neither a folder of text files nor an .npz file of images")


def slug(path: Path) -> str:
    """A name for data at ``path`` that is safe in file names and on the command line."""
    stem = path.name if path.is_dir() else path.stem
    return re.sub(r"[^a-z0-9]+", "-", stem.lower()).strip("-") or "data"


def _text(folder: Path, cache: Path) -> Prepared:
    names = {"train": ("train.txt",), "val": ("val.txt", "valid.txt"), "test": ("test.txt",)}
    found = {}
    for split in SPLITS:
        if not (file := find(folder, *names[split])):
            raise UserError(
                f"{folder}: no {' or '.join(names[split])}; a folder of text holds train.txt, val.txt and test.txt, "
                "one document a line"
            )
        found[split] = file
    contents = {split: read(file) for split, file in found.items()}
    return prepare_text(slug(folder), found, contents, cache, f"the user's folder {folder.name}")


def _images(path: Path, cache: Path) -> Prepared:
    name = slug(path)
    with files.open_or_user_error(path, FILE_BYTES) as file:
        try:
            digest = hashlib.file_digest(file, lambda: hashlib.sha1(usedforsecurity=False))
        except OSError as error:
            raise UserError(f"cannot read {path}: {error.strerror or error}") from error

        def build() -> tuple[dict, Mapping[str, np.ndarray]]:
            arrays = _image_arrays(_load(file, path), path)
            size = arrays["train"].shape[-1]
            fields = {
                "name": name,
                "title": f"{name} ({size}×{size})",
                "modality": "image",
                "unit": "nats per image",
                "shape": (size, size),
                "source": f"the user's file {path.name}",
                "notes": (
                    "Validation and test images are binarised once with a fixed seed, training images afresh at every "
                    "use.",
                ),
            }
            return fields, arrays

        return cached(cache, f"{name}-{digest.hexdigest()[:16]}-r{RECIPE}", build)


def _load(file: IO[bytes], path: Path) -> dict[str, np.ndarray]:
    try:
        return files.read_arrays(file, {*SPLITS, *(f"{split}_labels" for split in SPLITS)})
    except files.ZipBombError as bomb:
        raise UserError(f"{path} is no .npz file of images: it has {bomb}") from bomb
    except Exception as error:
        raise UserError(f"{path} is damaged or no .npz file of arrays; write it with numpy.savez") from error


def _image_arrays(found: Mapping[str, np.ndarray], path: Path) -> dict[str, np.ndarray]:
    """The arrays of ``Prepared`` from the user's."""
    if missing := [split for split in SPLITS if split not in found]:
        raise UserError(f"{path}: no array {' or '.join(missing)}; images are in arrays train, val and test")
    images = {split: _means(found[split], f"{path}, array {split}") for split in SPLITS}
    if len(sizes := {array.shape[1] for array in images.values()}) > 1:
        raise UserError(f"{path}: images of sides {', '.join(map(str, sorted(sizes)))}; they must all be of one size")
    labelled = [split for split in SPLITS if f"{split}_labels" in found]
    if not labelled:
        return images
    if len(labelled) < len(SPLITS):
        without = next(split for split in SPLITS if split not in labelled)
        raise UserError(f"{path}: {labelled[0]}_labels but no {without}_labels; give labels for every split, or none")
    for split in SPLITS:
        labels = found[f"{split}_labels"]
        if labels.shape != (len(images[split]),) or labels.dtype.kind not in "biuU":
            raise UserError(
                f"{path}, array {split}_labels: {labels.dtype} {labels.shape}, not {len(images[split])} integers or "
                "strings"
            )
    return images | label_arrays({split: _strings(found[f"{split}_labels"], path) for split in SPLITS})


def _strings(labels: np.ndarray, path: Path) -> list[str]:
    try:
        strings = labels.astype(str).tolist()
        "".join(strings).encode()
        return strings
    except (ValueError, SystemError) as error:  # NumPy takes any 32 bits for a character
        raise UserError(f"{path}: labels that are no text; write them as strings or integers") from error


def _means(array: np.ndarray, where: str) -> np.ndarray:
    """Images as float32 ``[N, S, S]`` in [0, 1]; ``where`` is what errors name."""
    flat = array[:, 0] if array.ndim == 4 and array.shape[1] == 1 else array
    if flat.ndim != 3 or flat.shape[1] != flat.shape[2] or flat.size == 0:
        raise UserError(f"{where}: shape {array.shape}, not square images [N, S, S] or [N, 1, S, S]")
    if flat.dtype == np.uint8:
        if flat.max() == 1:
            raise UserError(f"{where}: uint8 of 0 and 1, but uint8 is read as 0 to 255; give bool or float")
        return flat.astype(np.float32) / np.float32(255)
    if flat.dtype.kind not in "fb":
        raise UserError(f"{where}: {array.dtype}, neither floats in [0, 1] nor uint8")
    if not np.isfinite(flat).all():
        raise UserError(f"{where}: has NaN or infinite values; images are floats in [0, 1] or uint8")
    if flat.min() < 0 or flat.max() > 1:
        raise UserError(f"{where}: values from {flat.min():.4g} to {flat.max():.4g}, not in [0, 1]")
    return flat.astype(np.float32)
