"""The user's images in an ``.npz`` file."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from bench.core.config import ImageModelConfig
from bench.core.errors import UserError
from bench.data import tensors, user_data
from bench.data.dataset import SPLITS
from bench.data.examples import image_inputs
from tests.data.helpers import damaged, file_names


@pytest.fixture
def images():
    random = np.random.default_rng(0)
    return {split: random.random((size, 12, 12)) for split, size in zip(SPLITS, (5, 2, 3), strict=True)}


def prepare(tmp_path, arrays):
    np.savez_compressed(tmp_path / "Shapes 1.npz", **arrays)
    return user_data.prepare(tmp_path / "Shapes 1.npz", tmp_path / "cache")


def test_images_and_labels(images, tmp_path):
    labels = {"train_labels": [3, 1, 3, 1, 1], "val_labels": [1, 3], "test_labels": [7, 1, 3]}
    prepared = prepare(tmp_path, images | labels)
    arrays, info = prepared.arrays(), prepared.info
    assert (info.name, info.title, info.shape) == ("shapes-1", "shapes-1 (12×12)", (12, 12))
    assert info.sizes == {"train": 5, "val": 2, "test": 3}
    for split in SPLITS:
        np.testing.assert_array_equal(arrays[split], images[split].astype(np.float32))
    assert arrays["label_names"].tolist() == ["1", "3", "7"] and arrays["test_labels"].tolist() == [2, 0, 1]


def test_long_file_names_leave_room_in_those_of_the_report(images, tmp_path):
    file = tmp_path / f"{'x' * 240}.npz"
    np.savez_compressed(file, **images)
    assert len(user_data.prepare(file, tmp_path / "cache").info.name) <= 100


def test_uint8_bool_and_channel_axis(images, tmp_path):
    grey = {split: np.rint(255 * array).astype(np.uint8) for split, array in images.items()}
    arrays = prepare(tmp_path, {split: array[:, None] for split, array in grey.items()}).arrays()
    np.testing.assert_array_equal(arrays["val"], (grey["val"] / 255).astype(np.float32))
    arrays = prepare(tmp_path, {split: array > 0.5 for split, array in images.items()}).arrays()
    assert arrays["test"].dtype == np.float32 and set(np.unique(arrays["test"])) == {0, 1}


@pytest.mark.parametrize(("height", "width"), [(12, 9), (9, 12), (1, 12)])
def test_other_images_are_padded_to_a_square(height, width, images, tmp_path):
    cropped = {split: array[:, :height, :width] for split, array in images.items()}
    prepared = prepare(tmp_path, cropped)
    top, left = (12 - height) // 2, (12 - width) // 2
    assert prepared.info.shape == (12, 12) and f"Images of {height}×{width}, padded" in prepared.info.notes[-1]
    for split, array in prepared.arrays().items():
        inside = array[:, top : top + height, left : left + width]
        np.testing.assert_array_equal(inside, cropped[split].astype(np.float32))
        assert array.sum() == pytest.approx(inside.sum())


@pytest.mark.parametrize("axis", [1, 3])
def test_colour_images_keep_their_8_bits(axis, tmp_path):
    random = np.random.default_rng(0)
    colour = {
        split: random.integers(0, 256, (size, 3, 6, 4), np.uint8) for split, size in zip(SPLITS, (5, 2, 3), strict=True)
    }
    colour["val"][:] = 1  # would be binary, if grey
    prepared = prepare(tmp_path, {split: np.moveaxis(array, 1, axis) for split, array in colour.items()})
    assert prepared.info.shape == (3, 6, 6) and prepared.info.values == "intensity"
    assert prepared.info.notes == ("Images of 6×4, padded with empty pixels to 6×6.",)
    model = ImageModelConfig(image_size=6, values="intensity")
    data = tensors.load(prepared, model)
    expected = np.pad(colour["test"], [(0, 0), (0, 0), (0, 0), (1, 1)])
    np.testing.assert_array_equal(255 * data.test, expected)
    assert data.batch(torch.arange(2), torch.Generator()).equal(data.train[:2])
    assert torch.equal(image_inputs(data.test, model, channels=3), data.test)
    halves = (255 * tensors.load(prepared, replace(model, image_size=3)).test).numpy()
    np.testing.assert_allclose(halves, halves.round(), atol=1e-4)
    np.testing.assert_allclose(halves, expected.reshape(3, 3, 3, 2, 3, 2).mean(axis=(3, 5)), atol=0.501)
    with pytest.raises(UserError, match="1 channels, the model takes 3"):
        image_inputs(np.zeros((2, 6, 6)), model, channels=3)


def test_grey_images_are_binarised_or_keep_their_8_bits(images, tmp_path):
    grey = {split: np.rint(255 * array).astype(np.uint8) for split, array in images.items()}
    prepared, model = prepare(tmp_path, grey), ImageModelConfig(image_size=12)
    assert {*tensors.load(prepared, model).test.unique().tolist()} == {0, 1}
    np.testing.assert_array_equal(
        255 * tensors.load(prepared, replace(model, values="intensity")).test[:, 0], grey["test"]
    )


def test_unusable_images(images, tmp_path, subtests):
    cases = [
        ({"val": None}, "no array val"),
        ({"val": np.zeros((2, 12, 11))}, "images of sizes 12×11, 12×12"),
        ({"val": np.zeros((2, 12, 12, 2))}, r"array val: shape \(2, 12, 12, 2\), .*; reshape them"),
        ({"val": np.zeros((0, 12, 12))}, r"array val: shape \(0, 12, 12\), no images; give at least one"),
        ({"test": np.zeros((2, 14, 14))}, "images of sizes 12×12, 14×14"),
        ({"test": np.full((2, 12, 12), 255.0)}, r"array test: values from 255 to 255, not in \[0, 1\]"),
        ({"train": np.full((2, 12, 12), np.nan)}, "array train: NaN among the values; replace it"),
        ({"train": np.ones((2, 12, 12), np.uint8)}, "array train: uint8 values 0 and 1"),
        ({"train": np.zeros((2, 12, 12), int)}, "array train: int64, not bool, floats"),
        ({"train": np.full((2, 12, 12), None)}, "is damaged or not an .npz file of arrays"),
        ({"train_labels": np.zeros(5, int)}, "labels only of train"),
        ({f"{split}_labels": np.zeros(4, int) for split in SPLITS}, r"train_labels: int64 \(4,\), not 5 integers"),
    ]
    for change, message in cases:
        with subtests.test(message=message):
            arrays = {name: array for name, array in (images | change).items() if array is not None}
            with pytest.raises(UserError, match=rf"Shapes 1\.npz.*{message}"):
                prepare(tmp_path, arrays)
            assert file_names(tmp_path / "cache") == []


def test_damaged_npz(images, tmp_path, subtests):
    for kind in ["empty", "noise", "truncated", "inverted"]:
        with subtests.test(kind=kind):
            path = tmp_path / "shapes.npz"
            np.savez_compressed(path, **images)
            path.write_bytes(damaged(path.read_bytes())[kind])
            with pytest.raises(UserError, match="shapes.npz is damaged or not an .npz file of arrays"):
                user_data.prepare(path, tmp_path / "cache")
