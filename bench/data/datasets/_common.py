"""Helpers shared by data-set files."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np


def hash_uniform(key: str) -> float:
    """A number in [0, 1) drawn by hashing ``key``: the same on every machine and with every library version."""
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:6], "big") / 2**48


def hash_shuffled(keys: Sequence[str]) -> np.ndarray:
    """The order that sorts ``keys`` by their lots: a fixed shuffle, int64 ``[len(keys)]``.

    It depends on the keys alone, not on the order in which an archive happens to list them.
    """
    return np.array(
        sorted(range(len(keys)), key=lambda index: (hash_uniform(keys[index]), keys[index])), dtype=np.int64
    )


def overlap_weights(cells: int, pitch: float, length: int, start: float = 0, pixel: float = 1) -> np.ndarray:
    """How much of each of ``length`` pixels of side ``pixel`` lies in each of ``cells`` cells: ``[cells, length]``.

    Cell i covers ``[start + i·pitch, start + (i + 1)·pitch)``. With it area averaging is two matrix products,
    ``rows @ image @ columns.T / pitch²``, exact and within the range of the image. Whole numbers give whole numbers.
    """
    edges = start + pitch * np.arange(cells + 1)
    pixels = pixel * np.arange(length)
    return np.clip(np.minimum(edges[1:, None], pixels + pixel) - np.maximum(edges[:-1, None], pixels), 0, None)
