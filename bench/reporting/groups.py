"""Stored cells as a report reads them, and which of them may stand in one table.

Only JSON is read at first, so that asking whether a table is up to date costs neither pandas nor matplotlib.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from bench.core.errors import UserError
from bench.core.files import RECORD_BYTES, dumps, read_json
from bench.core.safe_io import open_regular_file
from bench.experiment import examples
from bench.experiment.cell_folder import CellFolder, cell_folders
from bench.experiment.cell_record import CellRecord, readable
from bench.experiment.schema import label, text, unlike, unplain

SWEEPS = "sweeps.json"
FILES = ("config.json", "result.json", "evaluation.json", "history.jsonl", "texts.json")


@dataclass
class Group:
    """The cells of one table, and what is to be said of those that are not in it."""

    stem: str  # of the files: "omniglot-quick"
    cells: list[CellRecord]
    notes: list[str] = field(default_factory=list)


def fit(stem: str) -> bool:
    """Whether files and headings can be named so."""
    return label(stem) and not unplain(stem) and len(stem.encode()) <= 200


def by_preset(out: Path) -> dict[tuple[str, str], list[CellFolder]]:
    """Every stored cell's folder under (data set, preset), as their folders are named."""
    found: defaultdict[tuple[str, str], list[CellFolder]] = defaultdict(list)
    for folder in cell_folders(out):
        dataset, preset = folder.path.parts[-4:-2]
        found[dataset, preset].append(folder)
    return dict(sorted(found.items()))


def sweeps(out: Path) -> dict[str, dict[str, list[str]]]:
    """Every sweep ever asked for under ``out``: preset -> its expression -> the expressions of its members.

    By preset, for what a member's settings are, and so what it is called, depends on the preset's defaults.
    """
    try:
        found = read_json(out / SWEEPS, missing_ok=True)
        if found is not None and (wrong := unplain(found) or unlike(found, {"*": {"*": [text]}})):
            raise ValueError(wrong)
    except ValueError as error:
        raise UserError(f"{out / SWEEPS} is damaged: remove it, the next run writes its own sweeps again") from error
    return found or {}


def stamp(out: Path, folders: Iterable[CellFolder], version: str) -> str:
    """A hash of everything that the tables and figures of these cells are made from, and of what makes them.

    Arrays count by their size: whenever they are written, so is ``evaluation.json``.
    """
    digest = hashlib.sha256(version.encode())
    for file in (out / SWEEPS, *(folder.path / name for folder in folders for name in FILES)):
        content = _content(file)
        digest.update(os.fsencode(f"{file.relative_to(out)} {len(content)}\n") + content)
    for file in (folder.path / name for folder in folders for name in (examples.FILE, "arrays.npz")):
        digest.update(os.fsencode(f"{file.relative_to(out)} {_size(file)}\n"))
    return digest.hexdigest()


def _content(file: Path) -> bytes:
    """What is in a file, or why that cannot be told."""
    try:
        with open_regular_file(file, RECORD_BYTES) as opened:
            return opened.read(RECORD_BYTES)
    except FileNotFoundError:
        return b""
    except (OSError, ValueError) as error:
        return str(error).encode()


def _size(file: Path) -> int | None:
    try:
        return file.stat().st_size
    except OSError:
        return None


def common_settings(cells: Iterable[CellRecord]) -> dict[str, dict]:
    """For every optional group the settings that most of the cells were judged with."""
    found: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for cell in cells:
        for name, settings in cell.settings.items():
            found[name][dumps(settings, sort_keys=True)] += 1
    return {name: json.loads(max(sorted(counts), key=counts.__getitem__)) for name, counts in sorted(found.items())}


def judged_otherwise(cells: Iterable[CellRecord], settings: Mapping[str, dict]) -> list[str]:
    """A note on every group of metrics that is left out of a table for some cells, and on why it is."""
    found: defaultdict[tuple[str, str], list[str]] = defaultdict(list)
    for cell in cells:
        for group in cell.differing_groups(settings):
            found[group, _said(cell.settings[group])].append(
                f"{cell.config['method']['expression']} seed {cell.config['seed']}"
            )
    return [
        f"Metrics of the group {group} are for {_said(settings[group])}; left out, for {theirs}: {', '.join(names)}."
        for (group, theirs), names in found.items()
    ]


def _said(settings: dict) -> str:
    return ", ".join(f"{name} {value}" for name, value in settings.items()) or "no settings"


def groups(stem: str, folders: Iterable[CellFolder]) -> list[Group]:
    """The cells of one (data set, preset) in as many groups as there are protocols among them.

    Cells that differ in data, model, training, device or evaluation are not pooled. The group with the most
    finished cells keeps the plain ``stem``; each other one adds a hash of its protocol. A cell that cannot be
    read is left out, with a note in the first group.
    """
    cells, left = readable(folders)
    damaged = [f"Left out: {folder.path.parent.name}/{folder.path.name} ({reason})." for folder, reason in left]
    found: dict[str, list[CellRecord]] = defaultdict(list)
    for cell in cells:
        if cell.evaluation:
            found[dumps(_protocol(cell), sort_keys=True)].append(cell)
    ordered = sorted(found.items(), key=lambda item: (-len(item[1]), item[0]))
    made = [Group(stem, members) for _, members in ordered]
    for cell in cells:  # those without numbers stand with the first that was trained alike
        if not cell.evaluation:
            home = next((group for group in made if group.cells[0].protocol == cell.protocol), None)
            if home is None:
                made.append(home := Group(stem, []))
            home.cells.append(cell)
    for group in made[1:]:
        identity = _protocol(group.cells[0])
        group.stem = f"{stem}-{hashlib.sha256(dumps(identity, sort_keys=True).encode()).hexdigest()[:8]}"
        differing = ", ".join(differences(_protocol(made[0].cells[0]), identity))
        group.notes.append(f"Not comparable with the cells of {stem}: they differ in {differing}.")
        made[0].notes.append(f"Cells of another protocol (they differ in {differing}) are in {group.stem}.")
    for group in made:
        versions = sorted({cell.evaluation.get("version", 1) for cell in group.cells if cell.evaluation})
        if len(versions) > 1:
            those = " and ".join(map(str, versions))
            group.notes.append(
                f"Judged by versions {those} of the evaluation: python -m bench.evaluate judges them alike."
            )
    if made:
        made[0].notes.extend(damaged)
    elif damaged:
        made = [Group(stem, [], damaged)]
    return made


def _protocol(cell: CellRecord) -> dict:
    return {**cell.protocol, "evaluation": cell.evaluation["settings"] if cell.evaluation else {}}


def differences(one: dict, other: dict, prefix: str = "") -> list[str]:
    """Names of the entries in which two records differ, dotted where these are records themselves."""
    names = []
    for key in sorted({*one, *other}):
        mine, theirs = one.get(key), other.get(key)
        if isinstance(mine, dict) and isinstance(theirs, dict):
            names += differences(mine, theirs, f"{prefix}{key}.")
        elif mine != theirs:
            names.append(prefix + key)
    return names
