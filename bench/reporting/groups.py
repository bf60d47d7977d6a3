"""Groups of stored cells that one table may compare. Reads JSON only: no pandas, no matplotlib."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.core.hashing import canonical, short_hash
from bench.experiment.cell_folder import CellFolder, cell_folders
from bench.experiment.cell_record import CellRecord, readable


@dataclass
class Group:
    """The cells of one table. ``stem`` names its files ("omniglot-quick"); ``notes`` are printed below the table."""

    stem: str
    cells: list[CellRecord]
    notes: list[str] = field(default_factory=list)


def folders_by_preset(out: Path) -> dict[tuple[str, str], list[CellFolder]]:
    """Return the folders of all stored cells by (data set, preset), sorted."""
    folders: defaultdict[tuple[str, str], list[CellFolder]] = defaultdict(list)
    for folder in cell_folders(out):
        dataset, preset = folder.path.parts[-4:-2]
        folders[dataset, preset].append(folder)
    return dict(sorted(folders.items()))


def common_settings(cells: Iterable[CellRecord]) -> dict[str, dict[str, Any]]:
    """Return, for every optional metric group, the settings that most of the cells were evaluated with."""
    counts: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for cell in cells:
        for name, settings in cell.group_settings.items():
            counts[name][canonical(settings)] += 1
    return {name: json.loads(max(sorted(count), key=count.__getitem__)) for name, count in sorted(counts.items())}


def settings_notes(cells: Iterable[CellRecord], settings: Mapping[str, dict[str, Any]]) -> list[str]:
    """Return a note for every metric group that the table skips in cells evaluated with other settings."""
    skipped: defaultdict[tuple[str, str], list[str]] = defaultdict(list)
    for cell in cells:
        for group in cell.differing_groups(settings):
            name = cell.config.name
            skipped[group, _format(cell.group_settings[group])].append(name)
    return [
        f"Metrics of the group {group} use {_format(settings[group])}; skipped, with {other}: {', '.join(names)}."
        for (group, other), names in skipped.items()
    ]


def _format(settings: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in settings.items()) or "no settings"


def group_cells(stem: str, folders: Iterable[CellFolder]) -> list[Group]:
    """Split the cells of one (data set, preset) into groups with the same protocol.

    Cells that differ in data, model, training, device or evaluation are not pooled. The group with the most finished
    cells is named ``stem``; the others append a hash of their protocol. An unreadable cell is skipped, with a note in
    the first group.
    """
    cells, unreadable = readable(folders)
    skipped = [f"Skipped: {folder.path.parent.name}/{folder.path.name} ({reason})." for folder, reason in unreadable]
    groups = [Group(stem, members) for members in _by_protocol(cells)]
    for cell in cells:
        if not cell.evaluation:  # joins the first group that was trained by the same protocol
            group = next((group for group in groups if group.cells[0].protocol == cell.protocol), None)
            if group is None:
                groups.append(group := Group(stem, []))
            group.cells.append(cell)
    for group in groups[1:]:
        protocol = _protocol(group.cells[0])
        group.stem = f"{stem}-{short_hash(protocol, 8)}"
        differing = ", ".join(differences(_protocol(groups[0].cells[0]), protocol))
        group.notes.append(f"Not comparable with the cells of {stem}: they differ in {differing}.")
        groups[0].notes.append(f"Cells of another protocol (they differ in {differing}) are in {group.stem}.")
    for group in groups:
        versions = sorted({cell.evaluation.version for cell in group.cells if cell.evaluation})
        if len(versions) > 1:
            names = " and ".join(map(str, versions))
            group.notes.append(f"Evaluated by versions {names} of the evaluation: run python -m bench evaluate.")
    if not groups and skipped:
        groups = [Group(stem, [])]
    if groups:
        groups[0].notes += skipped
    return groups


def _by_protocol(cells: Iterable[CellRecord]) -> list[list[CellRecord]]:
    """Return the evaluated cells by protocol, the largest group first."""
    members: defaultdict[str, list[CellRecord]] = defaultdict(list)
    for cell in cells:
        if cell.evaluation:
            members[canonical(_protocol(cell))].append(cell)
    return [group for _, group in sorted(members.items(), key=lambda item: (-len(item[1]), item[0]))]


def _protocol(cell: CellRecord) -> dict[str, Any]:
    return {**cell.protocol, "evaluation": vars(cell.evaluation.settings) if cell.evaluation else {}}


def differences(first: Mapping[str, Any], second: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Return the dotted names of the entries in which two records differ."""
    names = []
    for key in sorted({*first, *second}):
        one, other = first.get(key), second.get(key)
        if isinstance(one, dict) and isinstance(other, dict):
            names += differences(one, other, f"{prefix}{key}.")
        elif one != other:
            names.append(prefix + key)
    return names
