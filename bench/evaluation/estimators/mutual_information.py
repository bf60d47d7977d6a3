"""What the code tells about the data: mutual information between two bounds, and the aggregate posterior.

Each estimate is named with its ceiling, because two of them are not comparable: in-batch MI cannot in expectation
exceed the log of the batch size, whole-set MI the log of the size of the set.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from bench.models.distributions import Gaussian, Posterior

#: Pairs (z, posterior) are taken in squares of this side: large for the matrix products, small for the caches.
BLOCK = 500


class Prior(Protocol):
    def log_prob(self, z: Tensor) -> Tensor: ...
    def sample(self, count: int, generator: torch.Generator | None, device: torch.device | str) -> Tensor: ...


class SampleLogProbs(NamedTuple):
    """Log-densities ``[N]``, float64, of one sample z_n ~ q(z|x_n) of each of N examples."""

    own: Tensor  # log q(z_n|x_n)
    inclusive: Tensor  # log (1/N) Σ_j q(z_n|x_j): the aggregate posterior
    leave_one_out: Tensor  # log (1/(N-1)) Σ_{j≠n} q(z_n|x_j); -inf where N = 1


class Bracket(NamedTuple):
    """Mutual information in nats between a lower and an upper bound; ``loo`` is the one before the rate caps it."""

    low: float
    loo: float
    high: float


def aggregate_log_prob(posteriors: Sequence[Posterior], z: Tensor) -> Tensor:
    """log q(z) under the aggregate posterior (1/N) Σ_j q(z|x_j): ``[M, D]`` -> ``[M]``, float64.

    ``posteriors`` are those of blocks of examples. Memory holds the pairs of one block at a time.
    """
    total = z.new_full((len(z),), -math.inf, dtype=torch.float64)
    for rows, _, log_prob in _pairs(posteriors, z):
        total[rows] = torch.logaddexp(total[rows], log_prob.logsumexp(dim=1))
    return total - math.log(_count(posteriors))


def sample_log_probs(posteriors: Sequence[Posterior], z: Tensor) -> SampleLogProbs:
    """All that MI needs, in one pass over the pairs: z ``[N, D]``, one sample per example in their order.

    The own example's term is set aside instead of subtracted, for often it is nearly the whole sum.
    """
    count = len(z)
    if count != _count(posteriors):
        raise ValueError(f"{count} samples of {_count(posteriors)} examples: one of each is needed")
    own = z.new_empty(count, dtype=torch.float64)
    others = torch.full_like(own, -math.inf)
    for rows, columns, log_prob in _pairs(posteriors, z):
        first, last = max(rows.start, columns.start), min(rows.stop, columns.stop)
        both = torch.arange(first, max(first, last), device=z.device)
        diagonal = both - rows.start, both - columns.start
        own[both] = log_prob[diagonal]
        log_prob[diagonal] = -math.inf
        others[rows] = torch.logaddexp(others[rows], log_prob.logsumexp(dim=1))
    # Of a single example there are no others: log 0.
    leave_one_out = others - math.log(max(count - 1, 1))
    return SampleLogProbs(own, torch.logaddexp(others, own) - math.log(count), leave_one_out)


def mutual_information_bracket(log_probs: SampleLogProbs, rate: float) -> Bracket:
    """I_q(x; z) = E[log q(z|x) - log q(z)] between two bounds; ``rate``: the mean KL(q(z|x) ‖ p(z)) of the examples.

    ``low`` takes the aggregate over all N examples: at most log N, and in expectation over data sets at most I
    (Hoffman & Johnson, 2016). ``loo`` leaves the own example out, in expectation at least I (Poole et al., 2019), and
    far above it where posteriors hardly overlap. The rate is I + KL(q(z) ‖ p(z)), so ``high`` is the smaller of the
    two. All hold in expectation only: where I is small beside the samples' noise, ``low`` may come out slightly
    negative, or above ``high``.
    """
    loo = (log_probs.own - log_probs.leave_one_out).mean().item()
    low = (log_probs.own - log_probs.inclusive).mean().item()
    return Bracket(low, loo, min(loo, rate))


def in_batch_mutual_information(q: Posterior, z: Tensor) -> Tensor:
    """MI within one batch as He et al. (2019) computed it: z ``[B, D]``, one sample per example.

    Analytic entropy of q(z|x) where there is one, against sampled log q(z); in expectation at most log B.
    """
    own = -q.entropy() if hasattr(q, "entropy") else q.log_prob(z.unsqueeze(1)).squeeze(1)
    return (own.double() - aggregate_log_prob([q], z)).mean()


def kl_aggregate(log_aggregate: Tensor, log_prior: Tensor) -> float:
    """KL(q(z) ‖ p(z)) from samples of the posteriors, large where codes leak to where the prior has none: two ``[N]``.

    With the inclusive aggregate it is the rate less ``Bracket.low``, and so in expectation too large.
    """
    return (log_aggregate - log_prior.double()).mean().item()


def kl_aggregate_reverse(
    posteriors: Sequence[Posterior], prior: Prior, generator: torch.Generator, samples: int = 10_000
) -> float:
    """KL(p(z) ‖ q(z)) from samples of the prior, large where it has mass that no example is encoded to: holes.

    In expectation too large, for q(z) is that of finitely many examples.
    """
    z = prior.sample(samples, generator, posteriors[0].mean.device)
    return (prior.log_prob(z).double() - aggregate_log_prob(posteriors, z)).mean().item()


def _count(posteriors: Sequence[Posterior]) -> int:
    return sum(len(q.mean) for q in posteriors)


def _pairs(posteriors: Sequence[Posterior], z: Tensor) -> Iterator[tuple[slice, slice, Tensor]]:
    """log q(z_m|x_n) of all pairs, float64, a block at a time, with the block's rows (z) and columns (examples).

    Each block is the receiver's to change.
    """
    gaussians = [q for q in posteriors if type(q) is Gaussian]
    if len(gaussians) == len(posteriors):  # those of few examples each make slow products
        mean, logvar = torch.cat([q.mean for q in gaussians]), torch.cat([q.logvar for q in gaussians])
        posteriors = [Gaussian(m, v) for m, v in zip(mean.split(BLOCK), logvar.split(BLOCK), strict=True)]
    for top in range(0, len(z), BLOCK):
        part, left = z[top : top + BLOCK], 0
        for q in posteriors:
            log_prob = q.pairwise_log_prob(part).double()
            yield slice(top, top + len(part)), slice(left, left + len(q.mean)), log_prob
            left += len(q.mean)
