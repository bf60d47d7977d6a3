"""What was tuned: ``OUT/tuning/<data set>-<preset>-<trials>-<search>-<rule>.json``. Imports no torch."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from bench.core.errors import UserError
from bench.core.files import file_lock, read_text, write_text
from bench.experiment.cell_folder import cell_folders
from bench.experiment.cell_record import CellRecord, readable
from bench.experiment.schema import CellId, Count, Record, Status, parse, to_json

FOLDER = "tuning"
CRITERION = "nll"  # of selection, on validation


class Search(Record):
    """The trials of a row in one repetition."""

    row: str
    """Expression of the row, without the settings that were varied."""
    base_seed: int
    seed: Count
    """Repetition, from 0."""
    trials: Annotated[tuple[CellId, ...], Field(min_length=1)]
    selected: Count | None
    """Number of the selected trial; None if all failed."""
    final: CellId | None
    """Cell that was trained with the selected settings on the repetition's own seed."""


class Tuning(Record):
    """What was tuned on one data set with one preset, budget, search and rule."""

    schema_version: Literal[1] = 1
    dataset: str
    preset: str
    trials: int
    search: Literal["sobol", "optuna"] = "sobol"
    """How the settings of the trials were chosen."""
    select: str
    searches: tuple[Search, ...] = ()


def trial_metrics(metrics: Mapping[str, float | int | bool | None]) -> tuple[float, float]:
    """Return NLL and MI of a trial: NaN without an NLL, and no MI without z."""
    nll, mi = metrics.get(CRITERION), metrics.get("mi")
    return (math.nan if nll is None else nll), (mi or 0.0)


def store(out: Path, tuning: Tuning, keep: bool = False) -> None:
    """Write a tuning, with the searches of earlier runs that it does not repeat; with ``keep``, with all of them."""
    file = out / FOLDER / file_name(tuning)
    with file_lock(file.with_name(f".{file.name}.lock"), None):
        text = read_text(file, missing_ok=True)
        stored = _parse(file, text).searches if text else ()
        searches = (*tuning.searches, *stored) if keep else (*stored, *tuning.searches)
        merged = {(search.row, search.base_seed, search.seed): search for search in searches}
        write_text(file, to_json(tuning.model_copy(update={"searches": tuple(merged.values())})))


def file_name(tuning: Tuning) -> str:
    """Return the name of a tuning's file."""
    return f"{tuning.dataset}-{tuning.preset}-{tuning.trials}-{tuning.search}-{tuning.select.replace(':', '-')}.json"


def tunings(out: Path) -> Iterator[Tuning]:
    """Yield what was tuned under ``out``, by budget and rule. ``UserError`` if a file is damaged."""
    for file in sorted((out / FOLDER).glob("*.json")):
        yield _parse(file, file.read_text("utf-8"))


def _parse(file: Path, text: str) -> Tuning:
    try:
        return parse(Tuning, text)
    except ValueError as error:
        raise UserError(f"{file} is damaged ({error}): remove it, and the next run writes its own searches") from error


def finished_cells(out: Path, tuning: Tuning) -> dict[str, CellRecord]:
    """Return cell id → finished cell: the trials and the selected settings of ``tuning``."""
    place = (tuning.dataset, tuning.preset)
    folders = (folder for folder in cell_folders(out / FOLDER) if folder.path.parts[-4:-2] == place)
    return {cell.config.cell_id: cell for cell in readable(folders)[0] if cell.status is Status.DONE}
