"""SNLI: sentences of the published archive, and files of text-VAE papers."""

import hashlib
import io
import zipfile

import pytest

from bench.core.errors import UserError
from bench.data.dataset import SPLITS
from bench.data.datasets import snli
from tests.data.helpers import write_texts

HEADINGS = "gold_label\tsentence1_binary_parse\tsentence2_binary_parse\tsentence1_parse"
PAIRS = {
    "train": [("( ( A dog ) ( runs . ) )", "( A cat )"), ("( ( A dog ) ( runs . ) )", "( Birds ( fly . ) )")],
    "dev": [("( A ( cat . ) )", "( Dogs\u2028 run )")],
    "test": [("( a cat )", "( -LRB- Nothing -RRB- )")],
}


@pytest.fixture
def archive(monkeypatch):
    """A small ``snli_1.0.zip``."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as files:
        for part, pairs in PAIRS.items():
            rows = [HEADINGS, *(f"neutral\t{premise}\t{hypothesis}\t(ROOT)" for premise, hypothesis in pairs)]
            files.writestr(f"snli_1.0/snli_1.0_{part}.txt", "\n".join(rows) + "\n")
    monkeypatch.setattr(snli, "SHA256", hashlib.sha256(content.getvalue()).hexdigest())
    return content.getvalue()


def test_distinct_sentences_of_the_archive(archive, tmp_path, monkeypatch):
    write_texts(tmp_path / "snli", {"snli_1.0.zip": archive})
    data = snli.prepare(tmp_path, tmp_path / "cache")
    arrays = data.arrays()
    texts = {split: {" ".join(arrays["vocabulary"][row[row > 2]]) for row in arrays[split]} for split in SPLITS}
    assert texts == {
        "train": {"a dog runs .", "a cat", "birds fly ."},
        "val": {"a cat .", "<unk> <unk>"},
        "test": {"a cat", "<unk> <unk> <unk>"},
    }
    assert data.info.sizes == {"train": 3, "val": 2, "test": 2}
    assert data.info.notes[-1] == "1 of 2 test examples also occur in train."
    monkeypatch.setattr(snli, "SIZES", {"train": 2, "val": 1, "test": 1})
    assert {split: len(rows) for split, rows in snli.sentences(archive).items()} == snli.SIZES


def test_another_archive_is_refused(archive, tmp_path):
    write_texts(tmp_path / "snli", {"snli_1.0.zip": archive + b"x"})
    with pytest.raises(UserError, match="snli_1.0.zip is not the published file; download it again from https"):
        snli.prepare(tmp_path, tmp_path / "cache")


def test_files_of_papers_are_used_as_they_are(tmp_path):
    write_texts(tmp_path / "snli", {"snli.train.txt": "A dog\n", "snli.valid.txt": "A\n", "snli.test.txt": "dog\n"})
    data = snli.prepare(tmp_path, tmp_path / "cache")
    assert data.arrays()["vocabulary"].tolist()[4:] == ["A", "dog"] and "snli.valid.txt" in data.info.source
