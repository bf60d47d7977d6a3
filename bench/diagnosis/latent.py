"""Measures that need the posteriors and the prior only."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bench.diagnosis.distributions import marginals, rows
from bench.diagnosis.inputs import Subject
from bench.evaluation.estimators.latent_usage import (
    active_units,
    collapse_curve,
    informative_units,
    variance_ratio_units,
)
from bench.evaluation.estimators.linear_probe import certificate_margin, chance_accuracy, linear_probe
from bench.evaluation.estimators.mutual_information import (
    SampleLogProbs,
    kl_aggregate,
    mutual_information_bracket,
    sample_log_probs,
)
from bench.evaluation.estimators.subsample import evenly_spaced
from bench.models.distributions import Gaussian

MI_EXAMPLES = 5000  # all pairs of them are evaluated, in about a second; the ceiling is 8.5 nats
FULL_COVARIANCE_EXAMPLES = 1000  # of them with a full covariance, where a pair costs D² operations
DIMENSION_EXAMPLES = 1000  # for MI per dimension: its error is about √(2 MI / 1000), 0.014 nats at MI = 0.1
DIMENSION_PAIRS = 4e7  # pairs over all dimensions, about a second
KL_SAMPLES = 16  # per example, for a prior without a closed form
EPSILONS = torch.logspace(
    -3, 1, 41, dtype=torch.float64, device="cpu"
)  # nats, the grid of the harness's collapse curve
PROBE_EXAMPLES = 2000

Measures = dict[str, Any]


@torch.no_grad()
def measure_latent(subject: Subject, generator: torch.Generator) -> Measures:
    """Return KL, MI, counts of units and their values per dimension; all information is in nats."""
    q = marginals(subject.q)
    kl, kl_dim = _kl(subject, generator)
    result: Measures = {"examples": subject.count, "dimensions": q.mean.shape[1]} | _mean("kl", kl)
    result |= _information(subject, result["kl"], generator)
    result |= {"au": active_units(q.mean), "au_ratio": variance_ratio_units(q.mean, q.logvar.exp())}
    variance, within = q.mean.var(dim=0), q.logvar.exp().mean(dim=0)
    result |= {"mean_variance": variance, "variance_ratio": variance / (variance + within)}
    power = q.mean.square().mean(dim=0)
    result["signal_fraction"] = power / (power + within)  # order parameter of spectral pruning, arXiv 2605.22691
    result["mi_dim"] = _information_per_dimension(q, generator)
    if kl_dim is not None:
        curve = collapse_curve(kl_dim, EPSILONS)
        result |= {"kl_dim": kl_dim.mean(dim=0), "au_kl": informative_units(kl_dim)}
        result |= {"collapse_epsilons": EPSILONS, "collapse_curve": curve}
        result["dead"] = _collapsed_dimensions(kl_dim)
    if subject.labels is not None and len(np.unique(subject.labels)) > 1:
        result |= _probe(q.mean.cpu().numpy(), subject.labels)
    return result


def _collapsed_dimensions(kl_dim: Tensor) -> Tensor:
    """Return which dimensions are (ε, δ)-collapsed at ε = δ = 0.01 (Lucas et al., 2019): ``[N, D]`` -> bool ``[D]``."""
    threshold = torch.tensor([0.01], dtype=torch.float64, device="cpu")
    return torch.stack([collapse_curve(column, threshold)[0] > 0.5 for column in kl_dim.cpu().split(1, dim=1)])


def _mean(name: str, values: Tensor) -> Measures:
    """Return the mean of values per example ``[N]`` and its standard error."""
    return {name: values.mean().item(), f"{name}_se": standard_error(values)}


def _kl(subject: Subject, generator: torch.Generator) -> tuple[Tensor, Tensor | None]:
    """Return the KL to the prior of each example ``[N]``, and of its marginals ``[N, D]`` in closed form.

    With a full covariance the marginals are those of z_d, and their KLs sum to less than the KL of z.
    """
    q, prior = subject.q, subject.model.prior
    marginal = marginals(q)
    kl_dim = prior.kl_dim(marginal)
    if kl_dim is not None:
        dependence = 0 if isinstance(q, Gaussian) else 0.5 * marginal.logvar.sum(1) - q.log_volume()
        return kl_dim.sum(1) + dependence, kl_dim
    z = q.rsample(KL_SAMPLES, generator)
    return (q.log_prob(z) - prior.log_prob(z)).mean(1), kl_dim


def _information(subject: Subject, rate: float, generator: torch.Generator) -> Measures:
    """Return the bracket of I(x; z) with standard errors, its ceiling, and the KL of the aggregate posterior."""
    limit = MI_EXAMPLES if isinstance(subject.q, Gaussian) else FULL_COVARIANCE_EXAMPLES
    q = rows(subject.q, torch.from_numpy(evenly_spaced(subject.count, limit)).to(subject.q.mean.device))
    z = q.rsample(1, generator)[:, 0]
    log_probs = sample_log_probs([q], z)
    bracket = mutual_information_bracket(log_probs, rate)
    return {
        "mi": bracket.low,
        "mi_se": standard_error(log_probs.own - log_probs.inclusive),
        "mi_loo": bracket.loo,
        "mi_loo_se": standard_error(log_probs.own - log_probs.leave_one_out),
        "mi_high": bracket.high,
        "mi_examples": len(z),
        "mi_ceiling": math.log(len(z)),
        "kl_aggregate": kl_aggregate(log_probs.inclusive, subject.model.prior.log_prob(z)),
    }


def standard_error(values: Tensor) -> float:
    """Return the standard error of the mean of ``values`` ``[N]``."""
    return values.std().item() / math.sqrt(len(values))


def _information_per_dimension(q: Gaussian, generator: torch.Generator) -> Tensor:
    """Return I(x; z_d) of each dimension ``[D]``, the mean of the inclusive and the leave-one-out estimate."""
    limit = min(DIMENSION_EXAMPLES, int(math.sqrt(DIMENSION_PAIRS / q.mean.shape[1])))
    index = torch.from_numpy(evenly_spaced(len(q.mean), max(2, limit))).to(q.mean.device)
    parameters = zip(q.mean[index].split(1, dim=1), q.logvar[index].split(1, dim=1), strict=True)
    values = []
    for mean, logvar in parameters:
        one = Gaussian(mean, logvar)
        log_probs: SampleLogProbs = sample_log_probs([one], one.rsample(1, generator)[:, 0])
        values.append((log_probs.own - 0.5 * (log_probs.inclusive + log_probs.leave_one_out)).mean())
    return torch.stack(values)


def _probe(means: np.ndarray, labels: np.ndarray) -> Measures:
    """Return accuracy and certificate of a linear probe trained on every second example and tested on the others."""
    index = evenly_spaced(len(means), PROBE_EXAMPLES)
    train, test = index[::2], index[1::2]
    known = np.isin(labels[test], labels[train])
    if not known.any() or len(np.unique(labels[train])) < 2:
        return {}
    examples = means[train], labels[train], means[test], labels[test]
    return {
        "probe": linear_probe(*examples),
        "certificate": certificate_margin(*examples),
        "probe_chance": chance_accuracy(labels[train], labels[test]),
    }
