"""MNIST and Fashion-MNIST: files in the IDX format, splits, labels, and other files than the published ones."""

import gzip
import hashlib
from pathlib import Path

import numpy as np
import pytest

from bench.core.errors import UserError
from bench.data.datasets import _idx, fashion_mnist, mnist
from tests.data.helpers import file_names

MODULES = pytest.mark.parametrize("module", [mnist, fashion_mnist])


def idx(array: np.ndarray) -> bytes:
    dimensions = np.array(array.shape, ">u4").tobytes()
    return gzip.compress(b"\0\0\x08" + bytes([array.ndim]) + dimensions + array.tobytes(), mtime=0)


@pytest.fixture
def arrays(monkeypatch):
    """Twelve training and five test images with their labels, by file, instead of the published ones."""
    monkeypatch.setattr(_idx, "PARTS", {"train": 12, "t10k": 5})
    monkeypatch.setattr(_idx, "VALIDATION", 4)
    random, arrays = np.random.default_rng(0), {}
    for part, count in _idx.PARTS.items():
        arrays[f"{part}-images-idx3-ubyte.gz"] = random.integers(0, 256, (count, 28, 28), np.uint8)
        arrays[f"{part}-labels-idx1-ubyte.gz"] = random.integers(0, 10, count, np.uint8)
    digests = {name: hashlib.sha256(idx(array)).hexdigest() for name, array in arrays.items()}
    for module in (mnist, fashion_mnist):
        monkeypatch.setitem(module.PUBLISHED.__dict__, "digests", digests)
    return arrays


def write(folder: Path, arrays: dict[str, np.ndarray]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, array in arrays.items():
        (folder / name).write_bytes(idx(array))


@MODULES
def test_images_and_labels(module, arrays, tmp_path):
    for number, folder in enumerate(module.PUBLISHED.folders):
        write(tmp_path / str(number) / folder, arrays)
        data = module.prepare(tmp_path / str(number), tmp_path / f"cache {number}")
        prepared = data.arrays()
        assert data.info.sizes == {"train": 8, "val": 4, "test": 5} and len(prepared["label_names"]) == 10
        for part, splits in (("train", ("train", "val")), ("t10k", ("test",))):
            images = arrays[f"{part}-images-idx3-ubyte.gz"].astype(np.float32) / np.float32(255)
            known = zip(images, arrays[f"{part}-labels-idx1-ubyte.gz"].tolist(), strict=True)
            stored = [pair for s in splits for pair in zip(prepared[s], prepared[f"{s}_labels"].tolist(), strict=True)]
            assert sorted((i.tobytes(), label) for i, label in stored) == sorted((i.tobytes(), n) for i, n in known)
            assert [i.tobytes() for i, _ in stored] != [i.tobytes() for i in images]  # shuffled


@MODULES
def test_other_files_are_refused(module, arrays, tmp_path):
    changed = {name: array ^ 1 for name, array in arrays.items()}
    write(tmp_path / module.PUBLISHED.folders[0], changed)
    with pytest.raises(UserError, match="train-images.*gz is not the published file; download it again from https"):
        module.prepare(tmp_path, tmp_path / "cache")
    assert file_names(tmp_path / "cache") == []


def test_idx_files_of_other_types():
    with pytest.raises(ValueError, match="not an IDX file of bytes"):
        _idx.read_idx(gzip.compress(b"\0\0\x0d\1" + bytes(8)))
