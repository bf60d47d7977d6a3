"""MAE: posteriors of different examples are asked to differ, and to differ evenly.

K_ij = KL(q(z|x_i) ‖ q(z|x_j)) per dimension; M_d its mean over pairs i ≠ j of the batch, S the standard deviation of
Σ_d K_ij over them: L = E_q[-log p(x|z)] + KL - η Σ_d log s(M_d) + γ S, s the sigmoid. The authors' code adds free bits:
``mae+free_bits``. Their values of η and γ are known to us from memory only (0.5, 1 or 2).
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F

from bench.method import Method, check_ranges


class MutualPosteriorDivergence(Method):
    summary = "posteriors of a batch pushed apart, evenly"
    citation = "Ma et al., ICLR 2019"
    table_order = 71
    vae_settings = {"eta": 0.0, "gamma": 0.0}

    @dataclass(frozen=True)
    class Config:
        eta: float = 1.0
        gamma: float = 0.5

        def __post_init__(self):
            check_ranges(self, not_negative="eta gamma")

    def loss(self, ctx, terms):
        loss, n = super().loss(ctx, terms), len(terms.q.mean)
        if n < 2:
            return loss
        divergence = pairwise_kl(terms.q.mean, terms.q.logvar)[~torch.eye(n, dtype=torch.bool, device=loss.device)]
        diversity = -F.logsigmoid(divergence.mean(0)).sum()
        return loss + self.config.eta * diversity + self.config.gamma * divergence.sum(-1).std()


def pairwise_kl(mean, logvar):
    """KL(q_i ‖ q_j) of diagonal Gaussians ``[B, D]``, per dimension: ``[B, B, D]``."""
    ratio = logvar.unsqueeze(1) - logvar
    apart = (mean.unsqueeze(1) - mean).square() * (-logvar).exp()
    return 0.5 * (ratio.exp() + apart - 1 - ratio)
