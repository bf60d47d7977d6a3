"""Importance-weighted estimates of the marginal likelihood, and diagnostics of their reliability.

Log weights ``[B, S]`` are log w = log p(x|z) + log p(z) - log q(z|x) of S samples z ~ q per example. All sums are in
float64, separately for each example.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

UNRELIABLE_K = 0.7  # of importance weights, above which their mean is unreliable
MIN_TAIL = 5  # weights needed to fit the shape of a tail
EQUAL_TOLERANCE = 1e-3  # nats; log weights that differ by less may differ by rounding only
BLOCK = 256  # examples whose tails are fitted at a time


class NestedNLL(NamedTuple):
    """NLL with fewer samples than are available: mean over disjoint groups, and its standard error, ``[B]`` each."""

    nll: Tensor
    standard_error: Tensor


def importance_weighted_nll(log_weights: Tensor) -> Tensor:
    """Return -log (1/S) Σ_s w_s of each example: log weights ``[B, S]`` -> ``[B]``, float64.

    In expectation an upper bound of -log p(x) that decreases with S (Burda et al., ICLR 2016).
    """
    return math.log(log_weights.shape[1]) - torch.logsumexp(log_weights.double(), dim=1)


def effective_sample_size(log_weights: Tensor) -> Tensor:
    """Return 1 / Σ w̃² of the normalised weights: ``[B, S]`` -> ``[B]`` in [1, S]. Near 1, one sample dominates."""
    return 1 / torch.softmax(log_weights.double(), dim=1).square().sum(1)


def nll_standard_error(log_weights: Tensor) -> Tensor:
    """Return the Monte-Carlo standard error of the NLL, sd(w) / (mean(w) √S): ``[B, S]`` -> ``[B]``.

    By the delta method; NaN for a single sample. It does not include the bias, and it is too small if the effective
    sample size is near 1, because the weights that matter have not been sampled.
    """
    samples = log_weights.shape[1]
    if samples < 2:
        return torch.full_like(log_weights[:, 0], math.nan, dtype=torch.float64)
    variance = (1 / effective_sample_size(log_weights) - 1 / samples).clamp(min=0)  # below 0 by rounding only
    return (variance * samples / (samples - 1)).sqrt()


def is_diagnostics(log_weights: Tensor) -> dict[str, Tensor]:
    """Return the importance-weighted NLL of each example and its diagnostics: ``[B, S]`` -> ``[B]`` each."""
    return {
        "iw_nll": importance_weighted_nll(log_weights),
        "iw_nll_mc_se": nll_standard_error(log_weights),
        "ess": effective_sample_size(log_weights),
        "pareto_k": pareto_k(log_weights),
    }


def nested_nll(log_weights: Tensor, samples: int) -> NestedNLL:
    """Estimate the NLL with ``samples`` samples from the S // ``samples`` disjoint groups of log weights ``[B, S]``.

    Unbiased for the expectation of that NLL, with less noise than a single group has. The standard error is that of
    the mean over groups; for a single group it is the delta method's.
    """
    groups = log_weights.shape[1] // samples
    grouped = log_weights[:, : groups * samples].unflatten(1, (groups, samples))  # (B, G, samples)
    nll = importance_weighted_nll(grouped.flatten(0, 1)).unflatten(0, (-1, groups))  # (B, G)
    error = nll.std(1) / math.sqrt(groups) if groups > 1 else nll_standard_error(grouped[:, 0])
    return NestedNLL(nll.mean(1), error)


def pareto_k(log_weights: Tensor) -> Tensor:
    """Return the shape k̂ of a generalised Pareto distribution fitted to the largest weights: ``[B, S]`` -> ``[B]``.

    Weights have finite variance for k < 0.5; above ``UNRELIABLE_K`` the estimate is unreliable, whatever its standard
    error (Vehtari et al., JMLR 2024). The fit uses the min(S/5, 3√S) largest weights and the estimator of Zhang &
    Stephens (2009) with a prior worth ten observations of 0.5. -inf if the largest weights are equal, NaN if fewer than
    five exceed the threshold.
    """
    return torch.cat([_pareto_k(block.double()) for block in log_weights.split(BLOCK)])


def _pareto_k(log_weights: Tensor) -> Tensor:
    samples = log_weights.shape[1]
    size = min(math.ceil(min(samples / 5, 3 * math.sqrt(samples))), samples - 1)
    if size < MIN_TAIL:
        return log_weights.new_full((len(log_weights),), math.nan)
    largest = log_weights.sort(dim=1, descending=True).values
    tail, threshold = largest[:, :size], largest[:, size : size + 1]
    exceeds = tail > threshold  # (B, T)
    count = exceeds.sum(1, keepdim=True)
    # Relative to the largest weight, because the shape does not depend on the scale; underflow is as good as 0.
    excess = ((tail - tail[:, :1]).exp() - (threshold - tail[:, :1]).exp()).clamp(min=1e-300)
    first_quartile = excess.gather(1, (count - (count / 4 + 0.5).floor().long()).clamp(0, size - 1))
    # Posterior mean of θ = -k/σ on a grid (B, G); it determines the shape.
    points = 30 + int(math.sqrt(size))
    grid = torch.arange(1, points + 1, device=excess.device, dtype=excess.dtype) - 0.5
    theta = 1 / excess[:, :1] + (1 - (points / grid).sqrt()) / (3 * first_quartile)
    shape = _profile_shape(theta, excess, exceeds)
    log_likelihood = count * ((-theta / shape).log() - shape - 1)
    theta = (log_likelihood.softmax(1) * theta).sum(1, keepdim=True)
    k = (count * _profile_shape(theta, excess, exceeds) + 10 * 0.5) / (count + 10)
    k = k.masked_fill(count < MIN_TAIL, math.nan).squeeze(1)
    return k.masked_fill(tail[:, 0] - threshold[:, 0] < EQUAL_TOLERANCE, -math.inf)


def _profile_shape(theta: Tensor, excess: Tensor, exceeds: Tensor) -> Tensor:
    """Return the most likely k for each θ ``[B, G]``: the mean of log(1 - θ x) over the excesses x ``[B, T]``."""
    terms = torch.log1p(-theta.unsqueeze(2) * excess.unsqueeze(1))  # (B, G, T)
    return torch.where(exceeds.unsqueeze(1), terms, 0).sum(2) / exceeds.sum(1, keepdim=True)
