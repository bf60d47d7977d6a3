"""SNLI: sentences of the Stanford Natural Language Inference corpus, short descriptions of photographs.

Bowman, Angeli, Potts & Manning (2015), *A large annotated corpus for learning natural language inference*. Text-VAE
papers use samples of its sentences (Li et al., 2019: ``snli.{train,valid,test}.txt``). Here: the distinct premises and
hypotheses of each part, in the corpus's tokens and lower case, of which up to 100,000 are drawn with a fixed seed for
training and 10,000 each for validation and test. Files of the papers in ``DATA_DIR/snli/`` are used as they are.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from bench.core.errors import UserError
from bench.core.files import read_bytes
from bench.data.cache import cached
from bench.data.corpus import find_files, prepare_text, text_arrays, text_info, unknown_note
from bench.data.dataset import SPLITS, DataInfo, Prepared
from bench.data.datasets._common import hash_shuffled
from bench.data.download import download, has_digest

SUMMARY = "sentences of SNLI: downloaded (90 MB), or from DATA_DIR/snli"
NEEDS_DOWNLOAD = True

URL = "https://nlp.stanford.edu/projects/snli/snli_1.0.zip"
SHA256 = "afb3d70a5af5d8de0d9d81e2637e0fb8c22d1235c2749d83125ca43dab0dbd3e"
PARTS = {"train": "train", "val": "dev", "test": "test"}  # parts of the corpus by split
SIZES = {"train": 100_000, "val": 10_000, "test": 10_000}  # at most
PREPARATION_VERSION = 1  # increase when the same file gives different arrays


def prepare(data_dir: Path | None, cache: Path) -> Prepared:
    """Prepare the files of ``data_dir/snli``, or else the download; ``UserError`` if neither is usable.

    The files are ``snli_1.0.zip``, or ``{train,val,test}.txt`` or ``snli.{train,valid,test}.txt``.
    """
    folder = Path(data_dir) / "snli" if data_dir else None
    names = {split: (f"{split}.txt", f"snli.{'valid' if split == 'val' else split}.txt") for split in SPLITS}
    if folder and (files := find_files(folder, names)):
        contents = {split: read_bytes(path) for split, path in files.items()}
        source = f"the user's files {', '.join(path.name for path in files.values())}"
        return prepare_text("snli", files, contents, cache, source)

    def build() -> tuple[DataInfo, Mapping[str, np.ndarray]]:
        arrays = text_arrays(sentences(_archive(folder, cache)))
        info = text_info("snli", "snli (Bowman 2015)", "snli_1.0.zip of nlp.stanford.edu/projects/snli", arrays)
        note = "A sample of the distinct premises and hypotheses, drawn with a fixed seed: not that of a paper."
        return replace(info, notes=(note, unknown_note(arrays))), arrays

    return cached(cache, f"snli-{SHA256[:16]}-r{PREPARATION_VERSION}", build)


def sentences(archive: bytes) -> dict[str, list[list[str]]]:
    """Return the sentences of each split of ``snli_1.0.zip`` as words."""
    result = {}
    with zipfile.ZipFile(io.BytesIO(archive)) as files:
        for split, part in PARTS.items():
            lines = files.read(f"snli_1.0/snli_1.0_{part}.txt").decode().split("\n")[1:]  # after the headings
            # Columns 2 and 3 are the binary parses of premise and hypothesis: "( ( A dog ) ( runs . ) )".
            parses = [parse for line in lines for parse in line.split("\t")[1:3]]
            distinct = {" ".join(w for w in parse.lower().split() if w not in ("(", ")")): None for parse in parses}
            texts = [text for text in distinct if text]
            result[split] = [texts[index].split() for index in hash_shuffled(texts)[: SIZES[split]]]
    return result


def _archive(folder: Path | None, cache: Path) -> bytes:
    """Return the content of ``snli_1.0.zip``, verified."""
    path = folder / "snli_1.0.zip" if folder else None
    if path is None or not path.exists():
        remedy = "Put snli_1.0.zip into DATA_DIR/snli/ and pass DATA_DIR as --data-dir or BENCH_DATA_DIR"
        path = download(cache / "snli_1.0.zip", URL, SHA256, "snli", folder, remedy)
    content = read_bytes(path)
    if not has_digest(content, SHA256):
        raise UserError(f"{path} is not the published file; download it again from {URL}")
    return content
