"""Cells in memory, and stored cells and tables to read and change."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from bench.core.files import read_json, write_json
from bench.experiment.cell_folder import cell_folders
from bench.experiment.cell_record import CellRecord
from bench.experiment.schema import CellConfig, ResultRecord, identify, parse
from bench.reporting.frame import cells_frame, rows_frame
from bench.reporting.groups import Group, group_cells
from tests.fixtures import make_cells
from tests.fixtures.make_cells import PROVENANCE, TEXT, TRAIN, training, validation

FIXTURES = Path(__file__).parents[1] / "fixtures"


def finished_cell(
    method: str,
    seed: int = 0,
    *,
    history: Sequence[dict[str, Any]] = (),
    costs: dict[str, Any] | None = None,
    result: dict[str, Any] | None = None,
    metrics: dict[str, Any] | None = None,
    **config: Any,
) -> CellRecord:
    """Return a finished cell of a text data set; the arguments change its records."""
    settings = {"dataset": TEXT, "preset": "small", "train": TRAIN}
    record = make_cells.config(make_cells.method(method, 1), seed, **settings | config)
    ended = {"training": training(**{"flops": 100.0, "train_seconds": 10.0} | (costs or {})), "provenance": PROVENANCE}
    values = {"iw_nll": 50.0, "kl": 1.0, "rec": 49.0, "mi": 0.9, "au": 2, "collapsed": False} | (metrics or {})
    return CellRecord(
        Path(method),
        record,
        ResultRecord(cell_id=record.cell_id, status="ok", **ended | (result or {})),
        make_cells.evaluation(values, {}),
        [validation(**line) for line in history],
    )


def change(file: Path, **fields: Any) -> None:
    write_json(file, read_json(file) | fields)


def change_evaluation(file: Path, **fields: Any) -> None:
    change(file, evaluation=read_json(file)["evaluation"] | fields)


def renamed(file: Path) -> None:
    """Give the cell of a changed config.json the id of its content."""
    config = parse(CellConfig, file.read_text("utf-8"))
    cell_id = identify(config)
    for name in ("config.json", "result.json", "evaluation.json"):
        if (path := file.with_name(name)).exists():
            change(path, cell_id=cell_id)
    file.parent.rename(file.parent.with_name(f"seed-{config.seed}-{cell_id}"))


def rows(out: Path, stem: str = "glyphs-quick") -> dict[str, dict[str, str]]:
    with (out / "tables" / f"{stem}.csv").open(encoding="utf-8", newline="") as file:
        return {row["method"]: row for row in csv.DictReader(file)}


def markdown(out: Path, stem: str = "glyphs-quick") -> str:
    return (out / "tables" / f"{stem}.md").read_text("utf-8")


def frames(out: Path) -> tuple[Group, pd.DataFrame, pd.DataFrame]:
    [group] = group_cells("glyphs-quick", cell_folders(out))
    frame = cells_frame(group.cells)
    return group, frame, rows_frame(frame)


def stored(out: Path, method: str) -> list[CellRecord]:
    return [row.cell for row in frames(out)[1].itertuples() if row.method == method and row.status == "done"]
