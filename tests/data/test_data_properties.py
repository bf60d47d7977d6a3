"""Data: fixed shuffles, areas, words and their ids, batches and blocks that hold every example once."""

import random as randomness

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.core.config import TrainConfig
from bench.data import corpus as _text
from bench.data.dataset import END, PAD, SPECIALS, START, UNKNOWN, DataInfo
from bench.data.datasets._common import hash_shuffled, hash_uniform, overlap_weights
from bench.data.image import ImageData
from bench.data.text import TextData
from bench.training.context import Batches
from tests.conftest import steady

KEYS = st.lists(st.text(max_size=6), unique=True, max_size=30)
WORDS = st.text("abc<>é名", min_size=1, max_size=4).filter(lambda word: word not in {*SPECIALS, "_UNK"})
DOCUMENTS = st.lists(st.lists(WORDS, min_size=1, max_size=6), min_size=1, max_size=12)


@steady
@given(KEYS, st.randoms(use_true_random=False))
def test_the_fixed_shuffle_is_a_permutation_that_does_not_depend_on_the_listing(keys, random):
    order = hash_shuffled(keys)
    assert sorted(order.tolist()) == [*range(len(keys))]
    other = random.sample(keys, len(keys))
    assert [other[index] for index in hash_shuffled(other)] == [keys[index] for index in order]
    assert all(0 <= hash_uniform(key) < 1 for key in keys)


@steady
@given(KEYS, st.text(min_size=7, max_size=9))
def test_one_key_more_leaves_the_order_of_the_others(keys, more):
    before = [keys[index] for index in hash_shuffled(keys)]
    grown = [*keys, more]
    assert [grown[index] for index in hash_shuffled(grown) if grown[index] != more] == before


@steady
@given(st.integers(1, 12), st.floats(0.1, 5), st.floats(0, 3), st.integers(0, 5))
def test_every_cell_covers_its_pitch_and_every_pixel_is_shared_out(cells, pitch, start, beyond):
    length = int(np.ceil(start + cells * pitch)) + beyond
    areas = overlap_weights(cells, pitch, length, start)
    assert areas.shape == (cells, length) and (areas >= 0).all() and (areas <= 1 + 1e-9).all()
    assert areas.sum(1) == pytest.approx(np.full(cells, pitch))
    pixels = np.arange(length)
    inside = np.clip(np.minimum(pixels + 1, start + cells * pitch) - np.maximum(pixels, start), 0, None)
    assert areas.sum(0) == pytest.approx(inside, abs=1e-9)


def text_set(documents) -> TextData:
    arrays = _text.arrays(dict.fromkeys(("train", "val", "test"), documents))
    count = len(documents)
    sizes = {"train": count, "val": count, "test": count}
    info = DataInfo(
        "toy", "toy", "text", "nats", (arrays["train"].shape[1],), sizes, "", "", (), len(arrays["vocabulary"])
    )
    return TextData.of(info, arrays)


def image_set(count: int) -> ImageData:
    images = np.random.default_rng(0).random((count, 2, 2), np.float32)
    images[:, 0, 0] = 1  # certain ink, so that an image is never empty
    info = DataInfo("toy", "toy", "image", "nats", (2, 2), {"train": count, "val": count, "test": count}, "", "")
    return ImageData.of(info, {"train": images, "val": images, "test": images}, size=2)


@steady
@given(DOCUMENTS)
def test_documents_come_back_from_their_ids(documents):
    data = text_set(documents)
    assert data.sentences(data.train) == [" ".join(document) for document in documents]
    for row, document in zip(data.train.tolist(), documents, strict=True):
        assert row[0] == START and row[len(document) + 1] == END and not any(row[len(document) + 2 :])
        assert PAD not in row[: len(document) + 2]


@steady
@given(DOCUMENTS, DOCUMENTS)
def test_words_that_training_does_not_have_are_unknown(documents, others):
    words = _text.vocabulary(documents)
    ids = {word: index for index, word in enumerate(words)}
    rows = _text.encode(others, ids, 8)
    for row, document in zip(rows, others, strict=True):
        back = [words[index] for index in row[1 : len(document) + 1]]
        assert back == [word if word in ids else SPECIALS[UNKNOWN] for word in document]


@steady
@given(DOCUMENTS, st.randoms(use_true_random=False))
def test_a_vocabulary_is_in_the_order_of_frequency_then_of_the_alphabet(documents, random):
    words = _text.vocabulary(documents)
    counts = [sum(document.count(word) for document in documents) for word in words[len(SPECIALS) :]]
    assert words[: len(SPECIALS)] == [*SPECIALS]
    assert [*zip((-count for count in counts), words[len(SPECIALS) :], strict=True)] == sorted(
        zip((-count for count in counts), words[len(SPECIALS) :], strict=True)
    )
    assert {*words[len(SPECIALS) :]} == {word for document in documents for word in document}
    assert _text.vocabulary(random.sample(documents, len(documents))) == words


SETS = st.integers(1, 40).map(image_set) | DOCUMENTS.map(text_set)


@settings(steady, max_examples=60)
@given(SETS, st.integers(1, 12), st.booleans(), st.integers(0, 2**62))
def test_a_pass_holds_every_example_once_but_for_an_unfilled_batch(data, size, equal_lengths, seed):
    count = len(data.train)
    orders = [data.order(size, equal_lengths, torch.Generator().manual_seed(seed)) for _ in range(2)]
    assert [batch.tolist() for batch in orders[0]] == [batch.tolist() for batch in orders[1]]
    seen = torch.cat(orders[0]).tolist() if orders[0] else []
    assert len({*seen}) == len(seen) and {*seen} <= {*range(count)}
    if equal_lengths and isinstance(data, TextData):
        assert len(seen) == count and all(0 < len(batch) <= size for batch in orders[0])
        assert all(len(data.lengths["train"][batch].unique()) == 1 for batch in orders[0])
    else:
        assert len(seen) == count // size * size and all(len(batch) == size for batch in orders[0])


@settings(steady, max_examples=40)
@given(st.integers(4, 40).map(image_set) | st.just(text_set([["a"] * n for n in (1, 2, 3, 1, 2)])), st.data())
def test_a_batch_is_a_function_of_seed_and_counter_alone(data, drawn):
    config, seed = TrainConfig(batch_size=drawn.draw(st.integers(1, 4))), drawn.draw(st.integers(0, 2**62))
    visited = Batches(data, config, seed, "outer")
    for number in drawn.draw(st.lists(st.integers(0, 60), max_size=6)):
        afresh = Batches(data, config, seed, "outer")[number]
        assert torch.equal(visited[number], afresh)
    others = [Batches(data, config, *other)[7] for other in ((seed + 1, "outer"), (seed, "drawn"))]
    if len(data.train) > 30 and config.batch_size > 2:
        assert not any(torch.equal(visited[7], other) for other in others)


@settings(steady, max_examples=40)
@given(SETS, st.integers(1, 4), st.booleans(), st.integers(0, 2**62))
def test_each_pass_has_an_order_of_its_own(data, size, equal_lengths, seed):
    if len(data.train) < size and not (equal_lengths and isinstance(data, TextData)):
        return
    batches, orders = Batches(data, TrainConfig(batch_size=size, equal_lengths=equal_lengths), seed, "outer"), []
    for number in range(3 * batches.per_pass):
        x = batches[number]
        index = batches.order[number % batches.per_pass]
        orders += [[]] * (number % batches.per_pass == 0)
        orders[-1] = [*orders[-1], *index.tolist()]
        if isinstance(data, TextData):
            assert x.tolist() == data.train[index][:, : x.shape[1]].tolist() and (x[:, -1] != PAD).any()
            assert not data.train[index][:, x.shape[1] :].any()
        else:
            assert x.shape == (len(index), 1, 2, 2) and (x[:, 0, 0, 0] == 1).all()
    assert all(len({*order}) == len(order) for order in orders)
    assert len(data.train) < 12 or len({*map(tuple, orders)}) == 3


@settings(steady, max_examples=60)
@given(SETS, st.integers(1, 50), st.booleans(), st.sampled_from(("val", "test")), st.data())
def test_blocks_hold_each_example_once_whatever_their_size(data, size, equal_lengths, split, drawn):
    rows = getattr(data, split)
    count = drawn.draw(st.none() | st.integers(1, len(rows)))
    if drawn.draw(st.booleans()):
        chosen = randomness.Random(0).sample(range(len(rows)), count or len(rows))
        which, wanted = np.array(chosen), sorted(chosen)
    else:
        which, wanted = count, [*range(len(rows))[:count]]
    places, blocks = data.blocks(split, which, size, equal_lengths)
    assert sorted(places.tolist()) == wanted and all(0 < len(block) <= size for block in blocks)
    held = [row for block in blocks for row in block]
    for place, row in zip(places.tolist(), held, strict=True):
        whole = rows[place]
        assert torch.equal(row, whole) if whole.dim() > 1 else row.tolist() == whole.tolist()[: len(row)]
        assert whole.dim() > 1 or not whole[len(row) :].any()
