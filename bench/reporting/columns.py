"""The columns of the tables: in which panel, how a row's entry reads, title and footnote."""

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

Write = Callable[[Any], Entry]  # what stands in one column of a row of ``rows_frame``

#: Above it the mean of the importance weights has no finite variance that samples could show.
UNRELIABLE_K = 0.7
#: Panel -> basic metrics that it shows, before those of the metric groups. Panels without values are left out.
BASIC_PANELS: dict[str, tuple[Metric, ...]] = {
    "Use of z": (
        Metric(
            "au_ratio",
            "AU (variance ratio)",
            "dimensions in which the means have more than 0.05 of the variance of q(z), at any scale of z",
            digits=1,
        ),
        Metric(
            "collapsed_dims", "collapsed dims", "share of dimensions with KL below 0.01 nats for 99 % of the examples"
        ),
        Metric("kl_aggregate", "KL(agg.)", "KL of the aggregate posterior to the prior"),
        Metric(
            "kl_aggregate_reverse",
            "KL(rev.)",
            "KL of the prior to the aggregate posterior: large if the latter has holes",
        ),
    ),
    "Inference": (
        Metric("ess", "ESS", "effective sample size of {plain}'s weights, of {iw_samples}", digits=1),
        Metric(
            "pareto_k",
            "Pareto k",
            f"Pareto shape of the weights' tail, median over examples; above {UNRELIABLE_K} the estimate is unreliable",
        ),
        Metric("nll_mc_se", "MC error", "Monte-Carlo standard error of {plain} on these test examples", digits=3),
    ),
}
#: Counts, which have a fractional part only as means over seeds.
COUNTS = ("au_ratio",)


def metric_panels() -> dict[str, tuple[Metric, ...]]:
    """Return panel -> metrics that have a column in it, basic ones and those of the metric groups."""
    panels = dict(BASIC_PANELS)
    for group in metric_groups().values():
        shown = [metric for metric in group.metrics if metric.heading and metric.name not in LIKELIHOODS]
        panels[group.panel] = (*panels.get(group.panel, ()), *shown)
    return panels


def columns(rows: DataFrame, reference: str | None) -> dict[str, dict[str, Write]]:
    """Panel -> column -> how a row's entry reads. The first panel, "", is the table; the others are its details."""
    several, main_nll = rows["n"].max() > 1, headline(rows)
    main: dict[str, Write] = {main_nll: partial(_mean, main_nll, 2)}
    if main_nll != "nll":  # beside the headline the plain estimate and its PPL go without their spread
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
    """MI from the inclusive to the upper estimate, with the sd of the lower end; one number where both read alike, or
    where noise has carried the lower one over the upper."""
    entry, high = _mean("mi", 2, row), number(row.mi_high, 2)
    alike = high in (DASH, entry.text) or row.mi_high < row.mi
    return entry if alike else replace(entry, text=f"{entry.text}–{high}")


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
    judged: CellRecord | None,
    settings: Mapping[str, dict],
    reference: str | None,
) -> dict[str, tuple[str, str]]:
    """Of every column its title and its footnote, for cells judged like ``judged``, their groups with ``settings``."""
    evaluation = judged.evaluation if judged else None
    base: dict[str, Any] = vars(evaluation.settings) if evaluation else {}
    metrics: Metrics = evaluation.metrics if evaluation else {}
    samples, batch = base.get("iw_samples", "?"), base.get("batch_size")
    n = metrics.get("n") or base.get("test_examples")
    main = headline(rows)
    plain = "NLL" if main == "nll" else "IW-NLL"
    words = number(metrics.get("words") or math.nan, 2)
    ppl = f"perplexity exp({plain} / {words} words), the mean of a sentence: </s> counts as one, <s> does not"
    if unknown := metrics.get("unknown"):
        ppl += f"; {unknown:.1%} of them are <unk>"
    judged_on = f"on {n:,} of {data.sizes['test']:,} test examples" if n else "on the test examples"
    bracketed = rows["mi_high"].notna().any()
    mi = "mutual information of x and z under q, over all evaluated test examples"
    if bracketed:
        mi += ", between an estimate that is too low and the lower of two that are too high"
    mi += f": at most ln {n:,} = {math.log(n):.2f} nats" if n and not bracketed else ""
    mi += f" (the first at most ln {n:,} = {math.log(n):.2f} nats)" if n and bracketed else ""
    mi += "; collapsed means below 0.1 nats" + (" at the low end" if bracketed else "")
    within = f"the same within batches of {batch or '?'}, as He et al. (2019) estimate it"
    within += f": in expectation at most ln {batch} = {math.log(batch):.2f} nats" if batch else ""
    context = {"plain": plain, "unit": data.unit, "evaluated": judged_on, **base}
    found = {
        "nll": (plain, f"importance-weighted estimate{_own(main)}, {samples} samples, {data.unit}, {judged_on}"),
        "ppl": ("PPL", ppl),
        "kl": ("KL", ""),
        "mi": ("MI", mi),
        "au": ("AU", "active units: latent dimensions whose posterior mean varies by more than 0.01 over the test set"),
        "au_kl": ("AU(KL)", "latent dimensions whose mean KL exceeds 0.01 nats, whatever the scale of their means"),
        "train_seconds": ("train (s)", f"training alone, without validation, evaluation or data, on {device}"),
        "relative_cost": (
            "cost (×)",
            f"FLOPs counted in training over those of {reference or 'a baseline (none here)'}",
        ),
        "n": ("n", ""),
        "elbo": ("ELBO", ""),
        "rec": ("rec", "expected negative log-likelihood under q (distortion)"),
        "mi_batch": ("batch MI", within),
        "collapsed": ("collapsed", "share of the seeds whose MI is below 0.1 nats, with Wilson's 95 % interval"),
        "updates": ("updates", "of the decoder"),
        "encoder_updates": ("extra", "further updates of the encoder alone or of auxiliary networks"),
        **{
            metric.name: (metric.heading, _footnote(metric, context))
            for basic in BASIC_PANELS.values()
            for metric in basic
        },
    }
    for name, group in metric_groups().items():
        largest = {metric.name: number(rows[metric.name].max(), metric.digits) for metric in group.metrics}
        values = {**context, **largest, **settings.get(name, {})}
        found |= {metric.name: (metric.heading, _footnote(metric, values)) for metric in group.metrics}
    for name in LIKELIHOODS:
        crossed = rows[f"{name}_ci_examples"].max() > 0
        about = "with seeds and test examples as crossed noise" if crossed else "the t interval over seeds"
        found[f"{name}_ci"] = ("95 % interval", f"of the mean NLL: {about}")
        over = "over common seeds"
        if rows[f"{name}_minus_baseline_examples"].max() > 0:
            differences = f"mean and 95 % interval of the paired differences {over} and test examples, crossed"
        else:
            differences = f"mean and 95 % t interval of the differences {over}"
        found[f"{name}_minus_baseline"] = (f"NLL − {reference}", differences)
    return found


def _own(main: str) -> str:
    """Said where both stand: what makes the plain estimate differ."""
    return "" if main == "nll" else " with each method's own q, looser for a worse q"


def _footnote(metric: Metric, values: Mapping[str, Any]) -> str:
    """Fill in a footnote's template; values that are not known read as a question mark."""
    texts = {name: f"{value:,}" if isinstance(value, int) else str(value) for name, value in values.items()}
    return metric.description.format_map(defaultdict(lambda: "?", texts))
