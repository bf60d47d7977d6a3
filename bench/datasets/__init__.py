"""Data sets: one file each in this folder; a file's presence is its registration.

A data-set file needs neither torch nor the rest of the harness. It defines

- ``SUMMARY``: one line for ``--list``;
- ``NEEDS_DOWNLOAD``: whether a machine without network must be given the files;
- ``prepare(data_dir, cache, **settings) -> Prepared``: find (or download) the sources, turn them into arrays,
  keep them in ``cache`` under a name that changes with the sources, and say what they are. A second call with
  the same sources reads only the small record beside the arrays;
- where it can be varied, ``SETTINGS``: the settings that ``prepare`` takes, with their defaults.

Files whose name begins with an underscore hold what several of them share.

``bench.data`` turns a ``Prepared`` into tensors.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO

import numpy as np

from bench.errors import UserError
from bench.store import replace

#: The first words of every vocabulary, by their ids.
SPECIALS = ("<pad>", "<s>", "</s>", "<unk>")
PAD, START, END, UNKNOWN = range(len(SPECIALS))


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
    vocabulary: int = 0  # of text: how many words there are, ``SPECIALS`` among them
    protocol: str = ""  # the presets' section for this set, where it is not the modality's

    def to_json(self) -> dict:
        return asdict(self)

    @classmethod
    def from_json(cls, record: Mapping) -> DataInfo:
        return cls(**{**record, "shape": tuple(record["shape"]), "notes": tuple(record["notes"])})


@dataclass(frozen=True)
class Prepared:
    """A data set ready to load: its description and the ``.npz`` file that holds its arrays.

    Image sets hold ``train``, ``val``, ``test``: float32 ``[N, 28, 28]`` Bernoulli means in [0, 1] (ink = 1).
    Text sets hold them as int32 ``[N, L]``: ``<s> w1 … wn </s>``, then ``<pad>`` to the longest of all splits;
    ``vocabulary``: str ``[V]``, the ``SPECIALS`` first, then words by falling frequency in train; and, where the law
    of the data is known, ``test_nll``: float64 ``[N]``, the exact -log p(x) of every test sentence.
    Where there are labels: ``train_labels`` …: int64 ``[N]`` with ``label_names``: str ``[L]``.
    """

    info: DataInfo
    path: Path

    @classmethod
    def read(cls, path: Path) -> Prepared:
        """The prepared set at ``path``, described by the record beside it."""
        return cls(DataInfo.from_json(json.loads(path.with_suffix(".json").read_text("utf-8"))), path)


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
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):  # absent or damaged: build again
        if arrays_path.exists():
            return Prepared(DataInfo.from_json(json.loads(record_path.read_text("utf-8"))), arrays_path)
    fields, arrays = build()
    sizes = {split: len(arrays[split]) for split in ("train", "val", "test")}
    info = DataInfo(**fields, sizes=sizes, fingerprint=fingerprint(arrays))
    keep(arrays_path, lambda file: np.savez(file, **arrays))  # type: ignore[arg-type]
    keep(record_path, lambda file: file.write(json.dumps(info.to_json(), ensure_ascii=False).encode()))
    return Prepared(info, arrays_path)


def cached_as(fingerprint: str, cache: Path) -> Prepared | None:
    """The prepared data set of this fingerprint, if the cache holds it."""
    for record in sorted(cache.glob("*.json")):
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            prepared = Prepared.read(record.with_suffix(".npz"))
            if prepared.info.fingerprint == fingerprint and prepared.path.exists():
                return prepared
    return None


def keep(path: Path, write: Callable[[IO[bytes]], object]) -> None:
    """Write a file of the cache whole; a ``UserError`` where the cache cannot be written."""
    try:
        replace(path, write)
    except OSError as error:
        raise UserError(
            f"cannot write to the data cache {path.parent} ({error.strerror or error}); "
            "point BENCH_CACHE at a folder with room that can be written"
        ) from error


def lot(key: str) -> float:
    """A number in [0, 1) drawn by hashing ``key``: the same on every machine and with every library version."""
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:6], "big") / 2**48


def shuffled(keys: Sequence[str]) -> np.ndarray:
    """The order that sorts ``keys`` by their lots: a fixed shuffle, int64 ``[len(keys)]``.

    It depends on the keys alone, not on the order in which an archive happens to list them.
    """
    return np.array(sorted(range(len(keys)), key=lambda index: (lot(keys[index]), keys[index])), dtype=np.int64)


def overlaps(cells: int, pitch: float, length: int, start: float = 0.0) -> np.ndarray:
    """How much of each of ``length`` unit pixels lies in each of ``cells`` cells: float64 ``[cells, length]``.

    Cell i covers ``[start + i·pitch, start + (i + 1)·pitch)``. With it area averaging is two matrix products,
    ``rows @ image @ columns.T / pitch²``, exact and within the range of the image.
    """
    edges = start + pitch * np.arange(cells + 1)
    pixels = np.arange(length)
    return np.clip(np.minimum(edges[1:, None], pixels + 1) - np.maximum(edges[:-1, None], pixels), 0, None)
