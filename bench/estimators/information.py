"""What the code tells about the data: mutual information, aggregate posterior, active units.

Each estimate is named with its ceiling, because two of them are not comparable: in-batch MI cannot in expectation
exceed the log of the batch size, whole-set MI the log of the size of the set.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from bench.models.distributions import Posterior


def aggregate_log_prob(posteriors: Sequence[Posterior], z: Tensor) -> Tensor:
    """log q(z) under the aggregate posterior (1/N) Σ_j q(z|x_j), own example included: z ``[M, D]`` -> ``[M]``.

    ``posteriors`` are those of blocks of examples; one block after the other, so that memory holds one ``[M, B]``.
    """
    total = z.new_full((len(z),), -math.inf, dtype=torch.float64)
    for q in posteriors:
        total = torch.logaddexp(total, torch.logsumexp(q.pairwise_log_prob(z).double(), dim=1))
    return total - math.log(sum(len(q.mean) for q in posteriors))


def mutual_information(log_q: Tensor, log_aggregate: Tensor) -> float:
    """I_q(x; z) = E[log q(z|x) - log q(z)] from one sample per example: two ``[N]``.

    With the aggregate over the same N examples a lower bound in expectation, at most log N
    (Hoffman & Johnson, 2016). Near collapse it may come out slightly negative.
    """
    return (log_q.double() - log_aggregate).mean().item()


def in_batch_mutual_information(q: Posterior, z: Tensor) -> Tensor:
    """MI within one batch as He et al. (2019) computed it: z ``[B, D]``, one sample per example.

    Analytic entropy of q(z|x) where there is one, against sampled log q(z); in expectation at most log B.
    """
    own = -q.entropy() if hasattr(q, "entropy") else q.log_prob(z.unsqueeze(1)).squeeze(1)
    return (own.double() - aggregate_log_prob([q], z)).mean()


def informative_units(kl_dim: Tensor, threshold: float = 0.01) -> int:
    """Dimensions whose KL to the prior is on average above ``threshold`` nats: ``[N, D]`` -> count.

    Does not depend on the scale of the posterior means, which normalisation in an encoder can set at will.
    """
    return int((kl_dim.double().mean(dim=0) > threshold).sum())


def active_units(means: Tensor, threshold: float = 0.01) -> int:
    """Dimensions whose posterior mean varies over the data by more than ``threshold``: ``[N, D]`` -> count.

    Unbiased variance of posterior means, not of samples (Burda et al., ICLR 2016).
    """
    return int((means.double().var(dim=0) > threshold).sum())
