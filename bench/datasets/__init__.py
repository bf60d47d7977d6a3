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
import glob
import hashlib
import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO

import numpy as np

from bench.errors import UserError
from bench.files import arrays as read_arrays
from bench.files import content, opened
from bench.locks import held
from bench.store import UNFINISHED, replace

SPLITS = ("train", "val", "test")

#: The first words of every vocabulary, by their ids.
SPECIALS = ("<pad>", "<s>", "</s>", "<unk>")
PAD, START, END, UNKNOWN = range(len(SPECIALS))

RECORD_BYTES = 1 << 20  # of the record beside prepared arrays, at most
PATIENCE = 2.0  # seconds to wait for another process before saying so


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
        """From what ``to_json`` gave; ``ValueError``, ``TypeError`` or ``KeyError`` where it is something else."""
        info = cls(**{**record, "shape": tuple(record["shape"]), "notes": tuple(record["notes"])})
        texts = (info.name, info.title, info.modality, info.unit, info.fingerprint, info.source, info.protocol)
        counts = (*info.shape, *dict(info.sizes).values(), info.vocabulary)
        if not all(isinstance(text, str) for text in (*texts, *info.notes, *info.sizes)):
            raise ValueError("a data set is described by something other than text")
        if not all(type(count) is int and count >= 0 for count in counts):
            raise ValueError("examples, sizes or words are counted by something other than numbers")
        return info


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
        """The prepared set at ``path``, described by the record beside it; ``UserError`` where that will not do."""
        record = path.with_suffix(".json")
        text = content(record, RECORD_BYTES)
        try:
            return cls(DataInfo.from_json(json.loads(text)), path)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError, MemoryError) as error:
            raise UserError(f"{record} is damaged; remove it and run again") from error

    def arrays(self) -> dict[str, np.ndarray]:
        """Everything in the file; ``UserError`` where it is damaged, or not what the record describes."""
        try:
            with opened(self.path, sys.maxsize) as file:
                arrays = read_arrays(file)
        except UserError:
            raise
        except Exception as error:
            raise UserError(f"{self.path} is damaged; remove it and run again") from error
        if fingerprint(arrays) != self.info.fingerprint:
            raise UserError(f"{self.path} is not what the record beside it describes; remove it and run again")
        return arrays


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
    Of several processes that want it one builds, and the others wait. ``UserError`` where memory does not suffice.
    """
    path = cache / f"{stem}.npz"
    if prepared := _found(path):
        return prepared
    with alone(path):
        if prepared := _found(path):
            return prepared
        try:
            fields, arrays = build()
            sizes = {split: len(arrays[split]) for split in SPLITS}
            info = DataInfo(**fields, sizes=sizes, fingerprint=fingerprint(arrays))
            keep(path, lambda file: np.savez(file, **arrays))  # type: ignore[arg-type]
        except MemoryError as error:
            raise UserError(f"not enough memory to prepare {stem}; use a smaller data set or free some") from error
        record = json.dumps(info.to_json(), ensure_ascii=False).encode()
        keep(path.with_suffix(".json"), lambda file: file.write(record))
    return Prepared(info, path)


def cached_as(fingerprint: str, cache: Path) -> Prepared | None:
    """The prepared data set of this fingerprint, if the cache holds it."""
    found = (_found(record.with_suffix(".npz")) for record in sorted(cache.glob("*.json")))
    return next((prepared for prepared in found if prepared and prepared.info.fingerprint == fingerprint), None)


def _found(path: Path) -> Prepared | None:
    """The prepared set at ``path``; None where it is not there, or its record is damaged."""
    with contextlib.suppress(UserError):
        return Prepared.read(path) if os.path.isfile(path) else None
    return None


@contextlib.contextmanager
def alone(path: Path) -> Iterator[None]:
    """Hold the right to make a file of the cache, waiting for whoever has it; what the killed left is removed."""
    with _cache_written(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        with _cache_written(path.parent):
            lock = path.with_name(f".{path.name}.lock")
            if not stack.enter_context(held(lock, patience=PATIENCE)):
                print(f"waiting for another process that prepares {path.name}", file=sys.stderr)
                stack.enter_context(held(lock, patience=None))
            for left in path.parent.glob(f".{glob.escape(path.stem)}.*{UNFINISHED}"):
                left.unlink(missing_ok=True)
        yield


def keep(path: Path, write: Callable[[IO[bytes]], object]) -> None:
    """Write a file of the cache whole; a ``UserError`` where the cache cannot be written."""
    with _cache_written(path.parent):
        replace(path, write)


@contextlib.contextmanager
def _cache_written(cache: Path) -> Iterator[None]:
    """A ``UserError`` where something within cannot be written."""
    try:
        yield
    except OSError as error:
        raise UserError(
            f"cannot write to the data cache {cache} ({error.strerror or error}); "
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


def overlaps(cells: int, pitch: float, length: int, start: float = 0, pixel: float = 1) -> np.ndarray:
    """How much of each of ``length`` pixels of side ``pixel`` lies in each of ``cells`` cells: ``[cells, length]``.

    Cell i covers ``[start + i·pitch, start + (i + 1)·pitch)``. With it area averaging is two matrix products,
    ``rows @ image @ columns.T / pitch²``, exact and within the range of the image. Whole numbers give whole numbers.
    """
    edges = start + pitch * np.arange(cells + 1)
    pixels = pixel * np.arange(length)
    return np.clip(np.minimum(edges[1:, None], pixels + pixel) - np.maximum(edges[:-1, None], pixels), 0, None)
