"""What stands in the tables of one data set and preset: panels, the rows' footnotes, published numbers."""

from __future__ import annotations

import csv
import io
import math
from collections import defaultdict
from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.core.config import FULL_PRECISION
from bench.core.files import dumps
from bench.experiment.cell_record import CellRecord
from bench.reporting.columns import UNRELIABLE_K, Write, columns, headings, metric_panels
from bench.reporting.frame import CORE_COLUMNS, LIKELIHOODS, csv_columns, headline
from bench.reporting.groups import Group, common_settings, judged_otherwise
from bench.reporting.matched import matched
from bench.reporting.render import DASH, Document, Entry, Panel, number

if TYPE_CHECKING:
    from pandas import DataFrame

PUBLISHED = Path(__file__).resolve().parents[2] / "results" / "published.csv"
WORSE = 0.1  # nats by which the NLL under the common proposal may exceed the plain one without a word
PUBLISHED_METRICS = {
    "nll": "NLL",
    "kl": "KL",
    "mi_batch": "batch MI",
    "au": "AU",
    "hours": "train (h)",
    "relative_hours": "hours (×)",
}
#: What a record's reference is called, and what follows from it.
REFERENCES = {
    "unigram": ("words drawn independently", ""),
    "true_generator": ("the true generator", ": no model can be below it but by chance"),
}


def to_csv(rows: DataFrame) -> str:
    """One line per row of ``rows_frame`` under a header; nothing for what has no meaning. Eight digits."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    columns = csv_columns()
    writer.writerow(columns)
    writer.writerows([_plain(value) for value in row] for row in rows[columns].itertuples(index=False))
    return file.getvalue()


def document(group: Group, frame: DataFrame, rows: DataFrame, sweeps: Mapping[str, Collection[str]] = {}) -> Document:
    """The table of one group in the paper's layout, further panels of details and comparisons, and all footnotes.

    ``frame`` and ``rows`` are ``cells_frame`` and ``rows_frame`` of the group's cells, and ``sweeps`` as there.
    """
    config = group.cells[0].config
    data, preset = config["dataset"], config["preset"]
    judged = next((cell for cell in group.cells if cell.evaluation), None)
    settings = common_settings(group.cells)
    made = Document(title=f"{data['title']}, preset {preset}", label=group.stem)
    reference = next((row.method for row in rows.itertuples() if row.baseline), None)
    head = headings(rows, data, config["device"], judged, settings, reference)
    crossed = rows[[f"{name}_ci_examples" for name in LIKELIHOODS]].max(axis=None) > 0
    notes = {row.method: _row_notes(row, frame, crossed) for row in rows.itertuples()}
    for caption, those in columns(rows, reference).items():
        made.panels.append(_panel(made, caption, those, head, rows, frame, notes))
    made.panels += matched(made, frame, sweeps)
    if group.cells[0].as_published:
        made.reference = _published(data["title"], list(rows["method"]))
    made.notes = _notes(group, judged, settings, rows)
    return made


def _panel(
    made: Document,
    caption: str,
    columns: Mapping[str, Write],
    head: Mapping[str, tuple[str, str]],
    rows: DataFrame,
    frame: DataFrame,
    notes: Mapping[str, Mapping[str, list[str]]],
) -> Panel:
    titles = [Entry("method")]
    for name in columns:
        title, note = head[name]
        titles.append(Entry(title, letters=_letter(made, [note] if note else [])))
    main, reference = headline(rows), rows["baseline"].any()
    lowest = rows[main].min()
    grid = []
    for row in rows.itertuples():
        entries = [Entry(row.label, letters=_letter(made, notes[row.method]["method"] if not caption else []))]
        for name, write in columns.items():
            entry, those = write(row), notes[row.method].get(name, [])
            evident = not row.n or (name == f"{main}_minus_baseline" and row.baseline)
            evident |= name == "relative_cost" and not reference
            if entry.text == DASH and not those and not evident:
                those = _lacking(name, row, frame, notes[row.method])
            best = name == main and getattr(row, main) == lowest
            entries.append(replace(entry, letters=_letter(made, those), best=best))
        if caption in metric_panels() and all(entry.text == DASH for entry in entries[1:]):
            continue  # the first panels show every row, whatever became of it
        grid.append(entries)
    return Panel(caption, titles, grid)


def _lacking(name: str, row: Any, frame: DataFrame, notes: Mapping[str, list[str]]) -> list[str]:
    """Why a method that ran has a dash in a column, where the method itself says nothing."""
    if name.endswith(("_minus_baseline", "_ci")):
        return ["fewer than two common seeds" if name.endswith("_minus_baseline") else "fewer than two seeds"]
    cells = [cell for cell in frame.loc[frame["method"] == row.method, "cell"] if cell.evaluation]
    values = [cell.evaluation["metrics"][name] for cell in cells if name in cell.evaluation["metrics"]]
    if any(value is not None for value in values):
        return ["judged with other settings (see the notes)"]
    if math.isnan(row.kl) and notes.get("kl"):  # what leaves a method without KL leaves it without all made of z
        return notes["kl"]
    if values:
        if name.startswith("pareto_k"):
            return ["the weights have no tail to fit"]
        return ["not defined for this method"]
    return ["not recorded" if name in CORE_COLUMNS else "not measured"]


def _row_notes(row: Any, frame: DataFrame, crossed: bool) -> dict[str, list[str]]:
    """The footnotes of one row by column, ``method`` for the row's name; ``crossed``: most intervals are."""
    notes = defaultdict(list, method=[row.selection] if row.selection else [])
    cells = frame[frame["method"] == row.method]
    if len(cells):
        method = cells["cell"].iloc[0].config["method"]
        notes["method"] += method.get("notes", [])
        for name, text in method.get("footnotes", {}).items():
            notes[name].append(text)
    for (status, reason), those in cells.fillna({"reason": ""}).groupby(["status", "reason"], sort=True):
        if status != "ok":
            seeds = ", ".join(map(str, those["seed"]))
            notes["method"].append(f"seed{'s' * (len(those) > 1)} {seeds} {status}" + (f": {reason}" if reason else ""))
    for name in LIKELIHOODS:
        for column, low in ((f"{name}_ci", f"{name}_ci_low"), (f"{name}_minus_baseline", f"{name}_minus_baseline_low")):
            alone = not getattr(row, f"{column}_examples") and not math.isnan(getattr(row, low))
            notes[column] += ["over seeds alone, for values per test example are missing"] if alone and crossed else []
    if 0 < row.nll_refined_n < row.n:
        notes["nll_refined"].append(f"of {row.nll_refined_n} of {row.n} seeds")
    if row.nll_refined - row.nll > WORSE:
        lower = "IW-NLL, an upper bound too, is lower"
        notes["nll_refined"].append(f"too high: {lower}, for the fit ended in a worse place than q")
    for name in ("pareto_k", "pareto_k_refined"):
        if getattr(row, name) > UNRELIABLE_K:
            notes[name].append("above 0.7: not to be trusted")
    shared = cells.loc[cells["status"] == "ok", "shared"].max()
    if shared > 1:
        notes["train_seconds"].append(f"measured while up to {shared:.0f} cells shared the device")
    if row.collapsed > 0:
        count = round(row.collapsed * row.n)
        notes["mi"].append("collapsed" + (f" in {count} of {row.n} seeds" if row.n > 1 else ""))
    return notes


def _notes(group: Group, judged: CellRecord | None, settings: Mapping[str, dict], rows: DataFrame) -> list[str]:
    config = group.cells[0].config
    data = config["dataset"]
    sizes = ", ".join(f"{data['sizes'][split]:,} {split}" for split in ("train", "val", "test"))
    notes = [f"Data: {data['title']}, {sizes}; fingerprint {data['fingerprint'][:12]}; {data['source']}."]
    notes += data.get("notes", [])
    said = dict.fromkeys(note for cell in group.cells for note in cell.config.get("preset_notes", []))
    notes.append(f"Preset {config['preset']}" + (f": {'; '.join(said)}." if said else "."))
    notes += _precision(config["precision"], judged)
    notes += _references(((judged and judged.evaluation) or {}).get("references") or {})
    where = [(cell.result or {}).get("provenance") or {} for cell in group.cells if cell.status == "ok"]
    if len({dumps([each.get("machine"), each.get("threads")], sort_keys=True) for each in where}) > 1:
        notes.append("Seconds come from different machines or thread counts and do not compare; costs (×) do.")
    if rows["n"].max() > 1:
        spread = "Mean (sd) over n seeds, ddof 1."
        if rows[[f"{name}_ci_examples" for name in LIKELIHOODS]].max(axis=None) > 0:
            spread += " Intervals are 95 % and take seeds and test examples as samples of those there could have been:"
            spread += " every seed is judged on the same examples, so the two are crossed."
        notes.append(spread)
    notes += judged_otherwise([cell for cell in group.cells if cell.status == "ok"], settings)
    for cell in group.cells:
        if cell.evaluation and cell.examples.problem:
            notes.append(f"Not used: {cell.folder.parent.name}/{cell.folder.name}, {cell.examples.problem}.")
    return notes + group.notes


def _precision(trained: str, judged: CellRecord | None) -> list[str]:
    """What the networks computed in, where it is not float32 throughout."""
    evaluated = ((judged and judged.evaluation) or {}).get("settings", {}).get("precision", FULL_PRECISION)
    if trained == evaluated == FULL_PRECISION:
        return []
    return [f"Arithmetic of the networks: trained in {trained}, judged in {evaluated}."]


def _references(references: dict[str, float]) -> list[str]:
    """The NLL of what stands beside every method, as ``name`` or as ``name`` with its standard error ``name_se``."""
    said = []
    for name, value in references.items():
        if not name.endswith("_se"):
            what, remark = REFERENCES.get(name, (name.replace("_", " "), ""))
            error = f" ± {number(references[f'{name}_se'], 2)} (standard error)" if f"{name}_se" in references else ""
            said.append(f"For reference, NLL of {what}: {number(value, 2)}{error}{remark}.")
    return said


def _published(title: str, methods: list[str]) -> Panel | None:
    """The papers' own numbers for this very data set and the methods in the table, where some are stored."""
    found: dict[tuple[str, str, str], dict[str, Entry]] = defaultdict(dict)
    try:
        content = io.StringIO(PUBLISHED.read_text("utf-8"), newline="")
        for record in csv.DictReader(content, strict=True):
            if record["dataset"] == title and record["method"] in methods:
                key = record["method"], record["version"] or "", record["checked"] or ""
                found[key][record["metric"]] = Entry(record["value"] or DASH, record["sd"] or "")
    except (OSError, ValueError, KeyError, csv.Error):  # no such file here, or something else
        return None
    if not found:
        return None
    columns = [Entry(name) for name in ("method", "version", "checked", *PUBLISHED_METRICS.values())]
    rows = [
        [*map(Entry, key), *(found[key].get(metric, Entry(DASH)) for metric in PUBLISHED_METRICS)]
        for key in sorted(found, key=lambda key: methods.index(key[0]))
    ]
    return Panel("Published numbers (He et al., 2019): other code, the same protocol.", columns, rows)


def _letter(made: Document, notes: list[str]) -> tuple[str, ...]:
    return tuple(made.footnote(note) for note in dict.fromkeys(notes))


def _plain(value: Any) -> str:
    if isinstance(value, float):
        return "" if math.isnan(value) else f"{value + 0.0:.8g}"
    return str(value)
