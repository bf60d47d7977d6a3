"""Data sets: what is read, how it is averaged, split and binarised, and what happens to damaged files."""

from __future__ import annotations

import io
import itertools
import math
import os
import unicodedata
import zipfile
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib import ft2font
from PIL import Image
from scipy.io import savemat
from scipy.sparse import csc_array

from bench.core.config import ImageModelConfig
from bench.core.errors import UserError
from bench.data import dataset as datasets
from bench.data import download as _download
from bench.data import image
from bench.data.cache import cached
from bench.data.dataset import DataInfo
from bench.data.datasets import glyphs, omniglot
from bench.data.tensors import load

SPLITS = ("train", "val", "test")


def arrays_of(prepared):
    with np.load(prepared.path, allow_pickle=False) as file:
        return {name: file[name] for name in file.files}


def files_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*")) if folder.exists() else []


# ---- a small OMNIGLOT of each kind


@pytest.fixture
def lake(tmp_path, monkeypatch):
    """A data directory with Lake's two zips: 2 × 6 random drawings; and the same drawings by name."""
    monkeypatch.setattr(omniglot, "LAKE_COUNTS", {"images_background": 6, "images_evaluation": 6})
    monkeypatch.setattr(omniglot, "LAKE_SIZES", {"train": 7, "val": 2, "test": 3})
    rng = np.random.default_rng(0)
    drawings = {
        f"{stem}/Alphabet_{stem[7]}{character % 2}/character{character:02}/{character:04}_01.png": rng.random(
            (105, 105)
        )
        < 0.1
        for stem in omniglot.LAKE_COUNTS
        for character in range(6)
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
    monkeypatch.setattr(omniglot, "BURDA_COUNTS", (11, 4))
    monkeypatch.setattr(omniglot, "BURDA_VALIDATION", 3)
    rng = np.random.default_rng(1)
    mat = {"data": rng.random((784, 11)), "testdata": rng.random((784, 4))}
    mat |= {"target": np.eye(5)[:, rng.integers(5, size=11)], "testtarget": np.eye(5)[:, rng.integers(5, size=4)]}
    folder = tmp_path / "data" / "omniglot"
    folder.mkdir(parents=True)
    savemat(folder / "chardata.mat", mat)
    return tmp_path / "data", mat


@pytest.fixture
def no_network(monkeypatch):
    def fail(self):
        raise OSError("Network is unreachable")

    monkeypatch.setattr(_download.Transfer, "_run", fail)


# ---- area averaging, pooling, binarisation


def test_area_averaging_agrees_with_exact_subpixels():
    drawings = np.random.default_rng(0).random((5, 105, 105)) < 0.3
    subpixels = np.kron(drawings, np.ones((1, 4, 4)))  # 420 = 15 × 28
    expected = subpixels.reshape(5, 28, 15, 28, 15).mean(axis=(2, 4))
    means = omniglot.area_average(drawings)
    assert means.dtype == np.float32
    np.testing.assert_array_equal(means, expected.astype(np.float32))


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 30), st.integers(1, 40), st.integers(0, 2**32 - 1))
def test_area_averaging_keeps_the_range_and_the_ink(size, scale, seed):
    side = size + scale
    drawings = np.random.default_rng(seed).random((2, side, side)) < 0.5
    means = omniglot.area_average(drawings, size)
    assert means.min() >= 0 and means.max() <= 1 + 1e-6
    np.testing.assert_allclose(means.mean(axis=(1, 2)), drawings.mean(axis=(1, 2)), rtol=1e-5)


def test_pooling():
    means = np.random.default_rng(0).random((3, 28, 28)).astype(np.float32)
    corners = [means[:, row::2, column::2].astype(float) for row in (0, 1) for column in (0, 1)]
    np.testing.assert_allclose(image.pool(means, 14), sum(corners) / 4, rtol=1e-6)
    np.testing.assert_allclose(image.pool(means, 14, "any"), 1 - np.prod([1 - c for c in corners], axis=0), rtol=1e-6)
    assert image.pool(means, 28) is means
    with pytest.raises(ValueError, match="does not divide"):
        image.pool(means, 13)
    with pytest.raises(ValueError, match="mean, any"):
        image.pool(means, 14, "median")


def test_binarisation_is_fixed_and_follows_the_means():
    means = np.tile(np.array([0, 0.25, 1], np.float32), (40_000, 1))
    bits = image.binarise(means, stream=1)
    np.testing.assert_array_equal(bits, image.binarise(means, stream=1))
    assert (bits != image.binarise(means, stream=2)).any()
    assert bits[:, 0].max() == 0 and bits[:, 2].min() == 1
    assert bits[:, 1].mean() == pytest.approx(0.25, abs=4 * np.sqrt(0.25 * 0.75 / 40_000))
    # The very bits, so that a change of generator cannot go unnoticed.
    bits = image.binarise(np.full(16, 0.5, np.float32), stream=1)
    assert bits.astype(int).tolist() == [0, 0, 0, 1, 0, 0, 1, 1, 1, 0, 0, 1, 1, 0, 1, 0]


# ---- OMNIGLOT


def test_lake(lake, tmp_path):
    data_dir, drawings = lake
    prepared = omniglot.prepare(data_dir, tmp_path / "cache")
    arrays = arrays_of(prepared)
    assert prepared.info.title == "omniglot (Lake 28×28)"
    assert prepared.info.sizes == {"train": 7, "val": 2, "test": 3}
    assert prepared.info.fingerprint == datasets.fingerprint(arrays)
    means = omniglot.area_average(np.stack([*drawings.values()]))
    names = {mean.tobytes(): name for name, mean in zip(drawings, means, strict=True)}
    found = [names[image.tobytes()] for split in SPLITS for image in arrays[split]]
    assert sorted(found) == sorted(drawings)  # every drawing once
    labels = [arrays["label_names"][label] for split in SPLITS for label in arrays[f"{split}_labels"]]
    assert labels == [name.split("/")[1] for name in found]


def test_lake_depends_on_the_drawings_and_not_on_the_archive(lake, tmp_path):
    data_dir, drawings = lake
    first = omniglot.prepare(data_dir, tmp_path / "cache")
    write_zips(tmp_path / "other" / "omniglot", dict(reversed(drawings.items())))
    second = omniglot.prepare(tmp_path / "other", tmp_path / "cache")
    assert first.path != second.path and first.info.fingerprint == second.info.fingerprint


def test_a_second_preparation_decodes_nothing(lake, tmp_path, monkeypatch):
    first = omniglot.prepare(lake[0], tmp_path / "cache")
    monkeypatch.setattr(omniglot, "_drawings", None)
    assert omniglot.prepare(lake[0], tmp_path / "cache") == first


def test_burda(burda, tmp_path, monkeypatch):
    data_dir, mat = burda
    prepared = omniglot.prepare(data_dir, tmp_path / "cache")
    assert "unverified" in prepared.info.title and "not the published file" in prepared.info.notes[0]
    content = (data_dir / "omniglot" / "chardata.mat").read_bytes()
    monkeypatch.setattr(omniglot, "CHARDATA_BLOB", omniglot.git_blob_sha1(content))
    prepared = omniglot.prepare(data_dir, tmp_path / "cache2")
    assert prepared.info.title == "omniglot (Burda 28×28)"
    assert prepared.info.sizes == {"train": 8, "val": 3, "test": 4}
    arrays = arrays_of(prepared)
    columns = {
        column.reshape(28, 28, order="F").astype(np.float32).tobytes(): k for k, column in enumerate(mat["data"].T)
    }
    order = [columns[image.tobytes()] for split in ("train", "val") for image in arrays[split]]
    assert sorted(order) == list(range(11))
    labels = np.concatenate([arrays["train_labels"], arrays["val_labels"]])
    np.testing.assert_array_equal(labels, mat["target"].argmax(axis=0)[order])


def test_burda_wins_over_lake(burda, lake, tmp_path):
    assert "chardata" in omniglot.prepare(burda[0], tmp_path / "cache").info.source


def test_the_git_blob_name_is_gits():
    assert omniglot.git_blob_sha1(b"hello\n") == "ce013625030ba8dba906f756967f9e9ca394464a"


def test_without_data_or_network(no_network, tmp_path):
    with pytest.raises(UserError) as error:
        omniglot.prepare(tmp_path / "data", tmp_path / "cache")
    for part in (omniglot.CHARDATA_URL, "Network is unreachable", "DATA_DIR/omniglot/", "images_background.zip",
                 "--data-dir", "BENCH_DATA_DIR", "--dataset glyphs", str(tmp_path / "data")):  # fmt: skip
        assert part in str(error.value)
    assert "\n" not in str(error.value)
    with pytest.raises(UserError, match="no data directory given"):
        omniglot.prepare(None, tmp_path / "cache")
    assert files_in(tmp_path / "cache") == []


def test_a_download_that_is_not_the_published_file_is_refused(burda, tmp_path, monkeypatch):
    content = (burda[0] / "omniglot" / "chardata.mat").read_bytes()
    monkeypatch.setattr(_download.Transfer, "_run", lambda self: self.file.write(content))
    with pytest.raises(UserError, match="not the published file"):
        omniglot.prepare(None, tmp_path / "cache")
    assert files_in(tmp_path / "cache") == []
    monkeypatch.setattr(omniglot, "CHARDATA_BLOB", omniglot.git_blob_sha1(content))
    first = omniglot.prepare(None, tmp_path / "cache")
    monkeypatch.setattr(_download.Transfer, "_run", None)  # now it is there
    assert omniglot.prepare(None, tmp_path / "cache") == first


@pytest.mark.parametrize("damage", ["empty", "noise", "truncated", "flipped"])
@pytest.mark.parametrize("kind", ["chardata.mat", "images_background.zip"])
def test_damaged_files(kind, damage, request, tmp_path):
    data_dir, _ = request.getfixturevalue("burda" if kind == "chardata.mat" else "lake")
    path = data_dir / "omniglot" / kind
    content = path.read_bytes()
    noise = np.random.default_rng(0).bytes(5000)
    # The bit flips hit the header that says what follows, or a compressed drawing.
    flipped = bytes(byte ^ 0xFF if 128 <= at < 160 else byte for at, byte in enumerate(content))
    damaged = {"empty": b"", "noise": noise, "truncated": content[: len(content) // 2], "flipped": flipped}
    path.write_bytes(damaged[damage])
    with pytest.raises(UserError, match=kind.replace(".", r"\.")) as error:
        omniglot.prepare(data_dir, tmp_path / "cache")
    assert "again" in str(error.value) and "\n" not in str(error.value)
    assert files_in(tmp_path / "cache") == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"data": None}, "data is missing"),
        ({"data": np.zeros((784, 12))}, r"\(784, 12\), not numbers 784×11"),
        ({"data": np.zeros((78, 11))}, r"\(78, 11\), not numbers 784×11"),
        ({"data": csc_array((784, 11))}, "no MATLAB file of arrays"),
        ({"testdata": np.full((784, 4), 255.0)}, r"testdata has values outside \[0, 1\]"),
        ({"data": np.full((784, 11), np.nan)}, r"data has values outside \[0, 1\]"),
        ({"data": np.full((784, 11), "x", dtype=object)}, "no MATLAB file of arrays"),
        ({"target": np.zeros((5, 7))}, "target is not one-hot"),
        ({"target": np.zeros((0, 11))}, "target is not one-hot"),
        ({"testtarget": None}, "testtarget is not one-hot"),
    ],
)
def test_chardata_of_another_structure(burda, change, message, tmp_path):
    data_dir, mat = burda
    mat = {key: value for key, value in (mat | change).items() if value is not None}
    savemat(data_dir / "omniglot" / "chardata.mat", mat)
    with pytest.raises(UserError, match=message):
        omniglot.prepare(data_dir, tmp_path / "cache")
    assert files_in(tmp_path / "cache") == []


def test_lakes_zips_of_another_content(lake, tmp_path):
    data_dir, drawings = lake
    folder, name = data_dir / "omniglot", next(iter(drawings))
    write_zips(folder, {key: value for key, value in drawings.items() if key != name})
    with pytest.raises(UserError, match="images_background.zip holds 5 drawings, not 6"):
        omniglot.prepare(data_dir, tmp_path / "cache")
    write_zips(folder, drawings | {name: np.zeros((28, 28), bool)})
    with pytest.raises(UserError, match="is 28×28"):
        omniglot.prepare(data_dir, tmp_path / "cache")
    with zipfile.ZipFile(folder / "images_background.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for key in drawings:
            archive.writestr(key, bytes(10_000_000) if key == name else png(drawings[key]))
    with pytest.raises(UserError, match="no 105×105 drawing"):
        omniglot.prepare(data_dir, tmp_path / "cache")
    (folder / "images_evaluation.zip").unlink()
    with pytest.raises(UserError, match="images_evaluation.zip is missing"):
        omniglot.prepare(data_dir, tmp_path / "cache")
    assert files_in(tmp_path / "cache") == []


@pytest.mark.slow
def test_real_omniglot(tmp_path):
    data_dir = os.environ.get("BENCH_DATA_DIR")
    if not (data_dir and (Path(data_dir) / "omniglot").exists()):
        pytest.skip("BENCH_DATA_DIR holds no omniglot")
    prepared = omniglot.prepare(Path(data_dir), tmp_path)
    data = load(prepared, ImageModelConfig())
    assert sum(prepared.info.sizes.values()) in (32_460, 32_415)
    assert len(data.label_names) == 50
    assert 0.05 < data.train.mean() < 0.2  # ink is 1
    assert 120 < data.independent_pixels_nll() < 250


# ---- glyphs


@pytest.fixture(scope="module")
def glyph_set(tmp_path_factory):
    prepared = glyphs.prepare(None, tmp_path_factory.mktemp("cache"))
    return prepared, arrays_of(prepared)


def test_glyphs_are_many_and_all_different(glyph_set):
    prepared, arrays = glyph_set
    everything = np.concatenate([arrays[split] for split in SPLITS])
    assert len(everything) >= 20_000
    assert len({image.tobytes() for image in everything}) == len(everything)
    assert everything.dtype == np.float32 and everything.min() == 0 and everything.max() == 1
    assert everything.max(axis=(1, 2)).min() > 0  # none empty
    shares = np.array(list(prepared.info.sizes.values())) / len(everything)
    np.testing.assert_allclose(shares, [0.8, 0.1, 0.1], atol=0.02)


def test_no_character_is_in_two_splits(glyph_set):
    _, arrays = glyph_set
    train, val, test = (set(arrays[f"{split}_characters"].tolist()) for split in SPLITS)
    assert not (train & val or train & test or val & test)
    splits = [split for split in SPLITS for letter in "AEHK" if ord(letter) in arrays[f"{split}_characters"]]
    assert len(splits) == 4


def test_characters_that_some_font_draws_alike_are_together():
    a, b, c, d = (np.full((60, width), 255, np.uint8) for width in (10, 20, 30, 40))
    fonts = {"1.ttf": [(1, a), (2, b), (3, c), (4, d)], "2.ttf": [(2, a), (3, b)]}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(glyphs, "FONTS", tuple(fonts))
        patch.setattr(glyphs, "_characters", lambda path: iter(fonts[path.name]))
        pictures, characters, groups = glyphs.render(Path())
    assert len(pictures) == 4 and characters.tolist() == [1, 2, 3, 4] and groups.tolist() == [1, 1, 1, 4]


def test_glyphs_are_centred_and_labelled_by_block(glyph_set):
    _, arrays = glyph_set
    for split in SPLITS:
        names = arrays["label_names"][arrays[f"{split}_labels"]]
        characters = arrays[f"{split}_characters"]
        assert set(names[(0x400 <= characters) & (characters <= 0x4FF)]) == {"Cyrillic"}
        assert "other" not in names
        rows, columns = arrays[split].any(axis=2), arrays[split].any(axis=1)
        for profile in (rows, columns):
            before, after = profile.argmax(axis=1), profile[:, ::-1].argmax(axis=1)
            assert np.abs(before - after).max() <= 1 and before.min() >= (28 - glyphs.BOX) // 2


def test_glyphs_again_are_the_same(glyph_set, tmp_path, monkeypatch):
    prepared, _ = glyph_set
    assert glyphs.prepare(tmp_path, prepared.path.parent) == prepared
    monkeypatch.setattr(glyphs, "FONTS", glyphs.FONTS[-2:])
    first, second = (glyphs.prepare(None, tmp_path / name) for name in ("one", "two"))
    assert first.path.name == second.path.name != prepared.path.name
    assert first.info.fingerprint == second.info.fingerprint != prepared.info.fingerprint


def test_a_glyph_is_rounded_as_fractions_are():
    """Cut evenly, ink of 0 and 255 leaves many means on a half, where the last bit of a product would decide."""
    random = np.random.default_rng(0)
    for rows, columns in ((96, 41), (44, 66), (22, 7), (5, 90)):
        ink = 255 * random.integers(0, 2, (rows, columns), np.uint8)
        pitch = max(Fraction(max(rows, columns), glyphs.BOX), Fraction(glyphs.EM, glyphs.LARGEST_EM))

        def areas(length, pitch=pitch):
            edges = [(length - glyphs.SIZE * pitch) / 2 + pitch * cell for cell in range(glyphs.SIZE + 1)]
            cells = list(itertools.pairwise(edges))
            return np.array([[max(Fraction(), min(high, p + 1) - max(low, p)) for p in range(length)]
                             for low, high in cells])  # fmt: skip

        means = areas(rows) @ ink.astype(object) @ areas(columns).T / pitch**2
        expected = [[math.floor(mean + Fraction(1, 2)) for mean in row] for row in means]
        np.testing.assert_array_equal(glyphs._fit(ink), expected)


@pytest.mark.skipif(
    (ft2font.__freetype_version__, unicodedata.unidata_version) != ("2.14.3", "14.0.0"),
    reason="another FreeType draws other glyphs, and another Unicode knows other characters",
)
def test_glyphs_are_the_same_on_every_machine(glyph_set):
    """What records of published results name; it was not, where a product of fractions met a half."""
    assert glyph_set[0].info.fingerprint[:12] == "efaf91919172"


# ---- as tensors


def toy(tmp_path, train, test) -> datasets.Prepared:
    fields = {"name": "toy", "title": "toy", "modality": "image", "unit": "nats per image", "source": "here"}
    arrays = {"train": train, "val": test, "test": test}
    arrays = {split: array.astype(np.float32) for split, array in arrays.items()}
    return cached(tmp_path, "toy", lambda: (fields | {"shape": train.shape[1:]}, arrays))


def test_loading(tmp_path, lake):
    data = load(omniglot.prepare(lake[0], tmp_path / "cache"), ImageModelConfig(image_size=14))
    assert data.train.shape == (7, 14, 14) and data.val.shape == (2, 1, 14, 14) and data.test.shape == (3, 1, 14, 14)
    assert set(data.test.unique().tolist()) == {0.0, 1.0}
    assert (data.train.shape[-1], data.info.shape, data.info.name, data.info.modality) == (
        14,
        (14, 14),
        "omniglot",
        "image",
    )
    assert "14×14" in data.info.notes[-1]
    assert [len(data.labels[split]) for split in SPLITS] == [7, 2, 3] and len(data.label_names) == 4
    again = load(omniglot.prepare(lake[0], tmp_path / "cache"), ImageModelConfig(image_size=14)).to("cpu")
    assert torch.equal(data.test, again.test) and torch.equal(data.val, again.val)


def test_batches_are_binarised_afresh_and_reproducible(tmp_path):
    train = np.random.default_rng(0).random((4, 6, 6))
    train[:, 0], train[:, 1] = 0, 1
    data = load(toy(tmp_path, train, train), ImageModelConfig(image_size=6))
    generator = torch.Generator().manual_seed(1)
    index = torch.tensor([3, 0, 3])
    first, second = data.batch(index, generator), data.batch(index, generator)
    assert first.shape == (3, 1, 6, 6) and first.dtype == torch.float32
    assert not torch.equal(first, second) and not torch.equal(first[0], first[2])
    assert torch.equal(first, data.batch(index, torch.Generator().manual_seed(1)))
    assert first[:, :, 0].max() == 0 and first[:, :, 1].min() == 1
    many = data.batch(torch.full((20_000,), 2), generator).mean(dim=(0, 1))
    torch.testing.assert_close(many, data.train[2], atol=0.02, rtol=0)


def test_independent_pixels_by_hand(tmp_path):
    train = np.array([[[0.0, 1.0], [0.5, 0.25]], [[0.0, 1.0], [0.5, 0.75]]])
    test = np.array([[[0.0, 1.0], [1.0, 0.0]], [[1.0, 1.0], [0.0, 1.0]]])
    data = load(toy(tmp_path, train, test), ImageModelConfig(image_size=2))
    # Frequencies 0, 1, 1/2, 1/2, the first two held at 1/4 and 3/4.
    first = -2 * np.log(3 / 4) - 2 * np.log(1 / 2)
    second = -np.log(1 / 4) - np.log(3 / 4) - 2 * np.log(1 / 2)
    assert data.independent_pixels_nll(1) == pytest.approx(first, rel=1e-6)
    assert data.independent_pixels_nll() == pytest.approx((first + second) / 2, rel=1e-6)


# ---- the cache


def test_a_damaged_record_is_built_again_and_a_damaged_array_file_is_named(tmp_path):
    means = np.random.default_rng(0).random((3, 4, 4))
    prepared = toy(tmp_path, means, means)
    prepared.path.with_suffix(".json").write_text("{")
    assert toy(tmp_path, means, means) == prepared
    content = prepared.path.read_bytes()
    for damaged in (b"", b"PK" + bytes(50), content[: len(content) // 2], content[:200] + b"x" + content[201:]):
        prepared.path.write_bytes(damaged)
        with pytest.raises(UserError, match="toy.npz is damaged"):
            load(prepared, ImageModelConfig(image_size=4))


def test_a_cache_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    means = np.zeros((3, 4, 4))
    with pytest.raises(UserError, match="BENCH_CACHE"):
        toy(tmp_path / "file" / "cache", means, means)


def test_the_description_survives_json():
    info = DataInfo("a", "a", "image", "nats", (28, 28), {"train": 1}, "f", "s", ("note",))
    assert DataInfo.from_json(info.to_json()) == info
    assert isinstance(DataInfo.from_json(info.to_json() | {"shape": [28, 28]}).shape, tuple)


def test_the_fixed_shuffle():
    keys = [f"k{index}" for index in range(1000)]
    order = datasets.shuffled(keys)
    assert sorted(order) == list(range(1000)) and order.tolist() != list(range(1000))
    assert [keys[index] for index in order[:3]] == [sorted(keys, key=datasets.lot)[index] for index in range(3)]
    lots = np.array([datasets.lot(key) for key in keys])
    assert 0 <= lots.min() and lots.max() < 1 and abs(lots.mean() - 0.5) < 0.05
