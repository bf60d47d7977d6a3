"""Data sets: one file each in this folder; a file's presence is its registration.

A data-set file needs neither torch nor the rest of the harness. It defines

- ``SUMMARY``: one line for ``--list``;
- ``NEEDS_DOWNLOAD``: whether a machine without network must be given the files;
- ``prepare(data_dir, cache) -> Prepared``: find (or download) the sources, turn them into arrays, keep
  them in ``cache`` under a name that changes with the sources, and say what they are. A second call with
  the same sources reads only the small record beside the arrays.

``bench.datasets.images`` turns a ``Prepared`` into tensors.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from bench.store import replace


@dataclass(frozen=True)
class DataInfo:
    """What a data set is, as far as tables, cell identities and plans need to know.

    ``fingerprint`` is the SHA-256 of the prepared arrays, so two data sets with equal fingerprints are the
    same numbers whatever they were read from. ``sizes`` counts the examples of train, val and test.
    """

    name: str  # as typed: "omniglot"
    title: str  # as printed: "omniglot (Lake 28×28)"
    modality: str  # "image" or "text"
    unit: str  # of the likelihood: "nats per image"
    shape: tuple[int, ...]  # of one example: (28, 28)
    sizes: Mapping[str, int]
    fingerprint: str
    source: str  # where the numbers come from, in a few words
    notes: tuple[str, ...] = ()  # footnotes that every table on this data set carries

    def to_json(self) -> dict:
        return asdict(self)

    @classmethod
    def from_json(cls, record: Mapping) -> DataInfo:
        return cls(**{**record, "shape": tuple(record["shape"]), "notes": tuple(record["notes"])})


@dataclass(frozen=True)
class Prepared:
    """A data set ready to load: its description and the ``.npz`` file that holds its arrays.

    Image sets hold ``train``, ``val``, ``test``: float32 ``[N, 28, 28]`` Bernoulli means in [0, 1] (ink = 1);
    and, where there are labels, ``train_labels`` …: int64 ``[N]`` with ``label_names``: str ``[L]``.
    """

    info: DataInfo
    path: Path


def cache_dir() -> Path:
    """The folder for prepared and downloaded data: ``BENCH_CACHE``, or the user's cache folder."""
    if given := os.environ.get("BENCH_CACHE"):
        return Path(given)
    import pooch

    return Path(pooch.os_cache("posterior-collapse-bench"))


def fingerprint(arrays: Mapping[str, np.ndarray]) -> str:
    """SHA-256 over names, types, shapes and bytes of the arrays, in the order of their names."""
    digest = hashlib.sha256()
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        digest.update(f"{name} {array.dtype.str} {array.shape}\n".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def cached(cache: Path, stem: str, build: Callable[[], tuple[dict, Mapping[str, np.ndarray]]]) -> Prepared:
    """The prepared data set ``stem`` from the cache, or built, written whole and then renamed into place.

    ``build`` returns the fields of ``DataInfo`` without sizes and fingerprint, and the arrays. Whatever
    determines the arrays belongs in ``stem``. The record is written last: without it nothing counts as cached.
    """
    arrays_path, record_path = cache / f"{stem}.npz", cache / f"{stem}.json"
    if record_path.exists() and arrays_path.exists():
        return Prepared(DataInfo.from_json(json.loads(record_path.read_text("utf-8"))), arrays_path)
    fields, arrays = build()
    sizes = {split: len(arrays[split]) for split in ("train", "val", "test")}
    info = DataInfo(**fields, sizes=sizes, fingerprint=fingerprint(arrays))
    cache.mkdir(parents=True, exist_ok=True)
    replace(arrays_path, lambda file: np.savez(file, **arrays))
    replace(record_path, lambda file: file.write(json.dumps(info.to_json(), ensure_ascii=False).encode()))
    return Prepared(info, arrays_path)

