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

import hashlib
import json
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from bench.core.errors import UserError
from bench.core.safe_io import open_or_user_error, read_bytes
from bench.core.safe_io import read_arrays as read_arrays

SPLITS = ("train", "val", "test")

#: The first words of every vocabulary, by their ids.
SPECIALS = ("<pad>", "<s>", "</s>", "<unk>")
PAD, START, END, UNKNOWN = range(len(SPECIALS))

RECORD_BYTES = 1 << 20  # of the record beside prepared arrays, at most


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
        text = read_bytes(record, RECORD_BYTES)
        try:
            return cls(DataInfo.from_json(json.loads(text)), path)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError, MemoryError) as error:
            raise UserError(f"{record} is damaged; remove it and run again") from error

    def arrays(self) -> dict[str, np.ndarray]:
        """Everything in the file; ``UserError`` where it is damaged, or not what the record describes."""
        try:
            with open_or_user_error(self.path, sys.maxsize) as file:
                arrays = read_arrays(file)
        except UserError:
            raise
        except Exception as error:
            raise UserError(f"{self.path} is damaged; remove it and run again") from error
        if fingerprint(arrays) != self.info.fingerprint:
            raise UserError(f"{self.path} is not what the record beside it describes; remove it and run again")
        return arrays


def fingerprint(arrays: Mapping[str, np.ndarray]) -> str:
    """SHA-256 over names, types, shapes and bytes of the arrays, in the order of their names."""
    digest = hashlib.sha256()
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        digest.update(f"{name} {array.dtype.str} {array.shape}\n".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()
