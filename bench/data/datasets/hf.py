"""HF: text data sets of the Hugging Face hub, loaded by the package datasets: ``--dataset hf:NAME``.

Settings: ``--dataset "hf:NAME(config=…, column=…, label=…, tokenise=false)"``.

- Texts are in ``column``; by default ``text`` or ``sentence``, or else the first column of strings.
- Labels are in the column ``label``, if the data set has it.
- The splits are ``train``, ``validation`` (``valid``, ``val``, ``dev``) and ``test``. One that is missing is drawn from
  train with a fixed seed: a tenth of the texts, at most 10,000. Equal texts stay in the same split.
- Texts are tokenised by ``_common.tokenise``, or with ``tokenise=false`` split at spaces. They are cut after
  ``MAX_WORDS`` words, longer words than ``MAX_CHARACTERS`` are ``<unk>``, and texts without words are left out.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench.core.errors import UserError
from bench.data.corpus import MAX_CHARACTERS, MAX_WORDS, prepare_text
from bench.data.dataset import SPECIALS, SPLITS, UNKNOWN, Prepared
from bench.data.datasets import _common
from bench.data.user_data import MAX_NAME

SUMMARY = "hf:NAME, texts of the Hugging Face hub; needs the package datasets"
NEEDS_DOWNLOAD = True
SETTINGS = {"name": "", "config": "", "column": "", "label": "label", "tokenise": True}

SPLIT_NAMES = {"train": ("train",), "val": ("validation", "valid", "val", "dev"), "test": ("test",)}
TEXT_COLUMNS = ("text", "sentence")
STRINGS = ("string", "large_string")
HELD_OUT = 10_000  # texts at most, of a split that is drawn from train


def prepare(
    data_dir: Path | None,
    cache: Path,
    name: str = "",
    config: str = "",
    column: str = "",
    label: str = "label",
    tokenise: bool = True,
) -> Prepared:
    """Load and prepare the data set ``name`` of the hub; ``data_dir`` is not used."""
    if not name:
        raise UserError("write --dataset hf:NAME, with the name of a data set of the Hugging Face hub")
    loaded = _common.import_package("datasets", "datasets").load_dataset(name, config or None)
    parts = {split: next((loaded[key] for key in keys if key in loaded), None) for split, keys in SPLIT_NAMES.items()}
    if parts["train"] is None:
        raise UserError(f"hf:{name} has no split train, but {', '.join(loaded)}: choose another data set")
    text, labels = columns(parts["train"].features, name, column, label)
    lines = {split: read(part, text, labels, tokenise) for split, part in parts.items() if part is not None}
    notes = [f"The data set has no split {split}: drawn from train." for split in SPLITS if split not in lines]
    hold_out(lines)
    return prepare_text(
        re.sub(r"[^a-z0-9]+", "-", f"hf {name} {config}".lower())[:MAX_NAME].strip("-"),
        {split: Path(f"hf:{name}") / split for split in SPLITS},
        {split: "\n".join(lines[split]).encode() for split in SPLITS},
        cache,
        f"column {text} of {' '.join(filter(None, (name, config)))} on the Hugging Face hub",
        notes,
    )


def columns(features: Mapping[str, Any], name: str, column: str, label: str) -> tuple[str, str | None]:
    """Return the columns of the texts and of their labels, None without labels."""
    for wanted in (column, label if label != SETTINGS["label"] else ""):
        if wanted and wanted not in features:
            raise UserError(f"hf:{name} has no column {wanted}: choose from {', '.join(features)}")
    strings = [key for key, feature in features.items() if getattr(feature, "dtype", None) in STRINGS]
    if not column and not strings:
        raise UserError(f"hf:{name} has no column of strings, but {', '.join(features)}: choose a data set of texts")
    column = column or next((key for key in TEXT_COLUMNS if key in strings), strings[0])
    return column, label if label in features else None


def read(part: Any, column: str, label: str | None, tokenise: bool) -> list[str]:
    """Return the lines ``words`` or ``label<TAB>words`` of a ``datasets.Dataset``."""
    split = _common.tokenise if tokenise else str.split
    classes = getattr(part.features[label], "names", None) if label else None
    lines = []
    for text, value in zip(part[column], part[label] if label else [""] * len(part), strict=True):
        words = [word if len(word) <= MAX_CHARACTERS else SPECIALS[UNKNOWN] for word in split(text or "")[:MAX_WORDS]]
        if classes and value is not None and 0 <= value < len(classes):  # -1: without a class
            value = classes[value]
        if words:
            name = " ".join(str(value).split()) or "none"
            lines.append(f"{name}\t{' '.join(words)}" if label else " ".join(words))
    return lines


def hold_out(lines: dict[str, list[str]]) -> None:
    """Move a part of train to each split that is missing."""
    for split in [split for split in SPLITS if split not in lines]:
        train = lines["train"]
        texts = [line.rpartition("\t")[2] for line in train]
        order = _common.hash_shuffled(texts)
        if not (count := min(HELD_OUT, len(train) // 10)):
            raise UserError(f"{len(train)} texts for training are too few to hold out {split}: 10 are needed")
        while count < len(train) and texts[order[count]] == texts[order[count - 1]]:
            count += 1
        lines[split] = [train[index] for index in order[:count]]
        lines["train"] = [train[index] for index in sorted(order[count:])]
