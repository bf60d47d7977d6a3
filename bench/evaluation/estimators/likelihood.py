"""The marginal likelihood by importance weighting, and how far to trust it.

Log weights ``[B, S]`` are log w = log p(x|z) + log p(z) - log q(z|x) of S samples z ~ q for each example; all sums are
in float64, one example's apart from the others'.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

TAIL_AT_LEAST = 5  # weights, for a shape to be told
ALIKE = 1e-3  # nats: log weights that differ by less may do so by rounding alone
BLOCK = 256  # examples whose tails are fitted at a time


class NestedNLL(NamedTuple):
    """The NLL that fewer samples would give, from many: mean over disjoint groups and its standard error, ``[B]``."""

    nll: Tensor
    standard_error: Tensor


def importance_weighted_nll(log_weights: Tensor) -> Tensor:
    """-log (1/S) Σ_s w_s for each example: log weights ``[B, S]`` -> ``[B]``, in float64.

    log w = log p(x|z) + log p(z) - log q(z|x), z ~ q. In expectation an upper bound of -log p(x) that falls with S
    (Burda et al., ICLR 2016).
    """
    return math.log(log_weights.shape[1]) - torch.logsumexp(log_weights.double(), dim=1)


def effective_sample_size(log_weights: Tensor) -> Tensor:
    """1 / Σ w̃² of the normalised weights: ``[B, S]`` -> ``[B]`` in [1, S]; near 1, one sample carries the estimate."""
    return 1 / torch.softmax(log_weights.double(), dim=1).square().sum(1)


def nll_standard_error(log_weights: Tensor) -> Tensor:
    """Monte-Carlo standard error of the NLL, sd(w) / (mean(w) √S) by the delta method: ``[B, S]`` -> ``[B]`` in nats.

    NaN of a single sample. It says nothing of the bias, and where the effective sample size is near 1 it is too small:
    the weights that matter have not been seen.
    """
    samples = log_weights.shape[1]
    if samples < 2:
        return torch.full_like(log_weights[:, 0], math.nan, dtype=torch.float64)
    spread = (1 / effective_sample_size(log_weights) - 1 / samples).clamp(min=0)  # rounding, of equal weights
    return (spread * samples / (samples - 1)).sqrt()


def nested_nll(log_weights: Tensor, samples: int) -> NestedNLL:
    """The importance-weighted NLL with ``samples`` samples, from the S // ``samples`` disjoint groups of ``[B, S]``.

    Unbiased for the expectation of that NLL, with less noise than one group has. The standard error is that of the
    mean over groups; of a single group it is the delta method's.
    """
    groups = log_weights.shape[1] // samples
    each = log_weights[:, : groups * samples].unflatten(1, (groups, samples))
    nll = importance_weighted_nll(each.flatten(0, 1)).unflatten(0, (-1, groups))
    error = nll.std(1) / math.sqrt(groups) if groups > 1 else nll_standard_error(each[:, 0])
    return NestedNLL(nll.mean(1), error)


def pareto_k(log_weights: Tensor) -> Tensor:
    """Shape k̂ of a generalised Pareto distribution fitted to the largest weights: ``[B, S]`` -> ``[B]``.

    Weights have finite variance for k < 0.5; above 0.7 the estimate is not to be trusted, whatever its standard error
    (Vehtari et al., JMLR 2024). Of the min(S/5, 3√S) largest weights, by the estimator of Zhang & Stephens (2009) with
    a prior worth ten observations of 0.5. -inf where the largest are all alike, NaN where fewer than five stand out.
    """
    return torch.cat([_pareto_k(some.double()) for some in log_weights.split(BLOCK)])


def _pareto_k(log_weights: Tensor) -> Tensor:
    samples = log_weights.shape[1]
    size = min(math.ceil(min(samples / 5, 3 * math.sqrt(samples))), samples - 1)
    if size < TAIL_AT_LEAST:
        return log_weights.new_full((len(log_weights),), math.nan)
    largest = log_weights.sort(dim=1, descending=True).values
    tail, threshold = largest[:, :size], largest[:, size : size + 1]
    used = tail > threshold
    count = used.sum(1, keepdim=True)
    # Relative to the greatest weight, for the shape does not depend on the scale; what would underflow is as good as 0.
    excess = ((tail - tail[:, :1]).exp() - (threshold - tail[:, :1]).exp()).clamp(min=1e-300)
    quartile = excess.gather(1, (count - (count / 4 + 0.5).floor().long()).clamp(0, size - 1))  # the first, from below
    # A posterior over θ = -k/σ on a grid: its mean gives the shape.
    points = 30 + int(math.sqrt(size))
    place = torch.arange(1, points + 1, device=excess.device, dtype=excess.dtype) - 0.5
    theta = 1 / excess[:, :1] + (1 - (points / place).sqrt()) / (3 * quartile)
    shape = _shape(theta, excess, used)
    log_likelihood = count * ((-theta / shape).log() - shape - 1)
    theta = (log_likelihood.softmax(1) * theta).sum(1, keepdim=True)
    k = (count * _shape(theta, excess, used) + 10 * 0.5) / (count + 10)
    k = k.masked_fill(count < TAIL_AT_LEAST, math.nan).squeeze(1)
    return k.masked_fill(tail[:, 0] - threshold[:, 0] < ALIKE, -math.inf)


def _shape(theta: Tensor, excess: Tensor, used: Tensor) -> Tensor:
    """The likeliest k for each θ ``[B, G]``, the mean of log(1 - θ x) over the excesses used: ``[B, G]``."""
    terms = torch.log1p(-theta.unsqueeze(2) * excess.unsqueeze(1))
    return torch.where(used.unsqueeze(1), terms, 0).sum(2) / used.sum(1, keepdim=True)
