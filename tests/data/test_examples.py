"""Examples given from Python: converted like the data set and the user's files, or rejected in one line."""

import numpy as np
import pytest
import torch

from bench.core.config import TextModelConfig
from bench.core.errors import UserError
from bench.data.examples import as_array, image_inputs, text_inputs
from bench.data.user_data import image_means
from tests.conftest import MODEL, TEXT_MODEL

WORDS = ("<pad>", "<s>", "</s>", "<unk>", "a", "b", "c")


@pytest.fixture
def means(prepared):
    """Grey test images of 28×28."""
    return prepared.arrays()["test"]


def text(sentences, model=TEXT_MODEL):
    return text_inputs(sentences, model, len(WORDS), lambda: WORDS[: model.vocabulary]).tolist()


def test_grey_images_become_those_of_the_data_set(means, data):
    assert torch.equal(image_inputs(means, MODEL), data.test)
    pooled = data.test.bool()
    for images in (data.test, data.test.squeeze(1), pooled, data.test.numpy(), data.test.double(), [*data.test[:, 0]]):
        assert torch.equal(image_inputs(images, MODEL), data.test)


def test_images_of_another_size_are_padded_and_pooled(means):
    narrow = means[:, :, 4:24].copy()
    padded = np.zeros_like(means)
    padded[:, :, 4:24] = narrow
    assert torch.equal(image_inputs(narrow, MODEL), image_inputs(padded, MODEL))
    assert image_inputs(means[:, 1:, 1:], MODEL).shape == (30, 1, 7, 7)  # 27 is no multiple of 7


def test_other_kinds_of_arrays_are_the_same_images(means):
    grey = torch.from_numpy(means)
    expected = image_inputs(means, MODEL)
    kinds = {
        "list": [*means],
        "gradient": grey.clone().requires_grad_(),
        "not contiguous": grey.transpose(1, 2).contiguous().transpose(1, 2),
        "sparse": grey.to_sparse(),
        "byte order": means.astype(">f4"),
        "one channel": grey.unsqueeze(1),
    }
    for name, images in kinds.items():
        assert torch.equal(image_inputs(images, MODEL), expected), name
    quantised = (means * 255).round().astype(np.uint8)
    assert torch.equal(image_inputs(quantised, MODEL), image_inputs(quantised / np.float32(255), MODEL))
    assert image_inputs(grey.bfloat16(), MODEL).shape == expected.shape


IMAGES = np.full((2, 7, 7), 0.5, np.float32)


@pytest.mark.parametrize(
    "images, problem",
    [
        (IMAGES * 255, "values from 127.5 to 127.5"),
        (np.where(IMAGES > 0, np.nan, 0), "NaN among the values"),
        (IMAGES + np.inf, "values from inf to inf"),
        (-IMAGES, "values from -0.5"),
        ((IMAGES > 0).astype(np.uint8), "use bool or float"),
        ((IMAGES > 0).astype(int), "int64"),
        (IMAGES.astype(complex), "complex128"),
        (IMAGES.astype(object), "object"),
        (IMAGES[0], r"shape \(7, 7\)"),
        (IMAGES[:0], r"shape \(0, 7, 7\)"),
        (np.stack([IMAGES] * 3, axis=1), "3 channels, the model takes 1"),
        (IMAGES[:, :6, :6], "6×6 pixels, the model takes 7×7"),
        (torch.zeros(2, 7, 7, device="meta"), "not an array"),
        ([np.zeros((7, 7)), np.zeros((8, 8))], "not an array"),
        ([[1, 2], [3]], "not an array"),
        (5, r"shape \(\)"),
        (None, r"shape \(\)"),
        (["a sentence"], "not texts"),
    ],
)
def test_wrong_images_are_refused_in_one_line(images, problem):
    with pytest.raises(UserError, match=problem):
        image_inputs(images, MODEL)


def test_files_and_python_have_the_same_rule():
    """What the reader of files rejects is rejected from Python, with the same message."""
    for images in (IMAGES * 3, (IMAGES > 0).astype(np.uint8), IMAGES.astype(int), IMAGES[0]):
        with pytest.raises(UserError) as from_file:
            image_means(images, "images")
        with pytest.raises(UserError) as from_python:
            image_inputs(torch.from_numpy(images), MODEL)
        assert str(from_file.value) == str(from_python.value)


def test_sentences_become_rows_of_ids():
    assert text(["a b", "c nothing a\n"]) == [[1, 4, 5, 2, 0], [1, 6, 3, 4, 2]]
    assert text(np.array(["a", "<unk> _UNK"])) == [[1, 4, 2, 0], [1, 3, 3, 2]]
    rows = [[1, 4, 5, 2, 0], [1, 6, 3, 4, 2]]
    for ids in (
        rows,
        np.array(rows),
        np.array(rows, np.uint8),
        torch.tensor(rows),
        torch.tensor(rows, dtype=torch.int32),
    ):
        assert text(ids) == rows
    assert text(torch.tensor([[1, 4, 2, 0, 0]])) == [[1, 4, 2]], "cut to the longest"


def test_sentences_are_truncated_like_the_data_set():
    model = TextModelConfig(words=2, vocabulary=6)
    assert text(["a b c", "c"], model) == [[1, 4, 5, 2], [1, 3, 2, 0]]
    assert text([[1, 4, 5, 6, 2], [1, 6, 2, 0, 0]], model) == [[1, 4, 5, 2], [1, 3, 2, 0]]
    assert len(text(["a " * 400])[0]) == 402, "not without a maximum"


@pytest.mark.parametrize(
    "sentences, problem",
    [
        ("a b", "give a list of strings"),
        (5, "give a list of strings"),
        (np.array("a b"), "give a list of strings"),
        ([], "give a list of strings"),
        (["a", 5], "strings among other values"),
        (["a", ""], "number 1: an empty document"),
        (["label\ta"], "number 0: a tab or line break"),
        (["a\nb"], "number 0: a tab or line break"),
        (["a b\0"], "number 0: a NUL character"),
        (["a </s> b"], "</s> is a special token"),
        (["a " * 501], "501 words, more than 500"),
        (["a" * 201], "201 characters"),
        ([b"a b"], "give a list of strings"),
        (torch.zeros(2, 4), "float32"),
        (torch.ones(2, 4, dtype=torch.bool), "bool"),
        (torch.tensor([1, 4, 2]), r"int64 \(3,\)"),
        (torch.tensor(4), r"int64 \(\)"),
        ([[1, 4, 2], [1, 2]], "not an array"),
        ([[1, 7, 2]], "word ids from 1 to 7, not from 0 to 6"),
        ([[1, -1, 2]], "word ids from -1"),
        ([[4, 5, 2]], "number 0: word ids are rows"),
        ([[1, 4, 2], [1, 4, 5]], "number 1: word ids are rows"),
        ([[1, 4, 0, 2]], "number 0: word ids are rows"),
        ([[1, 0, 2, 4]], "number 0: word ids are rows"),
        ([[1, 4, 2, 4]], "number 0: word ids are rows"),
        ([[1, 1, 4, 2]], "number 0: word ids are rows"),
        ([[1, 2]], "number 0: word ids are rows"),
    ],
)
def test_wrong_sentences_are_refused_in_one_line(sentences, problem):
    with pytest.raises(UserError, match=problem):
        text(sentences)


def test_arrays_of_any_device_and_type():
    z = torch.randn(2, 3, requires_grad=True)
    assert np.array_equal(as_array(z, "z"), z.detach().numpy())
    assert np.array_equal(as_array([z[0], z[1]], "z"), z.detach().numpy())
    assert as_array([[1, 2]], "z").shape == (1, 2)
