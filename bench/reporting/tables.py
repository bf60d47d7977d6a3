"""What stands in the tables of one data set and preset: columns, footnotes, published numbers."""

from __future__ import annotations

import csv
import io
import math
from collections import defaultdict
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.reporting.cells import Cell, Group
from bench.reporting.frame import COLUMNS
from bench.reporting.render import DASH, Document, Entry, Panel, difference, number
from bench.reporting.statistics import Summary
from bench.store import dumps

if TYPE_CHECKING:
    from pandas import DataFrame

PUBLISHED = Path(__file__).resolve().parents[2] / "results" / "published.csv"
PUBLISHED_METRICS = {
    "nll": "NLL",
    "kl": "KL",
    "mi_batch": "batch MI",
    "au": "AU",
    "hours": "train (h)",
    "relative_hours": "hours (×)",
}
#: Why a method that ran has a dash in a column, where the method itself says nothing.
LACKING = {
    **dict.fromkeys(("kl", "mi", "mi_batch", "kl_aggregate", "au", "au_kl"), "not defined for this method"),
    "nll_minus_baseline": "fewer than two common seeds",
}
#: What a record's reference is called, and what follows from it.
REFERENCES = {
    "unigram": ("words drawn independently", ""),
    "true_generator": ("the true generator", ": no model can be below it but by chance"),
}
Write = Callable[[Any], tuple[str, str]]  # a row's (text, spread) in one column


def to_csv(rows: DataFrame) -> str:
    """One line per row of ``rows_frame`` under a header; nothing for what has no meaning. Eight digits."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows([_plain(value) for value in row] for row in rows[list(COLUMNS)].itertuples(index=False))
    return file.getvalue()


def document(group: Group, frame: DataFrame, rows: DataFrame) -> Document:
    """The table of one group in the paper's layout, a second panel of details, and all footnotes.

    ``frame`` and ``rows`` are ``cells_frame`` and ``rows_frame`` of the group's cells.
    """
    config = group.cells[0].config
    data, preset = config["dataset"], config["preset"]
    judged = next((cell for cell in group.cells if cell.evaluation), None)
    made = Document(title=f"{data['title']}, preset {preset}", label=group.stem)
    reference = next((row.method for row in rows.itertuples() if row.baseline), None)
    several = rows["n"].max() > 1
    head = _headings(data, config, judged, reference)
    notes = {row.method: _row_notes(row, frame) for row in rows.itertuples()}
    main, detail = _columns(rows, reference, several)
    made.panels = [_panel(made, "", main, head, rows, notes)]
    without_names = {method: {**those, "method": []} for method, those in notes.items()}
    made.panels.append(_panel(made, "Details", detail, head, rows, without_names))
    if group.cells[0].as_published:
        made.reference = _published(data["title"], list(rows["method"]))
    made.notes = _notes(group, config, judged, several)
    return made


def _columns(rows: DataFrame, reference: str | None, several: bool) -> tuple[dict[str, Write], dict[str, Write]]:
    """The columns of the table and of its details: name -> how a row's entry reads."""

    def mean(name: str, digits: int, row: Any) -> tuple[str, str]:
        spread = getattr(row, f"{name}_sd", math.nan)
        return number(getattr(row, name), digits), "" if math.isnan(spread) else number(spread, digits)

    first = ("nll", "ppl", "kl", "mi") if rows["ppl"].notna().any() else ("nll", "kl", "mi")
    main: dict[str, Write] = {name: partial(mean, name, 2) for name in first}
    main |= {name: partial(mean, name, 1 if several else 0) for name in ("au", "au_kl")}
    main["train_seconds"] = lambda row: (number(row.train_seconds, 0 if row.train_seconds >= 100 else 1), "")
    main["relative_cost"] = partial(mean, "relative_cost", 2)
    main["n"] = lambda row: (str(row.n), "")
    detail: dict[str, Write] = {}
    if reference and rows["nll_minus_baseline_low"].notna().any():
        detail["nll_minus_baseline"] = _difference
    detail |= {name: partial(mean, name, 2) for name in ("elbo", "rec", "mi_batch", "kl_aggregate")}
    detail["updates"] = partial(mean, "updates", 0)
    if rows["extra_updates"].max() > 0:
        detail["extra_updates"] = partial(mean, "extra_updates", 0)
    return main, detail


def _panel(
    made: Document,
    caption: str,
    columns: dict[str, Write],
    head: dict[str, tuple[str, str]],
    rows: DataFrame,
    notes: dict[str, dict[str, list[str]]],
) -> Panel:
    headings = [Entry("method")]
    for name in columns:
        title, note = head[name]
        headings.append(Entry(title, letters=_letter(made, [note] if note else [])))
    lowest, reference = rows["nll"].min(), rows["baseline"].any()
    grid = []
    for row in rows.itertuples():
        entries = [Entry(row.label, letters=_letter(made, notes[row.method]["method"]))]
        for name, write in columns.items():
            text, spread = write(row)
            those = notes[row.method].get(name, [])
            evident = not row.n or (name == "nll_minus_baseline" and row.baseline)
            evident |= name == "relative_cost" and not reference
            if text == DASH and not those and not evident:
                those = [LACKING.get(name, "not recorded")]
            best = name == "nll" and row.nll == lowest
            entries.append(Entry(text, spread, _letter(made, those), best))
        grid.append(entries)
    return Panel(caption, headings, grid)


def _difference(row: Any) -> tuple[str, str]:
    if math.isnan(row.nll_minus_baseline_low):
        return DASH, ""
    mean, low, high = (getattr(row, f"nll_minus_baseline{end}") for end in ("", "_low", "_high"))
    return difference(Summary(mean, math.nan, row.pairs, low, high)), ""


def _headings(data: dict, config: dict, judged: Cell | None, reference: str | None) -> dict[str, tuple[str, str]]:
    """Of every column its title and its footnote."""
    evaluation = judged.evaluation if judged and judged.evaluation else {"config": {}, "metrics": {}}
    samples = evaluation["config"].get("iw_samples", "?")
    n = evaluation["metrics"].get("n") or evaluation["config"].get("test_examples")
    batch = evaluation["config"].get("batch_size")
    words = number(evaluation["metrics"].get("words", math.nan), 2)
    ppl = f"perplexity exp(NLL / {words} words), the mean of a sentence: </s> counts as one, <s> does not"
    if unknown := evaluation["metrics"].get("unknown"):
        ppl += f"; {unknown:.1%} of them are <unk>"
    judged_on = f"{n:,} of {data['sizes']['test']:,}" if n else "the"
    nll = f"importance-weighted estimate, {samples} samples, {data['unit']}, on {judged_on} test examples"
    mi = "mutual information of x and z under q, over all test examples judged"
    mi += f": at most ln {n:,} = {math.log(n):.2f} nats" if n else ""
    within = f"the same within batches of {batch or '?'}, as He et al. (2019) estimate it"
    within += f": in expectation at most ln {batch} = {math.log(batch):.2f} nats" if batch else ""
    less = f"NLL − {reference}"
    return {
        "nll": ("NLL", nll),
        "ppl": ("PPL", ppl),
        "kl": ("KL", ""),
        "mi": ("MI", f"{mi}; collapsed means below 0.1 nats"),
        "au": ("AU", "active units: latent dimensions whose posterior mean varies by more than 0.01 over the test set"),
        "au_kl": ("AU(KL)", "latent dimensions whose mean KL exceeds 0.01 nats, whatever the scale of their means"),
        "train_seconds": (
            "train (s)",
            f"training alone, without validation, evaluation or data, on {config['device']}",
        ),
        "relative_cost": (
            "cost (×)",
            f"FLOPs counted in training over those of {reference or 'a baseline (none here)'}",
        ),
        "n": ("n", ""),
        "nll_minus_baseline": (less, "mean and 95 % t interval of the differences over common seeds"),
        "elbo": ("ELBO", ""),
        "rec": ("rec", "expected negative log-likelihood under q (distortion)"),
        "mi_batch": ("batch MI", within),
        "kl_aggregate": ("KL(agg.)", "KL of the aggregate posterior to the prior"),
        "updates": ("updates", "of the decoder"),
        "extra_updates": ("extra", "further updates of the encoder alone or of auxiliary networks"),
    }


def _row_notes(row: Any, frame: DataFrame) -> dict[str, list[str]]:
    """The footnotes of one row by column, ``method`` for the row's name."""
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
    shared = cells.loc[cells["status"] == "ok", "shared"].max()
    if shared > 1:
        notes["train_seconds"].append(f"measured while up to {shared:.0f} cells shared the device")
    if row.collapsed > 0:
        count = round(row.collapsed * row.n)
        notes["mi"].append("collapsed" + (f" in {count} of {row.n} seeds" if row.n > 1 else ""))
    return notes


def _notes(group: Group, config: dict, judged: Cell | None, several: bool) -> list[str]:
    data = config["dataset"]
    sizes = ", ".join(f"{data['sizes'][split]:,} {split}" for split in ("train", "val", "test"))
    notes = [f"Data: {data['title']}, {sizes}; fingerprint {data['fingerprint'][:12]}; {data['source']}."]
    notes += data.get("notes", [])
    said = dict.fromkeys(note for cell in group.cells for note in cell.config.get("preset_notes", []))
    notes.append(f"Preset {config['preset']}" + (f": {'; '.join(said)}." if said else "."))
    notes += _references(((judged and judged.evaluation) or {}).get("references") or {})
    where = [(cell.result or {}).get("provenance") or {} for cell in group.cells if cell.status == "ok"]
    if len({dumps([each.get("machine"), each.get("threads")], sort_keys=True) for each in where}) > 1:
        notes.append("Seconds come from different machines or thread counts and do not compare; costs (×) do.")
    if several:
        notes.append("Mean (sd) over n seeds, ddof 1.")
    return notes + group.notes


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
    if not PUBLISHED.exists():
        return None
    found: dict[tuple[str, str, str], dict[str, Entry]] = defaultdict(dict)
    with PUBLISHED.open(encoding="utf-8", newline="") as file:
        for record in csv.DictReader(file):
            if record["dataset"] == title and record["method"] in methods:
                key = record["method"], record["version"], record["checked"]
                found[key][record["metric"]] = Entry(record["value"], record["sd"])
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
