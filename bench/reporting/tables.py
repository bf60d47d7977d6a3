"""The tables of one group of cells: panels, footnotes, notes, published numbers, and the CSV file."""

from __future__ import annotations

import csv
import math
from collections import defaultdict
from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.core.config import FULL_PRECISION
from bench.experiment.cell_record import CellRecord
from bench.reporting.columns import UNRELIABLE_K, Write, columns, headings, metric_panels
from bench.reporting.compare import matched_panels
from bench.reporting.frame import CORE_COLUMNS, LIKELIHOODS, csv_columns, headline
from bench.reporting.groups import Group, common_settings, settings_notes
from bench.reporting.render import DASH, Document, Entry, Panel, number

if TYPE_CHECKING:
    from pandas import DataFrame

PUBLISHED = Path(__file__).with_name("published.csv")
REFINED_EXCESS = 0.1  # nats by which the refined NLL may exceed the plain one without a footnote
PUBLISHED_METRICS = {
    "nll": "NLL",
    "kl": "KL",
    "mi_batch": "batch MI",
    "au": "AU",
    "hours": "train (h)",
    "relative_hours": "hours (×)",
}
#: Reference of a data set -> its description, and a remark.
REFERENCES = {
    "unigram": ("the unigram model (independent tokens)", ""),
    "true_generator": ("the true generator", ": a lower bound for every model, up to sampling error"),
}
Notes = Mapping[str, list[str]]  # column -> footnotes; "method" for the row's name


def to_csv(rows: DataFrame) -> str:
    """Return ``rows_frame`` as CSV: eight digits, empty for NaN."""
    plain = rows[csv_columns()].map(lambda value: value + 0.0 if isinstance(value, float) else value)  # no -0
    return plain.to_csv(index=False, float_format="%.8g", lineterminator="\n")


def document(group: Group, frame: DataFrame, rows: DataFrame, sweeps: Mapping[str, Collection[str]] = {}) -> Document:
    """Return the tables of one group: the main panel in the layout of He et al. (2019), details and comparisons.

    Args:
        group: the cells.
        frame, rows: their ``cells_frame`` and ``rows_frame``.
        sweeps: sweep -> methods, as for ``rows_frame``.
    """
    config = group.cells[0].config
    data = config.dataset
    evaluated = next((cell for cell in group.cells if cell.evaluation), None)
    settings = common_settings(group.cells)
    result = Document(title=f"{data.title}, preset {config.preset}", label=group.stem)
    baseline = next((row.method for row in rows.itertuples() if row.baseline), None)
    titles = headings(rows, data, config.device, evaluated, settings, baseline)
    is_crossed = _is_crossed(rows)
    notes = {row.method: _row_notes(row, frame, is_crossed) for row in rows.itertuples()}
    for caption, writers in columns(rows, baseline).items():
        result.panels.append(_panel(result, caption, writers, titles, rows, frame, notes))
    result.panels += matched_panels(result, frame, sweeps)
    if group.cells[0].as_published:
        result.reference = _published(data.title, list(rows["method"]))
    result.notes = _notes(group, evaluated, settings, rows)
    return result


def _is_crossed(rows: DataFrame) -> bool:
    """Return whether some intervals are over seeds and test examples."""
    return bool(rows[[f"{name}_ci_examples" for name in LIKELIHOODS]].max(axis=None) > 0)


def _panel(
    document: Document,
    caption: str,
    writers: Mapping[str, Write],
    titles: Mapping[str, tuple[str, str]],
    rows: DataFrame,
    frame: DataFrame,
    notes: Mapping[str, Notes],
) -> Panel:
    header = [Entry("method")]
    for name in writers:
        title, note = titles[name]
        header.append(Entry(title, letters=_letters(document, [note] if note else [])))
    main, has_baseline = headline(rows), rows["baseline"].any()
    lowest = rows[main].min()
    grid = []
    for row in rows.itertuples():
        row_notes = notes[row.method]
        entries = [Entry(row.label, letters=_letters(document, [] if caption else row_notes["method"]))]
        for name, write in writers.items():
            entry, texts = write(row), row_notes.get(name, [])
            is_evident = not row.n or (name == f"{main}_minus_baseline" and row.baseline)
            is_evident |= name == "relative_cost" and not has_baseline
            if entry.text == DASH and not texts and not is_evident:
                texts = _missing_reason(name, row, frame, row_notes)
            is_best = name == main and getattr(row, main) == lowest
            entries.append(replace(entry, letters=_letters(document, texts), best=is_best))
        if caption in metric_panels() and all(entry.text == DASH for entry in entries[1:]):
            continue  # only the first two panels show every row
        grid.append(entries)
    return Panel(caption, header, grid)


def _missing_reason(name: str, row: Any, frame: DataFrame, notes: Notes) -> list[str]:
    """Return why a method with finished cells has no value in a column, if the method itself has no footnote."""
    if name.endswith("_minus_baseline"):
        return ["fewer than two common seeds"]
    if name.endswith("_ci"):
        return ["fewer than two seeds"]
    cells = [cell for cell in frame.loc[frame["method"] == row.method, "cell"] if cell.evaluation]
    values = [cell.evaluation.metrics[name] for cell in cells if name in cell.evaluation.metrics]
    if any(value is not None for value in values):
        return ["evaluated with other settings (see the notes)"]
    if math.isnan(row.kl) and notes.get("kl"):  # metrics of z are missing for the same reason as KL
        return notes["kl"]
    if values:
        return ["the weights have no tail to fit" if name.startswith("pareto_k") else "not defined for this method"]
    return ["not recorded" if name in CORE_COLUMNS else "not measured"]


def _row_notes(row: Any, frame: DataFrame, is_crossed: bool) -> Notes:
    """Return the footnotes of one row by column."""
    notes: defaultdict[str, list[str]] = defaultdict(list)
    cells = frame[frame["method"] == row.method]
    notes["method"] += [row.selection] if row.selection else []
    if len(cells):  # not a row selected on validation
        method = cells["cell"].iloc[0].config.method
        for name, text in method.footnotes.items():
            notes[name].append(text)
        notes["method"] += [*method.notes, *_status_notes(cells)]
    for name in LIKELIHOODS:
        for column, low in ((f"{name}_ci", f"{name}_ci_low"), (f"{name}_minus_baseline", f"{name}_minus_baseline_low")):
            if is_crossed and not getattr(row, f"{column}_examples") and not math.isnan(getattr(row, low)):
                notes[column].append("over seeds only: values per test example are missing")
    if 0 < row.nll_refined_n < row.n:
        notes["nll_refined"].append(f"{row.nll_refined_n} of {row.n} seeds")
    if row.nll_refined - row.nll > REFINED_EXCESS:
        notes["nll_refined"].append("too high: the refinement failed; IW-NLL, also an upper bound, is lower")
    for name in ("pareto_k", "pareto_k_refined"):
        if getattr(row, name) > UNRELIABLE_K:
            notes[name].append(f"above {UNRELIABLE_K}: unreliable")
    shared = cells.loc[cells["status"] == "done", "shared"].max()
    if shared > 1:
        notes["train_seconds"].append(f"measured while up to {shared:.0f} cells shared the device")
    if row.collapsed > 0:
        count = round(row.collapsed * row.n)
        notes["mi"].append("collapsed" + (f" in {count} of {row.n} seeds" if row.n > 1 else ""))
    return notes


def _status_notes(cells: DataFrame) -> list[str]:
    """Return a note for every status and reason of the cells of a method that are not done."""
    pending = cells[cells["status"] != "done"].fillna({"reason": ""})
    notes = []
    for (status, reason), group in pending.groupby(["status", "reason"], sort=True):
        seeds = f"seed{'s' * (len(group) > 1)} {', '.join(map(str, group['seed']))}"
        notes.append(f"{seeds} {status}" + (f": {reason}" if reason else ""))
    return notes


def _notes(
    group: Group, evaluated: CellRecord | None, settings: Mapping[str, dict[str, Any]], rows: DataFrame
) -> list[str]:
    """Return the notes below the tables: data, preset, precision, references, intervals, skipped cells."""
    config = group.cells[0].config
    data = config.dataset
    evaluation = evaluated.evaluation if evaluated else None
    sizes = ", ".join(f"{data.sizes[split]:,} {split}" for split in ("train", "val", "test"))
    notes = [f"Data: {data.title}, {sizes}; fingerprint {data.fingerprint[:12]}; {data.source}."]
    notes += data.notes
    changes = dict.fromkeys(note for cell in group.cells for note in cell.config.preset_notes)
    notes.append(f"Preset {config.preset}" + (f": {'; '.join(changes)}." if changes else "."))
    precision = evaluation.settings.precision if evaluation else FULL_PRECISION
    if {config.precision, precision} != {FULL_PRECISION}:
        notes.append(f"Precision of the networks: trained in {config.precision}, evaluated in {precision}.")
    notes += _references(evaluation.references if evaluation else {})
    finished = [cell for cell in group.cells if cell.status == "done"]
    provenance = [cell.result.provenance for cell in finished if cell.result]
    if len({record and (record.machine, record.threads) for record in provenance}) > 1:
        notes.append("Seconds come from different machines or thread counts and are not comparable; costs (×) are.")
    if rows["n"].max() > 1:
        text = "Mean (sd) over n seeds, ddof 1."
        if _is_crossed(rows):
            text += " 95 % intervals are over seeds and test examples, both as random samples; the two are crossed"
            text += " because every seed is evaluated on the same examples."
        notes.append(text)
    notes += settings_notes(finished, settings)
    for cell in group.cells:
        if cell.evaluation and cell.examples.problem:
            notes.append(f"Not used: {cell.folder.parent.name}/{cell.folder.name}, {cell.examples.problem}.")
    return notes + group.notes


def _references(references: Mapping[str, float]) -> list[str]:
    """Return a note on the NLL of each reference model; ``name_se`` is the standard error of ``name``."""
    notes = []
    for name, value in references.items():
        if not name.endswith("_se"):
            description, remark = REFERENCES.get(name, (name.replace("_", " "), ""))
            error = f" ± {number(references[f'{name}_se'], 2)} (standard error)" if f"{name}_se" in references else ""
            notes.append(f"For reference, NLL of {description}: {number(value, 2)}{error}{remark}.")
    return notes


def _published(title: str, methods: list[str]) -> Panel | None:
    """Return the published numbers for this data set and the methods in the table, if there are any."""
    if not PUBLISHED.is_file():  # an installation without the results folder
        return None
    entries: dict[tuple[str, str, str], dict[str, Entry]] = defaultdict(dict)
    with PUBLISHED.open(encoding="utf-8", newline="") as file:
        for record in csv.DictReader(file):
            if record["dataset"] == title and record["method"] in methods:
                key = record["method"], record["version"], record["checked"]
                entries[key][record["metric"]] = Entry(record["value"] or DASH, record["sd"] or "")
    if not entries:
        return None
    header = [Entry(name) for name in ("method", "version", "checked", *PUBLISHED_METRICS.values())]
    rows = [
        [*map(Entry, key), *(entries[key].get(metric, Entry(DASH)) for metric in PUBLISHED_METRICS)]
        for key in sorted(entries, key=lambda key: methods.index(key[0]))
    ]
    return Panel("Published numbers (He et al., 2019): other code, the same protocol.", header, rows)


def _letters(document: Document, notes: list[str]) -> tuple[str, ...]:
    return tuple(document.footnote(note) for note in dict.fromkeys(notes))
