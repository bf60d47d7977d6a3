"""Stored cells as pandas frames: one row per cell, per validation, per method."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.core.errors import UserError
from bench.evaluation.registry import group_of_metric
from bench.experiment.cell_folder import cell_folders
from bench.experiment.cell_record import CellRecord, readable
from bench.reporting.groups import common_settings
from bench.reporting.statistics import Summary, crossed, paired, summary, wilson

if TYPE_CHECKING:
    from pandas import DataFrame

#: What the name of a sweep ends with in the row of the members that validation chose.
SELECTED = ", selected on validation"
BASIC_METRICS = (
    *("nll", "nll_se", "nll_mc_se", "ess", "pareto_k", "elbo", "rec", "kl", "mi", "mi_loo", "mi_high", "mi_batch"),
    *("kl_aggregate", "kl_aggregate_reverse", "au", "au_kl", "au_ratio", "collapsed_dims", "bpd", "ppl", "words"),
)
COSTS = ("train_seconds", "flops", "updates", "encoder_updates")
#: Means with an interval over seeds and examples, and with one of the paired difference to the baseline.
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
    """One row per cell, in the order of the tables: (order, expression, base seed, seed).

    ``method`` is the expression, made unique where two configurations share it. Metrics (``metric_names()``, nats
    per example unless the data set says otherwise), ``collapsed`` and ``COSTS`` are floats, NaN where a
    quantity has no meaning, the cell no numbers, or those of an optional group were judged with other settings than
    in most cells. ``validation_elbo`` is that of the weights evaluated.
    """
    import pandas as pd

    cells = list(cells)
    settings = common_settings(cells)
    frame = pd.DataFrame.from_records([_record(cell, cell.metrics(settings)) for cell in cells])
    variants = frame.groupby("method")["variant"].transform(lambda column: pd.factorize(column, sort=True)[0])
    twice = frame["method"].map(frame.groupby("method")["variant"].nunique()) > 1
    for name in ("method", "label"):
        frame[name] = frame[name].where(~twice, frame[name] + " #" + (variants + 1).astype(str))
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
    """One row per validation of every cell of ``cells_frame``: method, replicate, update, seconds, metrics there."""
    import pandas as pd

    columns = ("update", "seconds", "elbo", "rec", "kl", "mi", "kl_aggregate", "au", "au_kl", "lag", "lag_kl")
    records = [
        {"method": row.method, "replicate": row.replicate, **{name: _number(line.get(name)) for name in columns}}
        for row in frame.itertuples()
        for line in (record.model_dump() for record in row.cell.history)
    ]
    return pd.DataFrame.from_records(records, columns=["method", "replicate", *columns])


def stored_frame(out: Path) -> DataFrame:
    """One row per cell stored under ``out``, whatever its state, for those who want to look for themselves.

    As ``cells_frame``, of every data set and preset: with ``dataset``, ``preset``, ``folder`` and the method's settings
    (``config``, ``schedule``, ``rate``), and every metric as it was judged. A cell that cannot be read is a row of
    status ``damaged`` with its reason.
    """
    import pandas as pd

    records: list[dict[str, Any]] = []
    found, left = readable(cell_folders(out))
    wrong = {folder.path: reason for folder, reason in left}
    cells = {cell.folder: cell for cell in found}
    for path in sorted({*wrong, *cells}):
        dataset, preset = path.parts[-4:-2]
        record = {"dataset": dataset, "preset": preset, "folder": str(path)}
        if path in wrong:
            records.append(record | {"status": "damaged", "reason": wrong[path]})
            continue
        cell = cells[path]
        config, evaluation = cell.config, cell.evaluation
        method = config.method.model_dump(mode="json")
        about: dict[str, Any] = {key: method[key] or {} for key in ("config", "schedule", "kl_term")}
        about |= {"cell_id": config.cell_id, "fingerprint": config.dataset.fingerprint, "device": config.device}
        about |= {
            "n": evaluation.metrics.get("n") if evaluation else None,
            "evaluation": vars(evaluation.settings) if evaluation else None,
            "evaluation_version": evaluation.version if evaluation else None,
        }
        records.append(record | _record(cell, cell.metrics({})) | about)
    if not records:
        raise UserError(f"no stored cells under '{out}': give the folder that 'python -m bench run --out' wrote")
    frame = pd.DataFrame.from_records(records)
    return frame.drop(columns=["variant", "cell"], errors="ignore")


def rows_frame(frame: DataFrame, sweeps: Mapping[str, Collection[str]] = {}, baseline: str | None = None) -> DataFrame:
    """One row per method, in the order of the tables, with ``csv_columns()`` and ``baseline``, ``selection``.

    After the last member of a sweep (expression -> methods) stands the row *selected on validation*: for each
    repetition the member with the best validation ELBO, at the cost of training all of them. ``selection`` says
    which, else is empty. ``collapsed`` is the share of the seeds that collapsed. ``baseline`` marks the row that
    costs and differences refer to: the method asked for, by default the first that calls itself the baseline.
    """
    import pandas as pd

    entries = []  # (method, label, cells, selection)
    left = {sweep: {*members} for sweep, members in sorted(sweeps.items()) if {*members} <= {*frame["method"]}}
    for method, cells in frame.groupby("method", sort=False):
        entries.append((method, cells["label"].iloc[0], cells, ""))
        for sweep in [sweep for sweep, members in left.items() if method in members]:
            left[sweep].discard(method)
            if not left[sweep]:
                name = f"{sweep}{SELECTED}"
                entries.append((name, name, *_selected(frame[frame["method"].isin(sweeps[sweep])])))
    marked = frame.loc[frame["baseline"], "method"]
    baseline = baseline or (marked.iloc[0] if len(marked) else None)
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
    """The column of the NLL that a table is about: the common-proposal NLL where most have it, else the plain one."""
    return "nll_refined" if 2 * frame["nll_refined"].notna().sum() > frame["nll"].notna().sum() else "nll"


def mean_interval(cells: DataFrame, name: str) -> tuple[Summary, int]:
    """Summary of a metric over the seeds of one method, and how many test examples its interval takes as a sample.

    Of crossed noise (``statistics.crossed``) where the values per example are stored and every seed has the same
    examples; else, with 0, the t interval over seeds.
    """
    values = dict(zip(cells["replicate"], cells[name], strict=True))
    by_example = _by_example(cells, name)
    known = {key for key, value in values.items() if value == value}
    if len(known) < 2 or {*by_example} != known or not _alike(by_example[key][0] for key in known):
        return summary(values.values()), 0
    rows = [by_example[key][1] for key in values if key in known]
    return crossed(rows, min(by_example[key][2] for key in known)), len(rows[0])


def paired_interval(cells: DataFrame, reference: DataFrame, name: str) -> tuple[Summary, int]:
    """The same of the differences ``cells - reference`` over the repetitions that both have."""
    values, others = (dict(zip(each["replicate"], each[name], strict=True)) for each in (cells, reference))
    mine, theirs = _by_example(cells, name), _by_example(reference, name)
    known = [key for key, value in values.items() if value == value and others.get(key, math.nan) == others.get(key)]
    nothing = None, None, 0
    examples = [index for key in known for index, *_ in (mine.get(key, nothing), theirs.get(key, nothing))]
    if len(known) < 2 or not _alike(examples):
        return paired(values, others), 0
    rows = [mine[key][1] - theirs[key][1] for key in known]
    return crossed(rows, min(each[key][2] for each in (mine, theirs) for key in known)), len(rows[0])


def _by_example(cells: DataFrame, name: str) -> dict[str, tuple[Any, Any, int]]:
    """Of every repetition that has them the index and the values per example, each [N], and on how many they rest."""
    stored = {
        row.replicate: row.cell.examples for row in cells.itertuples() if getattr(row, name) == getattr(row, name)
    }
    return {
        key: (each.index, each.values[name], each.sampled if name == "nll_refined" else len(each.index))
        for key, each in stored.items()
        if name in each.values
    }


def _alike(indices: Iterable[Any]) -> bool:
    """Whether there are examples in all of these and they are the same."""
    import numpy as np

    first, *others = indices
    return first is not None and all(other is not None and np.array_equal(first, other) for other in others)


def _aggregate(cells: DataFrame, reference: DataFrame, is_reference: bool) -> dict:
    done = cells[cells["status"] == "done"]
    of = {name: summary(done[name]) for name in (*metric_names(), *COSTS, "collapsed")}
    record: dict[str, Any] = {name: value.mean for name, value in of.items()}
    record |= {f"{name}_sd": of[name].sd for name in ("nll", "nll_refined", "kl", "mi", "au", "au_kl", "ppl")}
    for name in LIKELIHOODS:
        mean, examples = mean_interval(done, name)
        record |= {f"{name}_ci_low": mean.low, f"{name}_ci_high": mean.high, f"{name}_ci_examples": examples}
        less, examples = (summary([]), 0) if is_reference else paired_interval(done, reference, name)
        ends = {f"{name}_minus_baseline{end}": getattr(less, end[1:] or "mean") for end in ("", "_low", "_high")}
        record |= {**ends, f"{name}_minus_baseline_examples": examples}
        record["pairs" if name == "nll" else f"{name}_pairs"] = less.n
    low, high = wilson(done["collapsed"].sum(), of["collapsed"].n)
    return record | {
        "n": len(done),
        "nll_refined_n": of["nll_refined"].n,
        "collapsed_low": low,
        "collapsed_high": high,
        "relative_cost": of["flops"].mean / (summary(reference["flops"]).mean or float("nan")),
        "failed": int((cells["status"] == "failed").sum()),
        "skipped": int((cells["status"] == "skipped").sum()),
        "unfinished": int(cells["status"].isin(["incomplete", "missing"]).sum()),
    }


def _selected(members: DataFrame) -> tuple[DataFrame, str]:
    done = members[(members["status"] == "done") & members["validation_elbo"].notna()]
    if done.empty:
        return done, "no member finished"
    best = done.loc[done.groupby("replicate", sort=False)["validation_elbo"].idxmax()].set_index(
        "replicate", drop=False
    )
    # Choosing among settings costs the training of each.
    best[list(COSTS)] = done.groupby("replicate")[list(COSTS)].sum().loc[best.index]
    lacking = members["method"].nunique() * members["replicate"].nunique() - len(done)
    counts = best["method"].value_counts(sort=False)
    chosen = ", ".join(f"{method} ({n}×)" if len(best) > 1 else method for method, n in counts.items())
    return best, f"best validation ELBO of each seed: {chosen}; cost of training all members" + (
        f", of which {lacking} did not finish" if lacking else ""
    )


def _validation_elbo(cell: CellRecord) -> float:
    """The evaluated weights' validation ELBO: that of ``best_update``, or the last where none was selected."""
    training = cell.result.training if cell.result else None
    best = training.best_update if training else None
    elbos = [line.metrics.get("elbo") for line in cell.history if best is None or line.update == best]
    return _number(elbos[-1] if elbos else None)


def _number(value: float | bool | None) -> float:
    return float("nan") if value is None else float(value)
