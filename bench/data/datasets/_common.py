"""Functions shared by data-set files: hashing shuffles and area averaging."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np


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


def overlap_weights(cells: int, pitch: float, length: int, start: float = 0, pixel: float = 1) -> np.ndarray:
    """Return the overlap of each of ``cells`` cells with each of ``length`` pixels: ``[cells, length]``.

    Cell i covers ``[start + i·pitch, start + (i + 1)·pitch)``, pixel j ``[j·pixel, (j + 1)·pixel)``. Area averaging is
    ``rows @ image @ columns.T / pitch²``, which stays within the range of the image. Integers give integers.
    """
    edges = start + pitch * np.arange(cells + 1)
    pixels = pixel * np.arange(length)
    return np.clip(np.minimum(edges[1:, None], pixels + pixel) - np.maximum(edges[:-1, None], pixels), 0, None)
