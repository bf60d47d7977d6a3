"""Footnotes, remarks and notes of the tables: where a number means something else, is missing, or is doubtful.

A footnote is about numbers of several rows and is marked by a letter, at most ``MAX_FOOTNOTES`` in a document. A remark
is about single rows and names them; it is printed below the tables with the notes, which are about all rows.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from bench.core.config import FULL_PRECISION
from bench.experiment.cell_record import CellRecord
from bench.experiment.convergence import diverged, limit_reached
from bench.reporting.columns import UNRELIABLE_K, Column, is_mixed
from bench.reporting.frame import LIKELIHOODS, OF_Z
from bench.reporting.groups import SELECTED, Group, settings_notes
from bench.reporting.render import DASH, number

if TYPE_CHECKING:
    from pandas import DataFrame

    from bench.training.result import TrainingResult

MAX_FOOTNOTES = 8
NEGATIVE_GAP = -0.1  # nats below which a negative amortisation gap is more than noise
REFINED_EXCESS = 0.1  # nats by which the refined NLL may exceed the plain one without a footnote
UNDEFINED, NOT_FINITE = "undefined for one test example", "not finite"
MIXED = (
    "some seeds collapsed and some did not: KL, MI and AU are means of the others, the other columns of all seeds; "
    "the interval may cover less than 95 %"
)
NOT_CONVERGED = "not converged in every seed: see the remarks"
OTHER_MACHINE = "trained on another processor than the baseline, whose rounding differs"
REMARK = "see the remarks"
#: Reference of a data set -> its description, and a remark.
REFERENCES = {
    "unigram": ("the unigram model (independent tokens)", ""),
    "independent_gaussian": ("independent Gaussian values", ""),
    "independent_negative_binomial": ("independent negative-binomial counts", ""),
    "independent_bernoulli": ("independent binary values", ""),
    "ppca": ("the linear VAE at its optimum (probabilistic PCA of the training sample)", ""),
    "true_generator": ("the true generator", ": a lower bound for every model, up to sampling error"),
}
Notes = Mapping[str, list[str]]  # column -> footnotes; "method" for the row's name
Remarks = defaultdict[str, list[str]]  # remark -> rows


def row_notes(row: Any, frame: DataFrame, columns: Collection[Column], is_crossed: bool, remarks: Remarks) -> Notes:
    """Return the footnotes of one row by column, and add its remarks to ``remarks``."""
    notes: defaultdict[str, list[str]] = defaultdict(list)
    cells = frame[frame["method"] == row.method]
    done = cells[cells["status"] == "done"]
    texts = [row.selection] if row.selection else []
    if len(cells):  # not a row selected on validation
        method = cells["cell"].iloc[0].config.method
        for name, text in method.footnotes.items():
            notes[name].append(text)
        texts += [*method.notes, *_status_remarks(cells), *_same_training(done, frame)]
        notes["method"] += _budget_notes(done, frame)
    differences = [f"{name}_minus_{other}" for name in LIKELIHOODS for other in ("baseline", "without_z")]
    for name in differences:
        if is_crossed and not getattr(row, f"{name}_examples") and not math.isnan(getattr(row, f"{name}_low")):
            notes[name].append("over seeds only: values per test example are missing")
        if _machines(done) - _machines(frame[frame["baseline"]]):
            notes[name].append(OTHER_MACHINE)
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
    if row.converged < 1:
        notes["method"].append(NOT_CONVERGED)
    texts += convergence_remarks(done)
    if done["shared"].max() > 1:
        notes["train_seconds"].append("measured while several cells shared the device")
    if is_mixed(row):
        for name in (*OF_Z, *differences):
            notes[name].append(MIXED)
        texts += _mi_of_seeds(row, done)
    for column in columns:
        if column.show(row).text == DASH and row.n:
            notes[column.name] += _not_finite_reason(column.name, cells["cell"])
            notes[column.name] = notes[column.name] or _missing_reason(column.name, row, cells["cell"], notes)
    for text in texts:
        remarks[text].append(row.method)
    return notes


def limited(
    notes: Mapping[str, Notes], headings: Mapping[str, str], remarks: Remarks, most: int = MAX_FOOTNOTES
) -> dict[str, Notes]:
    """Return the footnotes of all rows with at most ``most`` different texts; the rarest ones become remarks.

    ``headings``: column -> heading, of the columns that are printed.
    """
    used = {name: {key: texts for key, texts in own.items() if key in headings} for name, own in notes.items()}
    counts = Counter(text for own in used.values() for texts in own.values() for text in dict.fromkeys(texts))
    if len(counts) <= most:
        return dict(used)
    kept = {text for text, _ in counts.most_common(most - 1)}
    result: dict[str, Notes] = {}
    for row, own in used.items():
        result[row] = {key: [text if text in kept else REMARK for text in texts] for key, texts in own.items()}
        columns: defaultdict[str, list[str]] = defaultdict(list)
        for key, texts in own.items():
            for text in texts:
                if text not in kept:
                    columns[text].append(headings[key])
        for text, where in columns.items():
            remarks[f"{', '.join(filter(None, dict.fromkeys(where)))}: {text}".removeprefix(": ")].append(row)
    return result


def _budget_notes(done: DataFrame, frame: DataFrame) -> list[str]:
    """Return notes on a training that ended early, or that had another number of updates than most."""
    trainings, notes = _trainings(done), []
    if any(training.stopped_by != "budget" for training in trainings):
        notes.append("stopped before the end of the budget, after the last decay of the learning rate")
    finished = _trainings(frame[frame["status"] == "done"])
    budgets = Counter(training.updates for training in finished if training.stopped_by == "budget")
    usual = budgets.most_common(1)[0][0] if budgets else 0
    if any(training.stopped_by == "budget" and training.updates != usual for training in trainings):
        notes.append(f"another number of decoder updates than the {usual:,} of most rows")
    return notes


def _same_training(done: DataFrame, frame: DataFrame) -> list[str]:
    """Return which row before this one has the same numbers in a seed: their difference had no effect."""
    if done.empty:
        return []
    before = frame[: frame.index.get_loc(done.index[0])]
    numbers = ["replicate", "elbo", "rec", "flops", "updates", "encoder_updates"]
    finished = before.loc[before["status"] == "done", ["method", *numbers]]
    groups = finished.merge(done[[*numbers, "seed"]].dropna(), on=numbers).groupby("method", sort=False)["seed"]
    return [
        f"the same training as {other} in seed{'s' * (len(seeds) > 1)} {', '.join(map(str, sorted(seeds)))}"
        for other, seeds in groups
    ]


def _trainings(cells: DataFrame) -> list[TrainingResult]:
    """Return the trainings of cells with their own settings. Those of a tuned row are the sums of all its trials."""
    tuned = (any(note.startswith(SELECTED) for note in cell.config.method.notes) for cell in cells["cell"])
    results = [cell.result for cell, is_tuned in zip(cells["cell"], tuned, strict=True) if not is_tuned]
    return [result.training for result in results if result and result.training]


def _machines(cells: DataFrame) -> set[tuple[Any, ...]]:
    """Return the processors and GPUs on which finished cells were trained."""
    records = [cell.result.provenance for cell in cells["cell"] if cell.result and cell.result.provenance]
    return {(record.machine.processor, record.machine.gpu) for record in records}


def convergence_remarks(done: DataFrame) -> list[str]:
    """Return why some cells have not converged."""
    cells = done[done["converged"] == 0]
    if cells.empty:
        return []
    failed, cells = cells[cells["audit"] != ""], cells[cells["audit"] == ""]
    reasons = [f"seed {cell.seed} with twice the updates: {cell.audit}" for cell in failed.itertuples()]
    if len(cells):
        reasons += _reasons(cells)
    return [f"not converged in every seed: {'; '.join(reasons)}"]


def _reasons(cells: DataFrame) -> list[str]:
    """Return why the training of cells has not converged by its own last fifth."""
    rise = cells["cell"].map(diverged)
    rises = {seed: losses for seed, losses in zip(cells["seed"], rise, strict=True) if losses}
    reasons = [f"seed {seed}: the loss rose from {first:.3g} to {last:.3g}" for seed, (first, last) in rises.items()]
    if (cells := cells[rise.isna()]).empty:
        return reasons
    gain, is_limited = cells["last_gain"].max(), [limit_reached(cell) for cell in cells["cell"]]
    if any(is_limited):
        reasons.append("the preset's limit ended additional encoder updates")
    if math.isinf(gain) or math.isnan(gain):
        reasons.append("no validation at KL weight 1 before the last fifth of the updates")
    elif not all(is_limited):
        tolerance = cells["cell"].iloc[0].config.train.tolerance
        reasons.append(f"the last fifth of the updates gained more than {tolerance:g} nats of validation ELBO or loss")
    return reasons


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
    if "_minus_" in name:
        return [f"no common seeds with the {'baseline' if name.endswith('_baseline') else 'decoder without z'}"]
    evaluations = [cell.evaluation.metrics for cell in cells if cell.evaluation]
    values = [metrics[name] for metrics in evaluations if name in metrics]
    if any(value is not None for value in values):
        return ["evaluated with other settings (see the notes)"]
    if math.isnan(row.kl) and notes.get("kl"):  # metrics of z are missing for the same reason as KL
        return notes["kl"]
    return ["not defined for this method" if values else "not measured"]


def _status_remarks(cells: DataFrame) -> list[str]:
    """Return a note for every status and reason of the cells of a method that are not done."""
    pending = cells[cells["status"] != "done"].fillna({"reason": ""})
    notes = []
    for (status, reason), group in pending.groupby(["status", "reason"], sort=True):
        seeds = f"seed{'s' * (len(group) > 1)} {', '.join(map(str, group['seed']))}"
        notes.append(f"{seeds} {status}" + (f": {reason}" if reason else ""))
    return notes


def is_crossed(rows: DataFrame) -> bool:
    """Return whether some intervals are over seeds and test examples."""
    return bool(rows[[f"{name}_ci_examples" for name in LIKELIHOODS]].max(axis=None) > 0)


def group_notes(group: Group, cell: CellRecord, settings: Mapping[str, dict[str, Any]], rows: DataFrame) -> list[str]:
    """Return the notes below the tables: data, preset, precision, references, intervals, skipped cells."""
    config, evaluation, data = cell.config, cell.evaluation, cell.config.dataset
    sizes = ", ".join(f"{data.sizes[split]:,} {split}" for split in ("train", "val", "test"))
    notes = [f"Data: {data.title}, {sizes}; fingerprint {data.fingerprint[:12]}; {data.source}."]
    notes += dict.fromkeys(note for cell in group.cells for note in cell.config.dataset.notes)
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
        if is_crossed(rows):
            text += " 95 % intervals are over seeds and test examples, both as random samples; the two are crossed"
            text += " because every seed is evaluated on the same examples."
        notes.append(text)
    notes += settings_notes(finished, settings)
    for cell in group.cells:
        if cell.evaluation and cell.examples.problem:
            notes.append(f"Not used: {cell.folder.parent.name}/{cell.folder.name}, {cell.examples.problem}.")
    return notes + group.notes


def _references(references: Mapping[str, float | None]) -> list[str]:
    """Return a note on each reference model.

    ``name`` is its NLL, ``name_se`` the standard error, ``name_mi`` its MI, ``name_dims`` its dimensions of z in use.
    """
    notes = []
    for name, value in references.items():
        if value is not None and not name.endswith(("_se", "_mi", "_dims")):
            description, remark = REFERENCES.get(name, (name.replace("_", " "), ""))
            standard_error = references.get(f"{name}_se")
            error = "" if standard_error is None else f" ± {number(standard_error, 2)} (standard error)"
            dims, mi = references.get(f"{name}_dims"), references.get(f"{name}_mi")
            latent = "" if mi is None else f"; MI {number(mi, 2)}"
            latent += "" if dims is None else f"; {number(dims, 0)} dimensions of z in use"
            notes.append(f"For reference, NLL of {description}: {number(value, 2)}{error}{latent}{remark}.")
    return notes
