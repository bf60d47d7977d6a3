"""OMNIGLOT: Burda's and Lake's files, area averaging, splits, and damaged files."""

from __future__ import annotations

import io
import os
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from bench.core.config import ImageModelConfig
from bench.core.errors import UserError
from bench.data.dataset import SPLITS, fingerprint
from bench.data.datasets import omniglot
from bench.data.tensors import load
from tests.data.helpers import damaged, file_names


@pytest.fixture
def lake(tmp_path, monkeypatch):
    """A data directory with Lake's zips of 2 × 6 random drawings, and the drawings by name."""
    monkeypatch.setattr(omniglot, "LAKE_COUNTS", {"images_background": 6, "images_evaluation": 6})
    monkeypatch.setattr(omniglot, "LAKE_SIZES", {"train": 7, "val": 2, "test": 3})
    random = np.random.default_rng(0)
    drawings = {
        f"{stem}/Alphabet_{stem[7]}{n % 2}/character{n:02}/{n:04}_01.png": random.random((105, 105)) < 0.1
        for stem in omniglot.LAKE_COUNTS
        for n in range(6)
    }
    write_zips(tmp_path / "data" / "omniglot", drawings)
    return tmp_path / "data", drawings


def write_zips(folder: Path, drawings: dict[str, np.ndarray]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for stem in omniglot.LAKE_COUNTS:
        with zipfile.ZipFile(folder / f"{stem}.zip", "w") as archive:
            archive.writestr(f"{stem}/", b"")
            for name, ink in drawings.items():
                if name.startswith(stem):
                    archive.writestr(name, png(ink))


def png(ink: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(~ink).convert("1").save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture
def burda(tmp_path, monkeypatch):
    """A data directory with a ``chardata.mat`` of 11 + 4 images, and its contents."""
    monkeypatch.setattr(omniglot, "BURDA_VALIDATION", 3)
    random = np.random.default_rng(1)
    mat = {"data": random.random((784, 11)), "testdata": random.random((784, 4))}
    mat |= {"target": np.eye(5)[:, random.integers(5, size=11)], "testtarget": np.eye(5)[:, random.integers(5, size=4)]}
    (tmp_path / "data" / "omniglot").mkdir(parents=True)
    path = tmp_path / "data" / "omniglot" / "chardata.mat"
    savemat(path, mat)
    monkeypatch.setattr(omniglot, "CHARDATA_BLOB", omniglot.git_blob_sha1(path.read_bytes()))
    return tmp_path / "data", mat


def test_area_averaging_agrees_with_subpixels():
    drawings = np.random.default_rng(0).random((5, 105, 105)) < 0.3
    subpixels = np.kron(drawings, np.ones((1, 4, 4)))  # 420 = 15 × 28
    expected = subpixels.reshape(5, 28, 15, 28, 15).mean(axis=(2, 4))
    np.testing.assert_array_equal(omniglot.area_average(drawings), expected.astype(np.float32))


def test_lake(lake, tmp_path):
    data_dir, drawings = lake
    prepared = omniglot.prepare(data_dir, tmp_path / "cache")
    arrays = prepared.arrays()
    assert prepared.info.title == "omniglot (Lake 28×28)" and prepared.info.sizes == {"train": 7, "val": 2, "test": 3}
    assert prepared.info.fingerprint == fingerprint(arrays)
    means = omniglot.area_average(np.stack([*drawings.values()]))
    names = {mean.tobytes(): name for name, mean in zip(drawings, means, strict=True)}
    order = [names[image.tobytes()] for split in SPLITS for image in arrays[split]]
    assert sorted(order) == sorted(drawings)  # every drawing once
    labels = [arrays["label_names"][label] for split in SPLITS for label in arrays[f"{split}_labels"]]
    assert labels == [name.split("/")[1] for name in order]


def test_lake_split_does_not_depend_on_the_archive(lake, tmp_path):
    data_dir, drawings = lake
    first = omniglot.prepare(data_dir, tmp_path / "cache")
    write_zips(tmp_path / "other" / "omniglot", dict(reversed(drawings.items())))
    second = omniglot.prepare(tmp_path / "other", tmp_path / "cache")
    assert first.path != second.path and first.info.fingerprint == second.info.fingerprint


@pytest.mark.parametrize("place", ["omniglot", "omniglot-py"])
def test_extracted_lake_drawings_are_the_same_data(place, lake, tmp_path):
    data_dir, drawings = lake
    expected = omniglot.prepare(data_dir, tmp_path / "cache")
    for stem in omniglot.LAKE_COUNTS:
        with zipfile.ZipFile(data_dir / "omniglot" / f"{stem}.zip") as archive:
            archive.extractall(tmp_path / "other" / place)
    (tmp_path / "other" / place / "images_background" / "notes.png").write_text("ignored")
    data = omniglot.prepare(tmp_path / "other", tmp_path / "cache")
    assert data.info == expected.info and data.path != expected.path
    name = next(iter(drawings))
    (tmp_path / "other" / place / name).write_bytes(png(~drawings[name]))
    assert omniglot.prepare(tmp_path / "other", tmp_path / "cache").info.fingerprint != expected.info.fingerprint


def test_burda(burda, tmp_path):
    data_dir, mat = burda
    prepared = omniglot.prepare(data_dir, tmp_path / "cache")
    assert prepared.info.title == "omniglot (Burda 28×28)" and prepared.info.sizes == {"train": 8, "val": 3, "test": 4}
    arrays = prepared.arrays()
    columns = {c.reshape(28, 28, order="F").astype(np.float32).tobytes(): k for k, c in enumerate(mat["data"].T)}
    order = [columns[image.tobytes()] for split in ("train", "val") for image in arrays[split]]
    assert sorted(order) == list(range(11))
    labels = np.concatenate([arrays["train_labels"], arrays["val_labels"]])
    np.testing.assert_array_equal(labels, mat["target"].argmax(axis=0)[order])


@pytest.mark.parametrize(("source", "name"), [("burda", "chardata.mat"), ("lake", "images_background.zip")])
def test_damaged_files(source, name, request, tmp_path, subtests):
    data_dir, _ = request.getfixturevalue(source)
    path = data_dir / "omniglot" / name
    for kind, content in damaged(path.read_bytes()).items():
        with subtests.test(kind=kind):
            path.write_bytes(content)
            with pytest.raises(UserError, match=rf"{name}.* again from"):
                omniglot.prepare(data_dir, tmp_path / "cache")
            assert file_names(tmp_path / "cache") == []


def test_lake_zips_with_other_content(lake, tmp_path):
    data_dir, drawings = lake
    folder, name = data_dir / "omniglot", next(iter(drawings))
    write_zips(folder, {key: ink for key, ink in drawings.items() if key != name})
    with pytest.raises(UserError, match="images_background.zip has 5 drawings, not 6"):
        omniglot.prepare(data_dir, tmp_path / "cache")
    (folder / "images_evaluation.zip").unlink()
    with pytest.raises(UserError, match="images_evaluation.zip is missing"):
        omniglot.prepare(data_dir, tmp_path / "cache")


@pytest.mark.slow
def test_real_omniglot(tmp_path):
    data_dir = os.environ.get("BENCH_DATA_DIR")
    if not (data_dir and (Path(data_dir) / "omniglot").exists()):
        pytest.skip("BENCH_DATA_DIR has no omniglot")
    prepared = omniglot.prepare(Path(data_dir), tmp_path)
    data = load(prepared, ImageModelConfig())
    assert sum(prepared.info.sizes.values()) in (32_460, 32_415)
    assert len(prepared.arrays()["label_names"]) == 50
    assert 0.05 < data.train.mean() < 0.2  # ink is 1
    assert 120 < data.references(None)["independent_pixels"] < 250
