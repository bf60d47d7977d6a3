"""The columns of the tables: in which panel, how a row's entry reads, title and footnote."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from bench.experiment.cell_record import CellRecord
from bench.reporting.frame import LIKELIHOODS, headline
from bench.reporting.render import DASH, Entry, difference, number
from bench.reporting.statistics import Summary

if TYPE_CHECKING:
    from pandas import DataFrame

Write = Callable[[Any], Entry]  # what stands in one column of a row of ``rows_frame``

#: Above it the mean of the importance weights has no finite variance that samples could show.
UNRELIABLE_K = 0.7
#: Panel -> metric -> digits; columns that no row has are left out.
FURTHER: dict[str, dict[str, int]] = {
    "Use of z": {
        **{"au_ratio": 1, "collapsed_dims": 2, "kl_aggregate": 2, "kl_aggregate_reverse": 2},
        **{"shuffle_gap": 2, "prior_gap": 2, "probe": 3, "probe_100": 3, "probe_500": 3, "probe_1000": 3},
    },
    "Inference": {
        **{"ess": 1, "pareto_k": 2, "nll_mc_se": 3, "ess_refined": 1, "pareto_k_refined": 2},
        **{"gap_amortisation": 2, "gap_approximation": 2, "gap_inference": 2},
    },
    "Convergence of the NLL": {"nll_50": 2, "nll_500": 2, "nll_5000": 2, "ess_5000": 3, "nll_ais": 2},
}


#: Counts, that have digits only as means over seeds.
WHOLE = {"au_ratio": 0}


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
    found = {"": main, "Details": detail}
    for caption, metrics in FURTHER.items():
        those: dict[str, Write] = {
            name: partial(_mean, name, digits if several else min(digits, WHOLE.get(name, digits)))
            for name, digits in metrics.items()
            if rows[name].notna().any()
        }
        # A panel of one column would be mostly names.
        found |= {caption: those} if len(those) > 1 else {}
        detail |= those if len(those) == 1 else {}
    return found


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
    data: Mapping,
    device: str,
    judged: CellRecord | None,
    settings: Mapping[str, dict],
    reference: str | None,
) -> dict[str, tuple[str, str]]:
    """Of every column its title and its footnote, for cells judged like ``judged``, their groups with ``settings``."""
    evaluation = judged.evaluation if judged and judged.evaluation else {"config": {}, "metrics": {}}
    samples, batch = evaluation["config"].get("iw_samples", "?"), evaluation["config"].get("batch_size")
    n = evaluation["metrics"].get("n") or evaluation["config"].get("test_examples")
    main = headline(rows)
    plain = "NLL" if main == "nll" else "IW-NLL"
    words = number(evaluation["metrics"].get("words") or math.nan, 2)
    ppl = f"perplexity exp({plain} / {words} words), the mean of a sentence: </s> counts as one, <s> does not"
    if unknown := evaluation["metrics"].get("unknown"):
        ppl += f"; {unknown:.1%} of them are <unk>"
    judged_on = f"on {n:,} of {data['sizes']['test']:,} test examples" if n else "on the test examples"
    bracketed = rows["mi_high"].notna().any()
    mi = "mutual information of x and z under q, over all test examples judged"
    if bracketed:
        mi += ", between an estimate that is too low and the lower of two that are too high"
    mi += f": at most ln {n:,} = {math.log(n):.2f} nats" if n and not bracketed else ""
    mi += f" (the first at most ln {n:,} = {math.log(n):.2f} nats)" if n and bracketed else ""
    mi += "; collapsed means below 0.1 nats" + (" at the low end" if bracketed else "")
    within = f"the same within batches of {batch or '?'}, as He et al. (2019) estimate it"
    within += f": in expectation at most ln {batch} = {math.log(batch):.2f} nats" if batch else ""

    def of(group: str, name: str) -> str:
        value = settings.get(group, {}).get(name, "?")
        return f"{value:,}" if isinstance(value, int) else str(value)

    sample = f"on a fixed sample of {of('common', 'examples')} of them"
    common = (
        f"importance-weighted estimate, {of('common', 'samples')} samples, with a Gaussian, half of it widened, that "
    )
    common += (
        f"{of('common', 'steps')} steps fit to every example alike for all methods, so it compares decoders and not "
    )
    common += f"encoders; {data['unit']}, {judged_on}, its difference to IW-NLL from {sample[3:]}"
    probed = f"accuracy of a linear probe on posterior means, fit to {of('probe', 'examples')} training examples"
    chance = rows["probe_chance"].max()
    probed += f"; always the commonest label: {chance:.3f}" if not math.isnan(chance) else ""
    carried = "of them, carried over to all as NLL is"
    estimates = f"IW-NLL on {of('convergence', 'examples')} {carried}, with"
    k = f"Pareto shape of the weights' tail, median over examples; above {UNRELIABLE_K} the estimate cannot be trusted"
    annealed = f"annealed importance sampling on {of('annealed', 'examples')} {carried}, "
    annealed += f"{of('annealed', 'chains')} chains of {of('annealed', 'steps')} steps from the refined posterior"
    found = {
        "nll_refined": ("NLL", common),
        "nll": (plain, f"importance-weighted estimate{_own(main)}, {samples} samples, {data['unit']}, {judged_on}"),
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
        "au_ratio": (
            "AU(σ)",
            "dimensions whose means make up more than 0.05 of the variance of q(z), whatever its scale",
        ),
        "collapsed_dims": ("coll. dims", "share of dimensions with KL below 0.01 nats for 99 % of the examples"),
        "kl_aggregate": ("KL(agg.)", "KL of the aggregate posterior to the prior"),
        "kl_aggregate_reverse": ("KL(rev.)", "KL of the prior to the aggregate posterior: large where it has holes"),
        "shuffle_gap": ("shuffle", "rise of rec (nats) when z is that of another example"),
        "prior_gap": ("prior", "rise of rec (nats) when z is drawn from the prior"),
        "probe": ("probe", probed),
        **{f"probe_{count}": (f"probe {count}", f"the same from {count} labels") for count in (100, 500, 1000)},
        "ess": ("ESS", f"effective sample size of {plain}'s weights, of {samples}"),
        "pareto_k": ("Pareto k", k),
        "nll_mc_se": ("MC error", f"Monte-Carlo standard error of {plain} on these test examples"),
        "ess_refined": ("ESS(c)", f"effective sample size of NLL's weights, of {of('common', 'samples')}"),
        "pareto_k_refined": ("Pareto k(c)", "the same of NLL's weights"),
        "gap_amortisation": ("amort. gap", "ELBO of the refined posterior − ELBO (Cremer et al., 2018)"),
        "gap_approximation": ("approx. gap", "− NLL − ELBO of the refined posterior"),
        "gap_inference": ("inf. gap", f"the sum of both: − NLL − ELBO, {sample}"),
        **{f"nll_{count}": (f"NLL {count:,}", f"{estimates} {count:,} samples") for count in (50, 500, 5000)},
        "ess_5000": ("ESS/5,000", "effective sample size over the samples, at 5,000"),
        "nll_ais": ("NLL (AIS)", annealed),
    }
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
