"""Rules from measures to a verdict: collapsed or not, or not decidable, and why.

Every interval is two standard errors wide on both sides. A rule applies only if its interval is on one side of the
threshold; otherwise there is no verdict.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch

from bench.core.numbers import counted
from bench.diagnosis.inputs import History
from bench.diagnosis.latent import Measures
from bench.evaluation.metrics import COLLAPSED_BELOW

Status = Literal["collapsed", "unused", "not collapsed", "undecided"]

#: Fewer examples give no verdict: a property that one example in 50 has is missing in 100 with probability 13 %.
MIN_EXAMPLES = 100
#: Nats that z of the own example must add to log p(x|z). Under exact inference the gap is at least MI, so that it has
#: the threshold of MI.
USED_ABOVE = COLLAPSED_BELOW
#: Nats below ln N in which MI is "at the ceiling": for Gaussian channels the estimate is then too low by a nat or more
#: (table in docs/metrics.md).
CEILING_MARGIN = 0.5
#: Nats of KL of a dimension from which it is asked whether they are information; below, it hardly looks used.
LOOKS_USED_ABOVE = 0.05
#: Share of a dimension's KL that must be information; the error of MI per dimension is below a tenth of such a KL.
INFORMATIVE_SHARE = 0.1
#: Burda's threshold for the variance of means: a dimension below it counts as inactive there.
ACTIVE_VARIANCE = 0.01
#: Nats by which posteriors refined for each example must carry more information than the encoder's, if that is not
#: collapsed: encoders of working VAEs lose a few tenths.
LAG_ABOVE = 0.5
#: Share of the largest logged KL that is left after the prior has won.
KL_LEFT = 0.1
SIGMAS = 2.0


@dataclass(frozen=True)
class Cause:
    """A cause that applies, by its name in causes.toml, with the numbers that show it."""

    name: str
    evidence: str


@dataclass(frozen=True)
class Verdict:
    """``status``, the reason for it in a sentence, and the causes in the order of causes.toml."""

    status: Status
    reason: str
    causes: tuple[Cause, ...]


def decide(m: Measures, kl_weight: float | None, history: History | None) -> Verdict:
    """Return the verdict for measures of the posteriors and, if there was a likelihood, of the decoder."""
    status, reason = _status(m)
    weight = kl_weight
    if weight is None and history is not None and history.kl_weight is not None:
        weight = float(history.kl_weight[-1])
    causes = [*_training(status, kl_weight, history)]
    if status == "collapsed" and weight is not None and weight > 1 and not causes:
        causes.append(Cause("prior_wins", f"the KL weight is {weight:.2g}, above the ELBO's 1"))
    causes += [*_model(m, status, weight), *_dimensions(m, status)]
    if status == "collapsed" and not causes:
        causes.append(Cause("unknown", "no rule applies"))
    return Verdict(status, reason, tuple(causes))


def bracket(m: Measures) -> tuple[float, float]:
    """Return a lower and an upper bound of MI with ``SIGMAS`` standard errors."""
    high = min(m["mi_loo"] + SIGMAS * m["mi_loo_se"], m["kl"] + SIGMAS * m["kl_se"])
    return m["mi"] - SIGMAS * m["mi_se"], high


def _status(m: Measures) -> tuple[Status, str]:
    low, high = bracket(m)
    between = f"MI is between {low:.2f} and {high:.2f} nats with two standard errors"
    if m["examples"] < MIN_EXAMPLES:
        transposed = f", or transpose them to [{m['dimensions']}, {m['examples']}]" * (m["dimensions"] > MIN_EXAMPLES)
        few = f"{m['examples']} examples are too few: give at least {MIN_EXAMPLES}, better 1,000{transposed}"
        return "undecided", few
    used = _used(m)
    if used == "reversed":
        raised = f"{-m['shuffle_gap']:.2f} ± {m['shuffle_gap_se']:.2f}"
        return "undecided", (
            f"z of another example raises log p(x|z) by {raised} nats: check the sign of log_prob, and that data and "
            "posteriors are in the same order"
        )
    if high < COLLAPSED_BELOW:
        cost = f", although z of another example costs {m['shuffle_gap']:.2f} nats" if used == "yes" else ""
        return "collapsed", f"the posteriors hardly depend on x: MI is below {_bound(high)} nats{cost}"
    if low < COLLAPSED_BELOW:
        return "undecided", f"{between}, on both sides of {COLLAPSED_BELOW}: give more examples"
    if used is None:
        return "not collapsed", f"the posteriors depend on x: {between}; no log_prob, so use by the decoder is unknown"
    gap = f"z of another example costs {m['shuffle_gap']:.2f} ± {m['shuffle_gap_se']:.2f} nats"
    if used == "no":
        small = m["shuffle_gap"] > SIGMAS * m["shuffle_gap_se"]
        mean = " (log_prob must be a sum over pixels or tokens, not a mean)" if small else ""
        return "unused", f"the posteriors depend on x, but the decoder ignores z: {between}, {gap}{mean}"
    if used == "unclear":
        return "undecided", f"{between}, but {gap}, on both sides of {USED_ABOVE}: raise likelihood_examples"
    return "not collapsed", f"{between}, and {gap}"


def _bound(high: float) -> str:
    """Return an upper bound of MI in nats; the standard error of a smaller one is itself too uncertain."""
    return f"{max(high, 0.01):.2g}"


def _used(m: Measures) -> Literal["yes", "no", "unclear", "reversed"] | None:
    """Return whether the decoder uses z, None without a likelihood; reversed: z of another example is better."""
    if "shuffle_gap" not in m:
        return None
    gap, error = m["shuffle_gap"], SIGMAS * m["shuffle_gap_se"]
    if abs(gap) - error >= USED_ABOVE:
        return "yes" if gap > 0 else "reversed"
    return "no" if abs(gap) + error < USED_ABOVE else "unclear"


def _training(status: Status, kl_weight: float | None, history: History | None) -> Iterator[Cause]:
    """Yield causes in the course of training: the prior wins, or a warm-up longer than training."""
    weights = None if history is None else history.kl_weight
    if history is not None and status in ("collapsed", "unused"):
        peak = int(history.kl.argmax())
        start, end = history.kl[peak], history.kl[-1]
        if start >= COLLAPSED_BELOW and end < KL_LEFT * start:
            at = "" if weights is None else f" while the KL weight went from {weights[peak]:.2g} to {weights[-1]:.2g}"
            yield Cause("prior_wins", f"KL fell from {start:.2f} to {end:.2g} nats{at}")
            return
    if weights is not None and len(weights) > 1:
        final = 1.0 if kl_weight is None else kl_weight
        recent = weights[-max(2, len(weights) // 10) :]
        if weights[-1] < final * (1 - 1e-3) and weights[-1] == weights.max() and recent[-1] > recent[0]:
            share = f"{weights[-1]:.2g} of {final:.2g}"
            yield Cause("warm_up", f"the KL weight ended at {share} and was still rising")


def _model(m: Measures, status: Status, weight: float | None) -> Iterator[Cause]:
    """Yield whether the encoder or the model is responsible, from posteriors refined per example.

    These maximise the ELBO. With a KL weight above 1 they differ from the best encoder's, so that it has no lag.
    """
    if status == "unused":
        gaps = f"z of another example costs {m['shuffle_gap']:.3f} nats, z of the prior {m['prior_gap']:.3f}"
        yield Cause("decoder_ignores_z", gaps)
        return
    if "mi_refined" not in m or status == "undecided":
        return
    gain = m["gap_amortisation"] - SIGMAS * m["gap_amortisation_se"]
    more = m["mi_refined"] - m["mi_encoder"]
    numbers = (
        f"refined posteriors of {m['likelihood_examples']} examples: MI {m['mi_refined']:.2f} nats against the "
        f"encoder's {max(m['mi_encoder'], 0):.2f} (at most {math.log(m['likelihood_examples']):.2f} can be measured), "
        f"ELBO higher by {m['gap_amortisation']:.2f}"
    )
    threshold = COLLAPSED_BELOW if status == "collapsed" else LAG_ABOVE
    if more > threshold and gain > threshold and (weight is None or weight <= 1):
        yield Cause("encoder_lag", numbers)
    elif status == "collapsed" and m["mi_refined"] < COLLAPSED_BELOW and m["gap_amortisation"] < COLLAPSED_BELOW:
        yield Cause("decoder_ignores_z", numbers)


def _dimensions(m: Measures, status: Status) -> Iterator[Cause]:
    """Yield causes that the posteriors show: offsets, dead dimensions, the ceiling of MI."""
    if status == "undecided" and m["examples"] < MIN_EXAMPLES:
        return
    offset = looks_used(m)
    if offset and (status != "collapsed" or m["kl"] - SIGMAS * m["kl_se"] > COLLAPSED_BELOW):
        share = f"MI {max(m['mi'], 0):.2f} nats of a KL of {m['kl']:.2f}"
        yield Cause("moved_together", f"{_dimensions_text(offset)} with KL but without information; {share}")
    elif status == "collapsed" and m["kl"] - SIGMAS * m["kl_se"] > COLLAPSED_BELOW:
        yield Cause("moved_together", f"KL {m['kl']:.2f} nats, MI below {_bound(bracket(m)[1])}")
    if status != "collapsed" and "dead" in m and (dead := m["dead"].nonzero().flatten().tolist()):
        yield Cause("dead_dimensions", f"{_dimensions_text(dead)} of {m['dimensions']}: KL < 0.01 nats")
    if m["mi"] > m["mi_ceiling"] - CEILING_MARGIN:
        yield Cause(
            "estimator_ceiling", f"MI {m['mi']:.2f} of at most ln {m['mi_examples']:,} = {m['mi_ceiling']:.2f} nats"
        )


def looks_used(m: Measures) -> list[int]:
    """Return the dimensions whose KL is not information: they look used, and are not."""
    if "kl_dim" not in m:
        return []
    uninformative = m["mi_dim"] < INFORMATIVE_SHARE * m["kl_dim"]
    return ((m["kl_dim"] > LOOKS_USED_ABOVE) & uninformative).nonzero().flatten().tolist()


def looks_unused(m: Measures) -> list[int]:
    """Return the dimensions with information whose means vary by less than the threshold of active units."""
    informative = m["mi_dim"] > COLLAPSED_BELOW
    return (informative & (m["mean_variance"] <= ACTIVE_VARIANCE)).nonzero().flatten().tolist()


def _dimensions_text(dimensions: list[int]) -> str:
    """Return how many dimensions there are, and the first of them."""
    first = ", ".join(map(str, dimensions[:6])) + (", …" if len(dimensions) > 6 else "")
    return f"{counted(len(dimensions), 'dimension')} ({first})"


def as_numbers(m: Measures) -> Measures:
    """Return measures as JSON values: lists for tensors, None for NaN."""
    return {name: _number(value.tolist() if isinstance(value, torch.Tensor) else value) for name, value in m.items()}


def _number(value: Any) -> Any:
    if isinstance(value, list):
        return [_number(item) for item in value]
    return None if isinstance(value, float) and not -float("inf") < value < float("inf") else value
