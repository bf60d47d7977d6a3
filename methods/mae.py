"""MAE: mutual posterior divergence, which pushes the posteriors of different examples apart, evenly.

Loss:      E_q[-log p(x|z)] + KL(q(z|x) || p(z)) - η Σ_d log sigmoid(M_d) + γ S, with K_ij = KL(q(z|x_i) || q(z|x_j))
           per dimension, M_d its mean and S the standard deviation of Σ_d K_ij over pairs i ≠ j of the batch.
           (Ma et al., ICLR 2019)
Defaults:  η = 1, γ = 0.5, from memory; the defaults of the authors' code are 0 for both.
Deviates:  the authors' code (XuezheMax/mae:mae/modules/mae.py) also has free bits on the batch's total KL, 0 by
           default: ``mae+free_bits(placement=total_batch)``. It divides M_d by η, which is the same at η = 1.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from bench.method import Context, ELBOTerms, Method, Range, check_ranges


class MutualPosteriorDivergence(Method):
    title = "MAE"
    summary = "posteriors of a batch pushed apart, evenly"
    citation = "Ma et al., ICLR 2019 (arXiv 1901.01498)"
    marker = "triangle_right"
    table_order = 71
    vae_settings = {"eta": 0.0, "gamma": 0.0}
    space = {"eta": Range(0.2, 2.0), "gamma": Range(0.2, 2.0)}

    @dataclass(frozen=True)
    class Config:
        eta: float = 1.0
        gamma: float = 0.5

        def __post_init__(self) -> None:
            check_ranges(self, not_negative="eta gamma")

    def loss(self, ctx: Context, terms: ELBOTerms) -> Tensor:
        loss, n = super().loss(ctx, terms), len(terms.q.mean)
        if n < 2:
            return loss
        off_diagonal = ~torch.eye(n, dtype=torch.bool, device=loss.device)
        divergence = pairwise_kl(terms.q.mean, terms.q.logvar)[off_diagonal]  # (B·(B-1), D)
        diversity = -F.logsigmoid(divergence.mean(0)).sum()
        return loss + self.config.eta * diversity + self.config.gamma * divergence.sum(-1).std()


def pairwise_kl(mean: Tensor, logvar: Tensor) -> Tensor:
    """Return KL(q_i || q_j) per dimension (B, B, D) of diagonal Gaussians (B, D)."""
    log_ratio = logvar.unsqueeze(1) - logvar
    squared = (mean.unsqueeze(1) - mean).square() * (-logvar).exp()
    return 0.5 * (log_ratio.exp() + squared - 1 - log_ratio)
