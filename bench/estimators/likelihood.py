"""The marginal likelihood by importance weighting."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def importance_weighted_nll(log_weights: Tensor) -> Tensor:
    """-log (1/S) Σ_s w_s for each example: log weights ``[B, S]`` -> ``[B]``, in float64.

    log w = log p(x|z) + log p(z) - log q(z|x), z ~ q. In expectation an upper bound of -log p(x) that falls with S
    (Burda et al., ICLR 2016).
    """
    return math.log(log_weights.shape[1]) - torch.logsumexp(log_weights.double(), dim=1)


def effective_sample_size(log_weights: Tensor) -> Tensor:
    """1 / Σ w̃² of the normalised weights: ``[B, S]`` -> ``[B]`` in [1, S]; near 1, one sample carries the estimate."""
    return 1 / torch.softmax(log_weights.double(), dim=1).square().sum(1)
