"""Stored cells as pandas frames: one row per cell, per validation, per method."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from bench.core.errors import UserError
from bench.evaluation.registry import group_of_metric
from bench.experiment.cell_folder import cell_folders
from bench.experiment.cell_record import CellRecord, readable
from bench.reporting.groups import common_settings
from bench.reporting.statistics import Summary, crossed, paired, summary, wilson

if TYPE_CHECKING:
    import numpy as np
    from pandas import DataFrame

#: Suffix of a sweep's row with the members that validation selected.
SELECTED = ", selected on validation"
BASIC_METRICS = (
    *("nll", "nll_se", "nll_mc_se", "ess", "pareto_k", "elbo", "rec", "kl", "mi", "mi_loo", "mi_high", "mi_batch"),
    *("kl_aggregate", "kl_aggregate_reverse", "au", "au_kl", "au_ratio", "collapsed_dims", "bpd", "ppl", "words"),
)
COSTS = ("train_seconds", "flops", "updates", "encoder_updates")
#: Metrics with an interval over seeds and examples, and one of the paired differences to the baseline.
LIKELIHOODS = ("nll", "nll_refined")
#: The first columns of the CSV file. Their order never changes; new columns are added at the end.
CORE_COLUMNS = (
    *("method", "n", "nll", "nll_sd", "elbo", "rec", "kl", "kl_sd", "mi", "mi_sd", "mi_batch", "au", "au_sd"),
    *("train_seconds", "relative_cost", "collapsed"),
)
FURTHER_COLUMNS = (
    *"label nll_ci_low nll_ci_high nll_minus_baseline nll_minus_baseline_low nll_minus_baseline_high pairs".split(),
    *"au_kl au_kl_sd kl_aggregate bpd updates encoder_updates flops failed skipped unfinished ppl ppl_sd words".split(),
    *"nll_refined nll_refined_n nll_refined_sd nll_refined_ci_low nll_refined_ci_high".split(),
    "nll_refined_minus_baseline",
    *"nll_refined_minus_baseline_low nll_refined_minus_baseline_high nll_refined_pairs".split(),
    *"nll_ci_examples nll_minus_baseline_examples nll_refined_ci_examples".split(),
    *"nll_refined_minus_baseline_examples collapsed_low collapsed_high".split(),
    *"nll_se nll_mc_se ess pareto_k mi_loo mi_high kl_aggregate_reverse au_ratio collapsed_dims".split(),
)


def metric_names() -> list[str]:
    """Return the names of all metrics: the basic ones, then those of the metric groups."""
    return [*BASIC_METRICS, *group_of_metric()]


def csv_columns() -> list[str]:
    """Return the columns of the CSV file."""
    return list(dict.fromkeys([*CORE_COLUMNS, *FURTHER_COLUMNS, *group_of_metric()]))


def cells_frame(cells: Iterable[CellRecord]) -> DataFrame:
    """Return one row per cell, in the order of the tables: by table order, expression, base seed, seed.

    ``method`` is the expression, made unique if two configurations share it. Metrics (``metric_names()``, in the data
    set's unit), ``collapsed`` and ``COSTS`` are floats. They are NaN if undefined, if the cell is not finished, or if
    the metric's group has other settings than in most cells. ``validation_elbo`` is that of the evaluated weights.
    """
    import pandas as pd

    cells = list(cells)
    settings = common_settings(cells)
    frame = pd.DataFrame.from_records([_record(cell, cell.metrics(settings)) for cell in cells])
    number = frame.groupby("method")["variant"].transform(lambda column: pd.factorize(column, sort=True)[0])
    ambiguous = frame["method"].map(frame.groupby("method")["variant"].nunique()) > 1
    for name in ("method", "label"):
        frame[name] = frame[name].where(~ambiguous, frame[name] + " #" + (number + 1).astype(str))
    return frame.sort_values(["order", "method", "base_seed", "seed"], kind="stable", ignore_index=True)


def _record(cell: CellRecord, metrics: Mapping[str, Any]) -> dict[str, Any]:
    method, result = cell.config.method, cell.result
    costs = vars(result.training) if result and result.training and cell.status == "done" else {}
    return {
        "method": method.expression,
        "label": method.expression,
        "variant": method.model_dump_json(include={"config", "schedule", "kl_term", "revision"}),
        "order": method.order,
        "baseline": method.baseline,
        "base_seed": cell.config.base_seed,
        "seed": cell.config.seed,
        "replicate": cell.replicate,
        "status": cell.status,
        "reason": cell.reason,
        "shared": result.cells_per_device if result else 1,
        "validation_elbo": _validation_elbo(cell),
        "cell": cell,
        **{name: _number(metrics.get(name)) for name in (*metric_names(), "collapsed")},
        **{name: _number(costs.get(name)) for name in COSTS},
    }


def history_frame(frame: DataFrame) -> DataFrame:
    """Return one row per validation of every cell of ``cells_frame``: method, replicate, update, seconds, metrics."""
    import pandas as pd

    columns = ("update", "seconds", "elbo", "rec", "kl", "mi", "kl_aggregate", "au", "au_kl", "lag", "lag_kl")
    records = [
        {"method": row.method, "replicate": row.replicate, **{name: _number(line.get(name)) for name in columns}}
        for row in frame.itertuples()
        for line in (record.model_dump() for record in row.cell.history)
    ]
    return pd.DataFrame.from_records(records, columns=["method", "replicate", *columns])


def stored_frame(out: Path) -> DataFrame:
    """Return one row per cell stored under ``out``, of every data set, preset and status.

    Columns are those of ``cells_frame``, ``dataset``, ``preset``, ``folder``, the method's settings (``config``,
    ``schedule``, ``kl_term``) and the evaluation's. Metrics of all settings are included. A cell that cannot be read
    has the status ``damaged`` and a reason. ``UserError`` if there are no cells.
    """
    import pandas as pd

    records: list[dict[str, Any]] = []
    readable_cells, unreadable = readable(cell_folders(out))
    reasons = {folder.path: reason for folder, reason in unreadable}
    cells = {cell.folder: cell for cell in readable_cells}
    for path in sorted({*reasons, *cells}):
        dataset, preset = path.parts[-4:-2]
        record = {"dataset": dataset, "preset": preset, "folder": str(path)}
        if path in reasons:
            records.append(record | {"status": "damaged", "reason": reasons[path]})
            continue
        cell = cells[path]
        config, evaluation = cell.config, cell.evaluation
        method = config.method.model_dump(mode="json")
        details: dict[str, Any] = {key: method[key] or {} for key in ("config", "schedule", "kl_term")}
        details |= {"cell_id": config.cell_id, "fingerprint": config.dataset.fingerprint, "device": config.device}
        details |= {
            "n": evaluation.metrics.get("n") if evaluation else None,
            "evaluation": vars(evaluation.settings) if evaluation else None,
            "evaluation_version": evaluation.version if evaluation else None,
        }
        records.append(record | _record(cell, cell.metrics({})) | details)
    if not records:
        raise UserError(f"no stored cells under '{out}': give the folder that 'python -m bench run --out' wrote")
    frame = pd.DataFrame.from_records(records)
    return frame.drop(columns=["variant", "cell"], errors="ignore")


def rows_frame(frame: DataFrame, sweeps: Mapping[str, Collection[str]] = {}, baseline: str | None = None) -> DataFrame:
    """Return one row per method, in the order of the tables, with ``csv_columns()``, ``baseline`` and ``selection``.

    The last member of a sweep (expression -> methods) is followed by a row *selected on validation*: for each
    replicate the member with the best validation ELBO, at the cost of training all members; ``selection`` names them.
    ``collapsed`` is the share of collapsed seeds. ``baseline`` marks the row that costs and differences refer to: the
    given method, by default the first one that is a baseline.
    """
    import pandas as pd

    entries = []  # (method, label, cells, selection)
    pending = {sweep: {*members} for sweep, members in sorted(sweeps.items()) if {*members} <= {*frame["method"]}}
    for method, cells in frame.groupby("method", sort=False):
        entries.append((method, cells["label"].iloc[0], cells, ""))
        for sweep in [sweep for sweep, members in pending.items() if method in members]:
            pending[sweep].discard(method)
            if not pending[sweep]:
                name = f"{sweep}{SELECTED}"
                entries.append((name, name, *_selected(frame[frame["method"].isin(sweeps[sweep])])))
    baselines = frame.loc[frame["baseline"], "method"]
    baseline = baseline or (baselines.iloc[0] if len(baselines) else None)
    reference = frame[(frame["method"] == baseline) & (frame["status"] == "done")]
    records = [
        {
            **_aggregate(cells, reference, method == baseline),
            "method": method,
            "label": label,
            "selection": selection,
            "baseline": method == baseline,
        }
        for method, label, cells, selection in entries
    ]
    return pd.DataFrame.from_records(records, columns=[*csv_columns(), "baseline", "selection"])


def headline(frame: DataFrame) -> str:
    """Return the name of the main NLL: the refined one if most cells or rows have it, else the plain one."""
    return "nll_refined" if 2 * frame["nll_refined"].notna().sum() > frame["nll"].notna().sum() else "nll"


def mean_interval(cells: DataFrame, name: str) -> tuple[Summary, int]:
    """Summarise a metric over the seeds of one method; also return the number of test examples in its interval.

    The interval treats seeds and examples as crossed noise (``statistics.crossed``) if every seed has stored values
    per example on the same examples. Otherwise it is the t interval over seeds, with 0 examples.
    """
    values = dict(zip(cells["replicate"], cells[name], strict=True))
    examples = _values_per_example(cells, name)
    measured = [key for key, value in values.items() if not math.isnan(value)]
    if len(measured) < 2 or {*examples} != {*measured} or not _same_examples(examples.values()):
        return summary(values.values()), 0
    rows = [examples[key].values for key in measured]
    return crossed(rows, min(examples[key].measured for key in measured)), len(rows[0])


def paired_interval(cells: DataFrame, reference: DataFrame, name: str) -> tuple[Summary, int]:
    """Summarise the differences ``cells - reference`` over their common replicates, as ``mean_interval`` does."""
    values, others = (dict(zip(frame["replicate"], frame[name], strict=True)) for frame in (cells, reference))
    first, second = _values_per_example(cells, name), _values_per_example(reference, name)
    common = [
        key for key, value in values.items() if not math.isnan(value) and not math.isnan(others.get(key, math.nan))
    ]
    complete = {*common} <= {*first} & {*second}
    pairs = [(first[key], second[key]) for key in common] if complete else []
    if len(pairs) < 2 or not _same_examples(example for pair in pairs for example in pair):
        return paired(values, others), 0
    rows = [one.values - other.values for one, other in pairs]
    return crossed(rows, min(example.measured for pair in pairs for example in pair)), len(rows[0])


class _ExampleValues(NamedTuple):
    test_index: np.ndarray  # [N], positions in the test set
    values: np.ndarray  # [N]
    measured: int  # number of examples on which the values were measured, not inferred


def _values_per_example(cells: DataFrame, name: str) -> dict[str, _ExampleValues]:
    """Return replicate -> stored values per example, for the replicates that have the metric and its values."""
    stored = {row.replicate: row.cell.examples for row in cells.itertuples() if not math.isnan(getattr(row, name))}
    return {
        key: _ExampleValues(
            examples.index,
            examples.values[name],
            examples.sampled if name == "nll_refined" else len(examples.index),
        )
        for key, examples in stored.items()
        if name in examples.values
    }


def _same_examples(values: Iterable[_ExampleValues]) -> bool:
    import numpy as np

    first, *others = values
    return all(np.array_equal(first.test_index, other.test_index) for other in others)


def _aggregate(cells: DataFrame, reference: DataFrame, is_reference: bool) -> dict[str, Any]:
    """Return the numbers of one row: means and spreads over a method's finished cells, and counts of the others."""
    done = cells[cells["status"] == "done"]
    summaries = {name: summary(done[name]) for name in (*metric_names(), *COSTS, "collapsed")}
    record: dict[str, Any] = {name: value.mean for name, value in summaries.items()}
    record |= {f"{name}_sd": summaries[name].sd for name in ("nll", "nll_refined", "kl", "mi", "au", "au_kl", "ppl")}
    for name in LIKELIHOODS:
        mean, examples = mean_interval(done, name)
        record |= {f"{name}_ci_low": mean.low, f"{name}_ci_high": mean.high, f"{name}_ci_examples": examples}
        difference, examples = (summary([]), 0) if is_reference else paired_interval(done, reference, name)
        ends = {f"{name}_minus_baseline{end}": getattr(difference, end[1:] or "mean") for end in ("", "_low", "_high")}
        record |= {**ends, f"{name}_minus_baseline_examples": examples}
        record["pairs" if name == "nll" else f"{name}_pairs"] = difference.n
    low, high = wilson(done["collapsed"].sum(), summaries["collapsed"].n)
    return record | {
        "n": len(done),
        "nll_refined_n": summaries["nll_refined"].n,
        "collapsed_low": low,
        "collapsed_high": high,
        "relative_cost": summaries["flops"].mean / (summary(reference["flops"]).mean or float("nan")),
        "failed": int((cells["status"] == "failed").sum()),
        "skipped": int((cells["status"] == "skipped").sum()),
        "unfinished": int(cells["status"].isin(["incomplete", "missing"]).sum()),
    }


def _selected(members: DataFrame) -> tuple[DataFrame, str]:
    """Return for each replicate the cell with the best validation ELBO, and a note that names the selected methods."""
    done = members[(members["status"] == "done") & members["validation_elbo"].notna()]
    if done.empty:
        return done, "no member finished"
    best = done.loc[done.groupby("replicate", sort=False)["validation_elbo"].idxmax()]
    best = best.set_index("replicate", drop=False)
    best[list(COSTS)] = done.groupby("replicate")[list(COSTS)].sum().loc[best.index]
    unfinished = members["method"].nunique() * members["replicate"].nunique() - len(done)
    counts = best["method"].value_counts(sort=False)
    selected = ", ".join(f"{method} ({n}×)" if len(best) > 1 else method for method, n in counts.items())
    note = f"best validation ELBO of each seed: {selected}; cost of training all members"
    return best, note + (f", of which {unfinished} did not finish" if unfinished else "")


def _validation_elbo(cell: CellRecord) -> float:
    """Return the validation ELBO of the evaluated weights: at ``best_update``, or the last one if there is none."""
    training = cell.result.training if cell.result else None
    best = training.best_update if training else None
    elbos = [line.metrics.get("elbo") for line in cell.history if best is None or line.update == best]
    return _number(elbos[-1] if elbos else None)


def _number(value: float | bool | None) -> float:
    return math.nan if value is None else float(value)
