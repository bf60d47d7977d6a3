"""The columns of the tables: their panel, how they show a row, heading and footnote."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from bench.data.dataset import DataInfo
from bench.evaluation.record import Metrics
from bench.evaluation.registry import Metric, metric_groups
from bench.experiment.cell_record import CellRecord
from bench.reporting.frame import LIKELIHOODS, headline
from bench.reporting.render import DASH, Entry, difference, number
from bench.reporting.statistics import Summary

if TYPE_CHECKING:
    from pandas import DataFrame

Write = Callable[[Any], Entry]  # from a row of ``rows_frame`` to a table entry

#: Above this k̂ the importance weights have no finite variance, and their mean is unreliable.
UNRELIABLE_K = 0.7
#: Columns of the first two panels: heading and footnote. See ``Metric`` for the names in braces.
MAIN_COLUMNS = (
    Metric("nll", "{plain}", "importance-weighted estimate{proposal}, {iw_samples} samples, {unit}, {evaluated}"),
    Metric(
        "ppl",
        "PPL",
        "perplexity exp({plain} / {words} words), the mean of a sentence: </s> counts as one, <s> does not{unknown}",
    ),
    Metric("kl", "KL"),
    Metric("mi", "MI", "mutual information of x and z under q, over all evaluated test examples{mi_ceiling}"),
    Metric(
        "au", "AU", "active units: latent dimensions whose posterior mean has a variance above 0.01 over the test set"
    ),
    Metric("au_kl", "AU(KL)", "latent dimensions with a mean KL above 0.01 nats, at any scale of their means"),
    Metric("train_seconds", "train (s)", "training only, without validation, evaluation and data, on {device}"),
    Metric("relative_cost", "cost (×)", "FLOPs counted in training relative to {baseline}"),
    Metric("n", "n"),
    Metric("elbo", "ELBO"),
    Metric("rec", "rec", "expected negative log-likelihood under q (distortion)"),
    Metric("mi_batch", "batch MI", "the same within batches of {batch_size}, as He et al. (2019) estimate it{ceiling}"),
    Metric("collapsed", "collapsed", "share of the seeds with MI below 0.1 nats, with Wilson's 95 % interval"),
    Metric("updates", "updates", "of the decoder"),
    Metric("encoder_updates", "extra", "additional updates of the encoder alone or of auxiliary networks"),
)
#: Panel -> basic metrics that it shows, before those of the metric groups. Columns without values are left out.
BASIC_PANELS = {
    "Use of z": (
        Metric(
            "au_ratio",
            "AU (variance ratio)",
            "dimensions in which the means have more than 0.05 of the variance of q(z), at any scale of z",
            digits=1,
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
        Metric("ess", "ESS", "effective sample size of {plain}'s weights, of {iw_samples}", digits=1),
        Metric(
            "pareto_k",
            "Pareto k",
            f"Pareto shape of the weights' tail, median over examples; unreliable above {UNRELIABLE_K}",
        ),
        Metric("nll_mc_se", "MC error", "Monte-Carlo standard error of {plain} on these test examples", digits=3),
    ),
}
#: Counts, which have a fractional part only as means over seeds.
COUNTS = ("au_ratio",)


def metric_panels() -> dict[str, tuple[Metric, ...]]:
    """Return panel -> metrics that have a column in it, basic ones and those of the metric groups."""
    panels: dict[str, tuple[Metric, ...]] = dict(BASIC_PANELS)
    for group in metric_groups().values():
        shown = [metric for metric in group.metrics if metric.heading and metric.name not in LIKELIHOODS]
        panels[group.panel] = (*panels.get(group.panel, ()), *shown)
    return panels


def columns(rows: DataFrame, reference: str | None) -> dict[str, dict[str, Write]]:
    """Return panel -> column -> how it shows a row. The first panel, "", is the table; the others have details."""
    several, main_nll = rows["n"].max() > 1, headline(rows)
    main: dict[str, Write] = {main_nll: partial(_mean, main_nll, 2)}
    if main_nll != "nll":  # next to the main NLL the plain one and its PPL have no spread
        main["nll"] = partial(_mean, "nll", 2, spread=False)
    if rows["ppl"].notna().any():
        main["ppl"] = partial(_mean, "ppl", 2, spread=main_nll == "nll")
    main |= {"kl": partial(_mean, "kl", 2), "mi": _bracket}
    main |= {name: partial(_mean, name, 1 if several else 0) for name in ("au", "au_kl")}
    main["train_seconds"] = _seconds
    main["relative_cost"] = partial(_mean, "relative_cost", 2)
    main["n"] = lambda row: Entry(str(row.n), value=row.n)
    detail: dict[str, Write] = {}
    if reference and rows[f"{main_nll}_minus_baseline_low"].notna().any():
        detail[f"{main_nll}_minus_baseline"] = partial(_difference, main_nll)
    if rows[f"{main_nll}_ci_low"].notna().any():
        detail[f"{main_nll}_ci"] = partial(_interval, main_nll)
    detail |= {name: partial(_mean, name, 2) for name in ("elbo", "rec", "mi_batch")}
    if several and rows["collapsed"].notna().any():
        detail["collapsed"] = _share
    detail["updates"] = partial(_mean, "updates", 0)
    if rows["encoder_updates"].max() > 0:
        detail["encoder_updates"] = partial(_mean, "encoder_updates", 0)
    panels = {"": main, "Details": detail}
    for caption, metrics in metric_panels().items():
        measured: dict[str, Write] = {
            metric.name: partial(_mean, metric.name, 0 if metric.name in COUNTS and not several else metric.digits)
            for metric in metrics
            if rows[metric.name].notna().any()
        }
        if len(measured) > 1:
            panels[caption] = measured
        else:  # a panel of one column would be mostly method names
            detail |= measured
    return panels


def _mean(name: str, digits: int, row: Any, spread: bool = True) -> Entry:
    value, sd = getattr(row, name), getattr(row, f"{name}_sd", math.nan)
    text, sortable = number(value, digits), None if math.isnan(value) else float(value)
    return Entry(text, "" if math.isnan(sd) or not spread else number(sd, digits), value=sortable)


def _bracket(row: Any) -> Entry:
    """Return MI from the lower to the upper estimate, with the sd of the lower one.

    One number if both look the same, or if noise has moved the lower estimate above the upper one.
    """
    entry, high = _mean("mi", 2, row), number(row.mi_high, 2)
    is_point = high in (DASH, entry.text) or row.mi_high < row.mi
    return entry if is_point else replace(entry, text=f"{entry.text}–{high}")


def _seconds(row: Any) -> Entry:
    return _mean("train_seconds", 0 if row.train_seconds >= 100 else 1, row)


def _difference(name: str, row: Any) -> Entry:
    mean, low, high = (getattr(row, f"{name}_minus_baseline{end}") for end in ("", "_low", "_high"))
    if math.isnan(low):
        return Entry(DASH)
    return Entry(difference(Summary(mean, math.nan, 2, low, high)), value=mean)


def _interval(name: str, row: Any) -> Entry:
    low, high = getattr(row, f"{name}_ci_low"), getattr(row, f"{name}_ci_high")
    text = DASH if math.isnan(low) else f"[{number(low, 2)}, {number(high, 2)}]"
    return Entry(text, value=None if math.isnan(low) else getattr(row, name))


def _share(row: Any) -> Entry:
    if math.isnan(row.collapsed):
        return Entry(DASH)
    low, high = number(100 * row.collapsed_low, 0), number(100 * row.collapsed_high, 0)
    return Entry(f"{100 * row.collapsed:.0f} % [{low}, {high}]", value=row.collapsed)


def headings(
    rows: DataFrame,
    data: DataInfo,
    device: str,
    cell: CellRecord | None,
    settings: Mapping[str, dict[str, Any]],
    reference: str | None,
) -> dict[str, tuple[str, str]]:
    """Return the heading and the footnote of every column.

    ``cell`` is an evaluated cell of the table, ``settings`` are those of the metric groups, ``reference`` is the
    baseline's row.
    """
    evaluation = cell.evaluation if cell else None
    base: dict[str, Any] = vars(evaluation.settings) if evaluation else {}
    metrics: Metrics = evaluation.metrics if evaluation else {}
    batch, n = base.get("batch_size"), metrics.get("n") or base.get("test_examples")
    main = headline(rows)
    context = base | {
        "plain": "NLL" if main == "nll" else "IW-NLL",
        "proposal": "" if main == "nll" else " with each method's own q, looser for a worse q",
        "unit": data.unit,
        "evaluated": f"on {n:,} of {data.sizes['test']:,} test examples" if n else "on the test examples",
        "words": number(metrics.get("words") or math.nan, 2),
        "unknown": f"; {metrics['unknown']:.1%} of them are <unk>" if metrics.get("unknown") else "",
        "mi_ceiling": _mi_ceiling(n, rows["mi_high"].notna().any()),
        "ceiling": f": in expectation at most ln {batch} = {math.log(batch):.2f} nats" if batch else "",
        "device": device,
        "baseline": reference or "a baseline (none here)",
    }
    basic = (*MAIN_COLUMNS, *(metric for panel in BASIC_PANELS.values() for metric in panel))
    result = {metric.name: _filled(metric, context) for metric in basic}
    for name, group in metric_groups().items():
        largest = {metric.name: number(rows[metric.name].max(), metric.digits) for metric in group.metrics}
        values = {**context, **largest, **settings.get(name, {})}
        result |= {metric.name: _filled(metric, values) for metric in group.metrics}
    for name in LIKELIHOODS:
        crossed = rows[f"{name}_ci_examples"].max() > 0
        how = "with seeds and test examples as crossed noise" if crossed else "the t interval over seeds"
        result[f"{name}_ci"] = ("95 % interval", f"of the mean NLL: {how}")
        paired, over = "mean and 95 % t interval of the differences", "over common seeds"
        if rows[f"{name}_minus_baseline_examples"].max() > 0:
            paired = "mean and 95 % interval of the paired differences"
            over += " and test examples, crossed"
        result[f"{name}_minus_baseline"] = (f"NLL − {reference}", f"{paired} {over}")
    return result


def _mi_ceiling(n: Any, has_bracket: bool) -> str:
    ceiling = f"at most ln {n:,} = {math.log(n):.2f} nats" if n else ""
    if not has_bracket:
        return (f": {ceiling}" if n else "") + "; collapsed means below 0.1 nats"
    bracket = ", between an estimate that is too low and the lower of two that are too high"
    return bracket + (f" (the first {ceiling})" if n else "") + "; collapsed means below 0.1 nats at the low end"


def _filled(metric: Metric, values: Mapping[str, Any]) -> tuple[str, str]:
    """Return heading and footnote with the names in braces replaced; unknown ones by a question mark."""
    texts = {name: f"{value:,}" if isinstance(value, int) else str(value) for name, value in values.items()}
    filled = defaultdict(lambda: "?", texts)
    return metric.heading.format_map(filled), metric.description.format_map(filled)
