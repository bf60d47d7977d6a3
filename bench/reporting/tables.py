"""The tables of one group of cells: panels, the table for a paper, published numbers, and the CSV files."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.experiment.cell_record import CellRecord
from bench.reporting.assay import Assay
from bench.reporting.columns import Column, panels
from bench.reporting.frame import headline
from bench.reporting.groups import CONTROLS, Group, common_settings
from bench.reporting.matched import matched_panels
from bench.reporting.notes import NOT_FINITE, UNDEFINED, Notes, Remarks, group_notes, is_crossed, limited, row_notes
from bench.reporting.render import DASH, Document, Entry, Panel

if TYPE_CHECKING:
    from pandas import DataFrame

PUBLISHED = Path(__file__).with_name("published.csv")
MAX_PAPER_ROWS = 15
PAPER_COLUMNS = ("kl", "mi", "au", "relative_cost", "n")  # and the difference to the baseline
PUBLISHED_METRICS = {
    "iw_nll": "IW-NLL",
    "kl": "KL",
    "mi_batch": "batch MI",
    "au": "AU",
    "hours": "train (h)",
    "relative_hours": "hours (×)",
}


def to_csv(rows: DataFrame) -> str:
    """Return ``rows_frame`` as CSV: eight digits, empty for NaN."""
    plain = rows.drop(columns=["baseline", "selection", "best"])
    plain = plain.map(lambda value: value + 0.0 if isinstance(value, float) else value)  # no -0
    return plain.to_csv(index=False, float_format="%.8g", lineterminator="\n")


def trials_csv(trials: Sequence[Mapping[str, Any]]) -> str:
    """Return the trials of tuned methods as CSV."""
    import pandas as pd

    return pd.DataFrame(trials).to_csv(index=False, float_format="%.8g", lineterminator="\n")


def document(
    group: Group,
    frame: DataFrame,
    rows: DataFrame,
    assay: Assay,
    sweeps: Mapping[str, Collection[str]] = {},
    wanted: Sequence[str] = (),
) -> Document:
    """Return the tables of one group: the main panel, details and comparisons.

    Args:
        group: the cells.
        frame, rows: their ``cells_frame`` and ``rows_frame``.
        assay: their ``assess``; only if it is valid the best rows are marked.
        sweeps: sweep -> methods, as for ``rows_frame``.
        wanted: methods in the table for a paper; by default ``paper_rows`` chooses.
    """
    cell = next((cell for cell in group.cells if cell.evaluation), group.cells[0])
    settings = common_settings(group.cells)
    sizes = cell.config.model
    choices = {"model": sizes.architecture, "likelihood": getattr(sizes, "likelihood", "")}
    model = "".join(f", {kind} {expression}" for kind, expression in choices.items() if expression)
    title = f"{_data_title(cell)}, preset {cell.config.preset}{model}{group.subtitle}"
    result = Document(title, group.stem, assay.line)
    baseline = next(iter(rows.loc[rows["baseline"], "method"]), None)
    shown = panels(rows, cell, settings, baseline)
    columns = [column for panel in shown.values() for column in panel]
    remarks: Remarks = defaultdict(list)
    notes = {row.method: row_notes(row, frame, columns, is_crossed(rows), remarks) for row in rows.itertuples()}
    notes = limited(notes, {"method": ""} | {column.name: column.heading for column in columns}, remarks)
    for column in columns:
        result.define(column.heading, column.note)
    result.panels = [_panel(result, caption, panel, rows, notes, assay.is_valid) for caption, panel in shown.items()]
    chosen = paper_rows(rows, wanted)
    result.paper = _paper_panel(result.panels[0], rows, shown[""], chosen)
    if not group.trials:
        result.panels += matched_panels(result, frame, sweeps)
    if cell.as_published:
        result.reference = _published(cell.config.dataset.title, list(rows["method"]))
    result.notes = [f"{', '.join(methods)}: {text}." for text, methods in remarks.items()]
    result.notes += group_notes(group, cell, settings, rows)
    return result


def _data_title(cell: CellRecord) -> str:
    """Return the data set's title, with the size of the images that the model sees."""
    size = getattr(cell.config.model, "image_size", None)
    return re.sub(r"\d+×\d+", f"{size}×{size}", cell.config.dataset.title) if size else cell.config.dataset.title


def paper_rows(rows: DataFrame, wanted: Sequence[str] = (), most: int = MAX_PAPER_ROWS) -> DataFrame:
    """Return the rows of the table for a paper, in the order of the tables.

    Those ``wanted``, if any. Otherwise all; of more than ``most`` the baseline and the rows with the lowest NLL, those
    that use z in every seed first, without the controls.
    """
    if wanted:
        return rows[rows["method"].isin(wanted)]
    if len(rows) <= most:
        return rows
    ranked = rows.assign(collapses=rows["collapsed"] != 0, first=~rows["baseline"])
    ranked = ranked[ranked["family"] != CONTROLS].sort_values(["first", "collapses", headline(rows)], kind="stable")
    return rows.loc[sorted(ranked.index[:most])]


def _paper_panel(main: Panel, rows: DataFrame, columns: Sequence[Column], chosen: DataFrame) -> Panel | None:
    """Return the main panel with the columns of a paper, without spreads, and the rows' names in papers."""
    difference = f"{headline(rows)}_minus_baseline"
    at = [i for i, column in enumerate(columns, 1) if column.name in (difference, *PAPER_COLUMNS)]
    if chosen.empty or not at:
        return None
    grid = []
    for i in chosen.index:
        name, *entries = main.rows[i]
        shown = [replace(main.rows[i][j], spread="", best=False) for j in at]
        if columns[at[0] - 1].name == difference:
            shown[0] = replace(shown[0], best=any(entry.best for entry in entries))
        grid.append([replace(name, text=rows.loc[i, "title"]), *shown])
    return Panel(main.caption, [main.columns[0], *(main.columns[j] for j in at)], grid)


def _panel(
    document: Document,
    caption: str,
    columns: list[Column],
    rows: DataFrame,
    notes: Mapping[str, Notes],
    is_ranked: bool,
) -> Panel:
    nll, grid = headline(rows), []
    for row in rows.itertuples():
        entries = [column.show(row) for column in columns]
        is_empty = all(entry.text == DASH for entry in entries)
        reasons = {note for column in columns for note in notes[row.method].get(column.name, ())}
        if is_empty and caption not in ("", "Details") and not reasons & {UNDEFINED, NOT_FINITE}:
            continue  # only the first two panels show every row
        letters = [document.letters(notes[row.method].get(column.name, ())) for column in columns]
        name = Entry(row.method, letters=() if caption else document.letters(notes[row.method].get("method", ())))
        best = [is_ranked and row.best and column.name == nll for column in columns]
        marked = zip(entries, letters, best, strict=True)
        grid.append([name, *(replace(entry, letters=own, best=is_best) for entry, own, is_best in marked)])
    return Panel(caption, [Entry("method"), *(Entry(column.heading) for column in columns)], grid)


def _published(title: str, methods: list[str]) -> Panel | None:
    """Return the published numbers for this data set and the methods in the table, if there are any."""
    import pandas as pd

    numbers = pd.read_csv(PUBLISHED, dtype=str, keep_default_na=False)
    numbers = numbers[(numbers["dataset"] == title) & numbers["method"].isin(methods)]
    if numbers.empty:
        return None
    rows = []
    for key, records in numbers.groupby(["method", "version", "checked"]):
        entries = {record.metric: Entry(record.value or DASH, record.sd) for record in records.itertuples()}
        rows.append([*map(Entry, key), *(entries.get(metric, Entry(DASH)) for metric in PUBLISHED_METRICS)])
    rows.sort(key=lambda row: methods.index(row[0].text))
    header = [Entry(name) for name in ("method", "version", "checked", *PUBLISHED_METRICS.values())]
    return Panel("Published numbers (He et al., 2019): other code, the same protocol.", header, rows)
