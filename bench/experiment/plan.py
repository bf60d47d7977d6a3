"""Plan a run: methods × seeds → cells, each with its id, its folder and its state."""

from __future__ import annotations

import inspect
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.core.config import json_settings, model_name
from bench.core.errors import UserError
from bench.core.plugins import code_changed
from bench.data.dataset import DataInfo
from bench.evaluation.config import EvaluationConfig
from bench.experiment.cell_folder import CellFolder, RecordError, cell_folders, cell_place, check_schema, lock_cell
from bench.experiment.presets import Preset
from bench.experiment.schema import CellConfig, Component, MethodRecord, ResultRecord, Status, identify
from bench.training.expressions import MethodSpec, Modifier

#: Why a finished cell is trained again: the user asked for it.
FORCED = "--force"


@dataclass(frozen=True)
class CellState:
    """State of a cell's folder."""

    status: Status
    reason: str | None = None  # why the cell failed, or is skipped
    trained: bool = False  # only the evaluation is missing
    retrain_reason: str = ""  # why the stored files must be archived and the cell trained again


@dataclass(frozen=True)
class PlannedCell:
    """One (method configuration, data set, preset, seed) of a run."""

    variant: MethodSpec
    config: CellConfig
    folder: CellFolder
    state: CellState

    @property
    def status(self) -> Status:
        return self.state.status

    @property
    def pending(self) -> bool:
        return self.status not in (Status.DONE, Status.SKIPPED)

    @property
    def forced(self) -> bool:
        return self.state.retrain_reason == FORCED


def plan(
    rows: Sequence[MethodSpec],
    data: DataInfo,
    preset: Preset,
    seeds: int,
    base_seed: int,
    device: str,
    out: Path,
    force: bool = False,
) -> list[PlannedCell]:
    """Return every cell of a run, seed by seed, with its state; with ``force`` finished cells are missing.

    Raise ``SchemaVersionError`` if ``out`` holds cells of another schema version, and ``UserError`` if a folder cannot
    be read.
    """
    check_schema(cell_folders(out))
    return [
        planned_cell(row, data, preset, seed, base_seed, device, out, force) for seed in range(seeds) for row in rows
    ]


def planned_cell(
    row: MethodSpec,
    data: DataInfo,
    preset: Preset,
    seed: int,
    base_seed: int,
    device: str,
    out: Path,
    force: bool = False,
) -> PlannedCell:
    """Return one cell of a run with its state; with ``force`` it is missing even if it is finished."""
    config = CellConfig(
        cell_id="0" * 12,
        method=method_record(row),
        dataset=data,
        preset=preset.name,
        preset_notes=preset.notes,
        model=preset.model,
        train=preset.train,
        precision=preset.train.precision,
        device=device,
        seed=seed,
        base_seed=base_seed,
    )
    config = config.model_copy(update={"cell_id": identify(config)})
    folder = CellFolder(out / "runs" / cell_place(config))
    state = cell_state(folder, preset.evaluation, force)
    if skip_reason := row.method.skip(data, model_name(preset.model, data.modality)):
        state = CellState(Status.SKIPPED, skip_reason)
    return PlannedCell(row, config, folder, state)


def changed_code(cells: Sequence[PlannedCell]) -> Counter[str]:
    """Return modules of a method, KL term, model or likelihood that have changed, with the number of their cells.

    Cells count whose training is finished, or may continue from a checkpoint of the former code.
    """
    begun = (Status.DONE, Status.INCOMPLETE, Status.FAILED)
    kept = [cell for cell in cells if cell.status in begun and not cell.state.retrain_reason]
    results = [result for cell in kept if (result := cell.folder.result())]
    return Counter(
        module for result in results for module, digest in result.code.items() if code_changed(digest, module)
    )


def longest_first(cells: Sequence[PlannedCell], seconds: Mapping[Path, float]) -> list[PlannedCell]:
    """Return the order in which cells run: the longest first, so that no core is idle at the end."""
    return sorted(cells, key=lambda cell: -seconds[cell.folder.path])


def write_configs(cells: Sequence[PlannedCell]) -> None:
    """Write ``config.json`` of every cell that is not finished, and ``result.json`` of those that are skipped.

    A cell that another run holds is left to it.
    """
    for cell in cells:
        with lock_cell(cell.folder.path) as free:
            # the worker archives a folder that is trained again first
            if free and cell.status is not Status.DONE and not cell.state.retrain_reason:
                cell.folder.write_config(cell.config)
            if free and cell.status is Status.SKIPPED:
                record = ResultRecord(cell_id=cell.config.cell_id, status="skipped", reason=cell.state.reason)
                cell.folder.write_record("result.json", record)


def method_record(row: MethodSpec) -> MethodRecord:
    """Return the record of a table row: what determines its numbers, and what a report prints about it."""
    method = row.method
    return MethodRecord(
        name=method.name,
        expression=row.expression,
        config=json_settings(row.config),
        schedule=_component(row.modifiers.get("schedule")),
        kl_term=_component(row.modifiers.get("kl_term")),
        lr_scale=row.lr_scale,
        revision=method.revision,
        title=method.title,
        summary=method.summary,
        citation=method.citation,
        about=inspect.cleandoc(sys.modules[method.__module__].__doc__ or ""),
        family=method.family,
        marker=method.marker,
        order=method.table_order,
        baseline=method.baseline and not row.modifiers,
        footnotes=dict(method.footnotes),
        notes=row.notes,
    )


def _component(modifier: Modifier | None) -> Component | None:
    return Component(name=modifier.name, settings=json_settings(modifier.value)) if modifier else None


def cell_state(folder: CellFolder, evaluation: EvaluationConfig, force: bool = False) -> CellState:
    """Return the state of a stored cell, for a run that asks for ``evaluation``.

    Raise ``UserError`` if its files cannot be read, and ``SchemaVersionError`` if they have another schema version.
    """
    if force and folder.path.exists():
        return CellState(Status.MISSING, retrain_reason=FORCED)
    try:
        return _cell_state(folder, evaluation)
    except OSError as error:  # not damage: finished results may be there
        raise UserError(
            f"cannot read {error.filename or folder.path}: {error.strerror or error}: repair it or move it away"
        ) from error


def _cell_state(folder: CellFolder, evaluation: EvaluationConfig) -> CellState:
    try:
        result = folder.result()
    except RecordError as error:
        return CellState(Status.MISSING, retrain_reason=str(error))
    if result is None or result.status == "skipped":
        return CellState(Status.MISSING)
    if result.status == "failed":
        return CellState(Status.FAILED, result.failure)
    if result.status == "running":
        return CellState(Status.INCOMPLETE)
    try:
        folder.history()
    except RecordError as error:  # a checkpoint has it, too: training continues from there, at its end
        has_checkpoint = (folder.path / "last.pt").exists()
        return CellState(Status.INCOMPLETE, str(error), retrain_reason="" if has_checkpoint else str(error))
    try:
        record = folder.evaluation()
    except RecordError:
        record = None
    if folder.has_torn_arrays():
        record = None
    missing = evaluation.missing(record)
    if not missing:
        return CellState(Status.DONE, trained=True)
    if folder.has_weights():
        return CellState(Status.FAILED if result.failure else Status.INCOMPLETE, result.failure, trained=True)
    # Without weights (git does not keep them), only training again gives another evaluation. That is worth it for
    # other basic settings, whose cells no table can hold together, but not for another group of metrics.
    if record is None:
        return CellState(Status.MISSING, retrain_reason="its evaluation and its weights are missing or damaged")
    if "basic" in missing:
        return CellState(Status.MISSING, retrain_reason="other evaluation settings, and its weights are missing")
    return CellState(Status.DONE, trained=True)
