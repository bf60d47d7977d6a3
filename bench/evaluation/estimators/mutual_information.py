"""Mutual information of x and z between two bounds, and divergences of the aggregate posterior from the prior.

The ceilings differ, so the estimates are not comparable: in expectation, in-batch MI is at most the log of the batch
size, whole-set MI at most the log of the size of the set.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from bench.models.distributions import Gaussian, Posterior, Prior

#: Side of the blocks of (z, posterior) pairs: large enough for matrix products, small enough for CPU caches.
BLOCK = 500


class SampleLogProbs(NamedTuple):
    """Log densities ``[N]``, float64, of one sample z_n ~ q(z|x_n) for each of N examples."""

    own: Tensor  # log q(z_n|x_n)
    inclusive: Tensor  # log (1/N) Σ_j q(z_n|x_j): the aggregate posterior
    leave_one_out: Tensor  # log (1/(N-1)) Σ_{j≠n} q(z_n|x_j); -inf if N = 1


class Bracket(NamedTuple):
    """Mutual information in nats: lower estimate, leave-one-out estimate, and upper estimate min(loo, rate)."""

    low: float
    loo: float
    high: float


def aggregate_log_prob(posteriors: Sequence[Posterior], z: Tensor) -> Tensor:
    """Return log q(z) under the aggregate posterior (1/N) Σ_j q(z|x_j): z ``[M, D]`` -> ``[M]``, float64.

    ``posteriors`` are those of consecutive blocks of examples. Only one block of pairs is in memory at a time.
    """
    total = z.new_full((len(z),), -math.inf, dtype=torch.float64)
    for rows, _, log_prob in _pairwise_blocks(posteriors, z):
        total[rows] = torch.logaddexp(total[rows], log_prob.logsumexp(dim=1))
    return total - math.log(_num_examples(posteriors))


def sample_log_probs(posteriors: Sequence[Posterior], z: Tensor) -> SampleLogProbs:
    """Compute the log densities that MI needs, in one pass over all pairs: z ``[N, D]``, one sample per example.

    The term of the own example is left out of the sum instead of subtracted, because it often is nearly the whole sum.
    """
    count = len(z)
    if count != _num_examples(posteriors):
        raise ValueError(f"{count} samples of {_num_examples(posteriors)} examples: one of each is needed")
    own = z.new_empty(count, dtype=torch.float64)
    others = torch.full_like(own, -math.inf)
    for rows, columns, log_prob in _pairwise_blocks(posteriors, z):
        first, last = max(rows.start, columns.start), min(rows.stop, columns.stop)
        shared = torch.arange(first, max(first, last), device=z.device)
        diagonal = shared - rows.start, shared - columns.start
        own[shared] = log_prob[diagonal]
        log_prob[diagonal] = -math.inf
        others[rows] = torch.logaddexp(others[rows], log_prob.logsumexp(dim=1))
    leave_one_out = others - math.log(max(count - 1, 1))  # a single example has no others: log 0
    return SampleLogProbs(own, torch.logaddexp(others, own) - math.log(count), leave_one_out)


def mutual_information_bracket(log_probs: SampleLogProbs, rate: float) -> Bracket:
    """Estimate I_q(x; z) = E[log q(z|x) - log q(z)] from below and above; ``rate`` is the mean KL(q(z|x) ‖ p(z)).

    ``low`` uses the aggregate over all N examples: at most log N, and in expectation over data sets at most I
    (Hoffman & Johnson, 2016). ``loo`` leaves out the own example: in expectation at least I (Poole et al., 2019), and
    far above it if posteriors hardly overlap. The rate equals I + KL(q(z) ‖ p(z)), so ``high`` is the smaller of
    both. The bounds hold in expectation only: if I is small compared with the sampling noise, ``low`` may be slightly
    negative, or above ``high``. NaN for one example.
    """
    if len(log_probs.own) < 2:
        return Bracket(math.nan, math.nan, math.nan)
    loo = (log_probs.own - log_probs.leave_one_out).mean().item()
    low = (log_probs.own - log_probs.inclusive).mean().item()
    return Bracket(low, loo, min(loo, rate))


def in_batch_mutual_information(q: Posterior, z: Tensor) -> Tensor:
    """Return MI within one batch as He et al. (2019) compute it: z ``[B, D]``, one sample per example -> scalar.

    Analytic entropy of q(z|x) if available, against sampled log q(z); in expectation at most log B.
    """
    own = -q.entropy() if hasattr(q, "entropy") else q.log_prob(z.unsqueeze(1)).squeeze(1)
    return (own.double() - aggregate_log_prob([q], z)).mean()


def kl_aggregate(log_aggregate: Tensor, log_prior: Tensor) -> float:
    """Estimate KL(q(z) ‖ p(z)) from log densities of posterior samples, ``[N]`` each.

    Large if codes lie outside the prior's mass. With the inclusive aggregate it equals the sampled rate minus
    ``Bracket.low``, so in expectation it is too large.
    """
    return (log_aggregate - log_prior.double()).mean().item()


def kl_aggregate_reverse(
    posteriors: Sequence[Posterior], prior: Prior, generator: torch.Generator, samples: int = 10_000
) -> float:
    """Estimate KL(p(z) ‖ q(z)) from samples of the prior: large if the prior has mass that no example is encoded to.

    In expectation too large, because q(z) is known through finitely many examples.
    """
    z = prior.sample(samples, generator, posteriors[0].mean.device)
    return (prior.log_prob(z).double() - aggregate_log_prob(posteriors, z)).mean().item()


def _num_examples(posteriors: Sequence[Posterior]) -> int:
    return sum(len(q.mean) for q in posteriors)


def _pairwise_blocks(posteriors: Sequence[Posterior], z: Tensor) -> Iterator[tuple[slice, slice, Tensor]]:
    """Yield log q(z_m|x_n) of all pairs block by block, float64, with the block's rows (of z) and columns (examples).

    The receiver may modify the blocks.
    """
    gaussians = [q for q in posteriors if isinstance(q, Gaussian)]
    if len(gaussians) == len(posteriors):  # blocks of few examples make slow products
        mean, logvar = torch.cat([q.mean for q in gaussians]), torch.cat([q.logvar for q in gaussians])
        posteriors = [Gaussian(m, v) for m, v in zip(mean.split(BLOCK), logvar.split(BLOCK), strict=True)]
    for top in range(0, len(z), BLOCK):
        part, left = z[top : top + BLOCK], 0
        for q in posteriors:
            log_prob = q.pairwise_log_prob(part).double()
            yield slice(top, top + len(part)), slice(left, left + len(q.mean)), log_prob
            left += len(q.mean)
