"""Vectors of the user: real values, counts or binary values by the type of their array."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from bench.core.errors import UserError
from bench.data.dataset import SPLITS, Values

MAX_COUNT = 2**24  # above which float32 does not hold every whole number


def vector_arrays(given: Mapping[str, np.ndarray], path: Path) -> tuple[Values, dict[str, np.ndarray]]:
    """Return the kind of the values, and ``train``, ``val`` and ``test`` as float32 ``[N, D]``."""
    if missing := [split for split in SPLITS if split not in given]:
        raise UserError(
            f"{path}: no array {' or '.join(missing)}; split the vectors, about 80/10/10 %, into train, val and test"
        )
    parts = {split: vector_values(given[split], f"{path}, array {split}") for split in SPLITS}
    if len({values.shape[1] for _, values in parts.values()}) > 1:
        widths = ", ".join(f"{values.shape[1]} in {split}" for split, (_, values) in parts.items())
        raise UserError(f"{path}: vectors of {widths} dimensions; give all the same dimensions")
    kinds = {split: kind for split, (kind, _) in parts.items()}
    if len({*kinds.values()}) > 1:
        types = ", ".join(f"{given[split].dtype} in {split}" for split in SPLITS)
        raise UserError(f"{path}: {types}; give all splits one type: integers for counts, floats for real values")
    return kinds["train"], {split: values for split, (_, values) in parts.items()}


def vector_values(array: np.ndarray, where: str) -> tuple[Values, np.ndarray]:
    """Return the kind of the values, and the vectors as float32 ``[N, D]``; errors begin with ``where``."""
    if array.ndim != 2 or array.size == 0:
        raise UserError(f"{where}: shape {array.shape}, not vectors [N, D]; give one row per example")
    if array.dtype.kind == "b":
        return "binary", array.astype(np.float32)
    if array.dtype.kind in "iu":
        if array.min() < 0 or array.max() > MAX_COUNT:
            raise UserError(
                f"{where}: integers from {array.min()} to {array.max()}, not counts from 0 to {MAX_COUNT}; "
                "convert real values to float"
            )
        return "count", array.astype(np.float32)
    if array.dtype.kind != "f":
        raise UserError(f"{where}: {array.dtype}, not floats, integers or bool; convert it to one of them")
    with np.errstate(over="ignore"):
        values = array.astype(np.float32)
    if not np.isfinite(values).all():
        raise UserError(f"{where}: values that are NaN or infinite in float32; replace or scale them")
    return "real", values
