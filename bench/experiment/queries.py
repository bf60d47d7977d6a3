"""Find stored cells, and make tasks that work on them again."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

from bench.core.errors import UserError, printable
from bench.data.cache import cache_dir
from bench.data.registry import prepare_stored
from bench.evaluation.config import EvaluationConfig
from bench.experiment import audit
from bench.experiment.cell_folder import CellFolder
from bench.experiment.cell_record import CellRecord, read
from bench.experiment.presets import load_preset, preset_names
from bench.experiment.task import CellTask, Resources
from bench.experiment.tuning import record as tuning


def finished_cells(paths: Iterable[Path]) -> list[CellRecord]:
    """Return the trained cells in these folders and below them, each once; print a line for every other cell.

    Raise ``UserError`` for a path without a stored cell.
    """
    below, finished = {path: folders_below(path) for path in paths}, []
    if empty := [path for path, folders in below.items() if not folders]:
        raise UserError(f"no stored cells at '{empty[0]}': give a cell's folder, or the folder that --out named")
    for folder in dict.fromkeys(chain.from_iterable(below.values())):
        try:
            cell = read(folder)
        except ValueError as error:
            print(printable(f"skipped: {folder.path} ({error})"))
            continue
        if cell.trained:
            finished.append(cell)
        else:
            print(printable(f"skipped: {folder.path} ({cell.status})"))
    return finished


def folders_below(path: Path) -> list[CellFolder]:
    """Return the cells in a folder or below it, without those of its audit and its tuning."""
    root = path.resolve()
    if (root / "config.json").exists():
        return [CellFolder(root)]
    paths = {folder: f"/{folder.relative_to(root).as_posix()}" for folder in sorted(root.glob("**/seed-*/"))}
    excluded = ("/.", ".bak-", f"/{audit.FOLDER}/runs/", f"/{tuning.FOLDER}/runs/")
    return [CellFolder(folder) for folder, name in paths.items() if not any(part in name for part in excluded)]


def check_device(cells: Iterable[CellRecord]) -> None:
    """Raise ``UserError`` if a cell was trained on a GPU and there is none."""
    import torch

    for cell in cells:
        if cell.config.device == "cuda" and not torch.cuda.is_available():
            raise UserError(f"{cell.folder} was trained on a GPU: run this on a machine with a GPU")


def evaluation_as_stored(cell: CellRecord) -> EvaluationConfig:
    """Return the settings of a cell's evaluation: those of the basic metrics and of every group that it has."""
    if cell.evaluation is None:
        raise UserError(f"{cell.folder} has no evaluation: run 'python -m bench evaluate' on it")
    evaluation = EvaluationConfig().with_stored(cell.evaluation)
    return replace(evaluation, metrics=tuple(name for name in cell.evaluation.groups if name in evaluation.groups))


def evaluation_of_preset(
    cell: CellRecord, overrides: Mapping[str, Mapping[str, Any]], groups: Sequence[str] | None
) -> EvaluationConfig:
    """Return the settings of a cell's evaluation, completed from its preset, with ``overrides``.

    ``groups``: the metric groups to measure, by default the preset's.
    """
    config = cell.config
    name = config.preset if config.preset in preset_names() else preset_names()[0]
    evaluation = load_preset(name, config.dataset.modality, overrides, config.dataset.protocol).evaluation
    if groups:
        evaluation = replace(evaluation, metrics=tuple(groups))
    if cell.evaluation:
        evaluation = evaluation.with_stored(cell.evaluation)
    return evaluation.with_overrides(overrides.get("evaluation", {}), str(cell.folder))


def stored_task(
    cell: CellRecord,
    evaluation: EvaluationConfig,
    data_dir: Path | None,
    resources: Resources,
    training: bool,
    cells: int = 1,
) -> CellTask:
    """Return a task that does what is missing of a stored cell, one of ``cells`` in a run.

    Without ``training`` it only evaluates, and fails if the weights are missing or damaged.
    """
    data, shared = prepare_stored(cell.config.dataset, data_dir, cache_dir()), resources.cells_per_device(cells)
    return CellTask(cell.config, cell.folder, data.path, evaluation, resources, shared, training=training)


def output_folder(cell: CellRecord) -> Path | None:
    """Return the output folder of a cell in ``OUT/runs/<dataset>/<preset>/<method>``; None for one elsewhere."""
    parents = cell.folder.parents
    return parents[4] if len(parents) > 4 and parents[3].name == "runs" else None
