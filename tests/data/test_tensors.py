"""Data as tensors: hashing shuffle, pooling, binarisation, batches, blocks and reference NLLs."""

from __future__ import annotations

import random as randomness

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.core.config import TrainConfig, VectorModelConfig
from bench.data import corpus, image
from bench.data.dataset import END, SPLITS, START, DataInfo
from bench.data.datasets._common import hash_shuffled, hash_uniform
from bench.data.image import ImageData
from bench.data.text import TextData
from bench.data.vector import VectorData
from bench.training.batches import Batches
from tests.conftest import steady
from tests.data.test_corpus import DOCUMENTS

KEYS = st.lists(st.text(max_size=6), unique=True, max_size=30)


def text_set(documents) -> TextData:
    arrays = corpus.text_arrays(dict.fromkeys(SPLITS, documents))
    return TextData.from_arrays(corpus.text_info("toy", "toy", "", arrays), arrays)


def image_set(count: int) -> ImageData:
    images = np.random.default_rng(0).random((count, 2, 2), np.float32)
    images[:, 0, 0] = 1
    return ImageData.from_arrays(DataInfo("toy", "toy", "image", "nats", (2, 2)), dict.fromkeys(SPLITS, images), size=2)


@pytest.mark.parametrize("kind", ["text", "image", "vector"])
def test_labels_come_with_the_examples(kind):
    labels = {f"{split}_labels": np.array([i, 1]) for i, split in enumerate(SPLITS)}
    if kind == "text":
        arrays = corpus.text_arrays(dict.fromkeys(SPLITS, ["a b", "c"])) | labels
        data = TextData.from_arrays(corpus.text_info("toy", "toy", "", arrays), arrays)
    elif kind == "image":
        arrays = dict.fromkeys(SPLITS, np.zeros((2, 4, 4), np.float32)) | labels
        data = ImageData.from_arrays(DataInfo("toy", "toy", "image", "nats", (4, 4)), arrays, size=2)
    else:
        arrays = dict.fromkeys(SPLITS, np.zeros((2, 4), np.float32)) | labels
        data = VectorData.from_arrays(DataInfo("toy", "toy", "vector", "nats", (4,)), arrays, VectorModelConfig())
    labels = {split: values.tolist() for split, values in data.labels.items()}
    assert labels == {"train": [0, 1], "val": [1, 1], "test": [2, 1]}
    assert data.with_val_as_test().labels["test"].tolist() == [1, 1]


SETS = st.integers(1, 40).map(image_set) | DOCUMENTS.map(text_set)


# ---- shuffle


@steady
@given(KEYS, st.text(min_size=7, max_size=9), st.randoms(use_true_random=False))
def test_hash_shuffle_depends_on_the_keys_only(keys, additional, random):
    shuffled = [keys[index] for index in hash_shuffled(keys)]
    assert sorted(shuffled) == sorted(keys)
    other = random.sample([*keys, additional], len(keys) + 1)
    assert [other[index] for index in hash_shuffled(other) if other[index] != additional] == shuffled
    assert all(0 <= hash_uniform(key) < 1 for key in keys)


def test_hash_uniform_never_changes():
    assert hash_uniform("glyph 65") == 0.856026574736628


# ---- images


def test_pooling():
    means = np.random.default_rng(0).random((3, 28, 28)).astype(np.float32)
    corners = [means[:, row::2, column::2].astype(float) for row in (0, 1) for column in (0, 1)]
    np.testing.assert_allclose(image.pool(means, 14), sum(corners) / 4, rtol=1e-6)
    np.testing.assert_allclose(image.pool(means, 14, "any"), 1 - np.prod([1 - c for c in corners], axis=0), rtol=1e-6)
    assert image.pool(means, 28) is means
    with pytest.raises(ValueError, match="28×28 pixels cannot be pooled to 29×29"):
        image.pool(means, 29)


@pytest.mark.parametrize(("full", "size"), [(28, 7), (28, 13), (28, 27), (32, 14), (105, 28), (9, 1)])
def test_pooling_of_any_size_is_adaptive_pooling(full, size):
    means = torch.rand(4, full, full, generator=torch.Generator().manual_seed(0))
    expected = torch.nn.functional.adaptive_avg_pool2d(means.double(), size)
    torch.testing.assert_close(torch.from_numpy(image.pool(means.numpy(), size)), expected.float())
    ink = (means < 0.1).float()
    pooled = torch.from_numpy(image.pool(ink.numpy(), size, "any"))
    assert torch.equal(pooled, torch.nn.functional.adaptive_max_pool2d(ink, size))


def test_binarisation_has_fixed_bits_and_the_given_means():
    means = np.tile(np.array([0, 0.25, 1], np.float32), (40_000, 1))
    bits = image.binarise(means, stream=1)
    assert (bits != image.binarise(means, stream=2)).any()
    assert bits[:, 0].max() == 0 and bits[:, 2].min() == 1
    assert bits[:, 1].mean() == pytest.approx(0.25, abs=4 * np.sqrt(0.25 * 0.75 / 40_000))
    bits = image.binarise(np.full(16, 0.5, np.float32), stream=1)
    assert bits.astype(int).tolist() == [0, 0, 0, 1, 0, 0, 1, 1, 1, 0, 0, 1, 1, 0, 1, 0]


def test_training_images_are_binarised_at_every_use():
    data, index = image_set(4), torch.tensor([3, 0, 3])
    generator = torch.Generator().manual_seed(1)
    first, second = data.batch(index.repeat(20), generator), data.batch(index.repeat(20), generator)
    assert not torch.equal(first, second) and not torch.equal(first[::3], first[2::3])
    assert torch.equal(first, data.batch(index.repeat(20), torch.Generator().manual_seed(1)))
    mean = data.batch(torch.full((20_000,), 2), generator).mean(dim=(0, 1))
    torch.testing.assert_close(mean, data.train[2], atol=0.02, rtol=0)


def test_independent_pixels_nll_by_hand():
    train = np.array([[[0.0, 1.0], [0.5, 0.25]], [[0.0, 1.0], [0.5, 0.75]]], np.float32)
    test = np.array([[[0.0, 1.0], [1.0, 0.0]], [[1.0, 1.0], [0.0, 1.0]]], np.float32)
    info = DataInfo("toy", "toy", "image", "nats", (2, 2))
    data = ImageData.from_arrays(info, {"train": train, "val": test, "test": test}, size=2)
    # Frequencies 0, 1, 1/2, 1/2; the first two are clamped to 1/4 and 3/4.
    first = -2 * np.log(3 / 4) - 2 * np.log(1 / 2)
    second = -np.log(1 / 4) - np.log(3 / 4) - 2 * np.log(1 / 2)
    assert data.references(1)["independent_pixels"] == pytest.approx(first, rel=1e-6)
    assert data.references(None)["independent_pixels"] == pytest.approx((first + second) / 2, rel=1e-6)


# ---- text


@steady
@given(DOCUMENTS)
def test_sentences_invert_encoding(documents):
    data = text_set(documents)
    assert data.sentences(data.train) == [" ".join(document) for document in documents]
    for row, document in zip(data.train.tolist(), documents, strict=True):
        assert row[0] == START and row[len(document) + 1] == END and not any(row[len(document) + 2 :])


# ---- batches and blocks


@settings(steady, max_examples=60)
@given(SETS, st.integers(1, 12), st.booleans(), st.integers(0, 2**62))
def test_every_example_is_in_one_batch_of_an_epoch(data, size, equal_lengths, seed):
    count = len(data.train)
    orders = [data.order(size, equal_lengths, torch.Generator().manual_seed(seed)) for _ in range(2)]
    assert [batch.tolist() for batch in orders[0]] == [batch.tolist() for batch in orders[1]]
    indices = torch.cat(orders[0]).tolist() if orders[0] else []
    assert len({*indices}) == len(indices) and {*indices} <= {*range(count)}
    if equal_lengths and isinstance(data, TextData):
        assert len(indices) == count and all(0 < len(batch) <= size for batch in orders[0])
        assert all(len(data.lengths["train"][batch].unique()) == 1 for batch in orders[0])
    else:
        assert len(indices) == count // size * size and all(len(batch) == size for batch in orders[0])


def test_padded_batches_have_similar_lengths(monkeypatch):
    monkeypatch.setattr("bench.data.text.POOL", 4)
    lengths = randomness.Random(0).choices(range(1, 30), k=200)
    data = text_set([["w"] * length for length in lengths])
    batches = data.order(5, False, torch.Generator().manual_seed(0))
    ranges = [np.ptp(data.lengths["train"][batch].numpy()) for batch in batches]
    assert np.mean(ranges) < 0.5 * np.mean([np.ptp(lengths[i : i + 5]) for i in range(0, 200, 5)])


@settings(steady, max_examples=40)
@given(st.integers(4, 40).map(image_set) | st.just(text_set([["a"] * n for n in (1, 2, 3, 1, 2)])), st.data())
def test_batches_depend_only_on_seed_and_counter(data, drawn):
    config, seed = TrainConfig(batch_size=drawn.draw(st.integers(1, 4))), drawn.draw(st.integers(0, 2**62))
    batches = Batches(data, config, seed, "outer")
    for number in drawn.draw(st.lists(st.integers(0, 60), max_size=6)):
        assert torch.equal(batches[number], Batches(data, config, seed, "outer")[number])
    others = [Batches(data, config, *other)[7] for other in ((seed + 1, "outer"), (seed, "drawn"))]
    if len(data.train) > 30 and config.batch_size > 2:
        assert not any(torch.equal(batches[7], other) for other in others)


@settings(steady, max_examples=60)
@given(SETS, st.integers(1, 50), st.booleans(), st.sampled_from(("val", "test")), st.data())
def test_blocks_contain_each_example_once(data, size, equal_lengths, split, drawn):
    rows = getattr(data, split)
    count = drawn.draw(st.none() | st.integers(1, len(rows)))
    if drawn.draw(st.booleans()):
        chosen = randomness.Random(0).sample(range(len(rows)), count or len(rows))
        which, expected = np.array(chosen), sorted(chosen)
    else:
        which, expected = count, [*range(len(rows))[:count]]
    indices, blocks = data.blocks(split, which, size, equal_lengths)
    assert sorted(indices.tolist()) == expected and all(0 < len(block) <= size for block in blocks)
    for index, row in zip(indices.tolist(), [row for block in blocks for row in block], strict=True):
        if isinstance(data, TextData):
            assert row.tolist() == rows[index].tolist()[: len(row)] and not rows[index][len(row) :].any()
        else:
            assert torch.equal(row, rows[index])
