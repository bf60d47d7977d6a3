"""The columns of the tables: their panel, heading, footnote, and how they show a row of ``rows_frame``."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from bench.evaluation.record import Metrics
from bench.evaluation.registry import Metric, metric_groups
from bench.experiment.cell_record import CellRecord
from bench.reporting.frame import LIKELIHOODS, OF_Z, headline
from bench.reporting.groups import CONTROLS
from bench.reporting.render import DASH, Entry, difference, number
from bench.reporting.statistics import Summary

if TYPE_CHECKING:
    from pandas import DataFrame

UNRELIABLE_K = 0.7  #: Pareto k̂ above which the mean of importance weights is unreliable.
#: Panel -> metrics of the basic evaluation and costs. ``Metric`` explains the names in braces. The first panel, "", is
#: the table itself; before these columns it has the main NLL and its difference to the baseline.
PANELS: dict[str, tuple[Metric, ...]] = {
    "": (
        Metric("kl", "KL"),
        Metric("mi", "MI", "mutual information of x and z under q, over all evaluated test examples{mi_ceiling}"),
        Metric(
            "au",
            "AU",
            "active units: latent dimensions whose posterior mean has a variance above 0.01 over the test set",
        ),
        Metric("collapsed", "collapsed", "seeds with MI below 0.1 nats"),
        Metric("relative_cost", "cost (×)", "FLOPs counted in training relative to {baseline}, over common seeds"),
        Metric("n", "n", "finished seeds", digits=0),
    ),
    "Details": (
        Metric("iw_nll", "IW-NLL", "importance-weighted estimate{proposal}, {iw_samples} samples, {unit}, {evaluated}"),
        Metric(
            "ppl",
            "PPL",
            "perplexity exp(IW-NLL / {words} words), the mean of a sentence: </s> counts as one, <s> does not{unknown}",
        ),
        Metric("elbo", "ELBO"),
        Metric("rec", "rec", "expected negative log-likelihood under q (distortion)"),
        Metric(
            "mi_batch",
            "batch MI",
            "MI in batches of {batch_size}, as He et al. (2019) estimate it{ceiling}; its noise is correlated over the "
            "rows of a seed, so compare it with a collapsed row",
        ),
        Metric("au_kl", "AU(KL)", "latent dimensions with a mean KL above 0.01 nats, at any scale of their means"),
        Metric("updates", "updates", "of the decoder", digits=0),
        Metric("encoder_updates", "extra", "additional updates of the encoder or of auxiliary networks", digits=0),
        Metric(
            "train_seconds",
            "train (s)",
            "training only, without validation, evaluation and data, on {device}; longer if other jobs ran beside it",
        ),
    ),
    "Use of z": (
        Metric(
            "au_ratio",
            "AU (variance ratio)",
            "dimensions in which the means have more than 0.05 of the variance of q(z), at any scale of z",
        ),
        Metric(
            "collapsed_dims", "collapsed dims", "share of dimensions with KL below 0.01 nats in 99 % of the examples"
        ),
        Metric("kl_aggregate", "KL(agg.)", "KL of the aggregate posterior to the prior"),
        Metric(
            "kl_aggregate_reverse", "KL(rev.)", "KL of the prior to the aggregate posterior: large if that has holes"
        ),
    ),
    "Inference": (
        Metric("ess", "ESS", "effective sample size of IW-NLL's weights, of {iw_samples}", digits=1),
        Metric(
            "pareto_k",
            "Pareto k",
            f"Pareto shape of the weights' tail, median over examples; unreliable above {UNRELIABLE_K}",
        ),
        Metric("iw_nll_mc_se", "MC error", "Monte-Carlo standard error of IW-NLL on these test examples", digits=3),
    ),
}
#: Counts have a fractional part only as means over seeds.
COUNTS = ("au", "au_kl", "au_ratio")
SPREADS = ("ppl", "kl", "mi", "au")  # columns with a standard deviation, in addition to the main NLL


@dataclass(frozen=True)
class Column:
    """A column of a table; ``note`` is its definition, "" for none, and ``show`` returns the entry of a row."""

    name: str
    heading: str
    note: str
    show: Callable[[Any], Entry]


def panels(
    rows: DataFrame, cell: CellRecord, settings: Mapping[str, dict[str, Any]], baseline: str | None
) -> dict[str, list[Column]]:
    """Return the columns of every panel; those without values are left out, unless the values are not finite.

    ``cell`` is one of the table, evaluated if there is one; ``settings`` are those of the metric groups, ``baseline``
    is the method of the baseline's row.
    """
    nll, several = headline(rows), rows["n"].max() > 1
    context = _context(rows, cell, baseline)
    shown = [(panel, metric, context) for panel, metrics in PANELS.items() for metric in metrics]
    for name, group in metric_groups().items():
        largest = {metric.name: number(rows[metric.name].max(), metric.digits) for metric in group.metrics}
        values = context | largest | settings.get(name, {})
        shown += [(group.panel, metric, values) for metric in group.metrics]
    shown.sort(key=lambda item: item[1].name != nll)  # the main NLL is the first column
    hidden = {*LIKELIHOODS} - {nll, "iw_nll"}
    has_values = {name for name in rows if rows[name].notna().any()}
    has_values |= {*cell.evaluation.not_finite} if cell.evaluation else set()
    hidden |= {"encoder_updates"} if not rows["encoder_updates"].any() else set()
    result: dict[str, list[Column]] = {"": [], "Details": []}
    for panel, metric, values in shown:
        if metric.heading and metric.name in has_values - hidden:
            digits = (1 if several else 0) if metric.name in COUNTS else metric.digits
            mean = partial(_mean, metric.name, digits, spread=metric.name in (nll, *SPREADS))
            show = {"mi": _bracket, "train_seconds": _seconds, "collapsed": _share}.get(metric.name, mean)
            heading, note = _filled(metric.heading, values), _filled(metric.description, values)
            result.setdefault("" if metric.name == nll else panel, []).append(Column(metric.name, heading, note, show))
    result[""][1:1] = _difference_column(rows, f"{nll}_minus_baseline", "ΔNLL", str(baseline))
    result["Details"][:0] = _difference_column(rows, f"{nll}_minus_without_z", "ΔNLL (no z)", "the decoder without z")
    for panel in [*result][2:]:  # a panel of one column would be mostly method names
        if len(result[panel]) == 1:
            result["Details"] += result.pop(panel)
    return {panel: columns for panel, columns in result.items() if columns}


def _difference_column(rows: DataFrame, name: str, heading: str, other: str) -> list[Column]:
    """Return the column of the differences ``name`` to another row, if there are any."""
    if not rows[name].notna().any():
        return []
    note = f"NLL minus that of {other}"
    if rows[f"{name}_low"].notna().any():
        crossed = " and test examples, crossed" if rows[f"{name}_examples"].max() > 0 else ""
        note += f": mean and 95 % interval of the paired differences over common seeds{crossed}"
    return [Column(name, heading, note, partial(_difference, name))]


def is_mixed(row: Any) -> bool:
    """Return whether some seeds of a row collapsed and some did not."""
    return 0 < row.collapsed < 1


def _mean(name: str, digits: int, row: Any, spread: bool = False) -> Entry:
    """Return the mean over seeds; of a metric of z in a mixed row, over the seeds that did not collapse."""
    name = f"{name}_not_collapsed" if is_mixed(row) and name in OF_Z else name
    value, sd = getattr(row, name), getattr(row, f"{name}_sd", math.nan)
    text, sortable = number(value, digits), None if math.isnan(value) else float(value)
    return Entry(text, "" if math.isnan(sd) or not spread else number(sd, digits), value=sortable)


def _bracket(row: Any) -> Entry:
    """Return MI from the lower to the upper estimate, with the sd of the lower one.

    One number if both look the same, or if noise has moved the lower estimate above the upper one.
    """
    entry, high = _mean("mi", 2, row, spread=True), _mean("mi_high", 2, row)
    if entry.value is None or high.value is None or high.text == entry.text or high.value < entry.value:
        return entry
    return replace(entry, text=f"{entry.text}–{high.text}")


def _seconds(row: Any) -> Entry:
    return _mean("train_seconds", 0 if row.train_seconds >= 100 else 1, row)


def _difference(name: str, row: Any) -> Entry:
    mean, low, high = (getattr(row, f"{name}{end}") for end in ("", "_low", "_high"))
    is_itself = row.baseline if name.endswith("_baseline") else row.family == CONTROLS and math.isnan(row.mi)
    if is_itself and row.n:
        return Entry("0", value=0.0)
    if math.isnan(mean):
        return Entry(DASH)
    return Entry(difference(Summary(mean, math.nan, 1 if math.isnan(low) else 2, low, high)), value=mean)


def _share(row: Any) -> Entry:
    """Return how many of the seeds collapsed."""
    if math.isnan(row.collapsed):
        return Entry(DASH)
    return Entry(f"{round(row.collapsed * row.collapsed_n)} of {row.collapsed_n}", value=row.collapsed)


def _context(rows: DataFrame, cell: CellRecord, baseline: str | None) -> dict[str, Any]:
    """Return the values of the names in braces that do not depend on a metric group."""
    data, evaluation, is_plain = cell.config.dataset, cell.evaluation, headline(rows) == "iw_nll"
    settings: dict[str, Any] = vars(evaluation.settings) if evaluation else {}
    metrics: Metrics = evaluation.metrics if evaluation else {}
    batch, n = settings.get("batch_size"), metrics.get("n") or settings.get("test_examples")
    ceiling = f"at most ln {n:,} = {math.log(n):.2f} nats" if n else ""
    if rows["mi_high"].notna().any():
        low = f"an estimate with negative bias{f', {ceiling},' if n else ''}"
        ceiling = f", as a range: {low} and one with positive bias; collapsed means a first number below 0.1 nats"
    else:
        ceiling = f"{': ' if n else ''}{ceiling}; collapsed means below 0.1 nats"
    if n:  # a group measures at most all test examples
        settings = {key: min(v, n) if key.endswith("_examples") and v else v for key, v in settings.items()}
    return settings | {
        "proposal": "" if is_plain else " with each method's own q, looser for a worse q",
        "unit": data.unit,
        "evaluated": f"on {n:,} of {data.sizes['test']:,} test examples" if n else "on the test examples",
        "words": number(metrics.get("words") or math.nan, 2),
        "unknown": f"; {metrics['unknown']:.1%} of them are <unk>" if metrics.get("unknown") else "",
        "mi_ceiling": ceiling,
        "ceiling": f": in expectation at most ln {batch} = {math.log(batch):.2f} nats" if batch else "",
        "device": cell.config.device,
        "baseline": baseline,
    }


def _filled(text: str, values: Mapping[str, Any]) -> str:
    """Return the text with the names in braces replaced; unknown ones by a question mark."""
    texts = {name: f"{value:,}" if isinstance(value, int) else str(value) for name, value in values.items()}
    return text.format_map(defaultdict(lambda: "?", texts))
