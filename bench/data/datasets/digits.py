"""Digits: the handwritten digits of scikit-learn, 8×8. Needs no download.

Alpaydin & Kaynak (1998), *Optical Recognition of Handwritten Digits*, UCI Machine Learning Repository: the 1,797 images
of its test set, drawings of 32×32 pixels whose blocks of 4×4 are counted. Counts / 16 are the Bernoulli means.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from bench.data.cache import cached
from bench.data.dataset import BINARISATION_NOTE, DataInfo, Prepared
from bench.data.datasets._common import hash_shuffled, import_package, split_rows

SUMMARY = "handwritten digits, 8×8; needs the package scikit-learn"
NEEDS_DOWNLOAD = False

SIZES = {"train": 1_197, "val": 300, "test": 300}
PREPARATION_VERSION = 1  # increase when the same images give different arrays


def prepare(data_dir: Path | None, cache: Path) -> Prepared:
    """Prepare the images of the installed package, the same in all its versions; ``data_dir`` is not used."""
    return cached(cache, f"digits-r{PREPARATION_VERSION}", build)


def build() -> tuple[DataInfo, Mapping[str, np.ndarray]]:
    """Return the description and the arrays; images are split at random with a fixed seed."""
    pixels, digits = import_package("sklearn.datasets", "scikit-learn").load_digits(return_X_y=True)
    order = hash_shuffled([f"digits {index}" for index in range(len(digits))])
    means = (pixels / 16).astype(np.float32).reshape(-1, 8, 8)
    labels = split_rows(digits.astype(np.int64)[order], SIZES)
    arrays = split_rows(means[order], SIZES) | {f"{split}_labels": values for split, values in labels.items()}
    info = DataInfo(
        name="digits",
        title="digits (8×8)",
        modality="image",
        unit="nats per image",
        shape=(8, 8),
        source="the installed package scikit-learn",
        notes=(BINARISATION_NOTE,),
    )
    return info, arrays | {"label_names": np.array([*"0123456789"])}
