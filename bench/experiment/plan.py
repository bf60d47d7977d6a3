"""Rows × data set × seeds → cells, each with its identity, its folder and what is already there."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from bench.core.errors import UserError
from bench.data.dataset import DataInfo
from bench.evaluation.config import EvaluationConfig
from bench.evaluation.record import EvaluationRecord
from bench.experiment.cell_folder import SCHEMA_VERSION, CellFolder
from bench.experiment.presets import Preset
from bench.experiment.schema import PROTOCOL_VERSION, flaw, identify
from bench.training.expressions import MethodSpec

#: The states in which there is something to do.
PENDING_STATES = ("missing", "failed", "trained")

#: Why a finished cell is trained anew: it was asked for.
FORCED = "--force"

#: What records raise that are not what they should be.
RECORD_ERRORS = (ValueError, KeyError, TypeError, AttributeError, RecursionError, IsADirectoryError)


@dataclass(frozen=True)
class PlannedCell:
    """One (method configuration, data set, preset, seed), as planned."""

    variant: MethodSpec
    config: dict  # the content of config.json
    folder: CellFolder
    status: str  # "done", "missing", "failed", "skipped", or "trained" when only the evaluation is missing
    reason: str | None = None  # of a skipped cell
    anew: str = ""  # why what is there is put aside and the cell trained anew, where it is


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
    """Every cell of a run, seed by seed, with what its folder holds. ``force`` counts finished ones as missing.

    What configurations have in common they share. ``UserError`` where a folder cannot be read.
    """
    protocol = {
        "dataset": data.to_json(),
        "preset": preset.name,
        "preset_notes": list(preset.notes),
        "model": asdict(preset.model),
        "train": asdict(preset.train),
        "precision": preset.train.precision,
        "device": device,
    }
    methods = [(row, row.record(), row.method.skip(data)) for row in rows]
    cells = []
    for seed in range(seeds):
        for row, record, reason in methods:
            config = {
                "schema_version": SCHEMA_VERSION,
                "cell_id": "",
                "protocol_version": PROTOCOL_VERSION,
                "method": record,
                **protocol,
                "seed": seed,
                "base_seed": base_seed,
            }
            config["cell_id"] = cell_id = identify(config)
            slug = re.sub(r"[^\w.=+-]+", "-", row.expression.replace(")", ""))
            folder = CellFolder(out / "runs" / data.name / preset.name / slug / f"seed-{seed}-{cell_id}")
            state, anew = ("skipped", "") if reason else status(folder, preset.evaluation, force)
            cells.append(PlannedCell(row, config, folder, state, reason, anew))
    return cells


def status(folder: CellFolder, evaluation: EvaluationConfig, force: bool = False) -> tuple[str, str]:
    """A cell's status, and why what is there must be put aside before it is trained anew, where it must."""
    try:
        return _status(folder, evaluation, force)
    except OSError as error:  # not damage: what was finished may be there
        raise UserError(f"cannot read {error.filename or folder.path}: {error.strerror or error}") from error


def _status(folder: CellFolder, evaluation: EvaluationConfig, force: bool) -> tuple[str, str]:
    if force:
        return "missing", FORCED if folder.path.exists() else ""
    try:
        result = folder.result()
        trained = None if result is None else result["status"]
        wrong = None if result is None else flaw("result.json", result, folder.cell_id)
    except RECORD_ERRORS:
        return "missing", "its result.json is damaged"
    if wrong:
        return "missing", f"its result.json {wrong}"
    if trained != "ok":
        return ("failed" if trained == "failed" else "missing"), ""
    try:
        record = folder.evaluation()
        if record is not None and flaw("evaluation.json", record, folder.cell_id):
            record = None  # a damaged evaluation, or another cell's, is made anew
        stored = None if record is None else EvaluationRecord.model_validate(record)
        if not evaluation.missing(stored):
            return "done", ""
    except RECORD_ERRORS:
        stored = None
    if (folder.path / "best.pt").exists():
        return "trained", ""
    # Without its weights, which git does not keep, a cell can be judged anew only by training it anew. That is worth
    # it for other basic settings, by which a table is told from others, and not for a column more.
    if stored is None:
        return "missing", "its evaluation.json is damaged or gone, and so are its weights"
    if stored.settings != evaluation.basic:
        return "missing", "to be evaluated with other settings, without its weights"
    return "done", ""
