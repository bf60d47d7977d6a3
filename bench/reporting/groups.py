"""Groups of stored cells that one table may compare. Reads JSON only: no pandas, no matplotlib."""

from __future__ import annotations

import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from bench.core.hashing import canonical, short_hash
from bench.core.syntax import parse_call, parse_value
from bench.experiment.cell_folder import CellFolder, cell_folders
from bench.experiment.cell_record import CellRecord, readable
from bench.experiment.tuning.record import Search, Tuning, finished_cells, trial_metrics, tunings

#: Costs of a training that are summed over the trials of tuning.
SUMMED = ("updates", "encoder_updates", "train_seconds", "validation_seconds", "flops")

#: Family of the controls, which are measured, but are not methods to be chosen.
CONTROLS = "reference"
SELECTED = "selected: "  # starts the note of a tuned row
#: How the settings of trials were chosen -> description.
SEARCHES = {"sobol": "a Sobol sequence", "optuna": "Optuna's TPE"}


@dataclass
class Group:
    """The cells of one table.

    ``stem`` names its files ("omniglot-quick"), ``notes`` are printed below the table, ``subtitle`` ends its title.
    ``trials``: of tuned methods, one record per trial.
    """

    stem: str
    cells: list[CellRecord]
    notes: list[str] = field(default_factory=list)
    subtitle: str = ""
    trials: list[dict[str, Any]] = field(default_factory=list)


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
    groups = [Group(stem, members) for members in by_protocol(cells)]
    for cell in cells:
        if not cell.evaluation:  # joins the first group that was trained by the same protocol
            group = next((group for group in groups if group.cells[0].protocol == cell.protocol), None)
            if group is None:
                groups.append(group := Group(stem, []))
            group.cells.append(cell)
    for group in groups[1:]:
        protocol = full_protocol(group.cells[0])
        first = full_protocol(groups[0].cells[0])
        group.stem = f"{stem}-{_model_suffix(first, protocol) or short_hash(protocol, 8)}"
        differing = ", ".join(differences(first, protocol))
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


def model_settings(cell: CellRecord) -> dict[str, Any]:
    """Return the settings of a cell's model expression; empty for the default model."""
    expression = cell.config.model.architecture
    if not expression:
        return {}
    return {key: parse_value("|".join(values)) for key, values in parse_call(expression).settings.items()}


def levels_of_model(groups: Sequence[Group]) -> tuple[str, dict[float, Group]] | None:
    """Return the one setting of the model in which tables of a data set and preset differ, and value -> table.

    None if there are fewer than three such tables, or the values are no numbers.
    """
    evaluated = [group for group in groups if group.cells and group.cells[0].evaluation and not group.trials]
    settings = [model_settings(group.cells[0]) for group in evaluated]
    varied = [key for key in settings[0] if len({str(each.get(key)) for each in settings}) > 1] if settings else []
    if len(evaluated) < 3 or len(varied) != 1:
        return None
    levels = {each[varied[0]]: group for each, group in zip(settings, evaluated, strict=True)}
    if len(levels) < len(evaluated) or not all(isinstance(level, (int, float)) for level in levels):
        return None
    return varied[0], dict(sorted(levels.items()))


def _model_suffix(first: Mapping[str, Any], other: Mapping[str, Any]) -> str:
    """Return the settings of the model in which a protocol differs from the first, if it differs in nothing else."""
    if differences(first, other) != ["model.architecture"]:
        return ""
    known = str(first["model"]["architecture"])
    calls = [parse_call(text).settings for text in (known, other["model"]["architecture"]) if text]
    changed = {key: values for key, values in calls[-1].items() if values != calls[0].get(key)}
    return re.sub(r"[^\w.=]+", "-", ",".join(f"{key}={'|'.join(values)}" for key, values in changed.items())).strip("-")


def by_protocol(cells: Iterable[CellRecord]) -> list[list[CellRecord]]:
    """Return the evaluated cells by protocol, the largest group first, settings in the order of their numbers."""
    members: defaultdict[str, list[CellRecord]] = defaultdict(list)
    for cell in cells:
        if cell.evaluation:
            members[canonical(full_protocol(cell))].append(cell)
    return [group for _, group in sorted(members.items(), key=lambda item: (-len(item[1]), natural(item[0])))]


def natural(text: str) -> list[str | int]:
    """Return the key that sorts the numbers in texts by their value."""
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", text)]


def full_protocol(cell: CellRecord) -> dict[str, Any]:
    """Return what the cells of one table have in common, with the settings of their evaluation."""
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


def tuned_groups(out: Path, dataset: str, preset: str, untuned: Iterable[CellRecord]) -> Iterator[Group]:
    """Yield a group for every budget and rule with which methods were tuned on a data set.

    ``untuned``: the other cells, of which the controls join the group if they have the same protocol.
    """
    controls = [cell for cell in untuned if cell.config.method.family == CONTROLS]
    for tuning in tunings(out):
        if (tuning.dataset, tuning.preset) != (dataset, preset):
            continue
        cells = finished_cells(out, tuning)
        rows: defaultdict[str, list[Search]] = defaultdict(list)
        for search in tuning.searches:
            if search.final in cells:
                rows[search.row].append(search)
        tuned = [_tuned(search, searches, cells) for searches in rows.values() for search in searches]
        names = {cell.config.method.expression for cell in tuned}
        stem = f"{dataset}-{preset}-tuned{tuning.trials}"
        stem += f"-{tuning.search}" * (tuning.search != "sobol") + "-mi" * (tuning.select != "nll")
        for members in by_protocol([*tuned, *(cell for cell in controls if cell.config.method.name not in names)])[:1]:
            group = Group(stem, members, [_note(tuning)], f", tuned with {tuning.trials} trials")
            group.trials = [trial for search in tuning.searches for trial in _trials(search, cells)]
            yield group


def _tuned(search: Search, row: Iterable[Search], cells: Mapping[str, CellRecord]) -> CellRecord:
    """Return the cell of a search's selected settings as a cell of the row, with the cost of all trials.

    ``row``: all searches of the row, for the footnote on what they selected.
    """
    final, default = cells[str(search.final)], cells.get(search.trials[0])
    method = (default or final).config.method
    selected = ", ".join(f"{cells[str(each.final)].config.method.expression} (seed {each.seed})" for each in row)
    method = method.model_copy(update={"expression": search.row, "notes": (*method.notes, f"{SELECTED}{selected}")})
    result = final.result
    trainings = [cell.result.training for cell_id in search.trials if (cell := cells.get(cell_id)) and cell.result]
    if result and result.training:
        all_trainings = [training for training in (result.training, *trainings) if training]
        costs = {name: sum(getattr(training, name) for training in all_trainings) for name in SUMMED}
        result = result.model_copy(update={"training": result.training.model_copy(update=costs)})
    return replace(final, config=final.config.model_copy(update={"method": method}), result=result)


def _note(tuning: Tuning) -> str:
    rule = "the lowest NLL"
    if tuning.select != "nll":
        rule = f"the most MI within {tuning.select.partition(':')[2]} nats of the NLL of the tuned basic VAE"
    return (
        f"Tuned: {tuning.trials} trials per method and seed, the first with the row's own settings, the others from "
        f"{SEARCHES[tuning.search]}; {rule} on validation selects, and the selected settings are trained again with "
        "the row's own seed: its own settings, if selected, give the cell of the untuned table. Costs include all "
        "trials. The controls are not tuned."
    )


def _trials(search: Search, cells: Mapping[str, CellRecord]) -> Iterator[dict[str, Any]]:
    """Yield one record per finished trial: its settings, and NLL and MI on validation."""
    for number, cell_id in enumerate(search.trials):
        if (cell := cells.get(cell_id)) and cell.evaluation:
            nll, mi = trial_metrics(cell.evaluation.metrics)
            yield {
                "method": search.row,
                "base_seed": search.base_seed,
                "seed": search.seed,
                "trial": number,
                "settings": cell.config.method.expression,
                "nll": nll,
                "mi": mi,
                "selected": int(number == search.selected),
            }
