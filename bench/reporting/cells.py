"""Stored cells as a report reads them, and which of them may stand in one table.

Only JSON is read at first, so that asking whether a table is up to date costs neither pandas nor matplotlib.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from bench.config import identity
from bench.errors import UserError
from bench.files import regular
from bench.records import label, problem, problem_of_history, text, unlike, unplain
from bench.reporting import examples
from bench.store import RECORD_BYTES, CellFolder, cell_folders, dumps, read_json

SWEEPS = "sweeps.json"
FILES = ("config.json", "result.json", "evaluation.json", "history.jsonl", "texts.json")
#: The optional groups of an evaluation, and their metrics: what one table says of a group has the same settings.
GROUPS = {
    "common": (
        *("nll_common", "nll_common_se", "ess_common", "pareto_k_common"),
        *("elbo_refined", "gap_amortisation", "gap_approximation", "gap_inference"),
    ),
    "convergence": ("nll_50", "nll_50_se", "nll_500", "nll_500_se", "nll_5000", "nll_5000_se", "ess_5000"),
    "use": ("shuffle_gap", "prior_gap"),
    "probe": ("probe", "probe_100", "probe_500", "probe_1000", "probe_chance"),
    "annealed": ("nll_annealed", "nll_annealed_se"),
}


@dataclass(frozen=True)
class Cell:
    """One stored cell, whatever its state: records as ``bench.store`` describes them."""

    folder: Path
    config: dict
    result: dict | None
    evaluation: dict | None
    history: list[dict]

    @property
    def status(self) -> str:
        """``ok`` (trained and evaluated), ``failed``, ``skipped``, ``unfinished`` or ``not evaluated``."""
        if self.result is None:
            return "unfinished"
        if self.result["status"] != "ok":
            return "unfinished" if self.result["status"] == "running" else self.result["status"]
        return "ok" if self.evaluation else "not evaluated"

    @property
    def replicate(self) -> str:
        """What two cells must share to be compared as a pair: base seed and repetition."""
        return f"{self.config['base_seed']}/{self.config['seed']}"

    @property
    def protocol(self) -> dict:
        """What the cells of one table have in common, but for how they were evaluated."""
        return {
            "data": self.config["dataset"]["fingerprint"],
            "train": identity(self.config["train"]),
            **{key: self.config[key] for key in ("model", "precision", "device", "protocol_version")},
        }

    @property
    def settings(self) -> dict[str, dict]:
        """Of every optional group that the evaluation has, its settings."""
        return {name: group["settings"] for name, group in ((self.evaluation or {}).get("groups") or {}).items()}

    def metrics(self, settings: Mapping[str, dict]) -> dict[str, Any]:
        """The metrics of a finished cell, without those of groups judged with other settings than these."""
        if self.evaluation is None or self.status != "ok":
            return {}
        others = {name for group in _differing(self, settings) for name in GROUPS.get(group, ())}
        return {name: value for name, value in self.evaluation["metrics"].items() if name not in others}

    @cached_property
    def examples(self) -> examples.Examples:
        """Its values per test example, read when first asked for."""
        return examples.read(self.folder, self.evaluation["metrics"] if self.evaluation else {})

    @property
    def as_published(self) -> bool:
        """Whether it was trained by the published protocol: the preset ``paper``, nothing of it changed."""
        return self.config["preset"] == "paper" and not self.config.get("preset_notes")


@dataclass
class Group:
    """The cells of one table, and what is to be said of those that are not in it."""

    stem: str  # of the files: "omniglot-quick"
    cells: list[Cell]
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
        with regular(file, RECORD_BYTES) as opened:
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


def common_settings(cells: Iterable[Cell]) -> dict[str, dict]:
    """For every optional group the settings that most of the cells were judged with."""
    found: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for cell in cells:
        for name, settings in cell.settings.items():
            found[name][dumps(settings, sort_keys=True)] += 1
    return {name: json.loads(max(sorted(counts), key=counts.__getitem__)) for name, counts in sorted(found.items())}


def judged_otherwise(cells: Iterable[Cell], settings: Mapping[str, dict]) -> list[str]:
    """A note on every group of metrics that is left out of a table for some cells, and on why it is."""
    found: defaultdict[tuple[str, str], list[str]] = defaultdict(list)
    for cell in cells:
        for group in _differing(cell, settings):
            found[group, _said(cell.settings[group])].append(
                f"{cell.config['method']['expression']} seed {cell.config['seed']}"
            )
    return [
        f"Metrics of the group {group} are for {_said(settings[group])}; left out, for {theirs}: {', '.join(names)}."
        for (group, theirs), names in found.items()
    ]


def _differing(cell: Cell, settings: Mapping[str, dict]) -> list[str]:
    return [name for name, mine in cell.settings.items() if mine != settings.get(name, mine)]


def _said(settings: dict) -> str:
    return ", ".join(f"{name} {value}" for name, value in settings.items()) or "no settings"


def read(folder: CellFolder) -> Cell:
    """One cell. ``ValueError``, which says why in one line, where its records are not those of one cell."""
    files: dict[str, Callable[[], Any]] = {
        "config.json": lambda: folder.config,
        "result.json": folder.result,
        "evaluation.json": folder.evaluation,
        "history.jsonl": lambda: folder.history(whole=True),
    }
    records = []
    for name, content in files.items():
        try:
            records.append(content())
        except FileNotFoundError as error:
            raise ValueError(f"{name} is not there") from error
        except OSError as error:
            raise ValueError(f"{name} cannot be read: {error.strerror or error}") from error
        except ValueError as error:
            raise ValueError(f"{name} is damaged") from error
    config, result, evaluation, history = records
    if wrong := problem(config, result, evaluation):
        raise ValueError(wrong)
    if wrong := problem_of_history(history):
        raise ValueError(f"history.jsonl {wrong}")
    return Cell(folder.path, config, result, evaluation, history)


def readable(folders: Iterable[CellFolder]) -> tuple[list[Cell], list[tuple[CellFolder, str]]]:
    """The cells in these folders, and those folders that do not count, with the reason.

    A copy of another cell's folder would count that cell twice.
    """
    found, left = [], []
    seen: dict[tuple[str, ...], Path] = {}
    for folder in folders:
        try:
            cell = read(folder)
            if folder.path.name != (name := f"seed-{cell.config['seed']}-{cell.config['cell_id']}"):
                raise ValueError(f"config.json is that of {name}")
            key = *folder.path.parts[-4:-2], cell.config["method"]["expression"], name
            if (first := seen.setdefault(key, folder.path)) != folder.path:
                raise ValueError(f"the same cell as {first.parent.name}/{first.name}")
            found.append(cell)
        except ValueError as error:
            left.append((folder, str(error)))
    return found, left


def groups(stem: str, folders: Iterable[CellFolder]) -> list[Group]:
    """The cells of one (data set, preset) in as many groups as there are protocols among them.

    Cells that differ in data, model, training, device or evaluation are not pooled. The group with the most
    finished cells keeps the plain ``stem``; each other one adds a hash of its protocol. A cell that cannot be
    read is left out, with a note in the first group.
    """
    cells, left = readable(folders)
    damaged = [f"Left out: {folder.path.parent.name}/{folder.path.name} ({reason})." for folder, reason in left]
    found: dict[str, list[Cell]] = defaultdict(list)
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


def _protocol(cell: Cell) -> dict:
    return {**cell.protocol, "evaluation": cell.evaluation["config"] if cell.evaluation else {}}


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
