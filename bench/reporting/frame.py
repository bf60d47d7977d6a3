"""Stored cells as pandas frames: one row per cell, per validation, per method."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import TYPE_CHECKING

from bench.reporting.cells import Cell
from bench.reporting.statistics import paired, summary
from bench.store import dumps

if TYPE_CHECKING:
    from pandas import DataFrame

METRICS = ("nll", "elbo", "rec", "kl", "mi", "mi_batch", "kl_aggregate", "au", "au_kl", "bpd", "ppl", "words")
COSTS = ("train_seconds", "flops", "updates", "extra_updates")
# Of the csv; the first sixteen are a contract.
COLUMNS = tuple(
    (
        "method n nll nll_sd elbo rec kl kl_sd mi mi_sd mi_batch au au_sd train_seconds relative_cost "
        "collapsed label nll_ci_low nll_ci_high nll_minus_baseline nll_minus_baseline_low "
        "nll_minus_baseline_high pairs au_kl au_kl_sd kl_aggregate bpd updates extra_updates flops failed "
        "skipped unfinished ppl ppl_sd words"
    ).split()
)


def cells_frame(cells: Iterable[Cell]) -> DataFrame:
    """One row per cell, in the order of the tables: (order, expression, base seed, seed).

    ``method`` is the expression, made unique where two configurations share it. Metrics (``METRICS``, nats
    per example unless the data set says otherwise), ``collapsed`` and ``COSTS`` are floats, NaN where a
    quantity has no meaning or the cell no numbers. ``validation_elbo`` is that of the weights evaluated.
    """
    import pandas as pd

    records = []
    for cell in cells:
        method, result = cell.config["method"], cell.result or {}
        metrics = cell.evaluation["metrics"] if cell.evaluation and cell.status == "ok" else {}
        costs = result if cell.status == "ok" else {}
        records.append(
            {
                "method": method["expression"],
                "label": method.get("label", method["expression"]),
                "variant": dumps([method.get("config"), method.get("schedule")], sort_keys=True),
                "order": method["order"],
                "baseline": bool(method.get("baseline")),
                "base_seed": cell.config["base_seed"],
                "seed": cell.config["seed"],
                "replicate": cell.replicate,
                "status": cell.status,
                "reason": result.get("reason") or result.get("evaluation_failure", {}).get("reason"),
                "shared": result.get("shared", 1),
                "validation_elbo": _validation_elbo(cell),
                "cell": cell,
                **{name: _number(metrics.get(name)) for name in (*METRICS, "collapsed")},
                **{name: _number(costs.get(name)) for name in COSTS},
            }
        )
    frame = pd.DataFrame.from_records(records)
    variants = frame.groupby("method")["variant"].transform(lambda column: pd.factorize(column, sort=True)[0])
    twice = frame["method"].map(frame.groupby("method")["variant"].nunique()) > 1
    for name in ("method", "label"):
        frame[name] = frame[name].where(~twice, frame[name] + " #" + (variants + 1).astype(str))
    return frame.sort_values(["order", "method", "base_seed", "seed"], kind="stable", ignore_index=True)


def history_frame(frame: DataFrame) -> DataFrame:
    """One row per validation of every cell of ``cells_frame``: method, update, and the metrics there."""
    import pandas as pd

    columns = ("update", "elbo", "rec", "kl", "mi", "kl_aggregate", "au", "au_kl", "lag", "lag_kl")
    records = [
        {"method": row.method, **{name: _number(record.get(name)) for name in columns}}
        for row in frame.itertuples()
        for record in row.cell.history
    ]
    return pd.DataFrame.from_records(records, columns=["method", *columns])


def rows_frame(frame: DataFrame, sweeps: Mapping[str, Collection[str]] = {}) -> DataFrame:
    """One row per method, in the order of the tables, with ``COLUMNS`` and ``baseline``, ``selection``.

    After the last member of a sweep (expression -> methods) stands the row *selected on validation*: for each
    repetition the member with the best validation ELBO, at the cost of training all of them. ``selection`` says
    which, else is empty. ``collapsed`` is the share of the seeds that collapsed. ``baseline`` marks the row that
    costs and differences refer to: the first whose method calls itself the baseline.
    """
    import pandas as pd

    entries = []  # (method, label, cells, selection)
    left = {sweep: {*members} for sweep, members in sorted(sweeps.items()) if {*members} <= {*frame["method"]}}
    for method, cells in frame.groupby("method", sort=False):
        entries.append((method, cells["label"].iloc[0], cells, ""))
        for sweep in [sweep for sweep, members in left.items() if method in members]:
            left[sweep].discard(method)
            if not left[sweep]:
                name = f"{sweep}, selected on validation"
                entries.append((name, name, *_selected(frame[frame["method"].isin(sweeps[sweep])])))
    marked = frame.loc[frame["baseline"], "method"]
    baseline = marked.iloc[0] if len(marked) else None
    reference = frame[(frame["method"] == baseline) & (frame["status"] == "ok")]
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
    return pd.DataFrame.from_records(records, columns=[*COLUMNS, "baseline", "selection"])


def _aggregate(cells: DataFrame, reference: DataFrame, is_reference: bool) -> dict:
    done = cells[cells["status"] == "ok"]
    of = {name: summary(done[name]) for name in (*METRICS, *COSTS, "collapsed")}
    record = {name: value.mean for name, value in of.items()}
    record |= {f"{name}_sd": of[name].sd for name in ("nll", "kl", "mi", "au", "au_kl", "ppl")}
    difference = summary([]) if is_reference else paired(_by_replicate(done), _by_replicate(reference))
    return record | {
        "n": len(done),
        "nll_ci_low": of["nll"].low,
        "nll_ci_high": of["nll"].high,
        "nll_minus_baseline": difference.mean,
        "nll_minus_baseline_low": difference.low,
        "nll_minus_baseline_high": difference.high,
        "pairs": difference.n,
        "relative_cost": of["flops"].mean / (summary(reference["flops"]).mean or float("nan")),
        "failed": int((cells["status"] == "failed").sum()),
        "skipped": int((cells["status"] == "skipped").sum()),
        "unfinished": int(cells["status"].isin(["unfinished", "not evaluated"]).sum()),
    }


def _selected(members: DataFrame) -> tuple[DataFrame, str]:
    done = members[(members["status"] == "ok") & members["validation_elbo"].notna()]
    if done.empty:
        return done, "no member finished"
    best = done.loc[done.groupby("replicate", sort=False)["validation_elbo"].idxmax()].set_index(
        "replicate", drop=False
    )
    # Choosing among settings costs the training of each.
    best[list(COSTS)] = done.groupby("replicate")[list(COSTS)].sum().loc[best.index]
    counts = best["method"].value_counts(sort=False)
    chosen = ", ".join(f"{method} ({n}×)" if len(best) > 1 else method for method, n in counts.items())
    return best, f"best validation ELBO of each seed: {chosen}; cost of training all members"


def _by_replicate(cells: DataFrame) -> dict[str, float]:
    return dict(zip(cells["replicate"], cells["nll"], strict=True))


def _validation_elbo(cell: Cell) -> float:
    """The evaluated weights' validation ELBO: that of ``best_update``, or the last where none was selected."""
    best = (cell.result or {}).get("best_update")
    elbos = [record.get("elbo") for record in cell.history if best is None or record.get("update") == best]
    return _number(elbos[-1] if elbos else None)


def _number(value: float | bool | None) -> float:
    return float("nan") if value is None else float(value)
