"""Text data sets: parsing documents, vocabulary, arrays of token ids, and corpora published as three files.

A file has one document per line, UTF-8, words separated by spaces; or, on every line, ``label<TAB>document``.
"""

from __future__ import annotations

import codecs
import hashlib
import io
import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from bench.core.errors import UserError
from bench.core.files import read_bytes
from bench.data.cache import cached
from bench.data.dataset import END, PAD, SPECIALS, SPLITS, START, UNKNOWN, DataInfo, Prepared
from bench.data.download import download, git_blob_sha1

UNKNOWN_WORDS = frozenset({SPECIALS[UNKNOWN], "_UNK"})  #: Spellings of an out-of-vocabulary word.
RESERVED_WORDS = frozenset(SPECIALS) - UNKNOWN_WORDS
MAX_WORDS = 500  #: Per document; a recurrent model stores every step of every document of a batch.
MAX_CHARACTERS = 200  #: Per word; the vocabulary is stored at the width of its longest word.
PREPARATION_VERSION = 2  #: Increase when the same files give different arrays.

FILE_NAMES = ", ".join(f"{split}.txt" for split in SPLITS)
LABEL_RULE = "write label<TAB>document"

Documents = list[list[str]]


@dataclass(frozen=True)
class PublishedCorpus:
    """A text data set published as one file per split, identified by their git blob hashes."""

    name: str
    title: str
    source: str
    urls: Mapping[str, str]  #: By split.
    blobs: Mapping[str, str]  #: By split.
    note: str  #: A footnote on the published files.

    def prepare(self, data_dir: Path | None, cache: Path) -> Prepared:
        """Prepare the files of ``data_dir/<name>``, or else the downloaded ones.

        The files are ``{train,val,test}.txt``, or have the published names. Files with other contents are accepted,
        with a title and note that say so. Raise ``UserError`` if a file is missing or damaged, or the download fails.
        """
        folder = Path(data_dir) / self.name if data_dir else None
        names = {split: (f"{split}.txt", self.urls[split].rpartition("/")[2]) for split in SPLITS}
        files = find_files(folder, names) if folder else {}
        files = files or {split: self._download(split, folder, cache) for split in SPLITS}
        contents = {split: read_bytes(path) for split, path in files.items()}
        if all(git_blob_sha1(contents[split]) == self.blobs[split] for split in SPLITS):
            return prepare_text(self.name, files, contents, cache, self.source, (self.note,), self.title)
        note = f"Not the documents of {self.title}: results are not comparable with published ones."
        return prepare_text(self.name, files, contents, cache, f"the user's files {FILE_NAMES}", (note,))

    def _download(self, split: str, folder: Path | None, cache: Path) -> Path:
        remedy = (
            f"Put {FILE_NAMES} into DATA_DIR/{self.name}/ and pass DATA_DIR as --data-dir or BENCH_DATA_DIR; "
            "--dataset synthetic needs no download"
        )
        path = cache / f"{self.name}-{split}.txt"
        return download(path, self.urls[split], self.blobs[split], self.name, folder, remedy)


def prepare_text(
    name: str,
    files: Mapping[str, Path],
    contents: Mapping[str, bytes],
    cache: Path,
    source: str,
    notes: Sequence[str] = (),
    title: str | None = None,
) -> Prepared:
    """Prepare a text data set from one file per split; the cache name contains a hash of ``contents``.

    The default title has the name and the numbers of documents. Raise ``UserError`` with file and line for text that
    cannot be used.
    """
    digest = hashlib.sha1("".join(git_blob_sha1(contents[split]) for split in SPLITS).encode(), usedforsecurity=False)

    def build() -> tuple[DataInfo, Mapping[str, np.ndarray]]:
        documents, labels = parse_all(files, contents)
        arrays = text_arrays(documents, labels)
        sizes = "/".join(f"{len(documents[split]):,}" for split in SPLITS)
        info = text_info(name, title or f"{name} ({sizes} documents)", source, arrays)
        return replace(info, notes=(*notes, unknown_note(arrays))), arrays

    return cached(cache, f"{name}-{digest.hexdigest()[:16]}-r{PREPARATION_VERSION}", build)


def text_info(name: str, title: str, source: str, arrays: Mapping[str, np.ndarray]) -> DataInfo:
    """Return the description of a text data set with these arrays."""
    shape, vocabulary = (arrays["train"].shape[1],), len(arrays["vocabulary"])
    return DataInfo(name, title, "text", "nats per sentence", shape, source=source, vocabulary=vocabulary)


# ---- files


def find_files(folder: Path, names: Mapping[str, Sequence[str]]) -> dict[str, Path]:
    """Return the first of the ``names`` of each split that exists in ``folder``; an empty dictionary if none does.

    Raise ``UserError`` if only some splits have a file.
    """
    paths = {split: [folder / name for name in names[split] if (folder / name).exists()] for split in SPLITS}
    missing = [f"{split}.txt" for split in SPLITS if not paths[split]]
    if 0 < len(missing) < len(SPLITS):
        raise UserError(f"{folder}: no {' and no '.join(missing)}; a text data set needs {FILE_NAMES}")
    return {split: matches[0] for split, matches in paths.items() if matches}


def parse_all(
    files: Mapping[str, Path], contents: Mapping[str, bytes]
) -> tuple[dict[str, Documents], dict[str, list[str]] | None]:
    """Return the documents of every split, and their labels or None; errors name ``files``."""
    parsed = {split: parse(contents[split], files[split]) for split in SPLITS}
    labels = {split: values for split, (_, values) in parsed.items() if values is not None}
    if unlabelled := [str(files[split]) for split in SPLITS if labels and split not in labels]:
        raise UserError(f"only {' and '.join(unlabelled)} without labels; {LABEL_RULE} in every file or none")
    return {split: documents for split, (documents, _) in parsed.items()}, labels or None


def parse(content: bytes, path: Path) -> tuple[Documents, list[str] | None]:
    """Return the documents of a file as lists of words, and their labels or None; errors name ``path``."""
    content = content.removeprefix(codecs.BOM_UTF8)
    if not content.strip():
        raise UserError(f"{path} is empty; write one document per line")
    labelled = b"\t" in content.partition(b"\n")[0]
    documents, labels = [], []
    for number, line in enumerate(io.BytesIO(content), 1):
        try:
            label, words = _parse_line(line, labelled)
        except ValueError as error:
            raise UserError(f"{path}, line {number}: {error}") from error
        documents.append([sys.intern(word) for word in words])  # one string object per word
        labels.append(label)
    return documents, labels if labelled else None


def _parse_line(line: bytes, labelled: bool) -> tuple[str, list[str]]:
    """Return the label, if ``labelled``, and the words; ``ValueError`` if the line cannot be used."""
    try:
        text = line.decode()
    except UnicodeDecodeError as error:
        raise ValueError("not UTF-8; convert the file, for example with iconv") from error
    label, tab, document = text.partition("\t")
    if labelled != bool(tab):
        raise ValueError(f"{'no' if labelled else 'a'} label, unlike line 1; {LABEL_RULE} on every line or none")
    label = label.strip()
    if labelled and not label:
        raise ValueError("an empty label; remove the line")
    return label, document_words(document if labelled else text)


def document_words(document: str) -> list[str]:
    """Return the words of a document; ``ValueError`` if it cannot be used."""
    words = document.split()
    if not words:
        raise ValueError("an empty document; remove it")
    if len(words) > MAX_WORDS:
        raise ValueError(f"a document of {len(words):,} words, more than {MAX_WORDS}; truncate or split it")
    if "\0" in document:
        raise ValueError("a NUL character, which arrays of words cannot hold; remove it")
    if reserved := RESERVED_WORDS.intersection(words):
        raise ValueError(f"{min(reserved)} is a special token of the benchmark; remove it from the text")
    if (longest := max(map(len, words))) > MAX_CHARACTERS:
        raise ValueError(f"a word of {longest:,} characters, more than {MAX_CHARACTERS}; separate words by spaces")
    return words


# ---- arrays


def vocabulary(documents: Iterable[Sequence[str]], words: Iterable[str] = ()) -> list[str]:
    """Return ``SPECIALS``, then the words by decreasing frequency in ``documents``, ties in alphabetical order.

    ``words`` are included even if no document has them.
    """
    counts = Counter(dict.fromkeys(words, 0))
    for document in documents:
        counts.update(document)
    ordered = sorted(counts.keys() - UNKNOWN_WORDS, key=lambda word: (-counts[word], word))
    return [*SPECIALS, *ordered]


def encode(documents: Sequence[Sequence[str]], ids: Mapping[str, int], length: int) -> np.ndarray:
    """Return the ids of ``<s> w1 … wn </s>``, padded on the right: int32 ``[N, length]``."""
    lengths = np.fromiter(map(len, documents), np.int64, len(documents))[:, None]
    rows, columns = np.full((len(documents), length), PAD, np.int32), np.arange(length)
    rows[:, 0] = START
    rows[(columns >= 1) & (columns <= lengths)] = np.fromiter(
        (ids.get(word, UNKNOWN) for document in documents for word in document), np.int32, lengths.sum()
    )
    rows[columns == lengths + 1] = END
    return rows


def text_arrays(
    documents: Mapping[str, Documents], labels: Mapping[str, list[str]] | None = None, words: Iterable[str] = ()
) -> dict[str, np.ndarray]:
    """Return the arrays of ``Prepared`` for the documents and labels of each split.

    The vocabulary has the words of train and ``words``.
    """
    entries = vocabulary(documents["train"], words)
    ids = {word: index for index, word in enumerate(entries) if word not in UNKNOWN_WORDS}
    length = max(len(document) for split in SPLITS for document in documents[split]) + 2
    arrays = {split: encode(documents[split], ids, length) for split in SPLITS}
    arrays["vocabulary"] = np.array(entries)
    return arrays | label_arrays(labels or {})


def label_arrays(labels: Mapping[str, Sequence[str]]) -> dict[str, np.ndarray]:
    """Return ``train_labels`` …: int64 ``[N]``, indices into ``label_names``: str ``[L]``; nothing without labels."""
    if not labels:
        return {}
    names = sorted(set().union(*labels.values()))
    index = {name: position for position, name in enumerate(names)}
    arrays = {f"{split}_labels": np.array([index[label] for label in labels[split]], np.int64) for split in SPLITS}
    return arrays | {"label_names": np.array(names)}


def unknown_note(arrays: Mapping[str, np.ndarray]) -> str:
    """Return a footnote with the share of unknown words in each split."""
    shares = {split: (arrays[split] == UNKNOWN).sum() / (arrays[split] > END).sum() for split in SPLITS}
    listed = ", ".join(f"{100 * share:.1f} % of {split}" for split, share in shares.items())
    return f"Unknown words (<unk>) with the full vocabulary: {listed}."
