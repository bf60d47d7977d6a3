"""The data of ``report.html``: one JSON-ready dictionary per group of cells, from which its scripts draw everything.

Numbers keep six digits and missing ones are None, so that the page is small and the same cells give the same bytes.
"""

from __future__ import annotations

import math
import shlex
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from bench.reporting.answer import LEAD
from bench.reporting.columns import Column, panels
from bench.reporting.frame import LIKELIHOODS, headline, history_frame
from bench.reporting.groups import CONTROLS, common_settings
from bench.reporting.looks import look, svg_path
from bench.reporting.notes import convergence_remarks
from bench.reporting.page.pictures import image_strips
from bench.reporting.paired import paired_differences
from bench.reporting.render import DASH, Document

if TYPE_CHECKING:
    from pandas import DataFrame

    from bench.experiment.cell_record import CellRecord
    from bench.experiment.schema import MethodRecord
    from bench.reporting.answer import Answer
    from bench.reporting.assay import Assay
    from bench.reporting.groups import Group
    from bench.reporting.texts import Samples

#: Panel of the tables -> the group of columns on the page. The first, "", is always shown.
COLUMN_GROUPS = {
    "Convergence of the NLL": "Likelihood",
    "Use of z": "Information",
    "Inference": "Inference",
}
#: Columns of the main panel and the details -> their group; the others of these panels are always shown.
GROUP_OF_COLUMN = {
    **dict.fromkeys(("nll", "iw_nll", "ppl", "bpd", "elbo", "rec"), "Likelihood"),
    **dict.fromkeys((f"{nll}_minus_without_z" for nll in LIKELIHOODS), "Likelihood"),
    **dict.fromkeys(("kl", "au", "au_kl", "mi_batch"), "Information"),
    **dict.fromkeys(("train_seconds", "updates", "encoder_updates"), "Cost"),
}
#: Numbers of one seed, in the order of its line.
SEED_COLUMNS = ("nll", "iw_nll", "rec", "kl", "mi", "au", "collapsed", "converged", "flops", "train_seconds", "updates")
CURVES = ("elbo", "rec", "kl", "mi", "au")
CURVE_POINTS = 40
MAX_TEXTS, MAX_RECONSTRUCTIONS = 4, 3


def group_data(
    group: Group,
    document: Document,
    frame: DataFrame,
    rows: DataFrame,
    assay: Assay,
    answer: Answer,
    samples: Mapping[str, Samples],
) -> dict[str, Any]:
    """Return everything that the page shows of one group of cells.

    Args:
        group: the cells.
        document: their tables, for notes, footnotes and claims.
        frame, rows: their ``cells_frame`` and ``rows_frame``.
        assay, answer: their ``assess``, and what they say.
        samples: method -> texts of its first seed.
    """
    nll, names = headline(rows), [str(name) for name in rows["method"]]
    pairs = paired_differences(frame, names, nll)
    cell = next((cell for cell in group.cells if cell.evaluation), group.cells[0])
    data_title, _, preset = document.title.partition(", preset ")
    dataset, _, size = data_title.partition(" (")
    baseline = next(iter(rows.loc[rows["baseline"], "method"]), None)
    columns = panels(rows, cell, common_settings(group.cells), baseline)
    entries = {column.name: column for panel in columns.values() for column in panel}
    curves, pictures, shown = _curves(frame), image_strips(frame), _columns(columns)
    return {
        "stem": group.stem,
        "title": document.title,
        "dataset": dataset,
        "size": size.removesuffix(")"),
        "preset": preset,
        "unit": cell.config.dataset.unit,
        "nll": "NLL" if nll == "nll" else "IW-NLL",
        "answer": {"text": answer.text, "lead": LEAD, "winners": answer.winners, "caveat": answer.caveat},
        "assay": {"valid": assay.is_valid, "line": assay.line},
        "seeds": int(rows["n"].max()),
        "baseline": baseline,
        "columns": shown,
        "rows": [
            _row(row, nll, frame, entries, shown, assay.is_valid)
            | {"curves": curves.get(row.method), "pictures": pictures.get(row.method, {})}
            | {"texts": _texts(samples[row.method]) if row.method in samples else None}
            for row in rows.itertuples()
        ],
        "pairs": pairs,
        "notes": document.notes,
        "claims": _claims(document),
        "reference": _reference(document),
        "settings": _settings(group),
        "commands": _commands(frame),
        "environments": _environments(frame),
    }


def _columns(columns: Mapping[str, list[Column]]) -> list[dict[str, str]]:
    """Return name, heading, description and group ("": always shown) of every column."""
    shown = []
    for panel, members in columns.items():
        for column in members:
            group = COLUMN_GROUPS.get(panel) or GROUP_OF_COLUMN.get(column.name, "Cost" if panel == "Details" else "")
            if column.name.endswith("_minus_baseline") or column.name == "collapsed":
                group = ""
            shown.append({"name": column.name, "heading": column.heading, "note": column.note, "group": group})
    return shown


def _row(
    row: Any,
    nll: str,
    frame: DataFrame,
    columns: Mapping[str, Column],
    shown: Sequence[Mapping[str, str]],
    is_ranked: bool,
) -> dict[str, Any]:
    """Return one row: its state, what the figures draw, the entries of its columns, and its seeds."""
    cells = frame[frame["method"] == row.method]
    record: MethodRecord | None = cells["cell"].iloc[0].config.method if len(cells) else None
    style = look(record) if record else None
    difference = [getattr(row, f"{nll}_minus_baseline{end}") for end in ("", "_low", "_high")]
    numbers = {
        "difference": [*map(_number, difference), int(getattr(row, f"{nll}_minus_baseline_n"))],
        "mi": [*map(_number, (row.mi, *_mi_interval(cells)))],
        **{name: _number(getattr(row, name)) for name in (nll, "kl", "rec", "relative_cost", "collapsed", "converged")},
    }
    return {
        "id": row.method,
        "name": row.title,
        "method": record.name if record else "",
        "family": row.family,
        "look": vars(style) | {"path": svg_path(style)} if style else None,
        "control": row.family == CONTROLS,
        "best": bool(is_ranked and row.best),
        "n": int(row.n),
        "unfinished": [f"seed {cell.seed} {cell.status}{_reason(cell)}" for cell in _unfinished(cells)],
        "numbers": numbers | {"nll": numbers[nll]},
        "entries": {column["name"]: _entry(columns[column["name"]], row) for column in shown},
        "notes": _notes(row, record, cells),
        "settings": _method_settings(record) if record else "",
        "seeds": [_seed(cell) for cell in cells.itertuples()],
        "command": _command(row.method, cells["cell"]) if record else "",
    }


def _notes(row: Any, record: MethodRecord | None, cells: DataFrame) -> list[str]:
    """Return the selected members or the notes of the method, and why the row has not converged."""
    notes = [row.selection] if row.selection else [*(record.notes if record else ())]
    return notes + convergence_remarks(cells[cells["status"] == "done"])


def _mi_interval(cells: DataFrame) -> tuple[float, float]:
    """Return the 95 % interval of MI over seeds; NaN if only some seeds collapsed, because no seed has the mean."""
    from bench.reporting.statistics import NAN, summary

    done = cells[cells["status"] == "done"]
    if done["collapsed"].nunique() > 1:
        return NAN, NAN
    value = summary(done["mi"])
    return value.low, value.high


def _entry(column: Column, row: Any) -> list[Any] | None:
    """Return text, spread and the number to sort by; None for a dash."""
    entry = column.show(row)
    if entry.text == DASH:
        return None
    return [entry.text, entry.spread, _number(math.nan if entry.value is None else entry.value)]


def _seed(row: Any) -> dict[str, Any]:
    cell: CellRecord = row.cell
    provenance = cell.result.provenance if cell.result else None
    return {
        "seed": cell.replicate if cell.config.base_seed else str(cell.config.seed),
        "status": str(row.status),
        "values": [_number(getattr(row, name)) for name in SEED_COLUMNS],
        "folder": "/".join(cell.folder.parts[-5:]),
        "commit": (provenance.commit or "")[:10] if provenance else "",
        "started": provenance.started[:19].replace("T", " ") if provenance else "",
    }


def _unfinished(cells: DataFrame) -> Iterable[Any]:
    return cells.loc[cells["status"] != "done", ["seed", "status", "reason"]].itertuples()


def _reason(cell: Any) -> str:
    return f": {cell.reason}" if isinstance(cell.reason, str) and cell.reason else ""


def _method_settings(record: MethodRecord) -> str:
    """Return the settings of a method, its schedule and its KL term in one line."""
    parts = [f"{key} = {value}" for key, value in record.config.items() if value is not None]
    for name, component in (("schedule", record.schedule), ("KL term", record.kl_term)):
        if component:
            values = ", ".join(f"{key}={value}" for key, value in component.settings.items() if value is not None)
            parts.append(f"{name} {component.name}" + (f"({values})" if values else ""))
    return ", ".join(parts + ([f"learning rate × {record.lr_scale:g}"] if record.lr_scale != 1 else []))


def _command(method: str, cells: Iterable[CellRecord]) -> str:
    """Return the command that trains one row again: that of its first cell with this method and all its seeds.

    Empty if none is stored, or not a valid one.
    """
    cells = list(cells)
    command = next((c.result.provenance.command for c in cells if c.result and c.result.provenance), "")
    try:
        words = shlex.split(command)
    except ValueError:  # an unmatched quotation mark
        words = []
    if not words:
        return ""
    seeds = str(1 + max(cell.config.seed for cell in cells))
    for option, value in (("--methods", method), ("--seeds", seeds)):
        words = _with_option(words, option, value)
    return shlex.join(words)


def _with_option(words: list[str], option: str, value: str) -> list[str]:
    """Return the words of a command with another value of an option, which is appended if it is missing."""
    kept, skip = [], False
    for word in words:
        if not (skip or word == option or word.startswith(f"{option}=")):
            kept.append(word)
        skip = word == option
    return [*kept, option, value]


def _curves(frame: DataFrame) -> dict[str, dict[str, list[Any]]]:
    """Return method -> update and the mean over seeds of every curve at up to ``CURVE_POINTS`` validations."""
    import numpy as np

    curves: dict[str, dict[str, list[Any]]] = {}
    history = history_frame(frame[frame["status"] == "done"])
    for method, lines in history.groupby("method", sort=False):
        means = lines.groupby("update")[[*CURVES]].mean()
        chosen = np.unique(np.linspace(0, len(means) - 1, min(CURVE_POINTS, len(means))).round().astype(int))
        means = means.iloc[chosen]
        shown = {name: [_number(value, 4) for value in means[name]] for name in CURVES if means[name].notna().any()}
        curves[str(method)] = {"update": [int(update) for update in means.index], **shown}
    return curves


def _texts(sample: Samples) -> dict[str, Any]:
    pairs = [reconstruction.model_dump() for reconstruction in sample.texts.reconstructions[:MAX_RECONSTRUCTIONS]]
    return {"seed": sample.seed, "samples": [*sample.texts.samples[:MAX_TEXTS]], "reconstructions": pairs}


def _claims(document: Document) -> dict[str, Any] | None:
    if not document.claims:
        return None
    verdicts = [
        {
            "id": item.id,
            "claim": item.claim,
            "verdict": item.verdict,
            "evidence": item.evidence,
            "details": item.details,
        }
        for item in document.claims.verdicts
    ]
    return {"title": document.claims.title, "verdicts": verdicts, "notes": document.claims.notes}


def _reference(document: Document) -> dict[str, Any] | None:
    """Return the published numbers as a table of texts."""
    if not (panel := document.reference):
        return None
    rows = [[entry.text + (f" ({entry.spread})" if entry.spread else "") for entry in row] for row in panel.rows]
    return {"caption": panel.caption, "header": [entry.text for entry in panel.columns], "rows": rows}


def _settings(group: Group) -> dict[str, dict[str, str]]:
    """Return the settings of model, training and evaluation; those of metric groups are ``group.setting``."""
    config = group.cells[0].config
    settings: dict[str, dict[str, Any]] = {"model": vars(config.model), "train": vars(config.train), "evaluation": {}}
    if evaluation := next((cell.evaluation for cell in group.cells if cell.evaluation), None):
        settings["evaluation"] = vars(evaluation.settings) | {
            f"{name}.{key}": value
            for name, metric_group in evaluation.groups.items()
            for key, value in metric_group.settings.items()
        }
    return {name: {key: str(value) for key, value in values.items()} for name, values in settings.items()}


def _commands(frame: DataFrame) -> dict[str, list[str]]:
    """Return command -> the cells that it trained, as ``vae: seeds 0, 1``."""
    commands: dict[str, list[str]] = {}
    trained = frame[[bool(cell.result and cell.result.provenance) for cell in frame["cell"]]]
    command = [cell.result.provenance.command for cell in trained["cell"]]
    for (name, method), seeds in trained.groupby([command, "method"], sort=False)["seed"]:
        text = f"{method}: seed{'s' * (len(seeds) > 1)} {', '.join(map(str, seeds))}"
        commands.setdefault(name, []).append(text)
    return commands


def _environments(frame: DataFrame) -> dict[str, int]:
    """Count the cells by where they were trained: versions, machine, threads and device."""
    counts: dict[str, int] = {}
    for cell in frame["cell"]:
        if cell.result and (provenance := cell.result.provenance):
            values = {**provenance.versions, **vars(provenance.machine), "threads": provenance.threads}
            values["device"] = cell.config.device
            text = ", ".join(f"{key.replace('_', ' ')} {value}" for key, value in values.items() if value is not None)
            counts[text] = counts.get(text, 0) + 1
    return counts


def _number(value: float, digits: int = 6) -> float | None:
    """Round to significant digits; None if the number is not finite."""
    return float(f"{value:.{digits}g}") if math.isfinite(value) else None
