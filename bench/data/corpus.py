"""What text sets share: reading documents, a vocabulary, arrays of ids, and sets published as three files.

A file holds one document a line, UTF-8, words separated by spaces; or, in every line, ``label<TAB>document``.
"""

from __future__ import annotations

import codecs
import hashlib
import io
import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bench.core.errors import UserError
from bench.core.safe_io import read_bytes
from bench.data.cache import cached
from bench.data.dataset import END, PAD, SPECIALS, SPLITS, START, UNKNOWN, Prepared
from bench.data.download import download, git_blob_sha1

UNKNOWN_WORDS = frozenset({SPECIALS[UNKNOWN], "_UNK"})  # as files spell a word outside of their vocabulary
MARKS = frozenset(SPECIALS) - UNKNOWN_WORDS
WORDS = 500  # of a document at most: a recurrent model keeps every step of every document of a batch
CHARACTERS = 200  # of a word at most: the vocabulary is stored at the width of its longest word
# What files of any size and kind must not take from memory. The published sets have a twentieth to a half of it.
FILE_BYTES = 128 << 20
LINE_BYTES = 4 * (WORDS + 1) * (CHARACTERS + 1)
DOCUMENTS = 2_000_000  # of a file
DISTINCT = 500_000  # words and labels of a file
CELLS = 1 << 27  # of the documents of a split, padded
RECIPE = 2  # raise it when the same files come to give other arrays

Documents = list[list[str]]


@dataclass(frozen=True)
class Published:
    """A text set published as one file for each split, known by the names that git gives their contents."""

    name: str
    title: str
    source: str
    urls: Mapping[str, str]  # by split
    blobs: Mapping[str, str]  # by split
    note: str  # a footnote on the published files

    def prepare(self, data_dir: Path | None, cache: Path) -> Prepared:
        """The files of ``data_dir/<name>`` or the download, as arrays in ``cache``.

        Files with other contents are taken as well, and titled and noted as another set. ``UserError`` where a file
        is missing, damaged or not to be had.
        """
        folder = Path(data_dir) / self.name if data_dir else None
        files = self._local(folder) if folder else {}
        files = files or {split: self._download(split, folder, cache) for split in SPLITS}
        contents = {split: read(path) for split, path in files.items()}
        if all(git_blob_sha1(contents[split]) == self.blobs[split] for split in SPLITS):
            return prepare(self.name, files, contents, cache, self.source, (self.note,), self.title)
        note = f"Other documents than those of {self.title}: numbers do not compare with published ones."
        return prepare(self.name, files, contents, cache, f"files {self._file_names()} of the user", (note,))

    def _local(self, folder: Path) -> dict[str, Path]:
        """The files in ``folder`` by split; none where there is none at all."""
        files = {split: find(folder, f"{split}.txt", self._published_name(split)) for split in SPLITS}
        missing = [f"{split}.txt" for split, path in files.items() if not path]
        if 0 < len(missing) < len(SPLITS):
            raise UserError(f"{folder}: {' and '.join(missing)} missing; {self.name} is {self._file_names()}")
        return {split: path for split, path in files.items() if path}

    def _download(self, split: str, folder: Path | None, cache: Path) -> Path:
        remedy = (
            f"Put {self._file_names()} into DATA_DIR/{self.name}/ and name DATA_DIR with --data-dir or "
            "BENCH_DATA_DIR; --dataset synthetic needs no download"
        )
        path = cache / f"{self.name}-{split}.txt"
        return download(path, self.urls[split], self.blobs[split], self.name, folder, remedy)

    def _published_name(self, split: str) -> str:
        return self.urls[split].rpartition("/")[2]

    def _file_names(self) -> str:
        return ", ".join(f"{split}.txt" for split in SPLITS)


def prepare(
    name: str,
    files: Mapping[str, Path],
    contents: Mapping[str, bytes],
    cache: Path,
    source: str,
    notes: Sequence[str] = (),
    title: str | None = None,
) -> Prepared:
    """A text set from one file for each split, kept in ``cache`` under their contents.

    Without a ``title`` it is the name and the numbers of documents. ``UserError`` names the file and line that
    cannot be used.
    """
    digest = hashlib.sha1("".join(git_blob_sha1(contents[split]) for split in SPLITS).encode(), usedforsecurity=False)

    def build() -> tuple[dict, Mapping[str, np.ndarray]]:
        documents, labels = parse_all(files, contents)
        made = arrays(documents, labels)
        sizes = "/".join(f"{len(documents[split]):,}" for split in SPLITS)
        given = {"name": name, "title": title or f"{name} ({sizes} documents)", "source": source}
        return fields(made) | given | {"notes": (*notes, unknown_note(made))}, made

    return cached(cache, f"{name}-{digest.hexdigest()[:16]}-r{RECIPE}", build)


def fields(made: Mapping[str, np.ndarray]) -> dict:
    """What ``DataInfo`` says of any text set with these arrays."""
    return {
        "modality": "text",
        "unit": "nats per sentence",
        "shape": (made["train"].shape[1],),
        "vocabulary": len(made["vocabulary"]),
    }


# ---- files


def find(folder: Path, *names: str) -> Path | None:
    """The first of ``names`` that is in ``folder``."""
    return next((folder / name for name in names if os.path.lexists(folder / name)), None)


def read(path: Path) -> bytes:
    """The content of a file; a ``UserError`` where it cannot be read."""
    return read_bytes(path, FILE_BYTES)


def parse_all(
    files: Mapping[str, Path], contents: Mapping[str, bytes]
) -> tuple[dict[str, Documents], dict[str, list[str]] | None]:
    """Documents, and labels where there are some, of every split; ``files`` are what errors name."""
    parsed = {split: parse(contents[split], files[split]) for split in SPLITS}
    labels = {split: found for split, (_, found) in parsed.items() if found is not None}
    if labels and len(labels) < len(SPLITS):
        without = next(files[split] for split in SPLITS if split not in labels)
        with_ = files[next(iter(labels))]
        raise UserError(f"{without} has no labels and {with_} has; write label<TAB>document in every file, or in none")
    return {split: documents for split, (documents, _) in parsed.items()}, labels or None


def parse(content: bytes, path: Path) -> tuple[Documents, list[str] | None]:
    """The documents of a file as lists of words, and their labels or None; ``path`` is what errors name."""
    content = content.removeprefix(codecs.BOM_UTF8)
    if not re.search(rb"\S", content):
        raise UserError(f"{path} is empty; it must hold one document a line")
    labelled = b"\t" in content.partition(b"\n")[0]
    documents, labels, longest = [], [], 0
    known: dict[str, str] = {}  # every word is held once
    for number, line in enumerate(io.BytesIO(content), 1):
        label, words, problem = _document(line, labelled)
        if problem:
            raise UserError(f"{path}, line {number}: {problem}")
        documents.append([known.setdefault(word, word) for word in words])
        if labelled:
            labels.append(known.setdefault(label, label))
        longest = max(longest, len(words))
        if len(documents) > DOCUMENTS or len(known) > DISTINCT or len(documents) * (longest + 2) > CELLS:
            raise UserError(
                f"{path} is too large: by line {number:,} it has {len(known):,} different words and documents of up to "
                f"{longest} words; use fewer documents, shorter ones, or fewer words"
            )
    return documents, labels if labelled else None


def _document(line: bytes, labelled: bool) -> tuple[str, list[str], str | None]:
    """The label and the words of a line; or why it cannot be used and what to do about it."""
    if len(line) > LINE_BYTES:
        return "", [], f"{len(line):,} bytes, more than a document has; write one document a line"
    try:
        text = line.decode()
    except UnicodeDecodeError:
        return "", [], "not UTF-8; convert the file, for example with iconv"
    label, tab, document = text.partition("\t") if labelled else ("", "", text)
    # Without labels a tab can only be a label that line 1 has not.
    if labelled != bool(tab or "\t" in document):
        advice = "write label<TAB>document in every line, or in none"
        return "", [], f"{'no label' if labelled else 'a label'}, unlike line 1; {advice}"
    words, label = document.split(), label.strip()
    return label, words, _problem(words, label if labelled else None)


def _problem(words: Sequence[str], label: str | None) -> str | None:
    """Why a document cannot be used and what to do about it."""
    if not words:
        return "an empty document; remove the line"
    if label == "":
        return "an empty label before the tab"
    if label and len(label) > CHARACTERS:
        return f"a label of {len(label):,} characters, more than {CHARACTERS}"
    if len(words) > WORDS:
        return f"a document of {len(words):,} words, more than {WORDS}; cut or split it"
    if marks := MARKS.intersection(words):
        return f"{min(marks)} is a mark of the harness itself; remove it from the text"
    if (longest := max(map(len, words))) > CHARACTERS:
        return f"a word of {longest:,} characters, more than {CHARACTERS}; separate words by spaces"
    if any("\0" in word for word in words):
        return "a NUL character; convert the file to UTF-8 text"
    return None


# ---- arrays


def vocabulary(documents: Iterable[Sequence[str]], words: Iterable[str] = ()) -> list[str]:
    """``SPECIALS``, then the words by falling frequency in ``documents``, ties alphabetically.

    ``words`` are in it even where no document has them.
    """
    counts = Counter(dict.fromkeys(words, 0))
    for document in documents:
        counts.update(document)
    found = sorted(counts.keys() - UNKNOWN_WORDS, key=lambda word: (-counts[word], word))
    return [*SPECIALS, *found]


def encode(documents: Sequence[Sequence[str]], ids: Mapping[str, int], length: int) -> np.ndarray:
    """Ids of ``<s> w1 … wn </s>``, padded on the right: int32 ``[N, length]``."""
    lengths = np.fromiter(map(len, documents), np.int64, len(documents))[:, None]
    rows, columns = np.full((len(documents), length), PAD, np.int32), np.arange(length)
    rows[:, 0] = START
    rows[(columns >= 1) & (columns <= lengths)] = np.fromiter(
        (ids.get(word, UNKNOWN) for document in documents for word in document), np.int32, lengths.sum()
    )
    rows[columns == lengths + 1] = END
    return rows


def arrays(
    documents: Mapping[str, Documents], labels: Mapping[str, list[str]] | None = None, words: Iterable[str] = ()
) -> dict[str, np.ndarray]:
    """The arrays of ``Prepared`` from the documents of each split, their labels, and ``words`` to know in any case."""
    entries = vocabulary(documents["train"], words)
    ids = {word: index for index, word in enumerate(entries) if word not in UNKNOWN_WORDS}
    length = max(len(document) for split in SPLITS for document in documents[split]) + 2
    made = {split: encode(documents[split], ids, length) for split in SPLITS}
    made["vocabulary"] = np.array(entries)
    return made | (label_arrays(labels) if labels else {})


def label_arrays(labels: Mapping[str, Sequence[str]]) -> dict[str, np.ndarray]:
    """``train_labels`` …: int64 ``[N]``, which index ``label_names``: str ``[L]``."""
    names = sorted(set().union(*labels.values()))
    index = {name: position for position, name in enumerate(names)}
    made = {f"{split}_labels": np.array([index[label] for label in labels[split]], np.int64) for split in SPLITS}
    return made | {"label_names": np.array(names)}


def unknown_note(made: Mapping[str, np.ndarray]) -> str:
    """A footnote: how many of the words of each split are ``<unk>``."""
    shares = {split: (made[split] == UNKNOWN).sum() / (made[split] > END).sum() for split in SPLITS}
    listed = ", ".join(f"{100 * share:.1f} % of {split}" for split, share in shares.items())
    return f"Of the words, with the whole vocabulary, <unk> are {listed}."
