"""Text sets: vocabulary, arrays, labels, what is found or downloaded, and what happens to files that will not do."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from bench.core.errors import UserError
from bench.data import corpus as _text
from bench.data import dataset as datasets
from bench.data import download as _download
from bench.data import user_data as _folder
from bench.data.datasets import yahoo, yelp

SPLITS = ("train", "val", "test")
TEXTS = {
    "train": "the cat sat\nthe dog _UNK on the cat\na cat\n",
    "val": "a dog flew\n",
    "test": "the <unk>\ncat cat cat\n",
}


def write(folder: Path, texts: dict[str, str | bytes]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in texts.items():
        content = text if isinstance(text, bytes) else text.encode()
        (folder / (name if "." in name else f"{name}.txt")).write_bytes(content)
    return folder


def arrays_of(prepared):
    with np.load(prepared.path, allow_pickle=False) as file:
        return {name: file[name] for name in file.files}


def files_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*")) if folder.exists() else []


def one_line(error: pytest.ExceptionInfo) -> str:
    message = str(error.value)
    assert "\n" not in message
    return message


@pytest.fixture
def server(monkeypatch):
    """What is to be downloaded: contents by address, or an exception; and what has been asked for."""
    contents: dict[str, bytes | Exception] = {}
    asked = []

    def receive(self):
        asked.append(self.url)
        answer = contents.get(self.url, OSError("Network is unreachable"))
        if isinstance(answer, Exception):
            raise answer
        self.file.write(answer)

    monkeypatch.setattr(_download.Transfer, "_run", receive)
    return contents, asked


def publish(monkeypatch, module, texts):
    """Declare ``texts`` to be the published files of a set."""
    blobs = {split: _text.git_blob_sha1(texts[split].encode()) for split in SPLITS}
    monkeypatch.setitem(module.PUBLISHED.__dict__, "blobs", blobs)


# ---- arrays


def test_the_arrays(tmp_path):
    prepared = _folder.prepare(write(tmp_path / "mine", TEXTS), tmp_path / "cache")
    arrays = arrays_of(prepared)
    # By falling frequency, ties alphabetically; words that only val has are unknown.
    words = ["<pad>", "<s>", "</s>", "<unk>", "cat", "the", "a", "dog", "on", "sat"]
    assert arrays["vocabulary"].tolist() == words
    expected = {
        "train": ["<s> the cat sat </s>", "<s> the dog <unk> on the cat </s>", "<s> a cat </s>"],
        "val": ["<s> a dog <unk> </s>"],
        "test": ["<s> the <unk> </s>", "<s> cat cat cat </s>"],
    }
    for split in SPLITS:
        assert arrays[split].dtype == np.int32 and arrays[split].shape[1] == 8
        rows = [" ".join(words[index] for index in row if index) for row in arrays[split]]
        assert rows == expected[split]
        padding = arrays[split] == 0
        assert (padding[:, 1:] >= padding[:, :-1]).all()  # on the right
    info = prepared.info
    assert (info.modality, info.unit, info.shape, info.vocabulary) == ("text", "nats per sentence", (8,), 10)
    assert (info.name, info.title) == ("mine", "mine (3/1/2 documents)")
    assert info.fingerprint == datasets.fingerprint(arrays)
    shares = "9.1 % of train, 33.3 % of val, 20.0 % of test"
    assert info.notes == (f"Of the words, with the whole vocabulary, <unk> are {shares}.",)
    assert "train_labels" not in arrays and "label_names" not in arrays


def test_labels(tmp_path):
    texts = {"train": "good\ta b\nbad\tc\n", "val": "good\ta\n", "test": "odd\tb\nbad\tc\n"}
    arrays = arrays_of(_folder.prepare(write(tmp_path / "mine", texts), tmp_path / "cache"))
    assert arrays["label_names"].tolist() == ["bad", "good", "odd"]
    assert [arrays[f"{split}_labels"].tolist() for split in SPLITS] == [[1, 0], [1], [2, 0]]
    assert arrays["train_labels"].dtype == np.int64
    assert arrays["vocabulary"][4:].tolist() == ["a", "b", "c"]


def test_spelling_of_files_does_not_matter(tmp_path):
    """A byte order mark, line ends, a missing last one and ``valid.txt`` give the same numbers."""
    first = _folder.prepare(write(tmp_path / "mine", TEXTS), tmp_path / "cache")
    other = {
        "train": "\ufeff" + TEXTS["train"].replace("\n", "\r\n"),
        "valid": TEXTS["val"],
        "test": TEXTS["test"][:-1],
    }
    second = _folder.prepare(write(tmp_path / "other", other), tmp_path / "cache")
    assert first.info.fingerprint == second.info.fingerprint and first.path != second.path


def test_a_second_preparation_parses_nothing(tmp_path, monkeypatch):
    folder = write(tmp_path / "mine", TEXTS)
    first = _folder.prepare(folder, tmp_path / "cache")
    parse = _text.parse
    monkeypatch.setattr(_text, "parse", None)
    assert _folder.prepare(folder, tmp_path / "cache") == first
    monkeypatch.setattr(_text, "parse", parse)
    write(folder, {"test": "a dog\n"})
    assert _folder.prepare(folder, tmp_path / "cache").info.fingerprint != first.info.fingerprint


# ---- files that will not do


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"val": ""}, r"val\.txt is empty"),
        ({"val": "\n \n"}, r"val\.txt is empty"),
        ({"train": "a\n\nb\n"}, r"train\.txt, line 2: an empty document"),
        ({"test": "a\nb\n\n"}, r"test\.txt, line 3: an empty document"),
        ({"train": b"a\nb\n\xff\xfe\n"}, r"train\.txt, line 3: not UTF-8"),
        ({"train": "a\0b\n"}, r"train\.txt, line 1: a NUL character"),
        ({"val": "a\n" + "b " * 501 + "\n"}, r"val\.txt, line 2: a document of 501 words, more than 500; cut or split"),
        ({"val": "a" * 201}, r"val\.txt, line 1: a word of 201 characters"),
        ({"train": "a </s> b\n"}, r"train\.txt, line 1: </s> is a mark of the harness"),
        ({"train": "x\ta\nb\n"}, r"train\.txt, line 2: no label, unlike line 1"),
        ({"train": "a\nx\tb\n"}, r"train\.txt, line 2: a label, unlike line 1"),
        ({"train": "x\ta\n\tb\n"}, r"train\.txt, line 2: an empty label"),
        ({"train": "x\ta\nx\t\n"}, r"train\.txt, line 2: an empty document"),
        ({"train": "x\ta\n"}, r"val\.txt has no labels and .*train\.txt has"),
        ({"test": "x\ta\n"}, r"train\.txt has no labels and .*test\.txt has"),
    ],
)
def test_text_that_will_not_do(change, message, tmp_path):
    folder = write(tmp_path / "mine", TEXTS | change)
    with pytest.raises(UserError, match=message) as error:
        _folder.prepare(folder, tmp_path / "cache")
    one_line(error)
    assert files_in(tmp_path / "cache") == []


@pytest.mark.parametrize("split", SPLITS)
def test_a_missing_split(split, tmp_path):
    folder = write(tmp_path / "mine", {name: text for name, text in TEXTS.items() if name != split})
    with pytest.raises(UserError, match=rf"mine: no {split}\.txt.* holds train\.txt, val\.txt and test\.txt") as error:
        _folder.prepare(folder, tmp_path / "cache")
    one_line(error)


def test_the_longest_documents_and_words(tmp_path):
    texts = TEXTS | {"val": "b " * 500 + "\n", "test": "a" * 200}
    assert _folder.prepare(write(tmp_path / "mine", texts), tmp_path / "cache").info.shape == (502,)


def test_paths_that_will_not_do(tmp_path):
    with pytest.raises(UserError, match="nowhere does not exist; name a folder of text files or an .npz") as error:
        _folder.prepare(tmp_path / "nowhere", tmp_path / "cache")
    one_line(error)
    (tmp_path / "notes.pdf").write_bytes(b"x")
    with pytest.raises(UserError, match="notes.pdf is neither a folder of text files nor an .npz") as error:
        _folder.prepare(tmp_path / "notes.pdf", tmp_path / "cache")
    one_line(error)
    (tmp_path / "mine" / "train.txt").mkdir(parents=True)
    write(tmp_path / "mine", {name: TEXTS[name] for name in ("val", "test")})
    with pytest.raises(UserError, match="cannot read .*train.txt") as error:
        _folder.prepare(tmp_path / "mine", tmp_path / "cache")
    one_line(error)


def test_names_are_safe(tmp_path):
    folder = write(tmp_path / "My Reviews, 2nd (final)!", TEXTS)
    assert _folder.prepare(folder, tmp_path / "cache").info.name == "my-reviews-2nd-final"
    assert _folder.slug(tmp_path / "…") == "data"


# ---- the user's images


@pytest.fixture
def images():
    random = np.random.default_rng(0)
    return {split: random.random((size, 12, 12)) for split, size in zip(SPLITS, (5, 2, 3), strict=True)}


def prepare_images(tmp_path, arrays):
    np.savez(tmp_path / "Shapes 1.npz", **arrays)
    return _folder.prepare(tmp_path / "Shapes 1.npz", tmp_path / "cache")


def test_images(images, tmp_path):
    prepared = prepare_images(tmp_path, images)
    arrays = arrays_of(prepared)
    info = prepared.info
    assert (info.name, info.title, info.modality) == ("shapes-1", "shapes-1 (12×12)", "image")
    assert (info.unit, info.shape, info.sizes) == ("nats per image", (12, 12), {"train": 5, "val": 2, "test": 3})
    for split in SPLITS:
        np.testing.assert_array_equal(arrays[split], images[split].astype(np.float32))
    assert info.vocabulary == 0 and set(arrays) == set(SPLITS)


def test_images_of_other_types(images, tmp_path):
    """uint8 are 255 levels, booleans 0 and 1, and a channel axis of one goes."""
    grey = {split: np.rint(255 * array).astype(np.uint8) for split, array in images.items()}
    arrays = arrays_of(prepare_images(tmp_path, {split: array[:, None] for split, array in grey.items()}))
    np.testing.assert_array_equal(arrays["val"], (grey["val"] / 255).astype(np.float32))
    arrays = arrays_of(prepare_images(tmp_path, {split: array > 0.5 for split, array in images.items()}))
    assert arrays["test"].dtype == np.float32 and set(np.unique(arrays["test"])) == {0, 1}


def test_labels_of_images(images, tmp_path):
    labels = {"train_labels": [3, 1, 3, 1, 1], "val_labels": [1, 3], "test_labels": [7, 1, 3]}
    arrays = arrays_of(prepare_images(tmp_path, images | labels))
    assert arrays["label_names"].tolist() == ["1", "3", "7"]
    assert arrays["test_labels"].tolist() == [2, 0, 1] and arrays["test_labels"].dtype == np.int64


def test_images_are_read_once(images, tmp_path, monkeypatch):
    first = prepare_images(tmp_path, images)
    monkeypatch.setattr(_folder, "_image_arrays", None)
    assert _folder.prepare(tmp_path / "Shapes 1.npz", tmp_path / "cache") == first


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"val": None}, "no array val; images are in arrays train, val and test"),
        ({"val": np.zeros((2, 12, 11))}, r"array val: shape \(2, 12, 11\), not square images"),
        ({"val": np.zeros((2, 3, 12, 12))}, r"array val: shape \(2, 3, 12, 12\), not square images"),
        ({"val": np.zeros((0, 12, 12))}, r"array val: shape \(0, 12, 12\), not square images"),
        ({"test": np.zeros((2, 14, 14))}, "images of sides 12, 14; they must all be of one size"),
        ({"test": np.full((2, 12, 12), 255.0)}, r"array test: values from 255 to 255, not in \[0, 1\]"),
        ({"test": np.full((2, 12, 12), -0.1)}, r"array test: values from -0.1 to -0.1, not in \[0, 1\]"),
        ({"train": np.full((2, 12, 12), np.nan)}, "array train: has NaN"),
        ({"train": np.zeros((2, 12, 12), int)}, "array train: int64, neither floats"),
        ({"train": np.full((2, 12, 12), None)}, "is damaged or no .npz file of arrays"),
        ({"train_labels": np.zeros(5, int)}, "train_labels but no val_labels"),
        (
            {"train_labels": np.zeros(4, int), "val_labels": np.zeros(2, int), "test_labels": np.zeros(3, int)},
            r"array train_labels: int64 \(4,\), not 5 integers",
        ),
    ],
)
def test_images_that_will_not_do(images, change, message, tmp_path):
    arrays = {name: array for name, array in (images | change).items() if array is not None}
    with pytest.raises(UserError, match=message) as error:
        prepare_images(tmp_path, arrays)
    assert "Shapes 1.npz" in one_line(error)
    assert files_in(tmp_path / "cache") == []


@pytest.mark.parametrize("damage", ["empty", "noise", "truncated", "flipped", "npy"])
def test_a_damaged_npz(images, damage, tmp_path):
    path = tmp_path / "shapes.npz"
    np.savez_compressed(path, **images)
    content = path.read_bytes()
    flipped = bytes(byte ^ 0xFF if 128 <= at < 160 else byte for at, byte in enumerate(content))
    noise = np.random.default_rng(0).bytes(5000)
    damaged = {"empty": b"", "noise": noise, "truncated": content[: len(content) // 2], "flipped": flipped}
    if damage == "npy":
        np.save(path.with_suffix(".npy"), images["train"])
        damaged["npy"] = path.with_suffix(".npy").read_bytes()
    path.write_bytes(damaged[damage])
    with pytest.raises(UserError, match="shapes.npz is damaged or no .npz file of arrays") as error:
        _folder.prepare(path, tmp_path / "cache")
    one_line(error)


# ---- Yahoo and Yelp


def test_files_of_the_user(tmp_path):
    write(tmp_path / "data" / "yahoo", TEXTS)
    info = yahoo.prepare(tmp_path / "data", tmp_path / "cache").info
    assert (info.name, info.title) == ("yahoo", "yahoo (3/1/2 documents)")
    assert info.notes[0].startswith("Other documents than those of yahoo (Yang 2017)")


def test_the_published_files(tmp_path, monkeypatch):
    publish(monkeypatch, yahoo, TEXTS)
    write(tmp_path / "data" / "yahoo", TEXTS)
    info = yahoo.prepare(tmp_path / "data", tmp_path / "cache").info
    assert info.title == "yahoo (Yang 2017)" and "20,001" in info.notes[0]
    assert info.source == "data/yahoo of github.com/harvardnlp/DeepLatentNLP"


@pytest.mark.parametrize("names", [SPLITS, ("yelp.train.txt", "yelp.valid.txt", "yelp.test.txt")])
def test_yelp_has_labels(names, tmp_path):
    lines = ["5\tgood food\n1\tbad food\n", "3\tfood\n", "1\tbad\n"]
    write(tmp_path / "data" / "yelp", dict(zip(names, lines, strict=True)))
    arrays = arrays_of(yelp.prepare(tmp_path / "data", tmp_path / "cache"))
    assert arrays["label_names"].tolist() == ["1", "3", "5"] and arrays["train_labels"].tolist() == [2, 0]
    assert arrays["vocabulary"][4:].tolist() == ["food", "bad", "good"]


def test_some_files_are_missing(tmp_path, server):
    write(tmp_path / "data" / "yelp", {"yelp.valid.txt": "3\tfood\n"})
    with pytest.raises(UserError, match=r"train\.txt and test\.txt missing") as error:
        yelp.prepare(tmp_path / "data", tmp_path / "cache")
    one_line(error)
    assert server[1] == []


@pytest.mark.parametrize("module", [yahoo, yelp])
def test_a_download(module, tmp_path, server, monkeypatch):
    contents, asked = server
    urls = module.PUBLISHED.urls
    contents |= {urls[split]: TEXTS[split].encode() for split in SPLITS}
    publish(monkeypatch, module, TEXTS)
    first = module.prepare(None, tmp_path / "cache")
    assert "Yang 2017" in first.info.title and asked == list(urls.values())
    contents.clear()
    assert module.prepare(tmp_path / "data", tmp_path / "cache") == first  # nothing in data, all in the cache
    assert len(asked) == 3


def test_an_interrupted_download_goes_on(tmp_path, server, monkeypatch):
    contents, asked = server
    urls = yahoo.PUBLISHED.urls
    publish(monkeypatch, yahoo, TEXTS)
    contents[urls["train"]] = TEXTS["train"].encode()
    with pytest.raises(UserError):
        yahoo.prepare(None, tmp_path / "cache")
    contents |= {urls[split]: TEXTS[split].encode() for split in ("val", "test")}
    yahoo.prepare(None, tmp_path / "cache")
    assert asked.count(urls["train"]) == 1


@pytest.mark.parametrize("module", [yahoo, yelp])
def test_without_data_or_network(module, tmp_path, server):
    name = module.PUBLISHED.name
    with pytest.raises(UserError) as error:
        module.prepare(tmp_path / "data", tmp_path / "cache")
    message = one_line(error)
    for part in (f"no {name}: nothing in {tmp_path / 'data' / name}", module.PUBLISHED.urls["train"],
                 "Network is unreachable", f"DATA_DIR/{name}/", "train.txt, val.txt, test.txt",
                 "--data-dir", "BENCH_DATA_DIR"):  # fmt: skip
        assert part in message
    with pytest.raises(UserError, match="no data directory given"):
        module.prepare(None, tmp_path / "cache")
    assert files_in(tmp_path / "cache") == []


def test_a_download_of_something_else_is_refused(tmp_path, server):
    server[0][yahoo.PUBLISHED.urls["train"]] = b"another file"
    with pytest.raises(UserError, match=r"what came from https://raw\.github.* is not the published file") as error:
        yahoo.prepare(None, tmp_path / "cache")
    one_line(error)
    assert files_in(tmp_path / "cache") == []


@pytest.mark.slow
def test_real_yahoo(tmp_path):
    data_dir = os.environ.get("BENCH_DATA_DIR")
    if not (data_dir and (Path(data_dir) / "yahoo").exists()):
        pytest.skip("BENCH_DATA_DIR holds no yahoo")
    prepared = yahoo.prepare(Path(data_dir), tmp_path)
    arrays = arrays_of(prepared)
    lengths = (arrays["test"] > 2).sum(axis=1)
    assert 20 <= lengths.min() and lengths.max() <= 200 and 70 < lengths.mean() < 90
    assert 15_000 < prepared.info.vocabulary <= 20_000
    assert 0.03 < (arrays["test"] == 3).sum() / lengths.sum() < 0.07
