"""Images published like MNIST: 60,000 training and 10,000 test images of 28×28 with labels, in four files."""

from __future__ import annotations

import gzip
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bench.core.errors import UserError
from bench.core.files import read_bytes
from bench.core.hashing import short_hash
from bench.data.cache import cached
from bench.data.dataset import BINARISATION_NOTE, DataInfo, Prepared
from bench.data.datasets._common import hash_shuffled
from bench.data.download import download, has_digest

PARTS = {"train": 60_000, "t10k": 10_000}  # first part of the names of the files; images
VALIDATION = 10_000
PREPARATION_VERSION = 1  # increase when the same files give different arrays


@dataclass(frozen=True)
class PublishedImages:
    """A data set of the files ``{train,t10k}-{images-idx3,labels-idx1}-ubyte.gz``."""

    name: str
    title: str
    source: str
    url: str  #: Of the folder of the files.
    digests: Mapping[str, str]  #: SHA-256 by file.
    folders: Sequence[str]  #: Where the files may be, relative to the data folder.
    label_names: Sequence[str]

    def prepare(self, data_dir: Path | None, cache: Path) -> Prepared:
        """Prepare the files of ``data_dir``, or else the downloaded ones; ``UserError`` if neither are usable."""

        def build() -> tuple[DataInfo, Mapping[str, np.ndarray]]:
            return self._info(), self._arrays({name: self._content(name, data_dir, cache) for name in self.digests})

        return cached(cache, f"{self.name}-{short_hash(self.digests, 16)}-r{PREPARATION_VERSION}", build)

    def _content(self, name: str, data_dir: Path | None, cache: Path) -> bytes:
        """Return the content of one file, verified."""
        paths = [data_dir / folder / name for folder in self.folders] if data_dir else []
        path = next((path for path in paths if path.exists()), None)
        if path is None:
            folder = f"DATA_DIR/{self.folders[0]}/"
            remedy = f"Put {', '.join(self.digests)} into {folder} and pass DATA_DIR as --data-dir or BENCH_DATA_DIR"
            searched = data_dir / self.folders[0] if data_dir else None
            path = cache / f"{self.name}-{name}"
            download(path, self.url + name, self.digests[name], self.name, searched, remedy)
        content = read_bytes(path)
        if not has_digest(content, self.digests[name]):
            raise UserError(f"{path} is not the published file; download it again from {self.url}{name}")
        return content

    def _info(self) -> DataInfo:
        split = f"The validation set is {VALIDATION:,} of the published training images, drawn with a fixed seed."
        return DataInfo(
            self.name,
            self.title,
            "image",
            "nats per image",
            (28, 28),
            source=self.source,
            notes=(split, BINARISATION_NOTE),
        )

    def _arrays(self, contents: Mapping[str, bytes]) -> dict[str, np.ndarray]:
        """Return the arrays of ``Prepared``; both parts are shuffled: the first images of a file are not typical."""
        means, labels = {}, {}
        for part, count in PARTS.items():
            order = hash_shuffled([f"{self.name} {part} {index}" for index in range(count)])
            images = read_idx(contents[f"{part}-images-idx3-ubyte.gz"])[order]
            means[part] = images.astype(np.float32) / np.float32(255)
            labels[part] = read_idx(contents[f"{part}-labels-idx1-ubyte.gz"])[order].astype(np.int64)
        return {
            "train": means["train"][:-VALIDATION],
            "val": means["train"][-VALIDATION:],
            "test": means["t10k"],
            "train_labels": labels["train"][:-VALIDATION],
            "val_labels": labels["train"][-VALIDATION:],
            "test_labels": labels["t10k"],
            "label_names": np.array(self.label_names),
        }


def read_idx(content: bytes) -> np.ndarray:
    """Return the array of a compressed file in the IDX format of MNIST: uint8."""
    data = gzip.decompress(content)
    if data[:3] != b"\0\0\x08":
        raise ValueError("not an IDX file of bytes")
    start = 4 + 4 * data[3]  # after the number of dimensions and the dimensions
    return np.frombuffer(data, np.uint8, offset=start).reshape(np.frombuffer(data[4:start], ">u4"))
