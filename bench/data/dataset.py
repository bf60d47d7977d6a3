"""Description and prepared arrays of a data set. No torch."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import field, replace
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import ConfigDict, TypeAdapter
from pydantic.dataclasses import dataclass

from bench.core.errors import UserError
from bench.core.files import read_arrays, read_json

SPLITS = ("train", "val", "test")

#: The special tokens, which come first in every vocabulary, and their ids.
SPECIALS = ("<pad>", "<s>", "</s>", "<unk>")
PAD, START, END, UNKNOWN = range(len(SPECIALS))

Modality = Literal["image", "text", "vector"]
#: Kind of the values of images and vectors; "intensity": 8-bit values divided by 255.
Values = Literal["binary", "intensity", "real", "count"]

#: A footnote of image data sets.
BINARISATION_NOTE = "Training images are binarised at every use, validation and test images once with a fixed seed."


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class DataInfo:
    """Description of a data set, for tables, plans and cell identities."""

    name: str  #: As given to ``--dataset``: "omniglot".
    title: str  #: As printed in tables: "omniglot (Lake 28×28)".
    modality: Modality
    unit: str  #: Unit of the likelihood: "nats per image".
    shape: tuple[int, ...]  #: Shape of one example: (28, 28), or (length of the longest row,).
    sizes: Mapping[str, int] = field(default_factory=dict)  #: Number of examples per split; set by ``cached``.
    fingerprint: str = ""  #: SHA-256 of the prepared arrays, whatever their source; set by ``cached``.
    source: str = ""  #: Origin of the data in a few words.
    notes: tuple[str, ...] = ()  #: Footnotes of every table on this data set.
    vocabulary: int = 0  #: Text: vocabulary size, special tokens included.
    protocol: str = ""  #: Section of the presets for this data set, if not the one of its modality.
    values: Values = "binary"  #: Kind of the values; of no meaning for text.

    def with_intensities(self) -> DataInfo:
        """Return the description of the same images with 8-bit values, which are not binarised."""
        notes = tuple(note for note in self.notes if note != BINARISATION_NOTE)
        return replace(self, values="intensity", notes=notes)


@dataclass(frozen=True)
class Prepared:
    """A data set in the cache: its description and the ``.npz`` file with its arrays.

    Image data: ``train``, ``val``, ``test``: float32 ``[N, S, S]``, Bernoulli means in [0, 1] (ink = 1), or uint8
    ``[N, 3, S, S]`` in colour.
    Text data: ``train``, ``val``, ``test``: int32 ``[N, L]``, rows ``<s> w1 … wn </s>`` padded with ``<pad>`` to the
    longest row of all splits; ``vocabulary``: str ``[V]``, ``SPECIALS``, then words by decreasing frequency in train.
    Vectors: ``train``, ``val``, ``test``: float32 ``[N, D]``; counts are whole numbers.
    Text and vectors, if the distribution is known: ``test_nll``: float64 ``[N]``, the exact -log p(x) of every test
    example.
    Labels, if any: ``train_labels`` …: int64 ``[N]``, indices into ``label_names``: str ``[L]``.
    """

    info: DataInfo
    path: Path

    @classmethod
    def read(cls, path: Path) -> Prepared | None:
        """Return the data set at ``path``, described by the JSON file next to it; None if one is missing or damaged."""
        try:
            info = TypeAdapter(DataInfo).validate_python(read_json(path.with_suffix(".json")))
        except (OSError, ValueError):
            return None
        return cls(info, path) if path.is_file() else None

    def arrays(self) -> dict[str, np.ndarray]:
        """Return all arrays; ``UserError`` if the file is damaged or does not have the fingerprint."""
        try:
            arrays = read_arrays(self.path)
        except Exception as error:  # zipfile, zlib and NumPy raise many types
            raise UserError(f"{self.path} is damaged; remove it and run again") from error
        if fingerprint(arrays) != self.info.fingerprint:
            raise UserError(f"{self.path} does not match its record; remove it and run again")
        return arrays


def fingerprint(arrays: Mapping[str, np.ndarray]) -> str:
    """Return the SHA-256 over names, types, shapes and bytes of the arrays, in alphabetical order of their names."""
    digest = hashlib.sha256()
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        digest.update(f"{name} {array.dtype.str} {array.shape}\n".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()
