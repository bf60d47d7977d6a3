"""Stored cells as pandas frames: one row per cell, per validation, per method."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.core.errors import UserError
from bench.evaluation.registry import BASIC_METRICS, group_of_metric
from bench.experiment.audit import Audit
from bench.experiment.cell_folder import cell_folders
from bench.experiment.cell_record import CellRecord, readable
from bench.experiment.convergence import converged, gain
from bench.reporting.groups import CONTROLS, common_settings
from bench.reporting.looks import paper_name
from bench.reporting.paired import interval, relative_flops
from bench.reporting.statistics import MARGIN, MIN_SEEDS, summary, wilson

if TYPE_CHECKING:
    from pandas import DataFrame

#: Suffix of a sweep's row with the members that validation selected.
SELECTED = ", selected on validation"
COSTS = ("train_seconds", "flops", "updates", "encoder_updates")
#: Metrics with an interval over seeds and examples, and one of the paired differences to the baseline.
LIKELIHOODS = ("iw_nll", "nll")
#: Metrics with a mean over the seeds that did not collapse. If only some did, a mean over all is of no seed.
OF_Z = ("kl", "mi", "mi_high", "au", "au_kl")


def metric_names() -> list[str]:
    """Return the names of all metrics: the basic ones, then those of the metric groups."""
    return [*BASIC_METRICS, *group_of_metric()]


def cells_frame(cells: Iterable[CellRecord], audits: Iterable[Audit] = ()) -> DataFrame:
    """Return one row per cell, in the order of the tables: by table order, expression, base seed, seed.

    ``method`` is the expression and ``title`` the name in papers, made unique if two configurations share it. Metrics
    (``metric_names()``, in the data set's unit), ``collapsed`` and ``COSTS`` are floats. They are NaN if undefined, if
    the cell is not finished, or if the metric's group has other settings than in most cells. ``validation_elbo`` is
    that of the evaluated weights, ``last_gain`` what the last fifth of the updates gained and ``converged`` whether
    the cell's audit passed, else ``audit`` is what changed; without one, whether that gain is below the tolerance.
    """
    import pandas as pd

    cells = list(cells)
    settings = common_settings(cells)
    audit_of = {audit.before.config.cell_id: audit for audit in audits}
    records = [_record(cell, cell.metrics(settings), audit_of.get(cell.config.cell_id)) for cell in cells]
    frame = pd.DataFrame.from_records(records)
    number = frame.groupby("method")["variant"].transform(lambda column: pd.factorize(column, sort=True)[0])
    ambiguous = frame["method"].map(frame.groupby("method")["variant"].nunique()) > 1
    for name in ("method", "title"):
        frame[name] = frame[name].where(~ambiguous, frame[name] + " #" + (number + 1).astype(str))
    is_shared = frame.groupby("title")["method"].transform("nunique") > 1
    frame["title"] = frame["title"].where(~is_shared, frame["method"])
    return frame.sort_values(["order", "method", "base_seed", "seed"], kind="stable", ignore_index=True)


def _record(cell: CellRecord, metrics: Mapping[str, Any], audit: Audit | None = None) -> dict[str, Any]:
    method, result, is_done = cell.config.method, cell.result, cell.status == "done"
    costs = vars(result.training) if result and result.training and is_done else {}
    return {
        "method": method.expression,
        "title": paper_name(method.title, method.expression),
        "family": method.family,
        "variant": method.model_dump_json(include={"config", "schedule", "kl_term", "lr_scale", "revision"}),
        "order": method.order,
        "baseline": method.baseline,
        "base_seed": cell.config.base_seed,
        "seed": cell.config.seed,
        "replicate": cell.replicate,
        "status": cell.status,
        "reason": cell.reason,
        "shared": result.cells_per_device if result else 1,
        "validation_elbo": _validation_elbo(cell),
        "converged": float(audit.passed if audit else converged(cell)) if is_done else math.nan,
        "audit": audit.failure if audit else "",
        "last_gain": gain(cell) if is_done else math.nan,
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

    cells, damaged = readable(cell_folders(out))
    records: list[dict[str, Any]] = [
        {**_location(folder.path), "status": "damaged", "reason": reason} for folder, reason in damaged
    ]
    for cell in cells:
        config, evaluation = cell.config, cell.evaluation
        method = config.method.model_dump(mode="json")
        records.append(
            {
                **_location(cell.folder),
                **_record(cell, cell.metrics({})),
                **{key: method[key] or {} for key in ("config", "schedule", "kl_term")},
                **{"cell_id": config.cell_id, "fingerprint": config.dataset.fingerprint, "device": config.device},
                "n": evaluation.metrics.get("n") if evaluation else None,
                "evaluation": vars(evaluation.settings) if evaluation else None,
                "evaluation_version": evaluation.version if evaluation else None,
            }
        )
    if not records:
        raise UserError(f"no stored cells under '{out}': give the folder that 'python -m bench run --out' wrote")
    frame = pd.DataFrame.from_records(records).drop(columns=["variant", "cell"], errors="ignore")
    return frame.sort_values("folder", ignore_index=True)


def _location(folder: Path) -> dict[str, str]:
    return {"dataset": folder.parts[-4], "preset": folder.parts[-3], "folder": str(folder)}


def rows_frame(frame: DataFrame, sweeps: Mapping[str, Collection[str]] = {}) -> DataFrame:
    """Return one row per method, in the order of the tables.

    Columns: ``method``, ``title``, ``family``, ``n`` finished cells, the mean of every metric and cost over seeds and
    its standard deviation (``…_sd``), intervals, differences to the baseline and to the decoder without z, counts of
    unfinished cells, ``baseline`` and ``selection``. ``collapsed`` and ``converged`` are shares of the seeds;
    ``…_not_collapsed`` are of the other seeds. ``best`` marks the rows whose main NLL is not significantly above the
    lowest one (``_best``).

    The last member of a sweep (expression -> methods) is followed by a row *selected on validation*: for each
    replicate the member with the best validation ELBO, at the cost of training all members; ``selection`` names them.
    ``baseline`` marks the row that costs and differences refer to, the first baseline.
    """
    import pandas as pd

    entries: list[tuple[dict[str, Any], DataFrame]] = []  # names and selection of a row, and its cells
    pending = {sweep: {*members} for sweep, members in sorted(sweeps.items()) if {*members} <= {*frame["method"]}}
    for method, cells in frame.groupby("method", sort=False):
        first = cells.iloc[0]
        names = {name: first[name] for name in ("method", "title", "family")}
        entries.append((names | {"selection": ""}, cells))
        for sweep in [sweep for sweep, members in pending.items() if method in members]:
            pending[sweep].discard(str(method))
            if not pending[sweep]:
                best, note = _selected(frame[frame["method"].isin(sweeps[sweep])])
                title = paper_name(first["cell"].config.method.title, sweep)
                names |= {"method": f"{sweep}{SELECTED}", "title": f"{title}{SELECTED}", "selection": note}
                entries.append((dict(names), best))
    done = frame[frame["status"] == "done"]
    candidates = {
        "baseline": frame.loc[frame["baseline"], "method"],
        "without_z": done.loc[(done["family"] == CONTROLS) & done["mi"].isna(), "method"],
    }
    references = {name: done[done["method"].isin(methods[:1])] for name, methods in candidates.items()}
    baseline = next(iter(candidates["baseline"]), None)
    rows = pd.DataFrame.from_records(
        [
            {
                **names,
                **_aggregate(cells, references),
                "baseline": names["method"] == baseline,
            }
            for names, cells in entries
        ]
    )
    return rows.assign(best=_best(rows, [cells[cells["status"] == "done"] for _, cells in entries]))


def _best(rows: DataFrame, cells: Sequence[DataFrame]) -> list[bool]:
    """Return for every row whether the 95 % interval of its paired difference to the lowest NLL contains 0.

    It must also end below ``MARGIN``: where seeds differ much, it contains 0 for higher NLLs, too. Only rows of
    ``MIN_SEEDS`` or more that have converged in all of them are compared, and no controls.
    """
    name = headline(rows)
    eligible = (rows[f"{name}_n"] >= MIN_SEEDS) & (rows["converged"] == 1) & (rows["family"] != CONTROLS)
    if not eligible.any():
        return [False] * len(rows)
    lowest = cells[rows.loc[eligible, name].idxmin()]
    differences = (interval(done, name, lowest)[0] for done in cells)
    return [bool(ok and not d.low > 0 and not d.high >= MARGIN) for ok, d in zip(eligible, differences, strict=True)]


def headline(frame: DataFrame) -> str:
    """Return the name of the main NLL: the refined one if most cells or rows have it, else the plain one."""
    return "nll" if 2 * frame["nll"].notna().sum() > frame["iw_nll"].notna().sum() else "iw_nll"


def _aggregate(cells: DataFrame, references: Mapping[str, DataFrame]) -> dict[str, Any]:
    """Return the numbers of one row: means and spreads over a method's finished cells, and counts of the others.

    ``references``: name -> finished cells of the row of that name, from which differences are taken.
    """
    done = cells[cells["status"] == "done"]
    record: dict[str, Any] = {"n": len(done)}
    for name in (*metric_names(), "collapsed", "converged", *COSTS):
        value = summary(done[name])
        record |= {name: value.mean, f"{name}_sd": value.sd}
    for name in OF_Z:
        value = summary(done.loc[done["collapsed"] == 0, name])
        record |= {f"{name}_not_collapsed": value.mean, f"{name}_not_collapsed_sd": value.sd}
        if name == "mi":
            record |= {"mi_not_collapsed_low": value.low, "mi_not_collapsed_high": value.high}
    for name in LIKELIHOODS:
        mean, examples = interval(done, name)
        record |= {f"{name}_n": mean.n, f"{name}_ci_low": mean.low, f"{name}_ci_high": mean.high}
        record[f"{name}_ci_examples"] = examples
        for other, reference in references.items():
            is_itself = cells.index.isin(reference.index).any()
            difference, examples = interval(done, name, reference.iloc[:0] if is_itself else reference)
            record |= {f"{name}_minus_{other}": difference.mean, f"{name}_minus_{other}_n": difference.n}
            record |= {f"{name}_minus_{other}_{end}": getattr(difference, end) for end in ("low", "high")}
            record[f"{name}_minus_{other}_examples"] = examples
    verdicts = done["collapsed"].dropna()
    record["collapsed_n"] = len(verdicts)
    record["collapsed_low"], record["collapsed_high"] = wilson(verdicts.sum(), len(verdicts))
    return record | {
        "relative_cost": relative_flops(done, references["baseline"]).mean(),
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
