"""Functions shared by data-set files: optional packages, tokenisation, hashing shuffles and area averaging."""

from __future__ import annotations

import hashlib
import importlib
import re
from collections.abc import Mapping, Sequence
from types import ModuleType

import numpy as np

from bench.core.errors import UserError

_TOKEN = re.compile(r"<unk>|[\w'-]+|[^\w\s\0]")


def import_package(module: str, package: str) -> ModuleType:
    """Import a module of an optional package; ``UserError`` with the command that installs it if it is missing."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise UserError(f"this data set needs the package {package} ({error}): pip install {package}") from error


def tokenise(text: str) -> list[str]:
    """Return the words of a text in lower case.

    A word is a run of letters, digits, apostrophes and hyphens, or a single other character, such as a punctuation
    mark. ``<unk>`` is one word.
    """
    return _TOKEN.findall(text.lower().replace("’", "'"))


def hash_uniform(key: str) -> float:
    """Return a number in [0, 1), a hash of ``key``: the same on every machine and with every library version."""
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:6], "big") / 2**48


def hash_shuffled(keys: Sequence[str]) -> np.ndarray:
    """Return the permutation that sorts ``keys`` by ``hash_uniform``: int64 ``[len(keys)]``.

    The resulting order depends only on the keys, not on the order in which an archive lists them.
    """
    return np.array(
        sorted(range(len(keys)), key=lambda index: (hash_uniform(keys[index]), keys[index])), dtype=np.int64
    )


def split_rows(rows: np.ndarray, sizes: Mapping[str, int]) -> dict[str, np.ndarray]:
    """Return consecutive parts of ``rows`` with the ``sizes`` of the splits."""
    return dict(zip(sizes, np.split(rows, np.cumsum([*sizes.values()])[:-1]), strict=True))


def overlap_weights(cells: int, pitch: float, length: int, start: float = 0, pixel: float = 1) -> np.ndarray:
    """Return the overlap of each of ``cells`` cells with each of ``length`` pixels: ``[cells, length]``.

    Cell i covers ``[start + i·pitch, start + (i + 1)·pitch)``, pixel j ``[j·pixel, (j + 1)·pixel)``. Area averaging is
    ``rows @ image @ columns.T / pitch²``, which stays within the range of the image. Integers give integers.
    """
    edges = start + pitch * np.arange(cells + 1)
    pixels = pixel * np.arange(length)
    return np.clip(np.minimum(edges[1:, None], pixels + pixel) - np.maximum(edges[:-1, None], pixels), 0, None)
