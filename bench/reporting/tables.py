"""The tables of one group of cells: panels, footnotes, notes, published numbers, and the CSV file."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.core.config import FULL_PRECISION
from bench.experiment.cell_record import CellRecord
from bench.experiment.convergence import limit_reached
from bench.reporting.assay import Assay
from bench.reporting.columns import UNRELIABLE_K, Column, is_mixed, panels
from bench.reporting.frame import LIKELIHOODS, OF_Z, headline
from bench.reporting.groups import Group, common_settings, settings_notes
from bench.reporting.matched import matched_panels
from bench.reporting.render import DASH, Document, Entry, Panel, number

if TYPE_CHECKING:
    from pandas import DataFrame

PUBLISHED = Path(__file__).with_name("published.csv")
NEGATIVE_GAP = -0.1  # nats below which a negative amortisation gap is more than noise
UNDEFINED, NOT_FINITE = "undefined for one test example", "not finite"  # footnotes
MIXED = "mean of the seeds that did not collapse"  # footnote
REFINED_EXCESS = 0.1  # nats by which the refined NLL may exceed the plain one without a footnote
PUBLISHED_METRICS = {
    "iw_nll": "IW-NLL",
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
    plain = rows.drop(columns=["baseline", "selection"])
    plain = plain.map(lambda value: value + 0.0 if isinstance(value, float) else value)  # no -0
    return plain.to_csv(index=False, float_format="%.8g", lineterminator="\n")


def trials_csv(trials: Sequence[Mapping[str, Any]]) -> str:
    """Return the trials of tuned methods as CSV."""
    import pandas as pd

    return pd.DataFrame(trials).to_csv(index=False, float_format="%.8g", lineterminator="\n")


def document(
    group: Group, frame: DataFrame, rows: DataFrame, assay: Assay, sweeps: Mapping[str, Collection[str]] = {}
) -> Document:
    """Return the tables of one group: the main panel in the layout of He et al. (2019), details and comparisons.

    Args:
        group: the cells.
        frame, rows: their ``cells_frame`` and ``rows_frame``.
        assay: their ``assess``; only if it is valid the lowest NLL is marked.
        sweeps: sweep -> methods, as for ``rows_frame``.
    """
    cell = next((cell for cell in group.cells if cell.evaluation), group.cells[0])
    settings = common_settings(group.cells)
    title = f"{cell.config.dataset.title}, preset {cell.config.preset}{group.subtitle}"
    result = Document(title, group.stem, assay.line)
    baseline = next(iter(rows.loc[rows["baseline"], "method"]), None)
    shown = panels(rows, cell, settings, baseline)
    columns = [column for panel in shown.values() for column in panel]
    notes = {row.method: _row_notes(row, frame, columns, _is_crossed(rows)) for row in rows.itertuples()}
    result.panels = [_panel(result, caption, panel, rows, notes, assay.is_valid) for caption, panel in shown.items()]
    if not group.trials:
        result.panels += matched_panels(result, frame, sweeps)
    if cell.as_published:
        result.reference = _published(cell.config.dataset.title, list(rows["method"]))
    result.notes = _notes(group, cell, settings, rows)
    return result


def _is_crossed(rows: DataFrame) -> bool:
    """Return whether some intervals are over seeds and test examples."""
    return bool(rows[[f"{name}_ci_examples" for name in LIKELIHOODS]].max(axis=None) > 0)


def _panel(
    document: Document,
    caption: str,
    columns: list[Column],
    rows: DataFrame,
    notes: Mapping[str, Notes],
    is_ranked: bool,
) -> Panel:
    def letters(texts: Iterable[str]) -> tuple[str, ...]:
        return tuple(document.footnote(text) for text in dict.fromkeys(texts))

    header = [Entry(column.heading, letters=letters([column.note] if column.note else [])) for column in columns]
    nll, grid = headline(rows), []
    for row in rows.itertuples():
        entries = [column.show(row) for column in columns]
        is_empty = all(entry.text == DASH for entry in entries)
        reasons = {note for column in columns for note in notes[row.method][column.name]}
        if is_empty and caption not in ("", "Details") and not reasons & {UNDEFINED, NOT_FINITE}:
            continue  # only the first two panels show every row
        name = Entry(row.method, letters=letters([] if caption else notes[row.method]["method"]))
        grid.append([name])
        for column, entry in zip(columns, entries, strict=True):
            is_best = is_ranked and column.name == nll and getattr(row, nll) == rows[nll].min()
            is_best = is_best and row.converged == 1
            grid[-1].append(replace(entry, letters=letters(notes[row.method][column.name]), best=is_best))
    return Panel(caption, [Entry("method"), *header], grid)


def _row_notes(row: Any, frame: DataFrame, columns: Iterable[Column], is_crossed: bool) -> Notes:
    """Return the footnotes of one row by column."""
    notes: defaultdict[str, list[str]] = defaultdict(list)
    cells = frame[frame["method"] == row.method]
    notes["method"] += [row.selection] if row.selection else []
    if len(cells):  # not a row selected on validation
        method = cells["cell"].iloc[0].config.method
        for name, text in method.footnotes.items():
            notes[name].append(text)
        notes["method"] += [*method.notes, *_status_notes(cells)]
    for name in [f"{name}_{kind}" for name in LIKELIHOODS for kind in ("ci", "minus_baseline")]:
        if is_crossed and not getattr(row, f"{name}_examples") and not math.isnan(getattr(row, f"{name}_low")):
            notes[name].append("over seeds only: values per test example are missing")
    done = cells[cells["status"] == "done"]
    counts = {column.name: done[column.name].count() for column in columns if column.name in done}
    for name, count in (counts | {"nll": row.nll_n}).items():
        if 0 < count < row.n:
            notes[name].append(f"{count} of {row.n} seeds")
    if row.nll - row.iw_nll > REFINED_EXCESS:
        notes["nll"].append("too high: the refinement failed; IW-NLL, also an upper bound, is lower")
    if row.gap_amortisation < NEGATIVE_GAP:
        notes["gap_amortisation"].append("negative: the refinement ended below the method's own posterior")
    for name in ("pareto_k", "pareto_k_refined"):
        if getattr(row, name) > UNRELIABLE_K:
            notes[name].append(f"above {UNRELIABLE_K}: unreliable")
    notes["method"] += _convergence_notes(done)
    shared = done["shared"].max()
    if shared > 1:
        notes["train_seconds"].append(f"measured while up to {shared:.0f} cells shared the device")
    if row.collapsed > 0:
        count = round(row.collapsed * row.n)
        notes["mi"].append("collapsed" + (f" in {count} of {row.n} seeds" if row.n > 1 else ""))
    if is_mixed(row):
        for name in OF_Z:
            notes[name].append(MIXED)
        for name in [f"{name}_{kind}" for name in LIKELIHOODS for kind in ("ci", "minus_baseline")]:
            notes[name].append("some seeds collapsed and some did not: the interval may cover less than 95 %")
        notes["mi"] += _mi_of_seeds(row, done)
    for column in columns:
        is_difference = column.name.endswith("_minus_baseline")
        if column.show(row).text == DASH and row.n and not (is_difference and row.baseline):
            notes[column.name] += _not_finite_reason(column.name, cells["cell"])
            notes[column.name] = notes[column.name] or _missing_reason(column.name, row, cells["cell"], notes)
    return notes


def _convergence_notes(done: DataFrame) -> list[str]:
    """Return a note if some cells have not converged: in how many seeds, and why."""
    cells = done[done["converged"] == 0]
    if cells.empty:
        return []
    gain, limited = cells["last_gain"].max(), sum(map(limit_reached, cells["cell"]))
    reasons = ["the preset's limit ended additional encoder updates"] if limited else []
    if math.isinf(gain) or math.isnan(gain):
        reasons.append("no validation at KL weight 1 before the last fifth of the updates")
    elif limited < len(cells):
        reasons.append(f"the last fifth of the updates gained up to {number(gain, 2)} nats of validation ELBO or loss")
    seeds = f" in {len(cells)} of {len(done)} seeds" if len(done) > 1 else ""
    return [f"not converged{seeds}: {'; '.join(reasons)}"]


def _mi_of_seeds(row: Any, done: DataFrame) -> list[str]:
    """Return the interval of the seeds that did not collapse, and the MI of every seed."""
    low, high = row.mi_not_collapsed_low, row.mi_not_collapsed_high
    parts = [] if math.isnan(low) else [f"95 % interval of these [{number(low, 2)}, {number(high, 2)}]"]
    parts += [f"MI by seed {', '.join(number(value, 2) for value in sorted(done['mi']))}"] if len(done) else []
    return ["; ".join(parts)] if parts else []


def _not_finite_reason(name: str, cells: Iterable[CellRecord]) -> list[str]:
    """Return why a metric that was measured has no value, if it was not finite."""
    evaluations = [cell.evaluation for cell in cells if cell.evaluation and name in cell.evaluation.not_finite]
    if not evaluations:
        return []
    if name.startswith("pareto_k"):
        return ["the weights have no tail to fit"]
    return [UNDEFINED if all(evaluation.metrics["n"] == 1 for evaluation in evaluations) else NOT_FINITE]


def _missing_reason(name: str, row: Any, cells: Iterable[CellRecord], notes: Notes) -> list[str]:
    """Return why a method with finished cells has no value in a column, if the method itself has no footnote."""
    if name.endswith(("_minus_baseline", "_ci")):
        return ["fewer than two common seeds" if name.endswith("_minus_baseline") else "fewer than two seeds"]
    evaluations = [cell.evaluation.metrics for cell in cells if cell.evaluation]
    values = [metrics[name] for metrics in evaluations if name in metrics]
    if any(value is not None for value in values):
        return ["evaluated with other settings (see the notes)"]
    if math.isnan(row.kl) and notes.get("kl"):  # metrics of z are missing for the same reason as KL
        return notes["kl"]
    return ["not defined for this method" if values else "not measured"]


def _status_notes(cells: DataFrame) -> list[str]:
    """Return a note for every status and reason of the cells of a method that are not done."""
    pending = cells[cells["status"] != "done"].fillna({"reason": ""})
    notes = []
    for (status, reason), group in pending.groupby(["status", "reason"], sort=True):
        seeds = f"seed{'s' * (len(group) > 1)} {', '.join(map(str, group['seed']))}"
        notes.append(f"{seeds} {status}" + (f": {reason}" if reason else ""))
    return notes


def _notes(group: Group, cell: CellRecord, settings: Mapping[str, dict[str, Any]], rows: DataFrame) -> list[str]:
    """Return the notes below the tables: data, preset, precision, references, intervals, skipped cells."""
    config, evaluation, data = cell.config, cell.evaluation, cell.config.dataset
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


def _references(references: Mapping[str, float | None]) -> list[str]:
    """Return a note on the NLL of each reference model; ``name_se`` is the standard error of ``name``."""
    notes = []
    for name, value in references.items():
        if value is not None and not name.endswith("_se"):
            description, remark = REFERENCES.get(name, (name.replace("_", " "), ""))
            standard_error = references.get(f"{name}_se")
            error = "" if standard_error is None else f" ± {number(standard_error, 2)} (standard error)"
            notes.append(f"For reference, NLL of {description}: {number(value, 2)}{error}{remark}.")
    return notes


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
