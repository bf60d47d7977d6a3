"""Text data sets: parsing, vocabulary, arrays, labels, and the published corpora Yahoo and Yelp."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.core.errors import UserError
from bench.data import corpus, user_data
from bench.data.dataset import SPECIALS, SPLITS, UNKNOWN, fingerprint
from bench.data.datasets import yahoo, yelp
from tests.conftest import steady
from tests.data.helpers import file_names, write_texts

TEXTS = {
    "train": "the cat sat\nthe dog _UNK on the cat\na cat\n",
    "val": "a dog flew\n",
    "test": "the <unk>\ncat cat cat\n",
}
WORDS = st.text("abc<>é名", min_size=1, max_size=4).filter(lambda word: word not in {*SPECIALS, "_UNK"})
DOCUMENTS = st.lists(st.lists(WORDS, min_size=1, max_size=6), min_size=1, max_size=12)


# ---- vocabulary and arrays


@steady
@given(DOCUMENTS, st.randoms(use_true_random=False))
def test_vocabulary_is_ordered_by_frequency_then_alphabet(documents, random):
    words = corpus.vocabulary(documents)
    assert words[:4] == [*SPECIALS]
    keys = [(-sum(document.count(word) for document in documents), word) for word in words[4:]]
    assert keys == sorted(keys)
    assert {*words[4:]} == {word for document in documents for word in document}
    assert corpus.vocabulary(random.sample(documents, len(documents))) == words


@steady
@given(DOCUMENTS, DOCUMENTS)
def test_words_outside_the_vocabulary_are_unknown(documents, others):
    words = corpus.vocabulary(documents)
    ids = {word: index for index, word in enumerate(words)}
    for row, document in zip(corpus.encode(others, ids, 8), others, strict=True):
        decoded = [words[index] for index in row[1 : len(document) + 1]]
        assert decoded == [word if word in ids else SPECIALS[UNKNOWN] for word in document]


def test_arrays_of_a_text_folder(tmp_path):
    prepared = user_data.prepare(write_texts(tmp_path / "My Texts, 2nd!", TEXTS), tmp_path / "cache")
    arrays, info = prepared.arrays(), prepared.info
    words = ["<pad>", "<s>", "</s>", "<unk>", "cat", "the", "a", "dog", "on", "sat"]
    assert arrays["vocabulary"].tolist() == words
    rows = {split: [" ".join(words[index] for index in row if index) for row in arrays[split]] for split in SPLITS}
    assert rows == {
        "train": ["<s> the cat sat </s>", "<s> the dog <unk> on the cat </s>", "<s> a cat </s>"],
        "val": ["<s> a dog <unk> </s>"],
        "test": ["<s> the <unk> </s>", "<s> cat cat cat </s>"],
    }
    for split in SPLITS:
        padding = arrays[split] == 0
        assert arrays[split].dtype == np.int32 and arrays[split].shape[1] == 8
        assert (padding[:, 1:] >= padding[:, :-1]).all()
    assert (info.name, info.title) == ("my-texts-2nd", "my-texts-2nd (3/1/2 documents)")
    assert (info.modality, info.shape, info.vocabulary) == ("text", (8,), 10)
    assert info.fingerprint == fingerprint(arrays)
    assert "9.1 % of train, 33.3 % of val, 20.0 % of test" in info.notes[0]


def test_labels(tmp_path):
    texts = {"train": "good\ta b\nbad\tc\n", "val": "good\ta\n", "test": "odd\tb\nbad\tc\n"}
    arrays = user_data.prepare(write_texts(tmp_path / "mine", texts), tmp_path / "cache").arrays()
    assert arrays["label_names"].tolist() == ["bad", "good", "odd"]
    assert [arrays[f"{split}_labels"].tolist() for split in SPLITS] == [[1, 0], [1], [2, 0]]
    assert arrays["vocabulary"][4:].tolist() == ["a", "b", "c"]


def test_encoding_of_files_does_not_matter(tmp_path):
    """A byte order mark, CRLF, a missing final newline and ``valid.txt`` give the same arrays."""
    first = user_data.prepare(write_texts(tmp_path / "mine", TEXTS), tmp_path / "cache")
    train = "\ufeff" + TEXTS["train"].replace("\n", "\r\n")
    texts = {"train": train, "valid": TEXTS["val"], "test": TEXTS["test"][:-1]}
    second = user_data.prepare(write_texts(tmp_path / "other", texts), tmp_path / "cache")
    assert first.info.fingerprint == second.info.fingerprint and first.path != second.path


# ---- errors


def test_unusable_text_is_reported_with_its_line(tmp_path, subtests):
    cases = [
        ({"val": "\n \n"}, r"val\.txt is empty"),
        ({"train": "a\n\nb\n"}, r"train\.txt, line 2: an empty document"),
        ({"train": b"a\nb\n\xff\xfe\n"}, r"train\.txt, line 3: not UTF-8"),
        ({"val": "a\n" + "b " * 501 + "\n"}, r"val\.txt, line 2: a document of 501 words, more than 500"),
        ({"val": "a" * 201}, r"val\.txt, line 1: a word of 201 characters"),
        ({"train": "a b\0\n"}, r"train\.txt, line 1: a NUL character"),
        ({"train": "a </s> b\n"}, r"train\.txt, line 1: </s> is a special token"),
        ({"train": "x\ta\nb\n"}, r"train\.txt, line 2: no label, unlike line 1"),
        ({"train": "a\nx\tb\n"}, r"train\.txt, line 2: a label, unlike line 1"),
        ({"train": "x\ta\n\tb\n"}, r"train\.txt, line 2: an empty label"),
        ({"train": "x\ta\n"}, r"only .*val\.txt and .*test\.txt without labels"),
    ]
    for change, message in cases:
        with subtests.test(message=message):
            folder = write_texts(tmp_path / "mine", TEXTS | change)
            with pytest.raises(UserError, match=message):
                user_data.prepare(folder, tmp_path / "cache")
            assert file_names(tmp_path / "cache") == []


def test_unusable_paths(tmp_path):
    (tmp_path / "notes.pdf").write_bytes(b"x")
    write_texts(tmp_path / "mine", {"train": "a\n", "val": "a\n"})
    (tmp_path / "folders" / "train.txt").mkdir(parents=True)
    write_texts(tmp_path / "folders", {"val": "a\n", "test": "a\n"})
    for name, message in {
        "nowhere": "does not exist; give a folder of text files or an .npz",
        "notes.pdf": "is damaged or not an .npz file of arrays",
        "mine": r"no test\.txt.* needs train\.txt, val\.txt, test\.txt",
        "folders": "cannot read .*train.txt",
    }.items():
        with pytest.raises(UserError, match=message):
            user_data.prepare(tmp_path / name, tmp_path / "cache")


# ---- Yahoo and Yelp


def test_other_files_are_not_titled_as_published(tmp_path, monkeypatch):
    write_texts(tmp_path / "data" / "yahoo", TEXTS)
    info = yahoo.prepare(tmp_path / "data", tmp_path / "cache").info
    assert info.title == "yahoo (3/1/2 documents)" and info.notes[0].startswith(
        "Not the documents of yahoo (Yang 2017)"
    )
    blobs = {split: corpus.git_blob_sha1(TEXTS[split].encode()) for split in SPLITS}
    monkeypatch.setitem(yahoo.PUBLISHED.__dict__, "blobs", blobs)
    info = yahoo.prepare(tmp_path / "data", tmp_path / "other").info
    assert info.title == "yahoo (Yang 2017)" and "20,001" in info.notes[0]


@pytest.mark.parametrize("names", [SPLITS, ("yelp.train.txt", "yelp.valid.txt", "yelp.test.txt")])
def test_yelp_has_labels(names, tmp_path):
    lines = ["5\tgood food\n1\tbad food\n", "3\tfood\n", "1\tbad\n"]
    write_texts(tmp_path / "data" / "yelp", dict(zip(names, lines, strict=True)))
    arrays = yelp.prepare(tmp_path / "data", tmp_path / "cache").arrays()
    assert arrays["label_names"].tolist() == ["1", "3", "5"] and arrays["train_labels"].tolist() == [2, 0]


@pytest.mark.slow
def test_real_yahoo(tmp_path):
    data_dir = os.environ.get("BENCH_DATA_DIR")
    if not (data_dir and (Path(data_dir) / "yahoo").exists()):
        pytest.skip("BENCH_DATA_DIR has no yahoo")
    prepared = yahoo.prepare(Path(data_dir), tmp_path)
    test = prepared.arrays()["test"]
    lengths = (test > 2).sum(axis=1)
    assert 20 <= lengths.min() and lengths.max() <= 200 and 70 < lengths.mean() < 90
    assert 15_000 < prepared.info.vocabulary <= 20_000
    assert 0.03 < (test == UNKNOWN).sum() / lengths.sum() < 0.07
